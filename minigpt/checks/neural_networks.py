"""Checks of the neural network exercises, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Generator

from minigpt.checks import exercise
from minigpt.checks.compare import call, number_slip, numpy_rng, require, same_array, same_number

# By hand: scores 0, ln 2, ln 5 and the right class 1; then a confusion matrix, rows are truths.
HAND_POWERS = np.array([1.0, 2.0, 5.0])
HAND_MATRIX = np.array([[50, 10], [5, 35]])
NAMES = {"probabilities", "loss", "gradient", "precision", "recall", "f1"}


@exercise("neural_networks.by_hand", "e^(ln 5) is 5; the powers sum to 8.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect softmax, loss and gradient for three scores; three measures of a matrix."""
    require(isinstance(answer, dict) and set(answer) == NAMES, f"expected a dict of {NAMES}")
    p = HAND_POWERS / HAND_POWERS.sum()
    for name, right, hint in [
        ("probabilities", p, "Each power over the sum of the powers."),
        ("gradient", p - [0, 1, 0], "Probability minus truth; the truth is 1 for class 1."),
    ]:
        got = answer[name]
        is_list = isinstance(got, list | tuple) and len(got) == 3
        require(is_list, f"{name} should be a list of three numbers")
        for k, (mine, wanted) in enumerate(zip(got, right, strict=True)):
            same_number(mine, wanted, f"{name}, class {k}", hint, 0.006)
    slips = {
        0.25: "That is the probability; the loss is minus its logarithm.",
        -1.39: "The sign: a loss is not negative.",
        2.0: "That is the logarithm to base 2; take the natural one.",
        0.6: "That is the logarithm to base 10; take the natural one.",
    }
    hint = number_slip(answer["loss"], slips, near=0.0011) or "-ln(probability of class 1)."
    same_number(answer["loss"], math.log(4), "the loss", hint, 0.006)
    (_, alarms), (misses, right) = HAND_MATRIX
    scores = {"precision": right / (right + alarms), "recall": right / (right + misses)}
    wrong_way = {"precision": "recall", "recall": "precision"}
    for name, value in scores.items():
        other = scores[wrong_way[name]]
        slips = {
            other: f"That is the {wrong_way[name]}: precision looks down a column.",
            0.85: "That is the accuracy; look at the second class alone.",
        }
        hint = (
            number_slip(answer[name], slips, near=0.0011)
            or "Precision: of all CALLED class 1; recall: of all."
        )
        same_number(answer[name], value, name, hint, 0.006)
    slips = {sum(scores.values()) / 2: "That is the plain mean; F1 is the harmonic one."}
    hint = number_slip(answer["f1"], slips, near=0.0011) or "2 · right / (called + are)."
    same_number(answer["f1"], 2 * right / (2 * right + alarms + misses), "f1", hint, 0.0015)


# A loss with doubts


def smooth_loss(
    scores: np.ndarray,
    targets: np.ndarray,
    doubt: float,
    all_classes: bool = True,
    average: Callable = np.mean,
) -> float:
    """Return the cross-entropy against 1 - doubt for the right class, doubt shared by all."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    right = log_p[np.arange(len(targets)), targets]
    shared = log_p.mean(axis=1)
    if not all_classes:
        shared = (log_p.sum(axis=1) - right) / (scores.shape[1] - 1)
    return float(average(-(1 - doubt) * right - doubt * shared))


@exercise(
    "neural_networks.doubt", "a target row has doubt / V everywhere, and 1 - doubt more once."
)
def doubt(answer: Callable, generator: Generator) -> None:
    """Expect loss_with_doubt(scores (N, V), targets (N,), doubt): one number."""
    rng = numpy_rng(generator)
    for N, V, share, size in [(7, 5, 0.0, 1), (5, 3, 0.1, 2), (4, 6, 0.3, 3), (3, 4, 0.2, 800)]:
        scores, targets = rng.normal(size=(N, V)) * size, rng.integers(V, size=N)
        case = f"{N} examples, {V} classes, doubt {share}, scores of about {size}"
        with np.errstate(all="ignore"):
            got = call(answer, scores, targets, share, case=case)
        is_number = isinstance(got, int | float | np.number) or np.shape(got) == ()
        require(is_number, f"expected one number, the mean ({case})")
        hint = "Write down the target row of one example: does it sum to 1?"
        if not np.isfinite(float(got)):
            hint = "It overflows: subtract the largest score of each row, and use ln p directly."
        slips = {
            "This is the sum over the examples; take the mean.": {"average": np.sum},
            "The doubt is shared by ALL classes, the right one too.": {"all_classes": False},
        }
        for sentence, fault in slips.items():
            if np.isclose(float(got), smooth_loss(scores, targets, share, **fault)):
                hint = sentence
        if share and np.isclose(float(got), smooth_loss(scores, targets, 0.0)):
            hint = "The doubt has no effect."
        right = smooth_loss(scores, targets, share)
        same_number(float(got), right, f"the loss ({case})", hint, 1e-6 * max(1, right))


# Early stopping with patience


def patient(losses: list[float], patience: int) -> tuple[int, int]:
    """Return the best epoch so far and the last one looked at."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        elif epoch - best == patience:
            return best, epoch
    return best, len(losses) - 1


@exercise("neural_networks.patience", "remember the best epoch; how long ago was it?")
def patience(answer: Callable, generator: Generator) -> None:
    """Expect stop_early(losses, patience): (epoch to keep, epoch at which it stopped)."""
    rng = numpy_rng(generator)
    fixed = [
        ([1, 2, 3, 4], 1),
        ([5, 4, 3, 3.5, 3.2, 3.1, 2], 3),
        ([5, 4, 3, 2, 1], 2),
        ([7.0], 4),
        ([3, 2, 2, 2, 2, 1], 2),
        ([4, 5, 3, 4, 2, 9, 9, 9], 2),
    ]
    walks = [(rng.normal(0, 1, 30).cumsum().tolist(), int(rng.integers(1, 6))) for _ in range(8)]
    for losses, wait in [*fixed, *walks]:
        case = f"losses {np.round(losses[:8], 2).tolist()}, patience {wait}"
        got = call(answer, list(losses), wait, case=case)
        is_pair = isinstance(got, tuple | list) and len(got) == 2
        require(is_pair, "expected a pair: the epoch to keep, the epoch at which it stopped")
        keep, stop = patient(losses, wait)
        hint = "Keep the epoch of the lowest loss seen until then; the first one, if equal."
        if got[0] == got[1] == stop and keep != stop:
            hint = "That is where it stopped; keep the best epoch instead."
        elif got[0] == int(np.argmin(losses)) != keep:
            hint = "That loss comes after the stop: at the time, nobody could know it."
        same_number(got[0], keep, f"the epoch to keep ({case})", hint, 0)
        hint = "It stops in the epoch in which the best one is `patience` epochs old."
        if got[1] == stop + 1:
            hint += " One too late."
        elif got[1] == stop - 1:
            hint += " One too early."
        same_number(got[1], stop, f"the epoch of the stop ({case})", hint, 0)


# A repair


def drop(
    x: np.ndarray,
    share: float,
    training: bool,
    noise: np.ndarray,
    inverted: bool = False,
    scaled: bool = True,
    always: bool = False,
    shrink: bool = False,
) -> np.ndarray:
    """Dropout with given random numbers; the options plant one of the faults each."""
    if not (training or always):
        return x * (1 - share) if shrink else x
    kept = noise < share if inverted else noise >= share
    return x * kept / (1 - share if scaled else 1)


@exercise("neural_networks.repair", "what should the mean be, in training and in use?")
def repair(answer: Callable, generator: Generator) -> None:
    """Expect repaired(x, share, training, noise): dropout."""
    rng = numpy_rng(generator)
    for shape, share, training in [
        ((4, 5), 0.3, True),
        ((6, 2), 0.3, False),
        ((30,), 0.8, True),
        ((3, 3), 0.0, True),
    ]:
        x, noise = rng.normal(size=shape), rng.random(shape)
        case = f"shape {shape}, share {share}, {'training' if training else 'in use'}"
        got = call(answer, x, share, training, noise, case=case)
        slips = {
            "It drops what it should keep: a share of 0.3 keeps 70 %.": {"inverted": True},
            "The mean shrinks: divide what is kept by 1 - share.": {"scaled": False},
            "In use nothing is dropped.": {"always": True},
            "In use nothing is scaled either: training has made up for it.": {"shrink": True},
        }
        hint = "More than one fault may be left; read it line by line."
        for sentence, fault in slips.items():
            wrong = drop(x, share, training, noise, **fault)
            if np.shape(got) == wrong.shape and np.allclose(got, wrong):
                hint = sentence
        same_array(got, drop(x, share, training, noise), case, hint)


# The size of a signal


# The size after 10 layers of width 256 scatters from draw to draw by about 17 % (the weights are
# drawn, and so is their mean square), so the mean of 20 draws by 4 %; five times that are allowed,
# and one layer too many or too few would be 29 to 41 % away.
GAIN_SLACK = 0.2


@exercise(
    "neural_networks.gain", "np.sqrt((x**2).mean()) after the last relu, over that of the input."
)
def gain(answer: Any, generator: Generator) -> None:
    """Expect what 10 relu layers make of a signal's size for three gains, and why."""
    names = {"gain_1", "gain_root_2", "gain_1_6", "layers", "why"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    for name, g in (("gain_1", 1.0), ("gain_root_2", math.sqrt(2)), ("gain_1_6", 1.6)):
        right = (g / math.sqrt(2)) ** 10
        hint = (
            "The size is the root of the mean square, after the last layer over before the first."
        )
        got = answer[name]
        if isinstance(got, int | float) and 0.7 < got / right**2 < 1.4 and g != math.sqrt(2):
            hint = "That is the mean square; take its root."
        elif isinstance(got, int | float) and 0.7 < got / g**10 < 1.4:
            hint = "Was there a relu after each layer?"
        elif isinstance(got, int | float) and 0.5 < got / right < 1.6:
            hint += " Ten layers, and the mean of 20 draws? One draw can be a third off."
        same_number(got, right, name, hint, GAIN_SLACK * right)
    hint = "Each layer multiplies the size by 1/√2. How often until below 1/1000?"
    same_number(answer["layers"], 20, "layers", hint, 0)
    require(
        answer["why"] == "d",
        "the explanation does not fit: the weights are as likely positive as negative, so what "
        "share of the sums does relu let through, and what is their mean square?",
    )


# The price of a mistake


def cost(
    threshold: float, probabilities: np.ndarray, truths: np.ndarray, alarm: float, miss: float
) -> float:
    """Return what the mistakes cost if everything above the threshold is called positive."""
    called = probabilities > threshold
    return float(alarm * (called & ~truths).sum() + miss * (~called & truths).sum())


@exercise("neural_networks.price", "try every probability as a threshold, and one below them all.")
def price(answer: Callable, generator: Generator) -> None:
    """Expect best_threshold(probabilities, truths, alarm, miss): a threshold of lowest cost."""
    rng = numpy_rng(generator)
    for count, alarm, miss, close in [
        (60, 1, 1, False),
        (80, 1, 30, False),
        (80, 25, 1, False),
        (40, 2, 3, False),
        (30, 1, 1000, False),
        (30, 1000, 1, False),
        (60, 2, 3, True),
        (60, 1, 1, True),
    ]:
        truths = rng.random(count) < 0.3
        scores = rng.normal(np.where(truths, 1.0, -1.0), 1.5)
        probabilities = 1 / (1 + np.exp(-scores))
        if close:  # as a network is that is unsure about everything: no grid is fine enough
            probabilities = np.round(0.3 + 1e-7 * scores, 8)  # and some are equal
        case = f"{count} items, a false alarm costs {alarm}, a miss {miss}"
        case += ", all probabilities near 0.3" if close else ""
        got = call(answer, probabilities, truths, alarm, miss, case=case)
        is_number = isinstance(got, int | float | np.number) and np.isfinite(got)
        require(is_number, f"expected a threshold, a finite number ({case})")
        tried = [-1.0, *probabilities.tolist()]
        lowest = min(cost(t, probabilities, truths, alarm, miss) for t in tried)
        mine = cost(float(got), probabilities, truths, alarm, miss)
        hint = "Try every probability as a threshold, and one below all of them."
        swapped = min(tried, key=lambda t: cost(t, probabilities, truths, miss, alarm))
        if mine == cost(swapped, probabilities, truths, alarm, miss) != lowest:
            hint = "Are the two prices swapped? A false alarm is called, but is not."
        require(
            mine <= lowest, f"this threshold costs {mine:g}, the best {lowest:g} ({case}). {hint}"
        )
