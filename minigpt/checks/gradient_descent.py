"""Checks of the gradient descent exercises, each with an oracle of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Generator

from minigpt.checks import exercise
from minigpt.checks.compare import array_slip, call, numpy_rng, require, same_array, same_number

HAND_RATE, HAND_MOMENTUM = 0.1, 0.5  # of the exercise text: L(w) = 2 (w - 1)², from w = 4


def hand_walk(rate: float = HAND_RATE, momentum: float = 0.0, steps: int = 2) -> list[float]:
    """Return the places after each step down L(w) = 2 (w - 1)² from w = 4."""
    w, velocity, places = 4.0, 0.0, []
    for _ in range(steps):
        velocity = momentum * velocity + 4 * (w - 1)
        w -= rate * velocity
        places.append(w)
    return places


@exercise("gradient_descent.by_hand", "a row a step: w, slope, velocity, new w.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect two plain steps, two with momentum, and the limit of the learning rate."""
    names = {"plain", "momentum", "limit"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    for name, right in (("plain", hand_walk()), ("momentum", hand_walk(momentum=HAND_MOMENTUM))):
        places = answer[name]
        is_pair = isinstance(places, list | tuple) and len(places) == 2
        require(is_pair, f"{name} should be a list of two numbers, w after each step")
        hints = ["The slope of 2 (w - 1)² is 4 (w - 1), and the step goes against it."] * 2
        if places[0] == 4 + 0.1 * 12:
            hints[0] = "That is uphill: the step goes against the slope."
        elif name == "momentum" and places[0] == 4 - 0.1 * (1 - HAND_MOMENTUM) * 12:
            hints[0] = "The velocity is 0.5 times the old one plus the whole slope."
        if name == "momentum" and places[1] == hand_walk()[1]:
            hints[1] = "That is the plain step; half of the first velocity comes on top."
        for number, (got, wanted) in enumerate(zip(places, right, strict=True)):
            same_number(got, wanted, f"{name}, step {number + 1}", hints[number], 0.006)
    slips = {
        2.0: "That is 2 / curvature for a curvature of 1; what is the slope of the slope?",
        1.0: "The slope is 4 (w - 1), so the curvature is 4.",
        0.25: "At 1 / curvature it arrives in one step; the limit lies further.",
    }
    hint = slips.get(answer["limit"], "") if isinstance(answer["limit"], int | float) else ""
    same_number(answer["limit"], 0.5, "the limit", hint or "It is 2 / curvature.", 0.006)


# Lion


def lion(
    p: np.ndarray,
    gradient: np.ndarray,
    mean: np.ndarray,
    rate: float,
    keep_step: float,
    keep_mean: float,
    decay: float,
    sign: Callable = np.sign,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the new parameters and the new running mean of one step of Lion."""
    direction = sign(keep_step * mean + (1 - keep_step) * gradient)
    new_mean = keep_mean * mean + (1 - keep_mean) * gradient
    return p - rate * (direction + decay * p), new_mean


@exercise("gradient_descent.lion", "three lines: the direction, the new mean, the new parameters.")
def lion_step(answer: Callable, generator: Generator) -> None:
    """Expect lion_step(p, gradient, mean, rate, keep_step, keep_mean, decay): new p, new mean."""
    rng = numpy_rng(generator)
    for shape, rate, k, m, decay in [
        ((20, 30), 0.1, 0.9, 0.99, 0.0),
        ((300,), 0.02, 0.8, 0.95, 0.3),
        ((70,), 0.5, 0.6, 0.7, 0.1),
    ]:
        p, g, mean = (rng.normal(size=shape) for _ in range(3))
        g *= k / (1 - k)  # now mean and gradient often disagree, and either may win
        p[:9], g[:9], mean[:9] = 1.0, 0.0, 0.0  # words that never came: they must stay
        case = f"shape {shape}, weight decay {decay}"
        got = call(answer, p, g, mean, rate, k, m, decay, case=case)
        is_pair = isinstance(got, tuple | list) and len(got) == 2
        require(is_pair, "expected a pair: the new parameters, the new mean")
        new_p, new_mean = lion(p, g, mean, rate, k, m, decay)
        early = lion(p, g, m * mean + (1 - m) * g, rate, k, m, decay)[0]
        slips = {
            "The mean was updated before the step; the direction uses the old one.": early,
            "The sign is missing: each number moves by the rate, up or down.": lion(
                p, g, mean, rate, k, m, decay, sign=lambda x: x
            )[0],
            "The decay is inside the sign; it stands apart from the gradient.": p
            - rate * np.sign(k * mean + (1 - k) * g + decay * p),
            "The decay is not multiplied by the rate.": lion(p, g, mean, rate, k, m, decay / rate)[
                0
            ],
            "The sign of the gradient alone; mix in the mean.": lion(p, g, mean, rate, 0, m, decay)[
                0
            ],
            "It went uphill.": lion(p, g, mean, -rate, k, m, -decay)[0],
            "The sign of 0 is 0: a parameter without gradient and mean must not move.": lion(
                p, g, mean, rate, k, m, decay, sign=lambda x: np.where(x > 0, 1, -1)
            )[0],
            "The sign of 0 is 0: what has no gradient and no mean must not move.": lion(
                p, g, mean, rate, k, m, decay, sign=lambda x: np.where(x >= 0, 1, -1)
            )[0],
            "The weight decay is missing.": lion(p, g, mean, rate, k, m, 0)[0],
        }
        hint = array_slip(got[0], slips) or "Compute the direction for one number by hand."
        same_array(got[0], new_p, f"parameters, {case}", hint)
        slips = {
            "The mean has a share of its own, keep_mean; keep_step is for the direction.": (
                lion(p, g, mean, rate, k, k, decay)[1]
            ),
            "This is a sum, not a mean: the gradient counts 1 - keep_mean.": m * mean + g,
            "The mean did not change.": mean,
        }
        hint = array_slip(got[1], slips) or "new = keep_mean · old + (1 - keep_mean) · gradient."
        same_array(got[1], new_mean, f"mean, {case}", hint)


# A schedule with three parts


def trapezoid(step: int, max_steps: int, warmup: int, cooldown: int) -> float:
    """Return the factor of a schedule that rises, stays, and falls in its last steps."""
    return min(1.0, (step + 1) / max(1, warmup), (max_steps - step) / max(1, cooldown))


@exercise("gradient_descent.schedule", "min() of three numbers: rising, 1, falling.")
def schedule(answer: Callable, generator: Generator) -> None:
    """Expect factor(step, max_steps, warmup_steps, cooldown_steps), for each step."""
    for plan in [(10, 2, 4), (12, 3, 5), (9, 0, 3), (8, 4, 0), (7, 0, 0), (6, 3, 3), (5, 1, 1)]:
        max_steps, warmup, cooldown = plan
        case = f"{max_steps} steps, {warmup} to warm up, {cooldown} to cool down"
        got = []
        for step in range(max_steps):
            factor = call(answer, step, max_steps, warmup, cooldown, case=case)
            is_number = isinstance(factor, int | float | np.number)
            require(is_number, f"expected a number, got {type(factor).__name__}")
            got.append(float(factor))
        right = [trapezoid(step, *plan) for step in range(max_steps)]
        hint = "Write the factors of a plan of ten steps on paper."
        if got[0] == 0:
            hint = "A first step of 0 does nothing: the first of n warm-up steps has 1/n."
        elif got[-1] == 0:
            hint = "A last step of 0 does nothing: the last of n cool-down steps has 1/n."
        elif max(got) > 1:
            hint = "No factor is above 1."
        elif cooldown > 1 and got[-1] == 1:
            hint = "It never comes down."
        for step, (factor, wanted) in enumerate(zip(got, right, strict=True)):
            name = f"the factor of step {step} ({case})"
            same_number(factor, wanted, name, hint, 1e-9)


# A repair


def one_pass(
    X: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
    batches: list,
    rate: float,
    momentum: float,
    mean: bool = True,
    keep: bool = True,
    ordered: bool = False,
    sign: float = 1.0,
) -> np.ndarray:
    """Walk over the batches once; the options plant one of the faults each."""
    alpha, velocity = start, np.zeros_like(start)
    for batch in batches:
        rows, targets = X[batch], y[np.sort(batch)] if ordered else y[batch]
        residuals = rows @ alpha - targets
        gradient = 2 * rows.T @ residuals / (len(batch) if mean else len(y))
        velocity = momentum * velocity + gradient if keep else gradient
        alpha = alpha - sign * rate * velocity
    return alpha


@exercise(
    "gradient_descent.repair", "follow one batch through the loop: which rows, which targets?"
)
def repair(answer: Callable, generator: Generator) -> None:
    """Expect the parameters after one pass over the batches, with momentum."""
    rng = numpy_rng(generator)
    for N, count, size, rate, momentum in [(12, 3, 4, 0.1, 0.9), (11, 2, 4, 0.05, 0.5)]:
        X, y, start = rng.normal(size=(N, count)), rng.normal(size=N), rng.normal(size=count)
        order = rng.permutation(N)
        batches = [order[i : i + size] for i in range(0, N, size)]
        case = f"{N} examples in batches of at most {size}, momentum {momentum}"
        got = call(answer, X, y, start, batches, rate, momentum, case=case)
        data = X, y, start, batches, rate, momentum
        slips = {
            "The gradient is a mean over the batch: divide by its own size.": {"mean": False},
            "The velocity forgets: it starts anew with each batch.": {"keep": False},
            "The targets are not in the order of the rows.": {"ordered": True},
            "It went uphill.": {"sign": -1.0},
        }
        wrong = {sentence: one_pass(*data, **fault) for sentence, fault in slips.items()}
        hint = array_slip(got, wrong) or "More than one fault may be left; read it line by line."
        same_array(got, one_pass(*data), case, hint)


# Noise of a batch


def marbles() -> np.ndarray:
    """Return the slopes at w = 0 of 2,000 examples, (2000,): each example pulls its own way."""
    return np.random.default_rng(5).gamma(2.0, 1.5, 2000) - 4.0


@exercise("gradient_descent.noise", "draw many batches with rng.choice, and take np.std.")
def noise(answer: Any, generator: Generator) -> None:
    """Expect the spread of batch means, how many times the examples a third costs, and why."""
    names = {"spread_1", "spread_16", "spread_400", "times", "why"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    slopes = marbles()
    for size in (1, 16, 400):
        right = slopes.std() / np.sqrt(size)
        hint = "It is the standard deviation of the MEANS of many batches of this size."
        got = answer[f"spread_{size}"]
        if isinstance(got, int | float) and size > 1:
            if abs(got / slopes.std() - 1) < 0.06:
                hint = "That is the spread of single examples; take the mean of each batch first."
            elif abs(got / (slopes.std() / size) - 1) < 0.06:
                hint = "That falls like 1 / size; measure it."
            elif abs(got / (right**2) - 1) < 0.1:
                hint = "That is the variance; the spread is its root."
        same_number(got, right, f"spread_{size}", hint, 0.06 * right)
    times = answer["times"]
    hint = "A third of the error: which number has the root 3?"
    same_number(times, 9, "times", hint, 1e-9)
    require(
        answer["why"] == "c",
        "the explanation does not fit: look at the sum of B independent errors. Does it grow like "
        "B, or do errors of different signs cancel in part?",
    )


# Tune two walkers

STIFF = np.array([1.0, 3.0, 10.0, 30.0, 100.0])  # curvatures of the valley of exercise 6
TUNE_STEPS, TUNE_GOAL = 60, 1e-6


def valley_left(rate: float, momentum: float, steps: int = TUNE_STEPS) -> float:
    """Return which share of the loss is left after a walk from (1, 1, 1, 1, 1)."""
    p, velocity = np.ones(5), np.zeros(5)
    with np.errstate(all="ignore"):
        for _ in range(steps):
            velocity = momentum * velocity + STIFF * p
            p = p - rate * velocity
        left = float((STIFF * p**2).sum() / STIFF.sum())
    return left if np.isfinite(left) else np.inf


@exercise("gradient_descent.tune", "search: a loop over rates and a loop over momenta.")
def tune(answer: Any, generator: Generator) -> None:
    """Expect {"rate", "momentum", "plain_rate"}: walks that come down far enough in 60 steps."""
    names = {"rate", "momentum", "plain_rate"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    for name, value in answer.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        require(is_number and np.isfinite(value), f"{name} should be a number, got {value!r}")
    require(0 <= answer["momentum"] < 1, "momentum lies between 0 and 1")
    left = valley_left(answer["rate"], answer["momentum"])
    where = f"the loss left after {TUNE_STEPS} steps is {left:.2g} of the first"
    require(left <= 1, f"{where}: it diverged. The steepest curvature is 100")
    require(
        left <= TUNE_GOAL,
        f"{where}; the aim is {TUNE_GOAL:g}. Search both numbers together: the best rate "
        f"depends on the momentum",
    )
    best = min(valley_left(rate, 0.0) for rate in np.linspace(0.0005, 0.02, 79))
    plain = valley_left(answer["plain_rate"], 0.0)
    require(
        plain <= 1.1 * best,
        f"plain_rate leaves {plain:.2g} of the loss, the best plain rate {best:.2g}; search more "
        f"finely, near the cliff",
    )
