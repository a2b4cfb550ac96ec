"""Grading a class: no answer can cheat its verdict, stop another's grading, or outlive its own."""

import ast
import contextlib
import csv
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import torch
from helpers import run
from hypothesis import given, settings
from hypothesis import strategies as st
from machinery import ROOT

from minigpt import checks
from minigpt.attention import attend
from minigpt.checks import exercises
from minigpt.classroom import (
    Exercises,
    Grade,
    Limits,
    feedback,
    find_submissions,
    grade_class,
    grade_student,
    gradebook,
    open_exercises,
)
from minigpt.classroom.limits import Watch
from minigpt.classroom.notebook import Cell, forbidden, plan, split_checks
from minigpt.classroom.session import grade_steps
from minigpt.classroom.values import Opaque, decode, encode
from minigpt.support.errors import ConfigError, DataError

FILE = "08_attention.ipynb"
TARGET = "attention.window_mask"
NAMES = exercises("attention")
LIMITS = Limits(seconds=20, memory_gb=1, processes=12)
SHORT = replace(LIMITS, seconds=3)  # where time is the point
RIGHT = "causal_mask(T) & (torch.arange(T)[:, None] - torch.arange(T) < window)"

pytestmark = pytest.mark.usefixtures("no_settings")


def hand_in(answer: str | None = None, key: str = TARGET) -> bytes:
    """Return the solved notebook with another source in one answer cell."""
    exercise = nbformat.read(ROOT / "chapters" / "exercises" / FILE, as_version=4)
    solved = nbformat.read(ROOT / "chapters" / "solutions" / FILE, as_version=4)
    answers = {
        f"answer:{n}": c.source for c in solved.cells for n in NAMES if f'("{n}"' in c.source
    }
    if answer is not None:
        answers[f"answer:{key}"] = answer
    for cell in exercise.cells:
        for tag in cell.metadata.get("tags", []):
            cell.source = answers.get(tag, cell.source)
    return nbformat.writes(exercise).encode("utf-8")


def function(body: str, before: str = "") -> str:
    """Return an answer cell whose window_mask has this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f'{before}\ndef window_mask(T, window):\n{lines}\n\n\ncheck("{TARGET}", window_mask)'


CHOSEN = open_exercises(ROOT / "chapters" / "exercises", ["attention"])


def part(*names: str) -> list[Exercises]:
    """Return the exercise with a few of its questions only, to be fast."""
    (whole,) = CHOSEN
    return [
        replace(
            whole, cells=[c for c in whole.cells if c.key in (None, *names)], expected=list(names)
        )
    ]


def grade(data: bytes, student: str = "ada") -> Grade:
    return grade_student(student, {FILE: data}, CHOSEN, LIMITS)


def fails_alone(
    answer: str, verdict: str, *words: str, key: str = TARGET, limits: Limits = LIMITS
) -> None:
    """Require that an answer fails its own exercise, with these words, and not its neighbors."""
    names = dict.fromkeys(["attention.by_hand", key, "attention.repair"])
    found = grade_student("ada", {FILE: hand_in(answer, key)}, part(*names), limits).verdicts
    assert found[key][0] in verdict.split("|"), found[key]
    for word in words:
        assert word in found[key][1], found[key]
    others = {name: found[name][0] for name in names if name != key}
    assert set(others.values()) == {"passed"}, found


# What a class hands in


@pytest.mark.slow
def test_a_perfect_submission_scores_100_percent():
    found = grade(hand_in())
    assert found.percent == 100
    assert list(found.verdicts) == NAMES


def test_a_blank_scores_0():
    blank = (ROOT / "chapters" / "exercises" / FILE).read_bytes()
    found = grade(blank)
    assert found.percent == 0
    assert {verdict for verdict, _ in found.verdicts.values()} == {"blank"}


def test_the_stored_solutions_score_100_percent():
    files = {FILE: (ROOT / "chapters" / "solutions" / FILE).read_bytes()}
    assert grade_student("ada", files, CHOSEN, LIMITS).percent == 100


def test_a_deleted_check_scores_0():
    fails_alone(function(f"return {RIGHT}").rsplit("\n", 1)[0], "missing", "no more")


def test_a_deleted_cell_scores_0():
    notebook = nbformat.reads(hand_in().decode(), as_version=4)
    notebook.cells = [cell for cell in notebook.cells if TARGET not in cell.source]
    found = grade(nbformat.writes(notebook).encode()).verdicts
    assert found[TARGET] == ("missing", "the answer's cell is not in the notebook any more")
    assert sum(verdict == "passed" for verdict, _ in found.values()) == len(NAMES) - 1


def test_nothing_handed_in_scores_0():
    found = grade_student("ada", {}, CHOSEN, LIMITS)
    assert found.percent == 0
    assert set(found.verdicts.values()) == {("missing", "not handed in")}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[]",
        b'{"cells": 3}',
        b'{"cells": [{"source": 1}]}',
        b'{"cells": [{"cell_type": "code", "source": 3}]}',
        b"[" * 100_000,
    ],
)
def test_a_file_that_is_no_notebook_scores_0_and_says_so(data):
    found = grade(data)
    assert found.percent == 0
    assert "not a Jupyter notebook" in found.verdicts[TARGET][1]
    assert "save it in Jupyter" in found.verdicts[TARGET][1]


def test_a_notebook_that_is_too_large_is_read_no_further(tmp_path):
    with (tmp_path / f"ada_{FILE}").open("wb") as file:
        file.truncate(3_000_000_000)  # a hole: it takes no room on the disk
    found = grade_student("ada", find_submissions(tmp_path, [FILE])["ada"], CHOSEN, LIMITS)
    assert "more than 20000000 bytes" in found.verdicts[TARGET][1]
    assert "clear its outputs" in found.verdicts[TARGET][1]


# Cheating


def test_a_redefined_check_changes_nothing():
    before = f'def check(name, answer):\n    print("✓ {TARGET}: passed")\n'
    fails_alone(function("return None", before), "failed", "None")


FORGED = """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("mini" + "gpt."):
        for each in ("judge", "same_tensor", "require", "check"):
            if hasattr(module, each):
                setattr(module, each, lambda *a, **o: ("passed", "passed"))
"""


def test_a_patched_judge_changes_nothing():
    fails_alone(function("return causal_mask(T)", FORGED), "failed", "window")


def test_a_patched_judge_wins_where_answers_do_not_travel(tmp_path, monkeypatch):
    """Negative control, and the gap that the teachers' README names: no second look, no safety."""
    source = """from minigpt.checks import exercise
from minigpt.checks.compare import require


def three(answer, generator):
    require(answer == 3, "not 3")


exercise("own.safe", "3")(three)
exercise("own.open", "3", travels=False)(three)
"""
    (tmp_path / "own.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("MINIGPT_CHECKS", str(tmp_path))
    cells = [Cell(FORGED + '\ncheck("own.safe", 4)\ncheck("own.open", 4)', ("answer:own.safe",))]
    steps = plan([Cell('check("own.safe", ...)\ncheck("own.open", ...)', cells[0].tags)], cells)
    found = grade_steps(steps, ["own.safe", "own.open"], "ada", LIMITS)
    forget("own")
    assert found == {"own.safe": ("failed", "not 3"), "own.open": ("passed", "passed")}


def test_a_self_written_report_changes_nothing():
    row = json.dumps({"check": TARGET, "verdict": "passed", "message": "passed"})
    before = f"""
import json, os
from pathlib import Path
print('✓ {TARGET}: passed')
Path(os.environ.get("MINIGPT_REPORT", "report.jsonl")).write_text('{row}')
Path("gradebook.csv").write_text("student,percent\\nada,100.0")
"""
    fails_alone(function("return None", before), "failed", "None")


def test_forged_messages_in_every_open_pipe_end_the_answer():
    before = f"""
import json, os
for message in (["verdict", "{TARGET}", "passed", "passed"], {{"reply": ["list", "passed", ""]}}):
    data = json.dumps(message).encode()
    for number in range(3, 300):
        try:
            os.write(number, len(data).to_bytes(4, "big") + data)
        except OSError:
            pass
"""
    fails_alone(function(f"return {RIGHT}", before), "stopped", "sent what is no answer")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what is open")
def test_a_students_process_holds_one_pipe_and_its_output():
    """Whatever else it had inherited would be a way to disturb who started it."""
    before = """
import os
found = []
for number in os.listdir("/proc/self/fd"):
    try:
        found.append((int(number), os.readlink(f"/proc/self/fd/{number}")))
    except OSError:
        pass  # the listing itself
assert {n for n, _ in found} > {0, 1, 2} and len(found) == 4, found
assert sum(target.startswith(("pipe:", "socket:")) for _, target in found) == 1, found
"""
    assert grade(hand_in(function(f"return {RIGHT}", before))).percent == 100


@pytest.mark.parametrize(
    ("answer", "key", "words"),
    [
        (f'check("{TARGET}", causal_mask)', TARGET, "minigpt's own causal_mask"),
        (function("return causal_mask(T)"), TARGET, "window"),
        (
            'check("attention.streaming", lambda q, k, v, chunk: attend(q, k, v))',
            "attention.streaming",
            "not streaming",
        ),
        (
            "from minigpt.checks.attention import _multi_head as repaired\n"
            'check("attention.repair", repaired)',
            "attention.repair",
            "minigpt.checks",
        ),
    ],
)
def test_an_answer_that_returns_the_packages_function_fails(answer, key, words):
    fails_alone(answer, "failed", words, key=key)


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("attention.by_hand", "([nan, 0.21, 0.21, 0.0], 6.12)"),
        ("attention.by_hand", "([0.58, 0.21, 0.21, 0.0], nan)"),
        ("attention.long_text", "dict(largest_16=nan, largest_4096=nan, factor=nan, why='b')"),
        ("attention.repair", "lambda x, *rest: x * nan"),
        ("attention.streaming", "lambda q, k, v, chunk: attend(q, k, v) * nan"),
        ("attention.pattern", "lambda ids, V, attend: torch.full((len(ids), V), nan)"),
    ],
)
def test_nan_answers_fail(key, answer):
    answer = eval(answer, {"nan": math.nan, "torch": torch, "attend": attend})
    assert checks.judge(key, answer)[0] == "failed"


def test_nan_that_travels_fails():
    fails_alone(
        'check("attention.repair", lambda x, *rest: x * math.nan)', "failed", key="attention.repair"
    )


# Harm


@pytest.mark.slow
@pytest.mark.parametrize("where", ["cell", "function"])
def test_an_endless_loop_is_stopped(where):
    loop = "while True:\n    pass"
    answer = function(loop) if where == "function" else function("return None", loop + "\n")
    start = time.monotonic()
    fails_alone(answer, "stopped", "more than 3 seconds", limits=SHORT)
    assert time.monotonic() - start < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("return bytearray(10_000_000_000)", "error|stopped"),
        ("return torch.ones(2_500_000_000)", "error|stopped"),
        ("return torch.ones(1).expand(2_500_000_000)", "failed|stopped"),  # it has no bytes
    ],
)
def test_ten_gigabytes_are_refused(body, verdict):
    before = psutil.virtual_memory().available
    fails_alone(function(body), verdict)
    assert before - psutil.virtual_memory().available < 4e9


@pytest.mark.parametrize("code", [0, 3])
def test_an_answer_that_ends_its_process_fails(code):
    fails_alone(function(f"import os; os._exit({code})"), "stopped", f"exit code {code}")


@pytest.mark.slow
def test_processes_that_an_answer_starts_are_counted_and_ended():
    mark = f"{time.time():.6f}"
    child = f"import time; mark = {mark}; time.sleep(600)"
    body = f"""
import subprocess, sys, time
for number in range(20):
    subprocess.Popen([sys.executable, "-c", "{child}"], start_new_session=True)
time.sleep(600)
"""
    fails_alone(function(body), "stopped", "more than 12 processes")
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in str(p.info["cmdline"])]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to an ancestor")
def test_an_orphan_does_not_outlive_its_grading():
    mark = f"{time.time():.6f}"
    child = f"import time; mark = {mark}; time.sleep(600)"
    body = f"""
import os, subprocess, sys
if os.fork() == 0:
    subprocess.Popen([sys.executable, "-c", "{child}"], start_new_session=True)
    os._exit(0)
os.wait()
return None
"""
    fails_alone(function(body), "failed")
    assert not [p for p in psutil.process_iter(["cmdline"]) if mark in str(p.info["cmdline"])]


@pytest.mark.slow
def test_deleted_files_harm_only_the_one_who_deletes(tmp_path):
    for student in ("ada", "bob"):
        (tmp_path / student).mkdir()
        (tmp_path / student / FILE).write_bytes(hand_in())
    body = """
import os, shutil
shutil.rmtree(os.getcwd(), ignore_errors=True)
shutil.rmtree(os.path.expanduser("~"), ignore_errors=True)
"""
    body += f"shutil.rmtree({str(tmp_path)!r}, ignore_errors=True)"
    (tmp_path / "ada" / FILE).write_bytes(hand_in(function(body)))
    submissions = find_submissions(tmp_path, [FILE])
    ada, bob = grade_class(submissions, CHOSEN, LIMITS)
    assert not tmp_path.exists()
    assert ada.verdicts[TARGET][0] == "failed"
    assert ada.passed == len(NAMES) - 1
    assert bob.percent == 100


def test_a_machine_without_processes_ends_nobody_elses_grading(monkeypatch):
    def refuse(steps, names, student, limits):
        if student == "ada":
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return dict.fromkeys(names, ("passed", "passed"))

    monkeypatch.setattr("minigpt.classroom.book.grade_steps", refuse)
    files = {FILE: hand_in()}
    ada, bob = grade_class({"ada": files, "bob": files}, CHOSEN, LIMITS)
    assert ada.percent == 0
    assert "grade this student again" in ada.verdicts[TARGET][1]
    assert bob.percent == 100


@pytest.mark.slow
def test_a_printed_gigabyte_is_cut_off():
    body = "for _ in range(1000):\n    print('x' * 1_000_000)\nreturn None"
    fails_alone(function(body), "error|stopped|failed")


ODD = [
    "raise SystemExit",
    "raise KeyboardInterrupt",
    "return answer(*inputs)",
    "raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "return 'x' * 200_000_000",
    "deep = []\nfor _ in range(10_000):\n    deep = [deep]\nreturn deep",
    "return type('Odd', (), {'__repr__': lambda self: 1 / 0})()",
    "return torch.ones(3, 3, requires_grad=True)",
    "import sys; sys.setrecursionlimit(10**9)\nreturn answer(*inputs)",
]


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 3, 6])
def test_odd_answers_fail_one_by_one(first):
    keys = ["attention.by_hand", TARGET, "attention.repair"]
    exercise = part(*keys, "attention.long_text")
    notebook = nbformat.reads(hand_in().decode(), as_version=4)
    for key, body in zip(keys, ODD[first : first + 3], strict=True):
        (cell,) = [c for c in notebook.cells if f"answer:{key}" in c.metadata.get("tags", [])]
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        call = "answer()" if "hand" in key else "answer"
        cell.source = f'def answer(*inputs):\n{lines}\n\n\ncheck("{key}", {call})'
    data = nbformat.writes(notebook).encode()
    found = grade_student("ada", {FILE: data}, exercise, SHORT).verdicts
    assert {found[key][0] for key in keys} <= {"error", "stopped", "failed"}, found
    assert found["attention.long_text"][0] == "passed"


# Checks of the teacher's own

PRIVATE = """from minigpt.checks import exercise
from minigpt.checks.compare import call, require


@exercise("midterm.window", "one row, all True", of="attention.window_mask")
def window(answer, generator):
    require(call(answer, 1, 5, case="T = 1").all(), "one position sees itself")


@exercise("midterm.third", "a third")
def third(answer, generator):
    require(abs(answer - 1 / 3) < 0.01, "not a third")


@exercise("midterm.secret", "the folder")
def secret(answer, generator):
    require(answer is True, "seen")


@exercise("midterm.kind", "a class with a size", travels=False)
def kind(answer, generator):
    require(answer(3).size == 3, "the size is another")
"""


@pytest.fixture
def private(tmp_path, monkeypatch):
    (tmp_path / "midterm.py").write_text(PRIVATE, encoding="utf-8")
    monkeypatch.setenv("MINIGPT_CHECKS", str(tmp_path))
    yield tmp_path
    forget("midterm")


def forget(topic: str) -> None:
    """Take a private topic out of the registry, as if it had never been loaded."""
    for name in [name for name in checks._exercises if name.startswith(f"{topic}.")]:
        del checks._exercises[name]
    sys.modules.pop(f"minigpt_private_checks.{topic}", None)


def midterm(*answers: tuple[str, str], blank: bool = False) -> list[Cell]:
    sources = ["import os", *(f'check("midterm.{n}", {"..." if blank else a})' for n, a in answers)]
    tags = [(), *((f"answer:midterm.{name}",) for name, _ in answers)]
    return [Cell(*cell) for cell in zip(sources, tags, strict=True)]


def test_a_private_exercise_is_judged_out_of_the_students_sight(private):
    hidden = "os.environ.get('MINIGPT_CHECKS') is None"
    answers = midterm(("third", "0.333"), ("secret", hidden))
    steps = plan(midterm(("third", ""), ("secret", ""), blank=True), answers)
    found = grade_steps(steps, ["midterm.third", "midterm.secret"], "ada", LIMITS)
    assert set(found.values()) == {("passed", "passed")}


def test_a_private_exercise_that_does_not_travel_is_judged_beside_the_answer(private):
    for answer, verdict in (
        ("type('A', (), {'__init__': lambda s, n: setattr(s, 'size', n)})", "passed"),
        ("complex", "error"),
    ):
        steps = plan(midterm(("kind", ""), blank=True), midterm(("kind", answer)))
        found = grade_steps(steps, ["midterm.kind"], "ada", LIMITS)
        assert found["midterm.kind"][0] == verdict, found


def test_a_private_check_judges_a_public_answer_as_well(private):
    (chosen,) = open_exercises(ROOT / "chapters" / "exercises", ["attention"])
    assert chosen.expected == [*NAMES, "midterm.window"]
    small = [replace(chosen, cells=part(TARGET)[0].cells, expected=[TARGET, "midterm.window"])]
    found = grade_student("ada", {FILE: hand_in()}, small, LIMITS)
    assert found.percent == 100
    files = {FILE: hand_in(function("return torch.ones(T, T) < T"))}
    found = grade_student("ada", files, small, LIMITS)
    assert found.verdicts["midterm.window"] == ("failed", "one position sees itself")


def test_private_checks_must_have_a_folder_and_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGPT_CHECKS", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no such folder.*MINIGPT_CHECKS.*name a folder"):
        checks.topics()
    (tmp_path / "attention.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("MINIGPT_CHECKS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"attention is a topic.*give the file another name"):
        checks.topics()


def test_an_exercise_without_checks_here_names_the_setting(tmp_path):
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('check("midterm.third", ...)')]),
        tmp_path / "90_midterm.ipynb",
    )
    with pytest.raises(DataError, match=r"no checks of topic 'midterm'.*MINIGPT_CHECKS"):
        open_exercises(tmp_path)


# Odd hand-ins


def test_a_cell_that_is_not_python_fails_alone():
    fails_alone(f'def window_mask(:\ncheck("{TARGET}", window_mask)', "error", "SyntaxError")


def test_a_cell_that_raises_says_where():
    fails_alone(
        f'x = [1, 2][5]\ncheck("{TARGET}", x)', "error", "IndexError", "in the line `x = [1, 2][5]`"
    )


def test_helpers_outside_the_answer_cell_do_not_count():
    fails_alone(function("return helper(T, window)"), "error", "name 'helper' is not defined")


@pytest.mark.slow
def test_a_watch_alone_would_stop_memory_too(tmp_path):
    """Negative control for macOS and Windows, where no limit of the system holds memory."""
    code = "import time; x = bytearray(700_000_000); time.sleep(60)"
    child = psutil.Popen([sys.executable, "-c", code])
    watch = Watch(child.pid, Limits(seconds=30, memory_gb=0.1), tmp_path / "none")
    reason = None
    while reason is None:
        reason = watch.fault()
        time.sleep(0.05)
    watch.sweep()
    assert "more than 0.1 GB" in reason
    assert child.wait(timeout=5) != 0


# Reading notebooks


def test_answers_are_found_by_tag_and_without_tags_by_check_or_name():
    blank = Cell('def f(x):\n    ...\n\n\ncheck("t.f", f)', ("answer:t.f",))
    tied = Cell("y = ...", ("answer:y",))
    for mine in (
        Cell('def f(x): return 1\ncheck("t.f", f)', ("answer:t.f", "more")),
        Cell('def f(x): return 1\ncheck("t.f", f)'),
    ):
        first, second = plan([blank, tied], [Cell("y = 3"), mine])
        assert first.source.rstrip() == "def f(x): return 1"
        assert first.asked == (("t.f", "f"),)
        assert second.source == "y = 3"


def test_a_split_answer_counts_as_one_and_other_cells_do_not_count():
    blank = Cell('x = ...\ncheck("t.x", x)', ("answer:t.x",))
    teacher = Cell("data = [1, 2]")
    mine = [
        Cell("data = [9]"),
        Cell("x = 1", blank.tags),
        Cell("evil()"),
        Cell('x += 1\ncheck("t.x", x)', blank.tags),
    ]
    first, second = plan([teacher, blank], mine)
    assert first.source == "data = [1, 2]"
    assert second.source.split() == ["x", "=", "1", "x", "+=", "1"]
    assert second.asked == (("t.x", "x"),)


def test_checks_are_taken_out_of_a_cell_and_magic_is_dropped():
    source = '%matplotlib inline\nx = 1\ncheck(\n    "t.x",\n    x + 1,\n)\nif x:\n    y = 2'
    rest, asked = split_checks(source)
    assert rest.split("\n") == ["", "x = 1", "", "", "", "", "if x:", "    y = 2"]
    assert asked == [("t.x", "x + 1")]


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        ("from minigpt.checks import check", False),
        ("from minigpt.attention import attend", False),
        ("import minigpt", False),
        ("from minigpt.checks import judge, check", True),
        ("from minigpt.checks.attention import _multi_head", True),
        ("from minigpt import checks", True),
        ("import minigpt.checks.attention as a", True),
        ("import importlib; importlib.import_module('minigpt.checks.attention')", True),
        ("open('minigpt/checks/attention.py').read()", True),
        ("from minigpt.classroom import judge", True),
        ("x" * 200_000, True),
    ],
)
def test_an_answer_may_not_reach_for_the_checks(source, refused):
    assert bool(forbidden(source)) == refused


# Values that travel

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def travel(value: object) -> object:
    functions = []

    def keep(function):
        functions.append(function)
        return len(functions) - 1

    return decode(json.loads(json.dumps(encode(value, keep))), functions.__getitem__)


@given(plain)
@settings(max_examples=100, deadline=None)
def test_plain_values_arrive_as_they_were(value):
    assert travel(value) == value
    assert type(travel(value)) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(2, 3),
        torch.zeros(0, 3),
        torch.tensor(3),
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.arange(6).view(2, 3).T,
        torch.tensor([math.nan, math.inf]),
        np.arange(6).reshape(2, 3)[:, ::2],
        np.float32(3),
        np.array(["a", "bc"]),
        np.array(1 + 2j),
    ],
)
def test_tensors_and_arrays_arrive_as_they_were(value):
    got = travel(value)
    assert type(got) is type(value) or np.ndim(value) == 0
    assert got.dtype == value.dtype
    assert got.shape == value.shape
    if isinstance(value, torch.Tensor):
        assert torch.equal(got.nan_to_num(), value.nan_to_num())
    else:
        assert (got == value).all()


def test_functions_sets_and_generators_travel_and_objects_only_by_name():
    assert travel([{1, 2}, ..., torch.float32]) == [{1, 2}, ..., torch.float32]
    assert travel(len) is len
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(
        torch.rand(3, generator=travel(generator)), torch.rand(3, generator=generator)
    )
    random = np.random.default_rng(3)
    assert (travel(random).normal(size=3) == random.normal(size=3)).all()
    got = travel(Path("x"))
    assert isinstance(got, Opaque)
    assert "Path" in repr(got)
    with pytest.raises(TypeError, match="travels=False"):
        encode(Path("x"), len, strict=True)


junk = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["tensor", "array", "list", "dict", "float32", "<f8", "rng", "function"]),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.slow
@given(junk)
@settings(max_examples=300, deadline=None)
def test_junk_is_refused_or_read_but_nothing_else(data):
    with contextlib.suppress(ValueError, TypeError):
        decode(data, lambda number: len)


@pytest.mark.parametrize(
    "data",
    [
        ["tensor", "float32", [10**9], "AAAA"],
        ["tensor", "float32", [-1, -1], "AAAAAA=="],
        ["tensor", "quint8", [4], "AAAAAA=="],
        ["array", "|O", [1], "AAAAAAAAAAA="],
        ["array", "<f8", [2**40, 0], ""],
        ["opaque"],
        ["eval", "1"],
        {},
        [],
        [[]],
        ["dict", 1],
    ],
)
def test_sizes_and_kinds_that_do_not_fit_are_refused(data):
    with pytest.raises((ValueError, TypeError)):
        decode(data, len)


# The class


def test_submissions_are_found_in_folders_and_as_files(tmp_path):
    for name in (
        "ada/08_attention.ipynb",
        "bob/course/chapters/my_exercises/08_attention.ipynb",
        "bob/course/chapters/exercises/08_attention.ipynb",
        "bob/course/chapters/solutions/08_attention.ipynb",
        "bob/08_attention.ipynb",
        "cyd_08_attention.ipynb",
        "dan-e_12345_08_attention (1).ipynb",
        "eve/notes.txt",
        ".git/08_attention.ipynb",
        "08_attention.ipynb",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    found = find_submissions(tmp_path, [FILE])
    assert sorted(found) == ["ada", "bob", "cyd", "dan-e_12345", "eve"]
    assert found["eve"] == {}
    assert b"my_exercises" in found["bob"][FILE]
    with pytest.raises(DataError, match="no such folder"):
        find_submissions(tmp_path / "none", [FILE])


def test_the_gradebook_is_a_table_that_no_spreadsheet_takes_for_formulas():
    grades = [Grade("=cmd()", {"a.x": ("passed", "passed"), "a.y": ("blank", "b")}), Grade("bob")]
    rows = list(csv.reader(gradebook(grades).splitlines()))
    assert rows[0] == ["student", "percent", "passed", "expected", "a.x", "a.y"]
    assert rows[1] == ["'=cmd()", "50.0", "1", "2", "passed", "blank"]
    assert rows[2] == ["bob", "0.0", "0", "0", "", ""]
    assert "- ✗ `a.y` blank: b" in feedback(grades[0])


@pytest.mark.slow
def test_answers_are_parsed_one_at_a_time(monkeypatch):
    """Python 3.11 ends a parse in a SystemError when another thread parses meanwhile."""
    at_once, most, parse = 0, 0, ast.parse

    def slow_parse(source):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.01)
        at_once -= 1
        return parse(source)

    monkeypatch.setattr("minigpt.classroom.notebook.ast.parse", slow_parse)
    with ThreadPoolExecutor(max_workers=4) as pool:
        assert list(pool.map(forbidden, ["x = 1"] * 8)) == [forbidden("x = 1")] * 8
    assert most == 1


def test_the_command_grades_a_class_and_a_roster(tmp_path, capsys):
    folder = tmp_path / "handed_in"
    (folder / "ada").mkdir(parents=True)
    (folder / "ada" / FILE).write_bytes(hand_in())
    (folder / f"bob_{FILE}").write_bytes(hand_in(function("import os; os._exit(0)")))
    (tmp_path / "roster.csv").write_text("ada,Ada L.\ncyd;Cyd\n\n", encoding="utf-8")
    book = tmp_path / "out" / "book.csv"
    book.parent.mkdir()
    words = ["--submissions", folder, "--out", book, "--only", "attention", "--seconds", 5]
    code, out, _ = run(capsys, "grade", *words, "--roster", tmp_path / "roster.csv")
    assert code == 0
    assert "3 students in" in out
    rows = {row["student"]: row for row in csv.DictReader(book.open(encoding="utf-8"))}
    passed = {name: row["passed"] for name, row in rows.items()}
    assert passed == {"ada": "6", "bob": "5", "cyd": "0"}
    assert rows["bob"][TARGET] == "stopped"
    words = (book.parent / "book_feedback" / "bob.md").read_text(encoding="utf-8")
    assert f"- ✗ `{TARGET}` stopped: it ended its own process with exit code 0" in words


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["--submissions", "none"], "no such folder", "name the folder"),
        (["--submissions", "."], "no submissions", "looked for 0"),
        (["--submissions", ".", "--only", "atention"], "no exercise 'atention'", "08_attention"),
        (["--submissions", ".", "--jobs", "0"], "jobs = 0", "--jobs"),
        (["--submissions", ".", "--seconds", "nan"], "seconds = nan", "--seconds"),
    ],
)
def test_a_grading_that_cannot_begin_says_why(words, cause, remedy, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "grade", *words)
    assert code != 0
    assert cause in err
    assert remedy in err
    assert list(tmp_path.iterdir()) == []


# The teachers' README

README = ROOT / "chapters" / "exercises" / "README.md"


def snippet(first_line: str) -> str:
    """Return the code block of the README that begins with this line."""
    blocks = re.findall(r"```\w*\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(first_line)]
    return found


def test_the_readme_names_commands_and_flags_that_exist(capsys):
    text = README.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"python -m minigpt (\w+)([^\n`#]*)", text)
    assert {name for name, _ in lines} >= {"exercise", "progress", "grade"}
    for name, words in lines:
        code, out, _ = run(capsys, name, "--help")
        assert code == 0
        for flag in re.findall(r"--[\w-]+", words):
            assert flag in out, flag


def test_the_readme_links_lead_somewhere():
    text = README.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, heading = target.partition("#")
        assert (README.parent / file).exists(), target
        assert file or heading in headings, target


def test_the_readmes_private_check_works(tmp_path, monkeypatch):
    (tmp_path / "midterm.py").write_text(snippet("# private/midterm.py"), encoding="utf-8")
    monkeypatch.setenv("MINIGPT_CHECKS", str(tmp_path))
    assert checks.more_checks(TARGET) == ["midterm.one_row"]
    good = checks.judge("midterm.one_row", lambda T, window: torch.ones(T, T) == 1)
    bad = checks.judge("midterm.one_row", lambda T, window: torch.ones(T, T) == 0)
    forget("midterm")
    assert (good[0], bad[0]) == ("passed", "failed")


@pytest.mark.slow
def test_the_readmes_test_file_grades_with_plain_pytest(tmp_path):
    (tmp_path / "test_class.py").write_text(snippet("# test_class.py"), encoding="utf-8")
    blank = (ROOT / "chapters" / "exercises" / FILE).read_bytes()
    for student, data in (("ada", hand_in()), ("bob", blank)):
        (tmp_path / "submissions" / student).mkdir(parents=True)
        (tmp_path / "submissions" / student / FILE).write_bytes(data)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_class.py"]
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=os.environ | {"COURSE": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "bob: 0 of 6 passed" in done.stdout


@pytest.mark.slow
def test_a_class_of_thirty_with_every_kind_of_trouble(tmp_path, capsys):
    troubles = {
        "blank": (ROOT / "chapters" / "exercises" / FILE).read_bytes(),
        "loop": hand_in(function("while True: pass")),
        "exit": hand_in(function("import os; os._exit(0)")),
        "memory": hand_in(function("return bytearray(10_000_000_000)")),
        "junk": b"not a notebook",
        "kill": hand_in(function("import os; os.kill(os.getpid(), 9)")),
    }
    for number in range(30):
        name = list(troubles)[number] if number < len(troubles) else f"good{number}"
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_bytes(troubles.get(name, hand_in()))
    book = tmp_path / "book.csv"
    code, *_ = run(capsys, "grade", "--submissions", tmp_path, "--out", book, "--seconds", 4)
    assert code == 0
    rows = {row["student"]: row for row in csv.DictReader(book.open(encoding="utf-8"))}
    assert len(rows) == 30
    passed = {name: int(row["passed"]) for name, row in rows.items()}
    assert {passed[name] for name in passed if name.startswith("good")} == {len(NAMES)}
    assert passed["blank"] == passed["junk"] == 0
    assert {passed[name] for name in ("loop", "exit", "memory", "kill")} == {len(NAMES) - 1}


@pytest.mark.slow
def test_processes_started_from_nothing_grade_the_same(monkeypatch):
    """The way of macOS and Windows."""
    from minigpt.classroom import session

    monkeypatch.setattr(session, "_context", lambda: multiprocessing.get_context("spawn"))
    answer = {FILE: hand_in(function("import os; os._exit(0)"))}
    limits = Limits(seconds=60)
    found = grade_student("ada", answer, part("attention.by_hand", TARGET), limits).verdicts
    assert [verdict for verdict, _ in found.values()] == ["passed", "stopped"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted((ROOT / "chapters" / "exercises").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_every_solution_scores_100_percent_and_every_exercise_0(path):
    """An answer that cannot travel needs `travels=False` where its check is registered."""
    chosen = open_exercises(path.parent, [path.stem])
    solved = path.parents[1] / "solutions" / path.name
    for source, verdict in ((solved, "passed"), (path, "blank")):
        found = grade_student("ada", {path.name: source.read_bytes()}, chosen, Limits())
        assert {verdict for verdict, _ in found.verdicts.values()} == {verdict}, feedback(found)
