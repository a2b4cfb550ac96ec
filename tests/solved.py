"""The solutions of all exercises, run once; and what a wrong answer must meet."""

import ast
import functools
import re
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import torch
from machinery import ROOT

from minigpt import checks
from minigpt.checks import exercises, judge

matplotlib.use("Agg")  # a notebook's plt.show() must not open a window

SOLUTIONS = sorted((ROOT / "chapters" / "solutions").glob("*.ipynb"))


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


def fails(name: str, answer: object, words: str) -> None:
    """Require a verdict of failed with these words; an error of the answer itself is no verdict."""
    verdict, message = judge(name, answer)
    assert verdict == "failed", (verdict, message)
    assert words in message


def passes_always(name: str, monkeypatch, students: int = 200) -> None:
    """Require that the solution passes on the numbers of this many students."""
    answer = answer_of(name)
    for student in range(students):
        monkeypatch.setenv("MINIGPT_STUDENT", f"student {student}")
        assert judge(name, answer) == ("passed", "passed"), student
