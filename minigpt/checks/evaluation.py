"""Checks of the evaluation exercises, each with an oracle of its own."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import call, integers, require, same_number, same_results, slip_hint

HAND = {
    "wilson": [0.231, 0.882],
    "p": 0.18,
    "error": 0.2,
    "chosen": [0.0, 1.0],
    "items": 4.0,
}
HAND_HINTS = {
    "wilson": "Middle (3/5 + z²/10) / (1 + z²/5); half z √(0.6 · 0.4/5 + z²/100) / (1 + z²/5).",
    "p": "Nine coins: the probability of at most 2 of 9, times two.",
    "error": "(n / N) · |confidence - accuracy|, summed over the two bins.",
    "chosen": "First the larger sum, then the larger sum per character; count from 0.",
    "items": "The interval shrinks with the square root of the number of items.",
}
HAND_SLIPS = {
    ("wilson", (0.171, 1.029)): "That is the textbook interval, with the measured share's error.",
    ("chosen", (1.0, 0.0)): "Log-probabilities are negative: the larger one is nearer to 0.",
}


@exercise("evaluation.by_hand", "z = 1.96; McNemar's coins; gaps weighted by answers.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the five results of the exercise text."""
    same_results(answer, HAND, _hand_hint)


def _hand_hint(name: str, got: Any) -> str:
    near = isinstance(got, int | float) and not isinstance(got, bool)
    if name == "p" and near and abs(got - 0.09) < 0.006:
        return "That is one side; equally good models could differ to either side."
    if name == "error" and near and abs(got - 0.275) < 0.006:
        return "That is the plain mean of the gaps; the bins have different numbers of answers."
    if name == "items" and near and abs(got - 2) < 0.006:
        return "Twice as many make it narrower by √2 only."
    return slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# The coverage of an interval


def _textbook(k: int, n: int) -> tuple[float, float]:
    half = 1.96 * math.sqrt(k / n * (1 - k / n) / n)
    return k / n - half, k / n + half


def _point(k: int, n: int) -> tuple[float, float]:
    return k / n, k / n


def _coverage(interval: Callable, n: int, p: float) -> float:
    chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    ends = [interval(k, n) for k in range(n + 1)]
    return sum(c for c, (low, high) in zip(chances, ends, strict=True) if low <= p <= high)


@exercise(
    "evaluation.coverage",
    "for each score k: its probability, if the interval holds p.",
    travels=False,
)
def coverage(answer: Callable, generator: Generator) -> None:
    """Expect coverage(interval, n, p): the exact share of exams whose interval holds p."""
    p = 0.3 + 0.6 * torch.rand(1, generator=generator).item()
    cases = [(_textbook, 10, 0.9), (_textbook, 30, p), (_point, 4, 0.5), (_point, 8, 0.25)]
    cases += [(lambda k, n: (0.2, 0.8), 7, 0.5), (lambda k, n: (0.2, 0.8), 7, 0.9)]
    for interval, n, truth in cases:
        expected = _coverage(interval, n, truth)
        case = f"{n} questions, p = {truth:.3g}"
        got = call(answer, interval, n, truth, case=case)
        same_number(got, expected, f"the coverage ({case})", _cover_slip(interval, n, truth), 1e-6)


def _cover_slip(interval: Callable, n: int, p: float) -> str:
    if interval is _point:
        return "An end that equals p counts as inside."
    return "Sum the binomial probabilities of the scores k = 0 to n whose interval holds p."


# McNemar


@exercise("evaluation.mcnemar", "a coin for each question on which they differ; two sides.")
def mcnemar(answer: Callable, generator: Generator) -> None:
    """Expect p_value(only_a, only_b), exact and two-sided, at most 1."""
    drawn = [tuple(integers(generator, 0, 30, 2)) for _ in range(4)]
    for a, b in [(7, 1), (1, 7), (5, 5), (0, 0), (0, 6), (3, 12), *drawn]:
        n, fewer = a + b, min(a, b)
        tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
        got = call(answer, a, b, case=f"{a} and {b}")
        look = _p_slip(got, tail, n, fewer)
        same_number(got, min(1.0, 2 * tail), f"p of {a} and {b}", look, 1e-7)


def _p_slip(got: Any, tail: float, n: int, fewer: int) -> str:
    if not isinstance(got, int | float):
        return ""
    if got > 1:
        return "A probability is at most 1; where both sides meet, the middle counts twice."
    if abs(got - tail) < 1e-7:
        return "That is one side: a difference to the other side would be as surprising."
    if abs(got - 2 * math.comb(n, fewer) / 2**n) < 1e-7:
        return "At least so far from even: add the probabilities of all smaller counts."
    return "Twice the probability of at most the smaller count among all coins."


# A judge with position bias

VERDICTS = ("first", "second", "tie")
NAMES = ("wins of A", "wins of B", "rest")


@exercise("evaluation.judge", "a win counts only if it survives the exchange of places.")
def judge_fairly(answer: Callable, generator: Generator) -> None:
    """Expect fair_wins(forward, backward): wins of A, of B, the rest, and the position bias."""
    for n in (9, 40, 41):
        forward, backward = ([VERDICTS[k] for k in integers(generator, 0, 2, n)] for _ in range(2))
        forward[:3], backward[:3] = ["first", "second", "first"], ["second", "first", "first"]
        pairs = list(zip(forward, backward, strict=True))
        a, b = pairs.count(("first", "second")), pairs.count(("second", "first"))
        bias = (pairs.count(("first", "first")) - pairs.count(("second", "second"))) / n
        got = call(answer, forward, backward, case=f"{n} pairs")
        fits = isinstance(got, tuple | list) and len(got) == 4
        require(fits, f"expected (wins of A, wins of B, rest, bias), got {got!r}")
        for name, value, right in zip(NAMES, got[:3], (a, b, n - a - b), strict=True):
            same_number(value, right, name, _judge_slip(name, value, forward, backward), 1e-9)
        same_number(got[3], bias, "bias", "Both times first, minus both times second, by n.", 1e-9)


def _judge_slip(name: str, got: Any, forward: list[str], backward: list[str]) -> str:
    if name == "wins of A" and got == forward.count("first"):
        return "That is one order alone, with all its bias."
    if name == "wins of A" and got == forward.count("first") + backward.count("second"):
        return "Count pairs, not verdicts: A must win in both orders."
    return "In `backward` B stands first: A's win is 'second' there."


# A leaderboard that lies


@functools.cache
def _board() -> dict[str, Any]:
    """Return what the exercise's leaderboard shows, computed anew."""
    rng = np.random.default_rng(22)
    public = rng.random((20, 100)) < 0.7
    private = rng.random((20, 2000)) < 0.7
    best = int(public.sum(axis=1).argmax())
    p_values = []
    for k in range(20):
        if k != best:
            a = int((public[best] & ~public[k]).sum())
            b = int((public[k] & ~public[best]).sum())
            tail = sum(math.comb(a + b, j) for j in range(min(a, b) + 1)) / 2 ** (a + b)
            p_values.append(min(1.0, 2 * tail))
    first = sorted(p_values)
    passed = [p * (19 - rank) < 0.05 for rank, p in enumerate(first)]
    after = passed.index(False) if False in passed else 19
    return {
        "best": best,
        "public": float(public[best].mean()),
        "private": float(private[best].mean()),
        "beaten": sum(p < 0.05 for p in p_values),
        "after_holm": after,
        "why": "b",
    }


BOARD_HINTS = {
    "best": "The row with the most right answers of the public exam; count from 0.",
    "public": "Its share of right answers on the public exam.",
    "private": "The share of the same model on the private exam.",
    "beaten": "McNemar's p of the winner against each of the other 19: how many are below 0.05?",
    "after_holm": "Sort the 19 p-values; the smallest times 19, the next times 18: stop at the "
    "first that is not below 0.05.",
    "why": "How were the twenty models made, and how was the winner found?",
}


@exercise("evaluation.leaderboard", "twenty equal models: one of them must be first.")
def leaderboard(answer: Any, generator: Generator) -> None:
    """Expect what the leaderboard says of its winner, and why."""
    same_results(answer, _board(), lambda name, _: BOARD_HINTS[name], slack=1e-6)


# An interval that never promises too much

N_SURE, WIDEST = 20, 0.375  # the mean over all scores; of Clopper and Pearson's it is 0.366


@exercise("evaluation.sure_interval", "keep each p under which neither tail is below 2.5 %.")
def sure_interval(answer: Callable, generator: Generator) -> None:
    """Expect sure_interval(k, n): at least 95 % of exams covered at every p, and not by width."""
    ends = []
    for k in range(N_SURE + 1):
        got = call(answer, k, N_SURE, case=f"{k} of {N_SURE}")
        got = tuple(got.tolist()) if isinstance(got, Tensor | np.ndarray) else got
        fits = isinstance(got, tuple | list) and len(got) == 2
        require(fits, f"expected low and high, got {got!r} ({k} of {N_SURE})")
        low, high = (float(end) for end in got)
        require(low <= k / N_SURE <= high, f"{k} of {N_SURE} itself is outside: {low}, {high}")
        ends.append((max(0.0, low), min(1.0, high)))
    grid = np.linspace(0.002, 0.998, 499)
    shares = [_coverage(lambda k, n: ends[k], N_SURE, float(p)) for p in grid]
    worst = int(np.argmin(shares))
    require(
        shares[worst] >= 0.9499,
        f"at p = {grid[worst]:.3f} only {shares[worst]:.1%} of the exams are covered",
    )
    width = np.mean([high - low for low, high in ends])
    require(width <= WIDEST, f"the mean width is {width:.3f}; {WIDEST} is enough")
