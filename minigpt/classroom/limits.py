"""Limits for a process that runs somebody else's code. They stop accidents; they are no sandbox.

Three hands hold a process: limits of the operating system that it sets on itself before the foreign
code starts (Linux: memory, file size, number of processes, processor time; macOS: all but memory;
Windows: none), a watch by the grader every tenth of a second (time, memory, processes, output), and
a sweep afterwards that ends whatever the process has started.
"""

import contextlib
import ctypes
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil

from minigpt.support.settings import above, at_least, at_most, below, check_fields

TICK = 0.1  # seconds between two looks


@dataclass(frozen=True)
class Limits:
    """What one exercise of one student may use."""

    seconds: Annotated[float, above(0), below(1e6)] = 60.0
    """Seconds for one exercise."""
    memory_gb: Annotated[float, above(0), below(1e6)] = 2.0
    """Memory in GB (on Windows and macOS it is only watched, not held)."""
    output_mb: Annotated[float, above(0), below(1e6)] = 10.0
    """Megabytes that it may print, or write into one file."""
    processes: Annotated[int, at_least(1), at_most(10_000)] = 64
    """Processes that it may start."""

    def __post_init__(self) -> None:
        check_fields(self)


def restrict(limits: Limits) -> None:
    """Set the operating system's limits on this very process, for good; Windows has none."""
    if os.name == "nt":
        return
    import resource

    held = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": int(limits.output_mb * 1e6),
        "RLIMIT_CPU": int(limits.seconds * 100),  # if the grader itself is gone
        "RLIMIT_NPROC": _own_threads() + 4 * limits.processes,  # of this user; root has no limit
    }
    if sys.platform == "linux":  # macOS ignores it
        held["RLIMIT_DATA"] = _data_in_use() + int(limits.memory_gb * 1e9)
    for name, value in held.items():
        kind = getattr(resource, name)
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            value = min(value, ceiling)
        resource.setrlimit(kind, (value, value))


def _own_threads() -> int:
    """Count what Linux and macOS count for a user: the threads of all processes."""
    count, user = 0, os.getuid()
    for process in psutil.process_iter(["uids", "num_threads"]):
        if process.info["uids"] and process.info["uids"].real == user:
            count += process.info["num_threads"] or 1
    return count


def _data_in_use() -> int:
    """Return the bytes that Linux already counts as data: statm's sixth field, in pages."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    return pages * os.sysconf("SC_PAGE_SIZE")


def adopt_orphans() -> None:
    """Let Linux hand this process the orphans of its descendants, so that the watch sees them."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


class Watch:
    """Look at a process from outside: what it uses, and what it started."""

    def __init__(self, pid: int, limits: Limits, output: Path):
        self.limits, self.output = limits, output
        self.seen: set[psutil.Process] = set()
        self.root: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self.root = psutil.Process(pid)
        self.next_look = 0.0
        self.restart()

    def restart(self) -> None:
        """Give the next exercise its own time."""
        self.deadline = time.monotonic() + self.limits.seconds

    def fault(self) -> str | None:
        """Say which limit is passed, or return None; look at most once a tick."""
        if time.monotonic() < self.next_look:
            return None
        family = self._family()
        self.next_look = time.monotonic() + TICK
        if time.monotonic() > self.deadline:
            return f"it took more than {self.limits.seconds:g} seconds"
        if len(family) > self.limits.processes:
            return f"it started more than {self.limits.processes} processes"
        if sum(map(_memory, family)) > self.limits.memory_gb * 1e9 + 0.5e9:  # torch itself
            return f"it used more than {self.limits.memory_gb:g} GB of memory"
        with contextlib.suppress(OSError):
            if self.output.stat().st_size > self.limits.output_mb * 1e6:
                return f"it printed more than {self.limits.output_mb:g} MB"
        return None

    def _family(self) -> list[psutil.Process]:
        """Return the process and its living descendants; remember everyone ever seen."""
        family = []
        with contextlib.suppress(psutil.Error):
            if self.root:
                family = [self.root, *self.root.children(recursive=True)]
        self.seen |= set(family)
        return family

    def sweep(self) -> None:
        """End the process and everything it started.

        All are stopped before one is ended: who is stopped starts no others and, as their parent,
        still tells where they are.
        """
        stopped: set[psutil.Process] = set()
        for _ in range(100):
            self._family()
            for process in self.seen - stopped:
                with contextlib.suppress(psutil.Error):
                    process.suspend()
            if self.seen == stopped:
                break
            stopped = set(self.seen)
        for process in self.seen:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0
