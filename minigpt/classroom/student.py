"""The student's process: runs the cells of one notebook, and answers the judge's questions.

This is the one module of the package that runs code which was handed to it. Nothing that it says is
believed: the judge, in a process of its own, compares what the answers return.
"""

import ast
import linecache
import os
import sys
import types
from code import InteractiveInterpreter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import matplotlib
import torch

from minigpt.checks import judge
from minigpt.classroom.limits import Limits, adopt_orphans, restrict
from minigpt.classroom.peer import Peer
from minigpt.support.signals import ignore_ctrl_c

PRIVATE = ("MINIGPT_CHECKS", "MINIGPT_REPORT", "MINIGPT_GRADE")


class Cells(InteractiveInterpreter):
    """Run cells one after the other in one module, as a notebook does."""

    def __init__(self):
        module = sys.modules["__main__"] = types.ModuleType("__main__")  # dataclasses look there
        vars(module)["display"] = lambda *arguments, **options: None
        super().__init__(module.__dict__)
        self.count, self.error = 0, None

    def run(self, source: str) -> Any:
        """Run a cell, or evaluate one expression; raise what it raises."""
        self.count += 1
        name = f"<cell {self.count}>"
        lines = source.splitlines(keepends=True)
        linecache.cache[name] = len(source), None, lines, name  # tracebacks show its lines
        try:
            tree = ast.parse(source, name)
        except (ValueError, MemoryError, RecursionError) as error:
            raise SyntaxError(str(error)) from None
        last = tree.body[-1] if len(tree.body) == 1 else None
        if isinstance(last, ast.Expr):
            target = ast.Assign([ast.Name("_", ast.Store())], last.value)
            tree.body = [ast.copy_location(target, last)]
            ast.fix_missing_locations(tree)
        self.error = None
        self.runcode(compile(tree, name, "exec"))
        if self.error is not None:
            raise self.error
        return self.locals.get("_")

    def showtraceback(self) -> None:
        """Keep the error instead of printing it."""
        self.error = sys.exc_info()[1]


def work(
    connection: Connection, folder: str, student: str, private: str | None, limits: Limits
) -> None:
    """Serve the judge until it hangs up: entry point of the student's process.

    `private` names the folder of private checks if one of them can only run here.
    """
    ignore_ctrl_c()
    _close_all_but(connection.fileno())
    _settle(Path(folder), student)
    if private:
        os.environ["MINIGPT_CHECKS"] = private
    adopt_orphans()
    restrict(limits)
    cells, answers = Cells(), {}

    def serve(question: dict) -> Any:
        if "run" in question:
            cells.run(question["run"])
            return True
        if "take" in question:
            name, expression = question["take"]
            answers[name] = cells.run(f"({expression})")
            return True
        if "judge" in question:
            return list(judge(question["judge"], answers[question["judge"]]))
        return answers[question["give"]]

    Peer(connection, serve, strict=False).answer_all()


def _close_all_but(kept: int) -> None:
    """Close what the process was born with: whoever started it would take bytes from there."""
    if os.name != "nt":  # there, handles are not inherited
        os.closerange(3, kept)
        os.closerange(kept + 1, min(os.sysconf("SC_OPEN_MAX"), 1 << 16))


def _settle(folder: Path, student: str) -> None:
    """Move into an empty folder, hide the grader's settings, and send all output to a file."""
    for name in PRIVATE:
        os.environ.pop(name, None)
    matplotlib.use("agg")  # pictures are drawn, but no window opens
    matplotlib.get_cachedir()  # remembered: without it every student would index the fonts again
    home = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), str(folder))
    os.environ.update(home | {"MINIGPT_STUDENT": student})
    os.chdir(folder)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(number, target)
    os.close(output)
    os.close(nothing)
    text = {"encoding": "utf-8", "errors": "replace", "closefd": False}
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, **text) for number, mode in enumerate("rww")
    )
