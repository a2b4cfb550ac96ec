"""Wrong answers about evaluation fail, each with a word on what to look at."""

import math

import numpy as np
import pytest
from solved import fails

from minigpt.checks import judge
from minigpt.checks.evaluation import HAND, _board
from minigpt.comparison import wilson_interval

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wilson": [0.171, 1.029]}, "textbook"),
        ({"wilson": [0.2, 0.9]}, "Middle"),
        ({"p": 0.09}, "one side"),
        ({"p": 0.5}, "at most 2 of 9"),
        ({"error": 0.275}, "plain mean"),
        ({"error": 0.4}, "two bins"),
        ({"chosen": [1, 0]}, "negative"),
        ({"items": 2}, "√2"),
        ({"items": 8}, "square root"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_evaluation_by_hand(change, words):
    assert judge("evaluation.by_hand", HAND) == ("passed", "passed")
    fails("evaluation.by_hand", HAND | change, words)


def covered(interval, n, p, first=0, strict=False, weighted=True):
    total = 0.0
    for k in range(first, n + 1):
        low, high = interval(k, n)
        if (low < p < high) if strict else (low <= p <= high):
            total += math.comb(n, k) * p**k * (1 - p) ** (n - k) if weighted else 1 / (n + 1)
    return total


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda i, n, p: covered(i, n, p, strict=True), "end that equals p"),
        (lambda i, n, p: covered(i, n, p, weighted=False), "binomial"),
        (lambda i, n, p: covered(i, n, p / 2), "binomial"),
        (lambda i, n, p: "0.95", "should be a number"),
    ],
)
def test_wrong_coverage(answer, words):
    assert judge("evaluation.coverage", covered) == ("passed", "passed")
    fails("evaluation.coverage", answer, words)


def tail_of(a, b):
    return sum(math.comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (tail_of, "one side"),
        (lambda a, b: 2 * tail_of(a, b), "at most 1"),
        (
            lambda a, b: min(1.0, 2 * math.comb(a + b, min(a, b)) / 2 ** (a + b)),
            "all smaller counts",
        ),
        (lambda a, b: 0.5, "Twice the probability"),
    ],
)
def test_wrong_mcnemar(answer, words):
    right = lambda a, b: min(1.0, 2 * tail_of(a, b))  # noqa: E731
    assert judge("evaluation.mcnemar", right) == ("passed", "passed")
    fails("evaluation.mcnemar", answer, words)


def wins(forward, backward):
    pairs = list(zip(forward, backward, strict=True))
    a, b = pairs.count(("first", "second")), pairs.count(("second", "first"))
    both = pairs.count(("first", "first")) - pairs.count(("second", "second"))
    return a, b, len(pairs) - a - b, both / len(pairs)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda f, b: (f.count("first"), *wins(f, b)[1:]), "one order alone"),
        (lambda f, b: (f.count("first") + b.count("second"), *wins(f, b)[1:]), "Count pairs"),
        (lambda f, b: (wins(f, b)[1], wins(f, b)[0], *wins(f, b)[2:]), "stands first"),
        (lambda f, b: (*wins(f, b)[:3], wins(f, b)[3] * len(f)), "minus both times second"),
        (lambda f, b: wins(f, b)[:3], "expected (wins of A"),
    ],
)
def test_wrong_judge(answer, words):
    assert judge("evaluation.judge", wins) == ("passed", "passed")
    if words != "stands first":  # A and B may have won equally often
        fails("evaluation.judge", answer, words)
    else:
        assert judge("evaluation.judge", answer)[0] == "failed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"best": 0}, "most right answers"),
        ({"public": 0.7}, "public exam"),
        ({"private": 0.79}, "private exam"),
        ({"beaten": 19}, "below 0.05"),
        ({"after_holm": 2}, "smallest times 19"),
        ({"why": "a"}, "How were the twenty"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_leaderboard(change, words):
    assert judge("evaluation.leaderboard", _board()) == ("passed", "passed")
    fails("evaluation.leaderboard", _board() | change, words)


def clopper(k, n, tail=0.025):
    def tails(p):
        chances = [math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(n + 1)]
        return sum(chances[: k + 1]), sum(chances[k:])

    kept = [p for p in np.linspace(0, 1, 1001) if min(tails(p)) >= tail]
    return kept[0], kept[-1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda k, n: wilson_interval(k, n), "are covered"),
        (lambda k, n: (0.0, 1.0), "mean width"),
        (lambda k, n: clopper(k, n, 0.05), "are covered"),
        (lambda k, n: 0.5, "low and high"),
        (lambda k, n: (0.4, 0.6), "itself is outside"),
    ],
)
def test_wrong_sure_interval(answer, words):
    assert judge("evaluation.sure_interval", clopper) == ("passed", "passed")
    fails("evaluation.sure_interval", answer, words)
