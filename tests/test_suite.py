"""How the suite runs itself: when all cores are used, when nbval is loaded, what takes too long."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections import Counter

import pytest
from machinery import ROOT

spec = importlib.util.spec_from_file_location("suite", ROOT / "conftest.py")
suite = importlib.util.module_from_spec(spec)
spec.loader.exec_module(suite)


@pytest.mark.parametrize(
    ("args", "many"),
    [
        (["tests"], True),
        (["chapters", "tests/test_gpt.py"], True),
        (["tests/test_gpt.py"], False),
        (["tests/test_gpt.py::test_a", "tests/test_gpt.py::test_b[1]", "tests/test_nn.py"], False),
        ([f"tests/test_{name}.py" for name in "abcd"], True),
    ],
)
def test_many_files_use_every_core(args, many, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert suite.has_many_files(args) == many


def test_a_folder_has_its_mean_and_longest_file_beside_its_budget():
    seconds = Counter({"chapters/01_a.ipynb": 20.0, "chapters/02_b.ipynb": 70.0, "tests/t.py": 5.0})
    assert suite.budget_lines(seconds) == [
        "chapters: 90 s, mean 45 s (budget 30 s), longest 70 s (budget 60 s)",
        "tests: 5 s, mean 5 s, longest 5 s",
    ]
    assert suite.over("chapters/02_b.ipynb", seconds) == "  (budget 60 s)"
    assert suite.over("chapters/01_a.ipynb", seconds) == suite.over("tests/t.py", seconds) == ""


PASSES = "def test_a():\n    pass\n"
SLOW = "import pytest\n@pytest.mark.slow\ndef test_b():\n    pass\ndef test_c():\n    pass\n"
NOTEBOOK = """{"cells": [
 {"cell_type": "code", "execution_count": 1, "id": "a", "metadata": {}, "outputs": [],
  "source": ["x = 3"]},
 {"cell_type": "code", "execution_count": 2, "id": "b", "metadata": {}, "outputs": [],
  "source": ["assert x == 3"]}],
 "metadata": {"kernelspec": {"name": "nosuch", "display_name": "n", "language": "python"}},
 "nbformat": 4, "nbformat_minor": 5}"""


@pytest.fixture
def small(tmp_path):
    """A small suite with the real settings: five files, one notebook."""
    for name in ("conftest.py", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for folder, name, text in (
        ("tests", "test_long.py", SLOW),
        ("tests", "test_one.py", PASSES),
        ("tests", "test_two.py", PASSES),
        ("tests", "test_three.py", PASSES),
        ("chapters", "01_a.ipynb", NOTEBOOK),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text, encoding="utf-8")
    return tmp_path


def pytest_prints(folder, *words: str) -> str:
    command = [sys.executable, "-m", "pytest", "-v", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_whole_run_keeps_a_notebook_in_one_process_and_its_cells_in_order(small):
    out = pytest_prints(small, "-n", "2", "--dist", "loadfile")
    assert "7 passed" in out, out
    cells = re.findall(r"\[(gw\d)\].*PASSED.*(Cell \d)", out)
    assert [cell for _, cell in cells] == ["Cell 0", "Cell 1"], out
    assert len({process for process, _ in cells}) == 1


@pytest.mark.slow
def test_one_file_needs_neither_nbval_nor_several_processes(small):
    alone = "import sys\ndef test_a():\n    assert 'nbval' not in sys.modules\n"
    (small / "tests" / "test_one.py").write_text(alone, encoding="utf-8")
    out = pytest_prints(small, "tests/test_one.py")
    assert "1 passed" in out
    assert "workers" not in out


@pytest.mark.slow
def test_a_notebook_alone_is_run_by_nbval(small):
    assert "2 passed" in pytest_prints(small, "chapters/01_a.ipynb")


@pytest.mark.slow
def test_quick_leaves_out_slow_tests_and_notebooks(small):
    out = pytest_prints(small, "-m", "quick")
    assert "4 passed" in out
    assert "test_b" not in out
    assert ".ipynb" not in out


# Each process of a run collects the tests by itself, and all must find the same names

CHANGES = {"time", "datetime", "uuid", "secrets", "tempfile", "os.getpid"}


def changing_parameters(source: str) -> list[str]:
    """Return the calls in parametrize whose value differs from one process to the next."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for decorator in getattr(node, "decorator_list", []):
            for call in ast.walk(decorator):
                name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
                is_stamped = name == "gzip.compress" and not any(
                    keyword.arg == "mtime" for keyword in call.keywords
                )
                if is_stamped or name in CHANGES or name.split(".")[0] in CHANGES:
                    found.append(name)
    return found


def test_every_process_collects_the_same_tests():
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        assert changing_parameters(path.read_text(encoding="utf-8")) == [], path.name


def test_a_parameter_that_changes_is_caught():
    told = '@parametrize("data", [gzip.compress(b"x"), time.time()])\ndef test(data): ...'
    assert changing_parameters(told) == ["gzip.compress", "time.time"]
    same = told.replace('b"x")', 'b"x", mtime=0)').replace("time.time()", "1")
    assert changing_parameters(same) == []
