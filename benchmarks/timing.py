"""Time several ways to do the same thing fairly, and write down what was found beside its goal.

The ways take turns within one run, so that a busy moment of the machine hits all of them, and the
median of their times is compared. Only ratios of one run mean anything; times of two runs do not.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """Hold one figure, and the goal that it is to reach."""

    part: str
    what: str
    value: float
    unit: str
    goal: float | None = None
    at_most: bool = False
    """Whether smaller is better."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a piece of work takes, waiting for the GPU, and its result."""
    wait_for_gpu()
    start = time.perf_counter()
    result = work()
    wait_for_gpu()
    return time.perf_counter() - start, result


def wait_for_gpu() -> None:
    """Let the GPU finish what it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def take_turns(
    ways: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the median seconds of each way over some rounds, and what each returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for number in range(warm_up + rounds):
        for name, work in ways.items():
            taken, results[name] = clock(work)
            if number >= warm_up:
                seconds[name].append(taken)
    return {name: statistics.median(times) for name, times in seconds.items()}, results


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| part | measured | value | goal | met | |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        goal = (
            "" if row.goal is None else f"{'at most' if row.at_most else 'at least'} {row.goal:g}"
        )
        met = {None: "", True: "yes", False: "no"}[row.met]
        value = f"{row.value:.4g} {row.unit}".strip()
        lines.append(f"| {row.part} | {row.what} | {value} | {goal} | {met} | {row.note} |")
    return "\n".join(lines)
