"""Wrong answers to the exercises of chapters 3 and 4 fail, each with a word on what to look at."""

import math

import numpy as np
import pytest
from test_checks import settled, solution  # noqa: F401 (settled is a fixture for every test)
from test_checks_part1 import fails

from minigpt.checks import judge
from minigpt.checks.gradient_descent import (
    hand_walk,
    lion,
    marbles,
    one_pass,
    trapezoid,
    valley_left,
)
from minigpt.checks.neural_networks import cost, drop, smooth_loss

# Gradient descent

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


# Neural networks

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
        ({"gain_root_2": 0.6}, "last layer over"),
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


def cheapest(p, truths, alarm, miss):
    return min([-1.0, *p.tolist()], key=lambda t: cost(t, p, truths, alarm, miss))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p, t, alarm, miss: 0.5, "Try every probability"),
        (lambda p, t, alarm, miss: cheapest(p, t, miss, alarm), "swapped"),
        (lambda p, t, alarm, miss: -cheapest(p, t, alarm, miss), "costs"),
        (lambda p, t, alarm, miss: max(p.tolist(), key=lambda x: cost(x, p, t, alarm, miss)), "co"),
        (lambda p, t, alarm, miss: np.linspace(0, 1, 5)[2], "Try every"),
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


# Chapter 4: what issue 5 asks to show beside the notebook


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("seed", range(5))
def test_class_measures_equal_scikit_learns(seed, n_classes):
    from sklearn import metrics as oracle

    from minigpt import metrics

    rng = np.random.default_rng(seed)
    truths = rng.choice(n_classes, 97, p=rng.dirichlet(np.ones(n_classes)))
    answers = np.where(rng.random(97) < 0.6, truths, rng.integers(n_classes, size=97))
    matrix = metrics.confusion_matrix(answers.tolist(), truths.tolist(), range(n_classes))
    labels = list(range(n_classes))
    assert np.array_equal(matrix, oracle.confusion_matrix(truths, answers, labels=labels))
    for average in (None, "macro", "micro"):
        p, r, f, _ = oracle.precision_recall_fscore_support(
            truths, answers, labels=labels, average=average, zero_division=0
        )
        assert np.allclose(metrics.precision(matrix, average), p)
        assert np.allclose(metrics.recall(matrix, average), r)
        assert np.allclose(metrics.f1(matrix, average), f)
