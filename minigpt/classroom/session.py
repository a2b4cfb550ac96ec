"""Grade one notebook: a student's process, a judge's process, and a watch over both.

Both are started afresh for every notebook: on Linux by forking a server that has torch loaded
already (about 0.1 s), elsewhere as new processes (seconds). If the student's process ends or
passes a limit, the exercise at fault is left out and the rest of the notebook is run again.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from minigpt.checks import TOPICS, registered
from minigpt.classroom.judge import Verdict, preside
from minigpt.classroom.limits import TICK, Limits, Watch
from minigpt.classroom.notebook import Step
from minigpt.classroom.student import work

PRELOADED = ["minigpt.classroom.judge", "minigpt.classroom.student", "matplotlib.pyplot"]
NOT_ASKED = "missing", "the notebook never came to this check"


def grade_steps(
    steps: list[Step], expected: list[str], student: str, limits: Limits
) -> dict[str, Verdict]:
    """Return a verdict for each expected check; none is left out, whatever the answers do."""
    found: dict[str, Verdict] = {}
    steps = list(steps)
    for _ in range(len(steps) + 1):
        culprit = _attempt(steps, found, student, limits)
        if culprit is None:
            break
        number, reason = culprit
        step = steps[number]
        for name, _ in step.asked:
            found.setdefault(name, ("stopped", reason))
        if not step.source and not step.asked:
            break  # even without its cells the notebook does not run
        steps[number] = Step("", ())
    return {name: found.get(name, NOT_ASKED) for name in expected}


def _context():
    """Return the way to start processes: by a warm server on Linux, elsewhere from nothing."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(PRELOADED)
    return context


def _attempt(
    steps: list[Step], found: dict[str, Verdict], student: str, limits: Limits
) -> tuple[int, str] | None:
    """Run a notebook once, adding verdicts to `found`; return the step that stopped it and why."""
    context = _context()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder) / "work"
        home.mkdir()
        ours, theirs = context.Pipe()
        hear, tell = context.Pipe(duplex=False)
        private = os.environ.get("MINIGPT_CHECKS")
        shown = private if any(map(_needs_company, steps)) else None
        worker = context.Process(target=work, args=(theirs, str(home), student, shown, limits))
        judge = context.Process(
            target=preside, args=(ours, tell, steps, set(found), student, private, limits)
        )
        worker.start()
        judge.start()
        for end in (ours, theirs, tell):
            end.close()  # they live on in the two processes
        output = home / "output.txt"
        pids = [process.pid for process in (worker, judge)]
        watches = [Watch(pid, limits, output) for pid in pids if pid is not None]  # both run
        try:
            return _listen(hear, found, watches, worker)
        finally:
            for watch in watches:
                watch.sweep()
            for process in (worker, judge):
                process.join()
            hear.close()


def _needs_company(step: Step) -> bool:
    """Tell whether a private check of the step can only run beside the answer."""
    entries = {name: registered(name) for name, _ in step.asked}
    return any(
        entry and not entry.travels and name.split(".")[0] not in TOPICS
        for name, entry in entries.items()
    )


def _listen(
    hear: Connection,
    found: dict[str, Verdict],
    watches: list[Watch],
    worker: BaseProcess,
) -> tuple[int, str] | None:
    """Follow the judge's events and the watches until one of them ends the notebook."""
    step = 0
    while True:
        if hear.poll(TICK):
            try:
                kind, *event = json.loads(hear.recv_bytes())
            except EOFError:
                return step, "the check itself ran out of memory or time"
            if kind == "end":
                return None
            if kind == "step":
                step = event[0]
            elif kind == "verdict":
                found[event[0]] = event[1], event[2]
            else:
                worker.join(timeout=1)
                return step, event[0] or _ending(worker.exitcode)
            for watch in watches:
                watch.restart()
        for watch in watches:
            if reason := watch.fault():
                return step, reason


def _ending(code: int | None) -> str:
    """Say how the student's process ended by itself."""
    if code is None:
        return "it hung up on the grader"
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"it ended its own process {how}"
