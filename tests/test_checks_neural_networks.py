"""Wrong answers about neural networks fail, each with a word on what to look at."""

import math

import numpy as np
import pytest
from solved import fails, solution

from minigpt.checks import judge
from minigpt.checks.neural_networks import GAIN_SLACK, cost, drop, smooth_loss

pytestmark = pytest.mark.usefixtures("student")

NETWORK = {
    "probabilities": [0.125, 0.25, 0.625],
    "loss": 1.386,
    "gradient": [0.125, -0.75, 0.625],
    "precision": 0.78,
    "recall": 0.875,
    "f1": 0.824,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"probabilities": [0.0, 0.3, 0.7]}, "over the sum of the powers"),
        ({"probabilities": [1, 2, 5]}, "probabilities, class 0"),
        ({"probabilities": [0.125, 0.25]}, "three numbers"),
        ({"loss": 0.25}, "That is the probability"),
        ({"loss": -1.39}, "The sign"),
        ({"loss": 2.0}, "base 2"),
        ({"loss": 0.6}, "base 10"),
        ({"gradient": [0.125, 0.25, 0.625]}, "Probability minus truth"),
        ({"gradient": [-0.125, 0.75, -0.625]}, "Probability minus truth"),
        ({"precision": 0.875, "recall": 0.778}, "That is the recall"),
        ({"recall": 0.778}, "That is the precision"),
        ({"precision": 0.85}, "accuracy"),
        ({"f1": 0.8264}, "harmonic"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_network_by_hand(change, words):
    assert judge("neural_networks.by_hand", NETWORK) == ("passed", "passed")
    fails("neural_networks.by_hand", NETWORK | change, words)


def naive_doubt(scores, targets, doubt):
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    target = np.full(p.shape, doubt / p.shape[1])
    target[np.arange(len(p)), targets] += 1 - doubt
    return -(target * np.log(p)).sum(axis=1).mean()


def doubt_in_place(scores, targets, doubt):
    scores -= scores.max(axis=1, keepdims=True)
    return smooth_loss(scores, targets, doubt)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (naive_doubt, "overflows"),
        (doubt_in_place, "changed in place"),
        (lambda s, t, d: smooth_loss(s, t, 0.0), "no effect"),
        (lambda s, t, d: smooth_loss(s, t, d, all_classes=False), "the right one too"),
        (lambda s, t, d: smooth_loss(s, t, d, average=np.sum), "take the mean"),
        (lambda s, t, d: -smooth_loss(s, t, d), "sum to 1"),
        (lambda s, t, d: smooth_loss(s, t, d) + d, "sum to 1"),
        (lambda s, t, d: np.ones(len(t)), "one number"),
    ],
)
def test_wrong_doubt(answer, words):
    assert judge("neural_networks.doubt", lambda *a: smooth_loss(*a)) == ("passed", "passed")
    fails("neural_networks.doubt", answer, words)


def wait(losses, patience, late=0, ties=False, keep="best"):
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best] or (ties and loss == losses[best]):
            best = epoch
        elif epoch - best >= patience + late:
            return (best if keep == "best" else epoch), epoch
    return (best if keep == "best" else len(losses) - 1), len(losses) - 1


def count_steps_up(losses, patience):
    """The frequent slip: it counts steps up in a row instead of the age of the best epoch."""
    rising = 0
    for epoch in range(1, len(losses)):
        rising = rising + 1 if losses[epoch] > losses[epoch - 1] else 0
        if rising == patience:
            return int(np.argmin(losses[: epoch + 1])), epoch
    return int(np.argmin(losses)), len(losses) - 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, n: wait(x, n, late=1), "One too late"),
        (lambda x, n: wait(x, n, late=-1), "One too early"),
        (lambda x, n: wait(x, n, ties=True), "epoch to keep"),
        (lambda x, n: wait(x, n, keep="last"), "keep the best epoch instead"),
        (lambda x, n: (int(np.argmin(x)), wait(x, n)[1]), "nobody could know"),
        (count_steps_up, "nobody could know"),
        (lambda x, n: wait(x, n)[0], "expected a pair"),
        (lambda x, n: ("2", 5), "should be a number"),
    ],
)
def test_wrong_patience(answer, words):
    assert judge("neural_networks.patience", wait) == ("passed", "passed")
    fails("neural_networks.patience", answer, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inverted": True}, "drops what it should keep"),
        ({"scaled": False}, "mean shrinks"),
        ({"always": True}, "In use nothing is dropped"),
        ({"shrink": True}, "In use nothing is scaled"),
        ({"inverted": True, "scaled": False}, "More than one fault"),
    ],
)
def test_each_fault_left_in_dropout_is_named(options, words):
    assert judge("neural_networks.repair", lambda *a: drop(*a)) == ("passed", "passed")
    fails("neural_networks.repair", lambda *a: drop(*a, **options), words)


def test_the_planted_dropout_fails_as_it_is():
    broken = solution("neural_networks.repair").names["broken"]
    fails("neural_networks.repair", broken, "changed in place")
    fails("neural_networks.repair", lambda x, *a: broken(x.copy(), *a), "More than one fault")


GAIN = {"gain_1": 0.031, "gain_root_2": 1.0, "gain_1_6": 3.4, "layers": 20, "why": "d"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gain_1": 0.00098}, "mean square"),
        ({"gain_1": 1.0}, "a relu after each"),
        ({"gain_1_6": 11.8}, "mean square"),
        ({"gain_1_6": 110.0}, "a relu after each"),
        ({"gain_root_2": 32.0}, "a relu after each"),
        ({"gain_root_2": 0.71}, "Ten layers"),
        ({"gain_1": 0.0442}, "Ten layers"),  # nine layers
        ({"gain_root_2": 0.4}, "last layer over"),
        ({"layers": 10}, "How often"),
        ({"why": "a"}, "explanation"),
        ({"why": "b"}, "explanation"),
        ({"why": "c"}, "explanation"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_gain(change, words):
    assert judge("neural_networks.gain", GAIN) == ("passed", "passed")
    fails("neural_networks.gain", GAIN | change, words)


def one_draw(rng, width=256, layers=10):
    x = rng.normal(size=(50, width))
    before = (x**2).mean()
    for _ in range(layers):
        x = np.maximum(x @ rng.normal(0, 1 / math.sqrt(width), (width, width)), 0)
    return math.sqrt((x**2).mean() / before)


@pytest.mark.slow
def test_two_hundred_right_answers_about_the_gain_pass():
    """The slack follows from the scatter of what the text asks for: the mean of 20 draws.

    A gain multiplies each layer's numbers, so the draws of gain 1 serve for all three gains.
    """
    rng = np.random.default_rng(0)
    draws = np.array([one_draw(rng) for _ in range(150)])
    scatter = np.std(np.log(draws))
    assert 0.1 < scatter < 0.25
    assert GAIN_SLACK > 4.5 * scatter / math.sqrt(20)
    for _ in range(200):
        sizes = {
            name: float(rng.choice(draws, 20).mean() * g**10)
            for name, g in (("gain_1", 1.0), ("gain_root_2", math.sqrt(2)), ("gain_1_6", 1.6))
        }
        assert judge("neural_networks.gain", GAIN | sizes) == ("passed", "passed")


def cheapest(p, truths, alarm, miss):
    return min([-1.0, *p.tolist()], key=lambda t: cost(t, p, truths, alarm, miss))


def best_of_grid(p, truths, alarm, miss, count):
    """A wrong idea that probabilities far apart do not show."""
    return min(np.linspace(0, 1, count).tolist(), key=lambda t: cost(t, p, truths, alarm, miss))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p, t, alarm, miss: 0.5, "Try every probability"),
        (lambda p, t, alarm, miss: cheapest(p, t, miss, alarm), "swapped"),
        (lambda p, t, alarm, miss: -cheapest(p, t, alarm, miss), "costs"),
        (lambda p, t, alarm, miss: max(p.tolist(), key=lambda x: cost(x, p, t, alarm, miss)), "co"),
        (lambda p, t, alarm, miss: np.linspace(0, 1, 5)[2], "Try every"),
        (lambda *a: best_of_grid(*a, 1001), "costs"),
        (lambda *a: best_of_grid(*a, 101), "costs"),
        (lambda p, t, alarm, miss: math.inf, "finite number"),
        (lambda p, t, alarm, miss: "0.5", "expected a threshold"),
    ],
)
def test_wrong_threshold(answer, words):
    assert judge("neural_networks.price", cheapest) == ("passed", "passed")
    fails("neural_networks.price", answer, words)


def test_a_threshold_between_two_probabilities_is_as_good():
    def between(p, truths, alarm, miss):
        ordered = np.sort(p)
        places = [-1.0, *((ordered[1:] + ordered[:-1]) / 2), 2.0]
        return min(places, key=lambda t: cost(t, p, truths, alarm, miss))

    assert judge("neural_networks.price", between) == ("passed", "passed")
