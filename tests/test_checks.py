"""Checks tell right from wrong: blanks and wrong answers fail with a word on what to look at."""

import ast
import copy
import functools
import importlib
import json
import math
import re
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from machinery import ROOT
from mutants import bounded, mutants
from nbclient import NotebookClient
from torch.nn import functional as F

from minigpt import checks
from minigpt.attention import attend, causal_mask
from minigpt.checks import CheckFailed, check, exercises, judge

matplotlib.use("Agg")  # a notebook's plt.show() must not open a window

SOLUTIONS = sorted((ROOT / "chapters" / "solutions").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Every test draws the same numbers, whatever the reader's environment says."""
    monkeypatch.setenv("MINIGPT_STUDENT", "test")
    monkeypatch.delenv("MINIGPT_GRADE", raising=False)
    monkeypatch.delenv("MINIGPT_REPORT", raising=False)


class Solution(NamedTuple):
    """What a solutions notebook says about one check."""

    source: str  # the answer's cell, without the calls of check
    answer: str  # what the call hands over
    names: dict  # all that the cells above it define


@functools.cache
def solutions(topic: str) -> dict[str, Solution]:
    """Run the notebook of a topic's solutions (not what only they show) and map its checks."""
    found, names, answer_source = {}, {"__name__": "__main__"}, ""
    for cell in nbformat.read(NOTEBOOKS[topic], as_version=4).cells:
        if cell.cell_type != "code" or "solution-only" in cell.metadata.get("tags", []):
            continue
        body = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", cell.source)).body
        calls = [node.value for node in body if _is_check(node)]
        source = ast.unparse(ast.Module([node for node in body if not _is_check(node)], []))
        if "### BEGIN SOLUTION" in cell.source:
            answer_source = source
        above = dict(names)
        exec(source, names)
        for call in calls:
            name, answer = call.args
            found[name.value] = Solution(answer_source, ast.unparse(answer), above)
    plt.close("all")  # the pictures of the notebook
    return found


def _is_check(node: ast.stmt) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and getattr(call.func, "id", "") == "check"


NOTEBOOKS = {path.stem.split("_", 1)[1]: path for path in SOLUTIONS}
NAMES = [name for topic in checks.TOPICS if topic in NOTEBOOKS for name in exercises(topic)]


def solution(name: str) -> Solution:
    return solutions(name.split(".")[0])[name]


def answer_of(name: str, source: str | None = None) -> object:
    """Run a solution (or a changed one) and return what it hands to its check."""
    own, answer, above = solution(name)
    namespace = dict(above)
    torch.manual_seed(0)
    exec(own if source is None else source, namespace)
    return eval(answer, namespace)


# The machinery


@pytest.mark.parametrize("topic", checks.TOPICS)
def test_every_topic_has_a_notebook_that_asks_all_of_it(topic):
    assert topic in NOTEBOOKS, f"no chapters/solutions/NN_{topic}.ipynb"
    assert set(exercises(topic)) == set(solutions(topic))
    assert 3 <= len(exercises(topic)) <= 6


def test_every_file_of_checks_is_a_topic():
    files = {path.stem for path in Path(checks.__file__).parent.glob("*.py")}
    assert files - {"__init__", "compare"} == set(checks.TOPICS)


def test_a_topic_imports_alone():
    for topic in checks.TOPICS:
        importlib.import_module(f"minigpt.checks.{topic}")
        assert all(name.startswith(f"{topic}.") for name in exercises(topic))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("blank", [None, ..., [..., 1.0], {"x": ...}])
def test_a_blank_fails_with_a_hint(name, blank, capsys):
    check(name, blank)
    assert f"✗ {name}: not answered yet. Hint: " in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_blank_function_fails_with_a_hint(name):
    def blank(*arguments):
        raise NotImplementedError("your code here")

    assert judge(name, blank)[0] in ("blank", "failed")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_on_other_numbers_too(name, monkeypatch):
    for student in ("ada", "bob", "cyd", "dan", "eve"):
        monkeypatch.setenv("MINIGPT_STUDENT", student)
        assert judge(name, answer_of(name)) == ("passed", "passed")
    monkeypatch.delenv("MINIGPT_STUDENT")
    assert judge(name, answer_of(name)) == ("passed", "passed")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "answer", [3, "a", [], (), {}, object(), print, lambda *a: None, torch.ones(3)]
)
def test_nonsense_never_raises_and_never_passes(name, answer, capsys):
    check(name, answer)
    assert f"✗ {name}: " in capsys.readouterr().out


def test_grading_raises_and_reading_does_not(monkeypatch, capsys):
    check("attention.window_mask", None)
    monkeypatch.setenv("MINIGPT_GRADE", "1")
    with pytest.raises(CheckFailed, match="not answered yet"):
        check("attention.window_mask", None)
    check("attention.window_mask", answer_of("attention.window_mask"))
    assert "✓ attention.window_mask: passed" in capsys.readouterr().out


def test_the_report_holds_one_json_line_a_verdict(monkeypatch, tmp_path):
    report = tmp_path / "report.jsonl"
    monkeypatch.setenv("MINIGPT_REPORT", str(report))
    check("attention.window_mask", None)
    check("attention.window_mask", answer_of("attention.window_mask"))
    check("attention.window_mask", lambda T, window: 1 / 0)
    rows = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    assert [row["verdict"] for row in rows] == ["blank", "passed", "error"]
    assert all(row["check"] == "attention.window_mask" for row in rows)


def test_an_unknown_name_lists_the_known_ones(capsys):
    for name in ("attention.windw_mask", "atention.window_mask", "nothing"):
        check(name, 3)
        assert "no such exercise; there are attention.by_hand, " in capsys.readouterr().out


def test_an_error_names_the_line_of_the_answer():
    def window_mask(T, window):
        return torch.ones(T, T) @ torch.ones(T + 1)

    verdict, message = judge("attention.window_mask", window_mask)
    assert verdict == "error"
    assert "your code raised RuntimeError" in message
    assert "return torch.ones(T, T) @ torch.ones(T + 1)" in message


@pytest.mark.parametrize(
    "names", [NAMES[::4], pytest.param(NAMES, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_check_leaves_the_random_state_alone(names):
    for name in names:
        answer = answer_of(name)
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        judge(name, answer)
        assert torch.equal(torch.rand(2), expected), name


def test_students_get_numbers_of_their_own(monkeypatch):
    drawn = {}
    for student in ("ada", "bob", "ada"):
        monkeypatch.setenv("MINIGPT_STUDENT", student)
        seed = checks.student_generator("attention.repair").initial_seed()
        drawn.setdefault(student, set()).add(seed)
    assert len(drawn["ada"]) == 1
    assert drawn["ada"] != drawn["bob"]


@pytest.mark.slow
def test_a_class_that_grades_sees_a_blank_notebook_fail_and_a_solved_one_pass(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("MINIGPT_GRADE", "1")
    monkeypatch.setenv("MINIGPT_REPORT", str(tmp_path / "report.jsonl"))
    for folder, verdict in (("exercises", "blank"), ("solutions", "passed")):
        notebook = nbformat.read(ROOT / "chapters" / folder / "08_attention.ipynb", as_version=4)
        client = NotebookClient(notebook, timeout=60, allow_errors=True)
        client.execute()
        errors = [o.ename for c in notebook.cells for o in c.get("outputs", []) if "ename" in o]
        failed = [] if verdict == "passed" else ["CheckFailed"] * len(exercises("attention"))
        assert errors == failed
        rows = (tmp_path / "report.jsonl").read_text(encoding="utf-8").splitlines()
        verdicts = [json.loads(row)["verdict"] for row in rows]
        assert verdicts == [verdict] * len(exercises("attention"))
        (tmp_path / "report.jsonl").unlink()


# Wrong answers, and what the message must say


def fails(name: str, answer: object, *words: str) -> None:
    verdict, message = judge(name, answer)
    assert verdict in ("failed", "error"), (verdict, message)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (([0.87, 0.02, 0.12, 0.0], 3.9), "without dividing by √D"),
        (([0.0003, 0.0, 0.0001, 0.9995], 99.9), "future"),
        (([2.0, 0.0, 1.0, 0.0], 16.0), "sum to 1"),
        (([0.67, 0.09, 0.24, 0.0], 6.52), "the output"),
        (([0.245, 0.09, 0.665, 0.0], 5.5), "dot products"),
        (([0.67, 0.09, "0.24", 0.0], 5.5), "should be a number"),
        (([0.67, 0.09, 0.24], 5.5), "expected a pair"),
        (([0.67, float("nan"), 0.24, 0.0], 5.5), "position 1"),
    ],
)
def test_wrong_by_hand(answer, words):
    fails("attention.by_hand", answer, words)


def distances(T):
    return torch.arange(T)[:, None] - torch.arange(T)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda T, w: (distances(T) >= 0) & (distances(T) <= w), "window - 1"),
        (lambda T, w: ((distances(T) >= 0) & (distances(T) < w)).T, "swapped"),
        (lambda T, w: distances(T) < w, "future"),
        (lambda T, w: distances(T).abs() < w, "t - s"),
        (lambda T, w: ~((distances(T) >= 0) & (distances(T) < w)), "opposite"),
        (lambda T, w: ((distances(T) >= 0) & (distances(T) < w)).float(), "dtype"),
        (lambda T, w: ((distances(T) >= 0) & (distances(T) < w))[None], "shape"),
        (lambda T, w: causal_mask(T), "window"),
        (lambda T, w: None, "return missing"),
        (lambda T, w: [[True]], "expected a tensor"),
    ],
)
def test_wrong_window_mask(answer, words):
    fails("attention.window_mask", answer, words)


def multi_head(x, q, k, v, o, n_head, width=None, dim=-1, diagonal=0, hidden=-math.inf, cut=True):
    B, T, C = x.shape
    D = C // n_head
    q, k, v = (
        (x @ w).view(B, T, n_head, D).transpose(1, 2) if cut else (x @ w).view(B, n_head, T, D)
        for w in (q, k, v)
    )
    scores = q @ k.transpose(-2, -1) / math.sqrt(width or D)
    past = torch.ones(T, T).tril(diagonal) == 1
    weights = scores.masked_fill(~past, hidden).softmax(dim=dim)
    return (weights @ v).transpose(1, 2).reshape(B, T, C) @ o


def shout(x, *rest):
    x *= 2
    return multi_head(x, *rest)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, *w: multi_head(x, *w, width=x.size(-1)), "D = C / n_head"),
        (lambda x, *w: multi_head(x, *w, dim=-2), "axis"),
        (lambda x, *w: multi_head(x, *w, diagonal=-1), "diagonal"),
        (lambda x, *w: multi_head(x, *w, diagonal=-1, hidden=-1e9), "mask"),
        (lambda x, *w: multi_head(x, *w, cut=False), "heads are cut"),
        (lambda x, *w: multi_head(x, *w, diagonal=1), "changes earlier outputs"),
        (lambda x, *w: multi_head(x, *w).double(), "dtype"),
        (lambda x, *w: multi_head(x, *w)[0], "shape"),
        (shout, "changed in place"),
    ],
)
def test_wrong_repair(answer, words):
    fails("attention.repair", answer, words)


def test_the_planted_function_fails_as_it_is():
    fails("attention.repair", solution("attention.repair").names["broken"], "earlier outputs")


def unshrunk(q, k, v, chunk):
    total, mixed = 0, 0
    for start in range(0, len(k), chunk):
        scores = q @ k[start : start + chunk].T / math.sqrt(q.size(1))
        weights = (scores - scores.max(dim=1, keepdim=True).values).exp()
        total, mixed = (
            total + weights.sum(1, keepdim=True),
            mixed + weights @ v[start : start + chunk],
        )
    return mixed / total


def naive(q, k, v, chunk, scale=None):
    total, mixed = 0, 0
    for start in range(0, len(k), chunk):
        weights = (q @ k[start : start + chunk].T / (scale or math.sqrt(q.size(1)))).exp()
        total, mixed = (
            total + weights.sum(1, keepdim=True),
            mixed + weights @ v[start : start + chunk],
        )
    return mixed / total


def whole_chunks(q, k, v, chunk):
    keep = len(k) // chunk * chunk
    return attend(q, k[:keep], v[:keep])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda q, k, v, chunk: attend(q, k, v), "not streaming"),
        (unshrunk, "largest"),
        (naive, "overflows"),
        (lambda q, k, v, chunk: naive(q, k, v, chunk, scale=1.0), "scale"),
        (whole_chunks, "last, shorter chunk"),
        (
            lambda q, k, v, chunk: attend(
                q, k, v, causal_mask(max(len(q), len(k)))[: len(q), : len(k)]
            ),
            "",
        ),
    ],
)
def test_wrong_streaming(answer, words):
    fails("attention.streaming", answer, words)


def test_wrong_streaming_in_place():
    def spoil(q, k, v, chunk):
        q /= math.sqrt(q.size(1))
        return attend(q * math.sqrt(q.size(1)), k, v)

    fails("attention.streaming", spoil, "changed in place")


RIGHT = {"largest_16": 0.247, "largest_4096": 0.0059, "factor": 3.3, "why": "b"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"largest_16": 0.9}, "variance 1"),
        ({"largest_4096": 0.25}, "largest_4096"),
        ({"largest_4096": "small"}, "should be a number"),
        ({"factor": 1.0}, "A larger factor gives a larger weight"),
        ({"factor": 16.0}, "with scores 16 times"),
        ({"factor": -1}, "factor is -1"),
        ({"why": "a"}, "explanation"),
        ({"why": "c"}, "explanation"),
        ({"why": "d"}, "explanation"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_long_text(change, words):
    assert judge("attention.long_text", RIGHT)[0] == "passed"
    fails("attention.long_text", RIGHT | change, words)


def pattern(ids, V, attend, sure=1000.0, mask=True, shift=1, looks=2):
    T, words, places = len(ids), F.one_hot(ids, V).float(), torch.eye(len(ids))
    allowed = causal_mask(T) if mask else None
    before = torch.cat((torch.zeros(shift, T), places[:-shift])) if shift else places
    previous = attend(sure * before, places, words, allowed)
    previous[0] = 0.0
    for _ in range(looks - 1):
        result = attend(sure * words, previous, words, allowed)
    return result


def by_dictionary(ids, V, attend):
    scores, seen = torch.zeros(len(ids), V), {}
    for t, word in enumerate(ids.tolist()):
        if t:
            seen[ids[t - 1].item()] = word
        if word in seen:
            scores[t, seen[word]] = 1
    return scores


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: pattern(*a, sure=1.0), "too soft"),
        (lambda *a: pattern(*a, shift=0), "previous word"),
        (lambda *a: pattern(*a, shift=2), "previous word"),
        (lambda *a: pattern(*a, looks=3), "3 times"),
        (by_dictionary, "0 times"),
        (lambda ids, V, attend: pattern(ids, V, attend)[:-1], "shape"),
        (lambda ids, V, attend: pattern(ids, V, attend) * math.nan, "NaN"),
        (lambda ids, V, attend: pattern(ids, V, attend) + ids[-1], "earlier predictions"),
    ],
)
def test_wrong_pattern(answer, words):
    fails("attention.pattern", answer, words)


# Mutants


def same(a: object, b: object) -> bool:
    """Tell whether two answers are equal, as far as numbers on a screen would show."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.allclose(a.float(), b.float(), atol=1e-4, equal_nan=True)
        )
    if isinstance(a, np.ndarray | np.generic) and isinstance(b, np.ndarray | np.generic):
        return a.shape == b.shape and np.allclose(a, b, atol=1e-4, equal_nan=True)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, abs_tol=1e-4)
    return type(a) is type(b) and a == b


def copied(arguments: tuple) -> tuple:
    """Return what a call gets, such that the call cannot change it for the next one."""
    own = torch.Tensor | np.ndarray
    return tuple(copy.deepcopy(x) if isinstance(x, own) else x for x in arguments)


def outputs(answer: object, inputs: list[tuple]) -> object:
    """Return what an answer gives on the check's inputs; an error is a result too."""
    if not callable(answer):
        return answer
    results = []
    for arguments in inputs:
        copies = copied(arguments)
        try:
            results.append(answer(*copies))
        except Exception as error:
            results.append(repr(error))
    return results


def recorded_inputs(name: str, answer: object) -> list[tuple]:
    """Return what the check hands to an answer."""
    inputs = []

    def recorder(*arguments):
        inputs.append(copied(arguments))
        return answer(*arguments)

    if callable(answer):
        assert judge(name, recorder)[0] == "passed"
    return inputs


def survivors(name: str) -> tuple[list[str], int]:
    """Return the mutants that change the output and still pass, and how many change the output.

    Of functions the code is changed; of measured or written numbers, the numbers themselves.
    """
    original = answer_of(name)
    inputs = recorded_inputs(name, original)
    expected = outputs(original, inputs)
    alive, count = [], 0
    for label, source in mutants(solution(name).source if callable(original) else repr(original)):
        try:
            answer = answer_of(name, bounded(source)) if callable(original) else eval(source)
        except Exception:
            continue  # it does not even run: the notebook shows the error
        if not same(outputs(answer, inputs), expected):
            count += 1
            if judge(name, answer)[0] == "passed":
                alive.append(label)
    return alive, count


@pytest.mark.slow  # all of them together
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a mutant may divide by zero
@pytest.mark.parametrize("name", NAMES)
def test_mutants_of_the_solution_fail(name):
    alive, count = survivors(name)
    assert count >= 5, count
    assert len(alive) <= 0.1 * count, f"{len(alive)} of {count} survive: " + "; ".join(alive)


def test_mutants_change_one_place():
    found = dict(mutants("f(a + 1, b, dim=2) < 3"))
    assert set(found.values()) == {
        "f(a - 1, b, dim=2) < 3",
        "f(a + 2, b, dim=2) < 3",
        "f(a + 0, b, dim=2) < 3",
        "a + 1 < 3",
        "f(b, a + 1, dim=2) < 3",
        "f(a + 1, b) < 3",
        "f(a + 1, b, dim=3) < 3",
        "f(a + 1, b, dim=1) < 3",
        "f(a + 1, b, dim=2) <= 3",
        "f(a + 1, b, dim=2) < 4",
        "f(a + 1, b, dim=2) < 2",
    }


def test_a_mutant_that_would_run_for_ever_ends():
    names = {}
    exec(bounded("def f():\n    n = 3\n    while n:\n        n -= 0"), names)
    with pytest.raises(StopIteration):
        names["f"]()


def test_a_weak_check_lets_mutants_live(monkeypatch):
    """Negative control: a check that looks at the shape alone is found out."""
    import minigpt.checks.attention as topic

    monkeypatch.setattr(topic, "same_tensor", lambda got, expected, *rest: None)
    alive, count = survivors("attention.window_mask")
    assert len(alive) > 0.1 * count
