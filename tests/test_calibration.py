"""Calibration: bins by hand, a perfect and an over-sure model, the temperature that mends it."""

import numpy as np
import pytest

from minigpt.calibration import (
    calibration_error,
    choice_probabilities,
    fit_temperature,
    reliability,
)
from minigpt.support.errors import ConfigError, DataError


def test_probabilities_of_choices_are_a_softmax():
    assert choice_probabilities([-1000.0, -1000.0, -1001.0]).round(4).tolist() == [
        0.4223,
        0.4223,
        0.1554,
    ]
    assert choice_probabilities([0.0, -2.0], 2.0) == pytest.approx(choice_probabilities([0, -1.0]))


def test_every_answer_is_in_one_bin():
    sure = [0.0, 0.05, 0.1, 0.999, 1.0, 0.55]
    bins = reliability(sure, [False, False, True, True, False, True])
    assert [each.n for each in bins] == [2, 1, 1, 2]
    assert [each.accuracy for each in bins] == [0, 1, 1, 0.5]
    assert bins[-1].confidence == pytest.approx(0.9995)


def simulated(n: int, sharper: float, seed: int = 0):
    """Log-likelihoods of four choices, and right ones drawn from them before they are sharpened."""
    rng = np.random.default_rng(seed)
    rows = 1.5 * rng.standard_normal((n, 4))
    targets = [int(rng.choice(4, p=choice_probabilities(row))) for row in rows]
    return [sharper * row for row in rows], targets


def error_of(rows, targets, temperature=1.0):
    shares = [choice_probabilities(row, temperature) for row in rows]
    hits = [share.argmax() == target for share, target in zip(shares, targets, strict=True)]
    return calibration_error([share.max() for share in shares], hits)


@pytest.mark.parametrize("sharper", [3.0, 0.4])
def test_a_temperature_mends_what_is_too_sure_or_too_shy(sharper):
    rows, targets = simulated(3000, sharper)
    temperature = fit_temperature(rows, targets)
    assert temperature == pytest.approx(sharper, rel=0.1)
    assert error_of(*simulated(3000, 1.0)) < 0.03
    assert error_of(rows, targets) > 0.1
    assert error_of(rows, targets, temperature) < 0.03


def test_few_answers_look_uncalibrated_by_chance():
    few = np.mean([error_of(*simulated(50, 1.0, seed)) for seed in range(20)])
    many = np.mean([error_of(*simulated(2000, 1.0, seed)) for seed in range(3)])
    assert few > 3 * many


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: calibration_error([], []),
        lambda: reliability([0.5], [True, False]),
        lambda: reliability([0.5], [True], 0),
        lambda: fit_temperature([], []),
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises((ConfigError, DataError)):
        wrong()
