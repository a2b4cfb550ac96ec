"""Every notebook obeys the rules that tie it to the package; every module has its place.

nbval runs the notebooks themselves; here they are only read.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from machinery import ROOT, build_notebooks, cells, course, make_exercises

from minigpt.checks import exercises

NOTEBOOKS = course.notebooks()
SOLUTIONS = sorted((ROOT / "chapters" / "solutions").glob("*.ipynb"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_shown_cells_drafts_shadows_and_imports():
    assert not (found := cells.faults()), "\n".join(found)


def test_there_is_something_to_check():
    every_cell = [cell for path in NOTEBOOKS for cell in cells.code_cells(path)]
    assert len([cell for cell in every_cell if cell.header]) >= 3
    assert len([cell for cell in every_cell if cell.is_draft]) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_outputs_are_stored_in_order_and_free_of_local_details(path):
    assert not (found := build_notebooks.storage_faults(path)), "\n".join(found)


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_exercise_is_its_solution_without_the_answers(path):
    exercise = nbformat.read(make_exercises.exercise_path(path), as_version=4)
    assert not (
        found := make_exercises.same_questions(exercise, nbformat.read(path, as_version=4))
    ), found


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_every_registered_check_is_asked_and_solved(path):
    topic = path.stem.split("_", 1)[1]
    text = path.read_text(encoding="utf-8")
    blank = make_exercises.exercise_path(path).read_text(encoding="utf-8")
    for check in exercises(topic):
        assert f"✓ {check}: passed" in text, check
        assert f"✗ {check}: not answered yet. Hint: " in blank, check


@pytest.mark.parametrize("path", course.notebooks(), ids=name)
def test_links_lead_somewhere(path):
    texts = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    for text in texts:
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (path.parent / target).exists(), target


# The package's order


def modules() -> dict[str, list[Path]]:
    """Map each top-level module of the package to its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "minigpt").rglob("*.py")):
        parts = path.relative_to(ROOT / "minigpt").with_suffix("").parts
        if parts != ("__init__",):
            found.setdefault(parts[0], []).append(path)
    return found


def imports(path: Path) -> set[str]:
    """Return the top-level modules of minigpt that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute"
            if node.module == "minigpt":
                found |= {alias.name for alias in node.names}
            elif (node.module or "").startswith("minigpt."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("minigpt.")}
    return found - {"__version__"}


def order_faults(order: list[str], uses: dict[str, set[str]]) -> list[str]:
    """Return what imports something that does not stand above it."""
    faults = [f"{module} has no place in tools/course.py" for module in uses if module not in order]
    for module, used in uses.items():
        for other in sorted(used - {module}):
            if module in order and (other not in order or order.index(other) > order.index(module)):
                faults.append(f"{module} imports {other}, which does not stand above it")
    return faults


def test_modules_import_only_from_above():
    uses = {module: set().union(*map(imports, files)) for module, files in modules().items()}
    assert not (found := order_faults(list(course.MODULES), uses)), "\n".join(found)


def test_an_import_from_below_is_caught():
    assert order_faults(["a", "b"], {"a": {"b"}, "b": set()}) == [
        "a imports b, which does not stand above it"
    ]
    assert order_faults(["a"], {"b": set()}) == ["b has no place in tools/course.py"]


def test_an_import_inside_a_function_is_seen(tmp_path):
    file = tmp_path / "late.py"
    file.write_text("def f():\n    from minigpt.gpt import GPT\n    return GPT\n", encoding="utf-8")
    assert imports(file) == {"gpt"}


def test_imports_of_the_package_print_nothing():
    code = "import minigpt.gpt, minigpt.plots, minigpt.checks"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True)
    assert done.stdout == done.stderr == b""
