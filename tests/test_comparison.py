"""Intervals and paired tests: against closed forms, and in simulated exams."""

import math

import numpy as np
import pytest

from minigpt.comparison import (
    Difference,
    holm,
    items_needed,
    mcnemar,
    paired_bootstrap,
    wilson_interval,
)
from minigpt.support.errors import ConfigError, DataError


@pytest.mark.parametrize(("right", "n"), [(7, 10), (0, 10), (10, 10), (3, 400), (399, 400)])
def test_the_wilson_interval_ends_where_the_test_would_refuse(right, n):
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n <= high <= 1
    for p in (low, high):
        if 0 < p < 1:  # the share is exactly 1.96 of p's own standard errors away
            assert abs(right / n - p) / math.sqrt(p * (1 - p) / n) == pytest.approx(
                1.95996, abs=1e-4
            )


@pytest.mark.parametrize("p", [0.5, 0.75, 0.95])
def test_the_wilson_interval_holds_the_truth_in_95_of_100_exams(p):
    n, ks = 100, range(101)
    chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in ks]
    inside = [low <= p <= high for low, high in (wilson_interval(k, n) for k in ks)]
    assert np.dot(chances, inside) == pytest.approx(0.95, abs=0.02)


def test_a_surer_interval_is_wider():
    narrow, wide = (wilson_interval(30, 40, confidence) for confidence in (0.8, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_pairing_cancels_what_is_hard_for_both():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    a, b = (hard < 0.6).astype(float), (hard < 0.66).astype(float)
    paired = paired_bootstrap(a, b)
    shuffled = paired_bootstrap(a, rng.permutation(b))
    assert paired.difference == shuffled.difference == pytest.approx((b - a).mean())
    assert paired.is_clear
    assert not shuffled.is_clear
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)


def test_functions_of_items_are_compared_as_numbers_are():
    a, b = np.array([1.0, 0, 0, 1, 1, 0]), np.array([1.0, 1, 0, 1, 1, 1])
    by_function = paired_bootstrap(lambda i: float(a[i].mean()), lambda i: float(b[i].mean()), 6)
    assert by_function == pytest.approx(paired_bootstrap(a, b))
    assert paired_bootstrap(b, a).difference == pytest.approx(-by_function.difference)
    assert Difference(0.1, -0.1, 0.3).is_clear is False
    assert Difference(-0.2, -0.3, -0.1).is_clear is True


def test_mcnemar_is_the_sign_test_of_the_items_that_differ():
    a = [True] * 50 + [False] * 12 + [True] * 3 + [False] * 20
    b = [True] * 50 + [True] * 12 + [False] * 3 + [False] * 20
    found = mcnemar(a, b)
    chances = [math.comb(15, k) / 2**15 for k in range(16)]
    assert found[:2] == (3, 12)
    assert found.p == pytest.approx(2 * sum(chances[:4]))
    assert mcnemar(b, a) == (12, 3, found.p)
    assert mcnemar(a, a).p == 1  # no item differs
    assert mcnemar([True, False], [False, True]).p == 1


def test_mcnemar_calls_equal_models_different_at_most_as_often_as_promised():
    rng = np.random.default_rng(1)
    p_values = [mcnemar(*(rng.random((2, 80)) < 0.7)).p for _ in range(1000)]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.06


def test_holm_keeps_the_order_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_so_many_items_find_the_difference_as_often_as_promised():
    difference, differing = 0.05, 0.15
    n = items_needed(difference, differing)
    rng = np.random.default_rng(2)
    wins = (differing + difference) / 2
    found = 0
    for _ in range(600):
        only_b, only_a, _ = rng.multinomial(n, [wins, differing - wins, 1 - differing])
        found += only_b > only_a and abs(only_b - only_a) / math.sqrt(only_b + only_a) > 1.96
    assert found / 600 == pytest.approx(0.8, abs=0.05)
    assert items_needed(difference, differing, power=0.95) > n > items_needed(0.1, differing)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: wilson_interval(3, 0),
        lambda: wilson_interval(4, 3),
        lambda: wilson_interval(1, 3, 1.0),
        lambda: mcnemar([True], [True, False]),
        lambda: paired_bootstrap([1.0], [1.0, 0.0]),
        lambda: paired_bootstrap([1.0], lambda places: 1.0),
        lambda: items_needed(0.2, 0.1),
        lambda: items_needed(0.0, 0.1),
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises((ConfigError, DataError)):
        wrong()
