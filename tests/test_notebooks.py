"""Every notebook obeys the rules that tie it to the package; every module has its place.

nbval runs the notebooks themselves; here they are only read.
"""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat
import pytest
from machinery import ROOT, build_notebooks, cells, course, make_exercises

from minigpt.checks import TOPICS, exercises

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


def left_out(path: Path) -> list[int]:
    """Return the numbers of the code cells that the tests would not run, or that were never run."""
    tags = {"skip-execution", "nbval-skip"}
    return [
        number
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells)
        if cell.cell_type == "code"
        and (tags & set(cell.metadata.get("tags", [])) or not cell.execution_count)
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_every_code_cell_runs_as_run_all_has_it(path):
    """nbval runs every cell in order, as "run all" does; a tag must not hide one from it."""
    assert left_out(path) == []


def test_a_cell_left_out_of_the_run_is_caught(tmp_path):
    def book(*tags: str, **counted: int) -> Path:
        cell = nbformat.v4.new_code_cell("1", metadata={"tags": list(tags)}, **counted)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "01_x.ipynb")
        return tmp_path / "01_x.ipynb"

    assert left_out(book("nbval-check-output", execution_count=1)) == []
    assert left_out(book("skip-execution", execution_count=1)) == [0]
    assert left_out(book("nbval-skip", execution_count=1)) == [0]
    assert left_out(book()) == [0]


def long_cells(path: Path) -> list[str]:
    return [fault for cell in cells.code_cells(path) for fault in cells.length_faults(cell)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_no_code_cell_is_longer_than_45_lines(path):
    assert long_cells(path) == []


def test_a_longer_cell_is_caught(tmp_path):
    sources = ["1\n" * 44 + "1", "1\n" * 45 + "1"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    nbformat.write(book, tmp_path / "01_x.ipynb")
    assert long_cells(tmp_path / "01_x.ipynb") == [
        "01_x.ipynb cell 1: 46 lines; 45 are the limit: cut it in two"
    ]


def foreign_faults(path: Path) -> list[str]:
    """Return what a notebook would load or run in a browser that it did not make itself."""
    found = []
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        where = f"{path.name} cell {number}"
        pages = [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            pages.append(data.get("text/html", ""))
            if odd := set(data) - SHOWN_KINDS:
                found.append(f"{where}: an output of kind {', '.join(sorted(odd))}")
        for page in pages:
            if match := FOREIGN.search("".join(page)):
                found.append(f"{where}: {match[0]!r} loads or runs something from elsewhere")
        if match := SECRET.search(cell.source):
            found.append(f"{where}: looks like a secret: {match[0][:8]}...")
    return found


SHOWN_KINDS = {"text/plain", "text/html", "image/png"}
FOREIGN = re.compile(
    r"<script|<iframe|javascript:|\bon(load|error|click)\s*=|(src|data)\s*=\s*[\"']?(https?:)?//"
    r"|!\[[^\]]*\]\(\s*(https?:)?//|@import|url\(\s*[\"']?(https?:)?//",
    re.IGNORECASE,
)
SECRET = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,})")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_nothing_comes_from_elsewhere_when_a_notebook_is_read(path):
    assert not (found := foreign_faults(path)), "\n".join(found)


@pytest.mark.parametrize(
    "page",
    [
        "<script>x</script>",
        "<img src='https://x/y.png'>",
        "![a](http://x/y.png)",
        "<a href='javascript:x'>",
        "<img src=x onerror=alert(1)>",
        "<style>@import 'x'</style>",
    ],
)
def test_something_from_elsewhere_is_caught(page, tmp_path):
    for cell in (
        nbformat.v4.new_markdown_cell(page),
        nbformat.v4.new_code_cell(
            "1", outputs=[nbformat.v4.new_output("display_data", {"text/html": page})]
        ),
    ):
        path = tmp_path / "08_attention.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
        assert foreign_faults(path)


def test_every_chapter_has_a_number_of_its_own_exercises_and_solutions():
    names = [path.name for path in (ROOT / "chapters").glob("*.ipynb")]
    numbers = [course.chapter_number(Path(file)) for file in names]
    assert len(set(numbers)) == len(numbers)
    for folder in ("exercises", "solutions"):
        found = {path.name for path in (ROOT / "chapters" / folder).glob("*.ipynb")}
        assert {n for n in names if course.chapter_number(Path(n)) > 0} <= found, folder
        assert found <= set(names), folder


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_exercise_is_its_solution_without_the_answers(path):
    exercise = nbformat.read(make_exercises.exercise_path(path), as_version=4)
    assert not (
        found := make_exercises.same_questions(exercise, nbformat.read(path, as_version=4))
    ), found


def kinds(text: str) -> list[str]:
    """Return the kinds of a set's exercises, from the table at its top."""
    return re.findall(r"(?m)^\| \d[^|]*\| ([^|]+?) \|", text)


@pytest.mark.parametrize("path", SOLUTIONS, ids=name)
def test_every_set_of_exercises_is_complete(path):
    """One by hand, two or three to write, one to measure and explain, one open."""
    found = kinds(nbformat.read(path, as_version=4).cells[0].source)
    assert len(found) == len(exercises(path.stem.split("_", 1)[1]))
    for kind in ("paper and pencil", "measure and explain", "open"):
        assert found.count(kind) == 1, (kind, found)
    assert 2 <= sum(found.count(kind) for kind in ("build", "repair")) <= 3, found


def test_the_kinds_of_exercises_are_read_from_the_table():
    table = "Two.\n\n| exercise | kind | time |\n|---|---|---|\n| 1 a | build | 9 min |\n"
    assert kinds(table + "| 2 b | paper and pencil | 15 min |") == ["build", "paper and pencil"]


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


# What prose names exists

PROSE = [
    *course.notebooks(),
    *sorted((ROOT / "minigpt").rglob("*.py")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
    ROOT / "README.md",
    ROOT / "chapters" / "exercises" / "README.md",
]
# Deleted, as docs/experiments.md tells; nanoGPT's.
ELSEWHERE = {"pointer.py", "model.py"}


def unknown_files(text: str, known: set[str]) -> set[str]:
    """Return the Python files that a text names in backticks and the repository lacks."""
    return {name for name in re.findall(r"`[\w/]*?(\w+\.py)`", text) if name not in known}


@pytest.mark.parametrize("path", PROSE, ids=name)
def test_files_that_prose_names_exist(path):
    known = {file.name for file in ROOT.rglob("*.py")} | ELSEWHERE
    assert unknown_files(path.read_text(encoding="utf-8"), known) == set()


def test_a_file_that_is_gone_is_caught():
    text = "see `attention.py`, `data/formats.py` and `batches.py`"
    assert unknown_files(text, {"attention.py", "formats.py"}) == {"batches.py"}


# The package's order


def modules() -> dict[str, list[Path]]:
    """Map each module of the course to its files; a room's `__init__` holds nothing to import."""
    found: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "minigpt").rglob("*.py")):
        parts = path.relative_to(ROOT / "minigpt").with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if module and not (is_room(module) and not imports(path)):
            found.setdefault(course.place(module) or module, []).append(path)
    return found


def is_room(module: str) -> bool:
    """Tell whether this is a folder whose files have places of their own."""
    return module not in course.MODULES and any(m.startswith(f"{module}.") for m in course.MODULES)


def imports(path: Path) -> set[str]:
    """Return the modules of the course that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: imports are absolute"
            if (node.module or "").split(".")[0] == "minigpt":
                module = node.module.removeprefix("minigpt").removeprefix(".")
                inside = {f"{module}.{alias.name}".removeprefix(".") for alias in node.names}
                found |= inside if is_room(module) or not module else {module}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("minigpt.")
                for alias in node.names
                if alias.name.startswith("minigpt.")
            }
    return {course.place(module) or module for module in found - {"__version__"}}


def order_faults(order: list[str], uses: dict[str, set[str]]) -> list[str]:
    """Return what imports something that does not stand above it."""
    faults = [f"{module} has no place in tools/course.py" for module in uses if module not in order]
    for module, used in uses.items():
        for other in sorted(used - {module}):
            if module in order and (other not in order or order.index(other) > order.index(module)):
                faults.append(f"{module} imports {other}, which does not stand above it")
    return faults


def test_the_package_readme_is_made_from_the_module_order():
    text = (ROOT / "minigpt" / "README.md").read_text(encoding="utf-8")
    assert text == course.package_readme(), "run: python tools/course.py"


def test_modules_import_only_from_above():
    uses = {module: set().union(*map(imports, files)) for module, files in modules().items()}
    assert not (found := order_faults(list(course.MODULES), uses)), "\n".join(found)


def room_arrows(uses: dict[str, set[str]]) -> dict[str, set[str]]:
    """Map each flat module and each folder to those that it imports."""
    found: dict[str, set[str]] = {}
    for module, used in uses.items():
        room = module.split(".")[0]
        found.setdefault(room, set()).update({name.split(".")[0] for name in used} - {room})
    return found


def test_rooms_make_no_circle():
    """Files are in order; the folders that hold them must be, too, or nobody can read them so."""
    uses = {module: set().union(*map(imports, files)) for module, files in modules().items()}
    list(TopologicalSorter(room_arrows(uses)).static_order())


def test_a_circle_of_rooms_is_caught():
    uses = {"a.one": set(), "b": {"a.one"}, "a.two": {"b"}}
    with pytest.raises(CycleError):
        list(TopologicalSorter(room_arrows(uses)).static_order())


def test_an_import_from_below_is_caught():
    assert order_faults(["a", "b"], {"a": {"b"}, "b": set()}) == [
        "a imports b, which does not stand above it"
    ]
    assert order_faults(["a"], {"b": set()}) == ["b has no place in tools/course.py"]


def test_an_import_inside_a_function_is_seen(tmp_path):
    file = tmp_path / "late.py"
    file.write_text("def f():\n    from minigpt.gpt import GPT\n    return GPT\n", encoding="utf-8")
    assert imports(file) == {"gpt"}


@pytest.mark.slow
def test_imports_of_the_package_print_nothing():
    code = "import minigpt.gpt, minigpt.support.plots, minigpt.checks"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True)
    assert done.stdout == done.stderr == b""


# Where the tests are

# Modules whose tests have another module's name, and why.
TESTED_ELSEWHERE = {
    "__main__": ("test_commands", "it only calls the command line"),
    "classroom": ("test_grading", "its parts make sense together alone: one judge, one student"),
    "conversation": ("test_chat", "a chat is told from its messages to its answer"),
    "data.decoding": ("test_corpus", "bytes are decoded as the texts that they are"),
    "data.records": ("test_formats", "records are read in every format and packing at once"),
    "batching.mixture": ("test_packing", "a mixture is made of packed rows"),
    "machine.kernels": ("test_attention", "the fast form is compared with the taught one"),
    "machine.sorting": ("test_sampling", "sorting is compared with the taught form"),
}


def missing_tests(modules: set[str], elsewhere: dict[str, tuple[str, str]]) -> list[str]:
    """Return modules without a test file of their name, and entries of `elsewhere` to delete."""
    faults = []
    for module in sorted(modules):
        own, other = f"test_{module.rpartition('.')[2]}", elsewhere.get(module, ("", ""))[0]
        has_own = (ROOT / "tests" / f"{own}.py").exists()
        if has_own and other:
            faults.append(f"{module} has tests/{own}.py: delete its entry in TESTED_ELSEWHERE")
        elif not has_own and not (ROOT / "tests" / f"{other or own}.py").exists():
            faults.append(f"{module} has no tests: write tests/{other or own}.py")
    gone = sorted(elsewhere.keys() - modules)
    return faults + [f"{module} is gone: delete its entry in TESTED_ELSEWHERE" for module in gone]


def test_every_module_has_a_test_file_of_its_name():
    assert not (found := missing_tests(set(modules()), TESTED_ELSEWHERE)), "\n".join(found)


def test_every_topic_of_checks_has_a_test_file_of_its_name():
    for topic in TOPICS:
        assert (ROOT / "tests" / f"test_checks_{topic}.py").exists(), topic


def test_a_module_without_tests_is_caught():
    assert missing_tests({"data.new"}, {}) == ["data.new has no tests: write tests/test_new.py"]
    assert missing_tests({"new"}, {"new": ("test_other", "why")}) == [
        "new has no tests: write tests/test_other.py"
    ]
    gone = {"gpt": ("test_train", "why"), "old": ("test_train", "why")}
    assert missing_tests({"gpt"}, gone) == [
        "gpt has tests/test_gpt.py: delete its entry in TESTED_ELSEWHERE",
        "old is gone: delete its entry in TESTED_ELSEWHERE",
    ]


# The model is shown whole


def code_lines(node: ast.AST) -> int:
    """Count the lines of a definition as `ast.unparse` lays it out, without docstrings."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            inner.body = inner.body[1:] or [ast.Pass()]
    return len([line for line in ast.unparse(node).split("\n") if line.strip()])


def class_of(module: str, name: str) -> ast.ClassDef:
    tree = ast.parse((ROOT / "minigpt" / f"{module}.py").read_text(encoding="utf-8"))
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def chapter_cells() -> list:
    paths = sorted((ROOT / "chapters").glob("*.ipynb"))
    return [cell for path in paths for cell in cells.code_cells(path)]


@pytest.mark.parametrize(
    ("module", "name"), [("gpt", "GPT"), ("gpt", "Block"), ("attention", "Attention")]
)
def test_every_method_of_the_model_is_shown(module, name):
    shown = {name for cell in chapter_cells() if cell.header for name in cell.names()}
    methods = [n.name for n in class_of(module, name).body if isinstance(n, ast.FunctionDef)]
    assert name in shown or {f"{name}.{method}" for method in methods} <= shown


@pytest.mark.parametrize(
    ("module", "name"), [("gpt", "GPT"), ("gpt", "Block"), ("attention", "Attention")]
)
def test_the_final_form_is_little_longer_than_its_draft(module, name):
    """What another chapter adds, such as the cache's `new_cache`, is counted there."""
    drafts = [
        (cell.path, node)
        for cell in chapter_cells()
        if cell.is_draft
        for node in cell.tree().body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    path, longest = max(drafts, key=lambda draft: code_lines(draft[1]))
    elsewhere = {n for c in chapter_cells() if c.header and c.path != path for n in c.names()}
    final = class_of(module, name)
    drafted = {n.name for n in longest.body if isinstance(n, ast.FunctionDef)}
    final.body = [
        n
        for n in final.body
        if not isinstance(n, ast.FunctionDef)
        or n.name in drafted
        or f"{name}.{n.name}" not in elsewhere
    ]
    assert code_lines(final) <= 1.5 * code_lines(longest)
