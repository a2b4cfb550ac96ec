"""Compare scores: the interval of one, the difference of two on the same items, how many to ask.

Items are independent draws of one kind of item: that is all that an interval here knows. The luck
of training, another kind of question and another wording are outside of it.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from minigpt.metrics import bootstrap_interval, check_pairs
from minigpt.support.errors import ConfigError, DataError

Score = Sequence[float] | np.ndarray | Callable[[np.ndarray], float]


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return low and high of a share of right answers: every p that `right` of n does not refute.

    Wilson 1927. Unlike share ± 1.96 standard errors it never leaves 0 to 1, and has a width at 0
    and at n right answers, too.

    >>> low, high = wilson_interval(7, 10)
    >>> round(low, 3), round(high, 3)
    (0.397, 0.892)
    """
    if not 0 <= right <= n or n == 0:
        raise DataError(f"{right} of {n} right", "interval", "give 0 to n right answers, n above 0")
    z = quantile(confidence)
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / n / 4) / (1 + spread)
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def quantile(confidence: float) -> float:
    """Return how many standard errors each way hold this share of a normal curve: 0.95 -> 1.96."""
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence}", "interval", "give a share such as 0.95")
    return NormalDist().inv_cdf((1 + confidence) / 2)


class Difference(NamedTuple):
    """How much better the second of two models scored, with its 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    a: Score,
    b: Score,
    n_items: int | None = None,
    confidence: float = 0.95,
    n_samples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Return score(b) - score(a) with its interval, both asked the same items.

    Scores are a number for each item, or functions from the places of some items to their score
    (see `metrics.bootstrap_interval`). Each sample takes the same items of both, so that what
    makes an item hard for both cancels: Koehn 2004, "Statistical Significance Tests for Machine
    Translation Evaluation".

    >>> paired_bootstrap([1, 0, 0, 1] * 25, [1, 1, 0, 1] * 25)
    Difference(difference=0.25, low=0.16, high=0.33)
    """
    if not (callable(a) and callable(b)):
        if callable(a) or callable(b):
            raise ConfigError("a function and numbers", "paired bootstrap", "give two of a kind")
        before, after = (np.asarray(each, dtype=np.float64) for each in (a, b))
        check_pairs(before.tolist(), after.tolist())
        gain = after - before
        low, high = bootstrap_interval(gain.tolist(), None, confidence, n_samples, seed)
        return Difference(float(gain.mean()), low, high)
    first, second = a, b
    low, high = bootstrap_interval(
        lambda places: second(places) - first(places), n_items, confidence, n_samples, seed
    )
    every = np.arange(n_items or 0)
    return Difference(float(second(every) - first(every)), low, high)


class McNemar(NamedTuple):
    """On how many items only one of two models is right, and how likely chance makes that."""

    only_a: int
    only_b: int
    p: float


def mcnemar(a_right: Sequence[bool], b_right: Sequence[bool]) -> McNemar:
    """Return McNemar's exact test: were both equally good, the items where they differ are coins.

    p is the probability that so many coins fall at least as far from even, to either side.
    McNemar 1947; the exact form is the sign test.

    >>> mcnemar([True] * 6 + [False] * 9, [False] + [True] * 14)
    McNemar(only_a=1, only_b=9, p=0.021484375)
    """
    check_pairs(a_right, b_right)
    a, b = np.asarray(a_right, dtype=bool), np.asarray(b_right, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return McNemar(only_a, only_b, float(min(1.0, 2 * tail / 2**n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that allow for how many there are: the least times m, the next times m - 1...

    Keeps the chance of even one false "better" among them below the level. Holm 1979.

    >>> [round(p, 3) for p in holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(order), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def items_needed(
    difference: float, differing: float, power: float = 0.8, confidence: float = 0.95
) -> int:
    """Return how many items find a true difference between two models with probability `power`.

    `differing`: the share of items on which exactly one of the two is right. Two models that agree
    on most items need few. By McNemar's test in its normal form: Connor 1987.

    >>> items_needed(0.03, differing=0.10), items_needed(0.03, differing=0.40)
    (870, 3487)
    """
    if not 0 < abs(difference) <= differing <= 1:
        remedy = "0 < difference <= differing <= 1"
        raise ConfigError(f"difference {difference}, differing {differing}", "items", remedy)
    beyond = NormalDist().inv_cdf(power)
    spread = math.sqrt(differing - difference**2)
    return math.ceil(
        ((quantile(confidence) * math.sqrt(differing) + beyond * spread) / difference) ** 2
    )
