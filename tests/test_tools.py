"""The notebook machinery catches what it must: negative controls for every rule."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from machinery import ROOT, build_notebooks, cells, make_exercises, sync_cells
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

MODULE = '''"""A module."""

import math

# counted from 0
LIMIT = 3


# This comment belongs to double.
@staticmethod
def double(x):
    """Double x."""
    return 2 * x  # not x + x


class Pair:
    """Two numbers."""

    def first(self):
        # the smaller
        return math.inf
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small course: one module, `attention`, and no notebook yet."""
    (tmp_path / "minigpt").mkdir()
    (tmp_path / "minigpt" / "attention.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "minigpt" / "plots.py").write_text("def bars(): ...\n", encoding="utf-8")
    (tmp_path / "chapters").mkdir()
    return tmp_path


def write(root: Path, *sources: str, name: str = "08_attention.ipynb") -> Path:
    path = root / "chapters" / name
    path.parent.mkdir(exist_ok=True)
    build_notebooks.write_notebook(new_notebook(cells=[new_code_cell(s) for s in sources]), path)
    return path


def faults(root: Path) -> str:
    return "\n".join(cells.faults(root=root))


DOUBLE = MODULE[MODULE.index("# This comment") : MODULE.index("\n\n\nclass")]
SHOWN = f"# minigpt/attention.py\n{DOUBLE}"
METHOD = (
    "# minigpt/attention.py: Pair.first\ndef first(self):\n    # the smaller\n    return math.inf"
)


# Rule 1: a shown cell is the package's text


def test_equal_cells_pass(root):
    write(root, SHOWN, METHOD, "# minigpt/attention.py\n# counted from 0\nLIMIT = 3")
    assert faults(root) == ""


@pytest.mark.parametrize("position", range(len("# minigpt/attention.py\n"), len(SHOWN), 7))
def test_a_changed_character_in_a_shown_cell_is_caught(root, position):
    changed = SHOWN[:position] + ("x" if SHOWN[position] != "x" else "y") + SHOWN[position + 1 :]
    write(root, changed)
    assert "08_attention.ipynb cell 0" in faults(root)


def test_a_changed_comment_is_caught_with_a_diff(root):
    write(root, SHOWN.replace("not x + x", "not x * x"))
    assert "+    return 2 * x  # not x + x" in faults(root)
    assert "tools/sync_cells.py" in faults(root)


def test_a_changed_package_is_caught(root):
    write(root, SHOWN, METHOD)
    file = root / "minigpt" / "attention.py"
    file.write_text(MODULE.replace("math.inf", "-math.inf"), encoding="utf-8")
    assert "cell 1" in faults(root)
    assert "cell 0" not in faults(root)


def test_a_name_that_the_package_lacks_is_caught(root):
    write(root, "# minigpt/attention.py\ndef treble(x):\n    return 3 * x")
    assert "does not define 'treble'" in faults(root)


def test_a_file_that_does_not_exist_is_caught(root):
    write(root, "# minigpt/attentoin.py\ndef double(x):\n    return 2 * x")
    assert "there is no minigpt/attentoin.py" in faults(root)


def test_a_method_that_calls_super_is_shown_inside_its_class(root):
    """Alone, Python would not run it: `super()` has to know its class."""
    module = "class Two(Pair):\n    def first(self):\n        return super().first()\n"
    (root / "minigpt" / "attention.py").write_text(MODULE + "\n\n" + module, encoding="utf-8")
    write(root, "# minigpt/attention.py: Two.first\n" + module.rstrip())
    assert faults(root) == ""
    write(root, "# minigpt/attention.py: Two.first\ndef first(self):\n    return super().first()")
    assert "cell 0: differs from the package" in faults(root)


def test_a_call_in_a_shown_cell_is_caught(root):
    write(root, SHOWN + "\n\n\ndouble(3)")
    assert "holds definitions only" in faults(root)


def test_sync_copies_the_package_and_only_where_it_differs(root):
    path = write(root, SHOWN.replace("2 * x", "x + x"), METHOD, "print(1)")
    assert sync_cells.sync(path, root) == [0]
    assert cells.code_cells(path)[0].source == SHOWN
    assert faults(root) == ""
    assert sync_cells.sync(path, root) == []


# Rule 2: no silent shadowing, and drafts are tied


def test_a_shadowed_function_is_caught(root):
    write(root, "def double(x):\n    return x + x")
    assert "hides minigpt/attention's double" in faults(root)


def test_a_shadowed_class_in_a_block_is_caught(root):
    write(root, "if True:\n    class Pair:\n        pass")
    assert "hides minigpt/attention's Pair" in faults(root)


@pytest.mark.parametrize(
    "statement",
    [
        "double = 3",
        "double: int = 3",
        "a, (double, b) = 1, (2, 3)",
        "for double in range(3):\n    pass",
        "with open('x') as double:\n    pass",
        "print(double := 3)",
        "from math import floor as double",
    ],
)
def test_a_name_in_use_that_is_bound_again_is_caught(root, statement):
    write(root, SHOWN, statement)
    assert "cell 1: line 1 hides minigpt/attention's double" in faults(root)


def test_names_inside_functions_hide_nothing(root):
    write(root, SHOWN, "def f():\n    double = 3\n    return double")
    assert faults(root) == ""


def test_a_variable_that_the_notebook_does_not_use_from_the_package_is_free(root):
    write(root, "bars = 3\nfor bars in range(3):\n    pass")
    assert faults(root) == ""


DRAFT = "# draft: without its comment\ndef double(x):\n    return x + x"
TIE = "from minigpt import attention\nassert double(4) == attention.double(4)"


def test_a_draft_tied_and_imported_again_passes(root):
    write(root, DRAFT, TIE, "from minigpt.attention import double")
    assert faults(root) == ""


def test_a_draft_without_a_tie_is_caught(root):
    write(root, DRAFT, "from minigpt.attention import double")
    assert "no assert further down ties the draft of double" in faults(root)


def test_a_draft_left_in_use_is_caught(root):
    write(root, DRAFT, TIE)
    assert "neither shown nor imported again" in faults(root)


@pytest.mark.parametrize(
    "later", ["print(first)", "def f():\n    return first", "[n for n in range(3) if n < first]"]
)
@pytest.mark.parametrize("before", ["first = 3", "from itertools import count as first"])
def test_a_method_that_is_read_for_what_had_its_name_is_caught(root, before, later):
    write(root, before, METHOD, "1 + 1", later)
    assert "cell 3: first is the method of cell 1; bind it anew" in faults(root)


def test_a_method_with_the_name_of_a_function_of_python_is_caught(root):
    text = "class Box:\n    def sum(self):\n        return 1"
    (root / "minigpt" / "attention.py").write_text(text + "\n", encoding="utf-8")
    method = "# minigpt/attention.py: Box.sum\ndef sum(self):\n    return 1"
    write(root, method, "print(sum([1]))")
    assert "cell 1: sum is the method of cell 0" in faults(root)


@pytest.mark.parametrize(
    "cells",
    [
        (METHOD, "first(None)"),  # it had no other meaning: the method is meant
        ("first = 3", METHOD, "first = 4", "print(first)"),
        ("first = 3", METHOD, "from math import floor as first", "print(first)"),
        ("first = 3", METHOD, "def f(first):\n    return first"),
        ("first = 3", METHOD, "def f():\n    first = 1\n    return first"),
        ("first = 3", METHOD, "a.first"),
        ("first = 3", METHOD, "Pair.first = first"),  # its class gets it
    ],
)
def test_a_method_in_nobodys_way_is_free(root, cells):
    write(root, *cells)
    assert faults(root) == ""


# Rules 3, 4, 5


def test_an_import_that_no_chapter_has_shown_is_caught(root):
    write(root, "from minigpt.attention import Pair", "from minigpt.support.plots import bars")
    assert "imports Pair from minigpt.attention" in faults(root)
    assert "bars" not in faults(root)


def test_an_attribute_of_an_imported_module_counts_as_an_import(root):
    write(root, "from minigpt import attention\nattention.Pair()")
    assert "imports Pair from minigpt.attention" in faults(root)


def test_a_later_chapter_may_import_and_an_earlier_one_may_not(root):
    write(root, SHOWN)
    write(root, "from minigpt.attention import double", name="09_gpt.ipynb")
    assert faults(root) == ""
    write(root, "from minigpt.attention import double", name="07_early.ipynb")
    assert "no chapter up to 07" in faults(root)


def test_a_module_whose_chapters_are_planned_is_plumbing(root):
    (root / "minigpt" / "train.py").write_text("def train(): ...\n", encoding="utf-8")
    write(root, "from minigpt.train import train")
    assert faults(root) == ""
    write(root, "1 + 1", name="10_training.ipynb")
    assert "imports train from minigpt.train" in faults(root)


def test_an_unknown_module_is_caught(root):
    write(root, "from minigpt.atention import double")
    assert "minigpt.atention is no module of the course" in faults(root)


def test_a_definition_shown_twice_is_caught(root):
    write(root, SHOWN)
    write(root, SHOWN, name="09_gpt.ipynb")
    assert "double is shown in 08_attention.ipynb cell 0 already" in faults(root)


def test_a_method_shown_before_its_whole_class_is_caught(root):
    whole = "# minigpt/attention.py\n" + MODULE[MODULE.index("class Pair") :].rstrip()
    write(root, METHOD, whole)
    assert "Pair.first is shown" in faults(root)
    write(root, whole, METHOD)
    assert "Pair is shown" in faults(root)


@pytest.mark.parametrize("header", ["# minigpt/attention.py", "# anything else"])
def test_a_long_cell_is_caught(root, header):
    long = "def long(x):\n" + "\n".join(f"    x += {i}" for i in range(44))
    (root / "minigpt" / "attention.py").write_text(f"{MODULE}\n\n{long}\n", encoding="utf-8")
    write(root, f"{header}\n{long}")
    assert "cell 0: 46 lines; 45 are the limit" in faults(root)
    short = long.rpartition("\n")[0]
    (root / "minigpt" / "attention.py").write_text(f"{MODULE}\n\n{short}\n", encoding="utf-8")
    write(root, f"# minigpt/attention.py\n{short}")
    assert faults(root) == ""


def test_a_class_shown_by_its_methods_may_be_imported(root):
    write(root, METHOD, "from minigpt.attention import Pair")
    assert faults(root) == ""


def test_a_cell_that_is_not_python_is_caught_and_magic_is_not(root):
    write(root, "%matplotlib inline\n!ls")
    assert faults(root) == ""
    write(root, "def (")
    assert "not Python" in faults(root)


@pytest.mark.parametrize("folder", ["exercises", "solutions"])
def test_the_rules_hold_in_exercises_and_solutions_too(root, folder):
    write(root, SHOWN)
    write(root, "def double(x):\n    return x + x", name=f"{folder}/08_attention.ipynb")
    assert "hides minigpt/attention's double" in faults(root)


def test_copies_that_readers_work_in_are_left_alone(root):
    write(root, "def (", name="my_exercises/08_attention.ipynb")
    assert faults(root) == ""


# Building


def execute(path: Path) -> nbformat.NotebookNode:
    build_notebooks.build(path)
    return nbformat.read(path, as_version=4)


PICTURE = "import matplotlib.pyplot as plt\nplt.plot([0, 1])\nplt.show()"


@pytest.mark.slow
def test_building_twice_changes_no_byte_and_keeps_a_picture_of_equal_pixels(root):
    path = write(root, "print('one')\nprint('two')", PICTURE, "raise ValueError('wanted')")
    raw = nbformat.read(path, as_version=4)
    raw.cells[2].metadata["tags"] = ["raises-exception"]
    build_notebooks.write_notebook(raw, path)
    built = execute(path)
    assert [cell.execution_count for cell in built.cells] == [1, 2, 3]
    assert [len(cell.outputs) for cell in built.cells] == [1, 1, 1]
    assert build_notebooks.storage_faults(path) == []

    recoded = build_notebooks.base64.b64decode(built.cells[1].outputs[0].data["image/png"])
    buffer = build_notebooks.io.BytesIO()
    build_notebooks.Image.open(build_notebooks.io.BytesIO(recoded)).save(
        buffer, "PNG", compress_level=1
    )
    built.cells[1].outputs[0].data["image/png"] = build_notebooks.base64.b64encode(
        buffer.getvalue()
    ).decode()
    build_notebooks.write_notebook(built, path)  # same pixels, other bytes
    before = path.read_bytes()
    execute(path)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_failing_cell_stops_the_build_and_nothing_is_written(root):
    path = write(root, "1 / 0")
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        build_notebooks.build(path)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_several_notebooks_are_built_at_a_time(root, capsys):
    paths = [write(root, f"print({n})", name=f"0{n}_x.ipynb") for n in (1, 2, 3)]
    build_notebooks.main(["-j", "2", *map(str, paths)])
    assert sorted(line.split(":")[0] for line in capsys.readouterr().out.splitlines()) == [
        str(path) for path in paths
    ]
    for n, path in enumerate(paths, start=1):
        (output,) = nbformat.read(path, as_version=4).cells[0].outputs
        assert output.text == f"{n}\n"


def stored(tmp_path: Path, cell: nbformat.NotebookNode) -> str:
    path = tmp_path / "01_x.ipynb"
    build_notebooks.write_notebook(new_notebook(cells=[cell]), path)
    return "\n".join(build_notebooks.storage_faults(path))


def test_storage_faults_are_named(tmp_path):
    good = new_output("stream", text="fine\n")
    assert stored(tmp_path, new_code_cell("1", outputs=[good], execution_count=1)) == ""
    assert "execution count 2" in stored(tmp_path, new_code_cell("1", execution_count=2))
    for private in ("/home/me", "/tmp/x", "<object at 0x7f33a4c0>", "C:\\\\Users\\\\me"):
        bad = new_output("stream", text=private)
        cell = new_code_cell("1", outputs=[bad], execution_count=1)
        assert "local detail" in stored(tmp_path, cell), private
    error = new_output("error", ename="ValueError", evalue="x", traceback=["x"])
    cell = new_code_cell("1", outputs=[error], execution_count=1)
    assert "without raises-exception" in stored(tmp_path, cell)
    for tag in ("nbval-skip", "skip-execution"):
        cell = new_code_cell("1", metadata={"tags": [tag]}, execution_count=1)
        assert "every cell is run" in stored(tmp_path, cell)
    assert "every cell is run" in stored(tmp_path, new_code_cell("# NBVAL_SKIP\n1"))
    assert "execution count None" in stored(tmp_path, new_code_cell("1"))


def test_tracebacks_lose_the_frames_of_libraries():
    frames = [
        "Cell In[1], line 1\n",
        "\x1b[32mFile /usr/lib/python/torch/nn.py:3\x1b[0m",
        "ValueError: x",
    ]
    output = {"output_type": "error", "traceback": frames}
    build_notebooks.shorten_traceback(output)
    assert output["traceback"] == [frames[0], frames[2]]


# Exercises from solutions

SOLUTION = """import math


def half(x):
    ### BEGIN SOLUTION
    y = x / 2

    return y
    ### END SOLUTION


check("a.half", half)"""


def test_an_answer_in_a_function_becomes_a_blank_that_still_runs():
    stripped = make_exercises.strip_solution(SOLUTION)
    assert "y = x" not in stripped
    namespace = {"check": lambda name, answer: None}
    exec(stripped, namespace)
    with pytest.raises(NotImplementedError, match="your code here"):
        namespace["half"](1)


def test_an_answer_outside_a_function_becomes_names_to_fill_in():
    source = "### BEGIN SOLUTION\nx = 1\ny = [1, 2]\nz = {'a': 1}\n### END SOLUTION\nprint(x, y, z)"
    namespace = {}
    exec(make_exercises.strip_solution(source), namespace)
    assert (namespace["x"], namespace["y"], namespace["z"]) == (..., [..., ...], {"a": ...})


def test_blanks_do_not_name_what_only_the_solution_uses():
    source = (
        "### BEGIN SOLUTION\nhelper = 1\nfound = {'a': helper}\n### END SOLUTION\ncheck('x', found)"
    )
    assert make_exercises.strip_solution(source).splitlines() == [
        'found = {"a": ...}  # your code here',
        "check('x', found)",
    ]


def test_a_long_blank_is_broken_as_the_formatter_breaks_it(tmp_path):
    keys = {f"a_rather_long_key_{i}": i for i in range(5)}
    source = f"### BEGIN SOLUTION\nx = {keys}\n### END SOLUTION\n"
    file = tmp_path / "blank.py"
    file.write_text(make_exercises.strip_solution(source), encoding="utf-8")
    namespace = {}
    exec(file.read_text(encoding="utf-8"), namespace)
    assert namespace["x"] == dict.fromkeys(keys, ...)
    config = ["--config", str(ROOT / "pyproject.toml")]
    subprocess.run([sys.executable, "-m", "ruff", "format", "--check", *config, file], check=True)


@pytest.mark.parametrize(
    "source",
    [
        "### BEGIN SOLUTION\nx = 1",
        "x = 1\n### END SOLUTION",
        "### BEGIN SOLUTION\nprint(1)\n### END SOLUTION",
    ],
)
def test_markers_that_do_not_work_are_refused(source):
    with pytest.raises(AssertionError, match=r"unpaired marker|must assign a name"):
        make_exercises.strip_solution(source)


def solution() -> nbformat.NotebookNode:
    secret = new_markdown_cell("How it is done.", metadata={"tags": ["solution-only"]})
    return new_notebook(
        cells=[new_markdown_cell("# 8: solutions"), new_code_cell(SOLUTION), secret]
    )


def test_an_exercise_corresponds_to_its_solution():
    exercise = make_exercises.exercise_notebook(solution())
    assert make_exercises.same_questions(exercise, solution()) == []
    assert exercise.cells[0].source == "# 8: exercises"
    assert len(exercise.cells) == 2
    assert all("SOLUTION" not in cell.source for cell in exercise.cells)


def test_an_exercise_that_no_longer_matches_its_solution_is_caught():
    exercise = make_exercises.exercise_notebook(solution())
    exercise.cells[1].source += "\nprint(1)"
    assert "cell 1 is not what the solution gives" in str(
        make_exercises.same_questions(exercise, solution())
    )
    changed = solution()
    changed.cells[0].source = "# 8: other solutions"
    exercise = make_exercises.exercise_notebook(solution())
    assert "cell 0" in str(make_exercises.same_questions(exercise, changed))
    changed.cells.append(new_markdown_cell("One more question."))
    assert "2 cells, but the solution gives 3" in str(
        make_exercises.same_questions(exercise, changed)
    )
