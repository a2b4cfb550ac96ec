"""Wrong answers about gradient descent fail, each with a word on what to look at."""

import math

import numpy as np
import pytest
from solved import fails, solution

from minigpt.checks import judge
from minigpt.checks.gradient_descent import (
    hand_walk,
    lion,
    marbles,
    one_pass,
    trapezoid,
    valley_left,
)

pytestmark = pytest.mark.usefixtures("student")

DESCENT = {"plain": [2.8, 2.08], "momentum": [2.8, 1.48], "limit": 0.5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plain": [5.2, 6.88]}, "uphill"),
        ({"plain": [3.4, 2.92]}, "4 (w - 1)"),
        ({"plain": [2.8]}, "two numbers"),
        ({"plain": ["2.8", 2.08]}, "should be a number"),
        ({"momentum": [2.8, 2.08]}, "half of the first velocity"),
        ({"momentum": [3.4, 2.62]}, "plus the whole slope"),
        ({"momentum": [2.8, 0.88]}, "momentum, step 2"),
        ({"limit": 2.0}, "slope of the slope"),
        ({"limit": 1.0}, "curvature is 4"),
        ({"limit": 0.25}, "one step"),
        ({"limit": 0.1}, "2 / curvature"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_descent_by_hand(change, words):
    assert judge("gradient_descent.by_hand", DESCENT) == ("passed", "passed")
    fails("gradient_descent.by_hand", DESCENT | change, words)


def test_the_walk_by_hand_obeys_its_formula():
    assert np.allclose(hand_walk(steps=5), 1 + 3 * 0.6 ** np.arange(1, 6))
    assert np.allclose(hand_walk(rate=0.5, steps=4), [-2, 4, -2, 4])  # the limit: to and fro


def lion_in_place(p, g, mean, rate, k, m, decay):
    new = lion(p, g, mean, rate, k, m, decay)
    mean[:] = new[1]
    return new


def lion_early(p, g, mean, rate, k, m, decay):
    new_mean = m * mean + (1 - m) * g
    return lion(p, g, new_mean, rate, k, m, decay)[0], new_mean


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p, g, v, r, k, m, d: lion(p, g, v, r, k, m, d, sign=lambda x: x), "sign is miss"),
        (lambda p, g, v, r, k, m, d: lion(p, g, v, r, k, m, d / r), "not multiplied by the rate"),
        (lambda p, g, v, r, k, m, d: lion(p, g, v, r, k, m, 0), "decay is missing"),
        (lambda p, g, v, r, k, m, d: lion(p, g, v, r, 0, m, d), "mix in the mean"),
        (lambda p, g, v, r, k, m, d: lion(p, g, v, r, 1 - k, m, d), "by hand"),
        (lambda p, g, v, r, k, m, d: lion(p, g, v, r, k, k, d), "share of its own"),
        (lambda p, g, v, r, k, m, d: lion(p, g, v, -r, k, m, -d), "uphill"),
        (lambda p, g, v, r, k, m, d: (lion(p, g, v, r, k, m, d)[0], m * v + g), "not a mean"),
        (lambda p, g, v, r, k, m, d: (lion(p, g, v, r, k, m, d)[0], v), "did not change"),
        (lambda *a: lion(*a, sign=lambda x: np.where(x > 0, 1, -1)), "sign of 0"),
        (lambda *a: lion(*a, sign=lambda x: np.where(x >= 0, 1, -1)), "sign of 0"),
        (lambda *a: lion(*a)[0], "expected a pair"),
        (lion_early, "before the step"),
        (lion_in_place, "changed in place"),
    ],
)
def test_wrong_lion(answer, words):
    assert judge("gradient_descent.lion", lambda *a: lion(*a)) == ("passed", "passed")
    fails("gradient_descent.lion", answer, words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda s, n, w, c: min(1, s / max(1, w), (n - s) / max(1, c)), "first step of 0"),
        (lambda s, n, w, c: min(1, (s + 1) / max(1, w), (n - 1 - s) / max(1, c)), "last step of 0"),
        (lambda s, n, w, c: min((s + 1) / max(1, w), (n - s) / max(1, c)), "above 1"),
        (lambda s, n, w, c: min(1, (s + 1) / max(1, w)), "never comes down"),
        (lambda s, n, w, c: trapezoid(s, n, c, w), "on paper"),
        (lambda s, n, w, c: trapezoid(s, n, w, c) ** 2, "on paper"),
        (lambda s, n, w, c: math.nan, "factor of step 0"),
        (lambda s, n, w, c: [1.0], "expected a number"),
    ],
)
def test_wrong_schedule(answer, words):
    assert judge("gradient_descent.schedule", lambda *a: trapezoid(*a)) == ("passed", "passed")
    fails("gradient_descent.schedule", answer, words)


def test_a_schedule_that_divides_by_zero_is_an_error_of_its_own():
    verdict, message = judge("gradient_descent.schedule", lambda s, n, w, c: (s + 1) / w)
    assert verdict in ("failed", "error")
    assert "ZeroDivision" in message or "above 1" in message


def walk_in_place(X, y, start, *rest):
    start -= 0
    start += one_pass(X, y, start, *rest) - start
    return start


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: one_pass(*a, mean=False), "divide by its own size"),
        (lambda *a: one_pass(*a, keep=False), "forgets"),
        (lambda *a: one_pass(*a, ordered=True), "order of the rows"),
        (lambda *a: one_pass(*a, sign=-1), "uphill"),
        (lambda *a: one_pass(*a, ordered=True, keep=False), "More than one fault"),
        (walk_in_place, "changed in place"),
    ],
)
def test_each_fault_left_in_the_walk_is_named(answer, words):
    assert judge("gradient_descent.repair", lambda *a: one_pass(*a)) == ("passed", "passed")
    fails("gradient_descent.repair", answer, words)


def test_the_planted_walk_fails_as_it_is():
    broken = solution("gradient_descent.repair").names["broken"]
    fails("gradient_descent.repair", broken, "changed in place")
    fails("gradient_descent.repair", lambda X, y, s, *a: broken(X, y, s.copy(), *a), "More than")


NOISE = {"spread_1": 2.125, "spread_16": 0.531, "spread_400": 0.106, "times": 9, "why": "c"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spread_16": 2.125}, "single examples"),
        ({"spread_16": 0.133}, "falls like 1 / size"),
        ({"spread_16": 0.282}, "variance"),
        ({"spread_1": 0.9}, "of the MEANS"),
        ({"spread_400": 0.095}, "of the MEANS"),  # drawn without replacement
        ({"times": 3}, "root 3"),
        ({"why": "a"}, "explanation"),
        ({"why": "b"}, "explanation"),
        ({"why": "d"}, "explanation"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_noise(change, words):
    assert judge("gradient_descent.noise", NOISE) == ("passed", "passed")
    fails("gradient_descent.noise", NOISE | change, words)


def test_marbles_are_the_same_everywhere_and_pull_one_way_on_average():
    assert np.array_equal(marbles(), marbles())
    assert marbles().shape == (2000,)
    assert -1.2 < marbles().mean() < -0.7


TUNED = {"rate": 0.03, "momentum": 0.7, "plain_rate": 0.019}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 0.05}, "diverged"),
        ({"rate": 0.01}, "Search both numbers"),
        ({"momentum": 0.9}, "Search both numbers"),
        ({"momentum": 0.0, "rate": 0.019}, "Search both numbers"),
        ({"momentum": 1.0}, "between 0 and 1"),
        ({"plain_rate": 0.01}, "best plain rate"),
        ({"plain_rate": 0.021}, "near the cliff"),
        ({"rate": "0.03"}, "should be a number"),
        ({"rate": math.nan}, "should be a number"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_tuning(change, words):
    assert judge("gradient_descent.tune", TUNED) == ("passed", "passed")
    fails("gradient_descent.tune", TUNED | change, words)


def test_polyaks_pair_passes():
    pair = {"rate": 4 / 121, "momentum": (9 / 11) ** 2}
    assert judge("gradient_descent.tune", TUNED | pair)[0] == "passed"
    assert valley_left(**pair) < 1e-6 < 1e-4 < valley_left(0.019, 0.0)
