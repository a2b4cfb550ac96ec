"""Ask whether a model knows what it knows: of the answers it is 80 % sure of, 80 % should be right.

Shapes: N answers, K choices.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minigpt.metrics import check_pairs
from minigpt.support.errors import ConfigError

TEMPERATURES = np.geomspace(0.05, 20, 601)  # that are tried: steps of 1 %


def choice_probabilities(log_likelihoods: Sequence[float], temperature: float = 1.0) -> np.ndarray:
    """Return the probabilities of choices (K,), given that it is one of them: a softmax.

    >>> choice_probabilities([-1.0, -1.0, -200.0]).round(3).tolist()
    [0.5, 0.5, 0.0]
    """
    scores = np.asarray(log_likelihoods, dtype=np.float64) / temperature
    shares = np.exp(scores - scores.max())
    return shares / shares.sum()


class Bin(NamedTuple):
    """Answers that are about equally sure: how sure on average, how many right, how many."""

    confidence: float
    accuracy: float
    n: int


def reliability(confidences: Sequence[float], right: Sequence[bool], n_bins: int = 10) -> list[Bin]:
    """Return the bins of a reliability diagram, n_bins of equal width from 0 to 1, empty ones out.

    >>> reliability([0.75, 1.0, 0.25], [True, False, False], n_bins=2)
    [Bin(confidence=0.25, accuracy=0.0, n=1), Bin(confidence=0.875, accuracy=0.5, n=2)]
    """
    check_pairs(confidences, right)
    if n_bins < 1:
        raise ConfigError(f"n_bins {n_bins}", "calibration", "give 1 or more")
    sure, hits = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    places = np.minimum((sure * n_bins).astype(int), n_bins - 1)
    return [
        Bin(float(sure[there].mean()), float(hits[there].mean()), int(there.sum()))
        for there in (places == k for k in range(n_bins))
        if there.any()
    ]


def calibration_error(
    confidences: Sequence[float], right: Sequence[bool], n_bins: int = 10
) -> float:
    """Return the expected calibration error (ECE): the mean gap between sure and right, by answers.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". It is above 0 by chance alone, the
    more so with few answers and many bins.

    >>> round(calibration_error([0.9, 0.94, 0.3], [True, False, False]), 2)
    0.38
    """
    bins = reliability(confidences, right, n_bins)
    return sum(each.n * abs(each.confidence - each.accuracy) for each in bins) / len(right)


def fit_temperature(log_likelihoods: Sequence[Sequence[float]], targets: Sequence[int]) -> float:
    """Return the temperature that makes the right choices likeliest; above 1: it was too sure.

    It changes no choice, only how sure it is. Guo et al. 2017, section 4.2.
    """
    check_pairs(log_likelihoods, targets)
    scores = np.full((len(targets), max(map(len, log_likelihoods))), -np.inf)  # (N, K)
    for place, row in enumerate(log_likelihoods):
        scores[place, : len(row)] = row
    scores -= scores.max(axis=1, keepdims=True)
    of_right = scores[np.arange(len(targets)), targets]

    def loss(temperature: float) -> float:
        total = np.log(np.exp(scores / temperature).sum(axis=1))
        return float((total - of_right / temperature).mean())

    return float(min(TEMPERATURES, key=loss))
