"""Checks of the forward pass exercises, each with an oracle of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Generator

from minigpt.checks import exercise
from minigpt.checks.compare import call, numpy_rng, require, same_array, same_number

# By hand: the numbers of the exercise text. The model is 1 + 2x.
HAND_X, HAND_Y = np.array([0.0, 1, 2, 3]), np.array([2.0, 2, 6, 7])

# The twelve heights of the chapter; in exercise 5 the tenth, 2.52, is misread as 25.2.
HEIGHTS = np.array([1.21, 2.70, 3.53, 3.65, 4.15, 4.29, 4.60, 4.18, 3.97, 2.52, 2.64, 1.03])


def powers(x: np.ndarray, degree: int) -> np.ndarray:
    """Return the columns 1, x, x² ... of shape (N, degree + 1)."""
    return x[:, None] ** np.arange(degree + 1)


def least_squares(columns: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the parameters with the least squared error."""
    return np.linalg.lstsq(columns, y, rcond=None)[0]


@exercise("forward_pass.by_hand", "write down a row a point: prediction, residual, square.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the predictions of 1 + 2x, its loss, the best α₀ for α₁ = 2, and its loss."""
    names = {"predictions", "loss", "best_a0", "best_loss"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    predictions = answer["predictions"]
    is_list = isinstance(predictions, list | tuple) and len(predictions) == 4
    require(is_list, "predictions should be a list of four numbers")
    residuals = 1 + 2 * HAND_X - HAND_Y
    for number, (got, right) in enumerate(zip(predictions, 1 + 2 * HAND_X, strict=True)):
        same_number(got, right, f"prediction {number}", "Put x into 1 + 2x.", 1e-6)
    slips = {
        "That is the sum of the squares; divide it by their number.": (residuals**2).sum(),
        "That is the mean without squares: residuals of different signs cancel.": residuals.mean(),
        "That is the mean absolute error; square the residuals.": np.abs(residuals).mean(),
    }
    loss = (residuals**2).mean()
    same_number(answer["loss"], loss, "the loss", _slip(answer["loss"], slips), 0.006)
    slips = {
        "It went the wrong way: where predictions are too low on average, raise α₀.": 1
        + residuals.mean(),
        "That is the mean of the targets, the best constant; α₁ is still 2.": HAND_Y.mean(),
    }
    hint = _slip(answer["best_a0"], slips) or "The residuals of the best α₀ sum to zero."
    same_number(answer["best_a0"], 1 - residuals.mean(), "best_a0", hint, 0.006)
    hint = "Take the residuals again with the new α₀, square them, and average."
    same_number(answer["best_loss"], residuals.var(), "best_loss", hint, 0.006)


def _slip(got: Any, slips: dict[str, float]) -> str:
    """Return the sentence of the wrong number that `got` equals, or nothing."""
    is_number = isinstance(got, int | float)
    return next((s for s, wrong in slips.items() if is_number and abs(got - wrong) < 0.006), "")


@exercise(
    "forward_pass.weighted", "which sum is smallest? Write its derivative by α_j, set it to 0."
)
def weighted(answer: Callable, generator: Generator) -> None:
    """Expect weighted_fit(x, y, weights, degree): parameters (degree + 1,) of the weighted fit."""
    rng = numpy_rng(generator)
    for N, degree in [(3, 1), (9, 2), (20, 3), (8, 0)]:
        x, y, weights = rng.uniform(-1, 1, N), rng.normal(size=N), rng.uniform(0.1, 5, N)
        if N == 9:
            y[4], weights[4] = 1000.0, 0.0
        case = f"{N} photos, degree {degree}" + ", one of weight 0" * (N == 9)
        X = powers(x, degree)
        root = np.sqrt(weights)
        expected = least_squares(X * root[:, None], y * root)
        got = call(answer, x, y, weights, degree, case=case)
        slips = {
            "The weights have no effect.": least_squares(X, y),
            "The weights are squared here: the loss multiplies r² by w, so r itself by √w only.": (
                least_squares(X * weights[:, None], y * weights)
            ),
            "The highest power comes first; parameter j should belong to x^j.": expected[::-1],
            "The targets are weighted, but the rows of X are not.": least_squares(X, y * weights),
        }
        hint = _array_slip(got, slips) or "The condition is Xᵀ (w · r) = 0."
        same_array(got, expected, case, hint, tolerance=1e-5)


def _array_slip(got: Any, slips: dict[str, np.ndarray]) -> str:
    """Return the sentence of the wrong array that `got` equals, or nothing."""
    for sentence, wrong in slips.items():
        if np.shape(got) == wrong.shape and np.allclose(got, wrong, rtol=1e-5, atol=1e-7):
            return sentence
    return ""


@exercise("forward_pass.folds", "x[f::folds] is fold number f; np.delete leaves some examples out.")
def folds(answer: Callable, generator: Generator) -> None:
    """Expect cross_validate(x, y, degree, folds): the mean of the folds' validation losses."""
    rng = numpy_rng(generator)
    for N, degree, count in [(12, 2, 4), (11, 1, 3), (7, 0, 7), (10, 3, 2), (14, 2, 4)]:
        x, y = rng.uniform(-1, 1, N), rng.normal(size=N)
        if N == 14:
            x[1], x[6] = x[0], x[3]  # in different folds
        case = f"{N} examples{', some of one x' if N == 14 else ''}, degree {degree}, {count} folds"
        got = call(answer, x, y, degree, count, case=case)
        which = np.arange(N) % count
        parts = [_fold_losses(x, y, degree, which == f) for f in range(count)]
        validation, training, leaky, swapped = np.mean(parts, axis=0)
        pooled = np.average([p[0] for p in parts], weights=np.bincount(which))
        blocks = np.sort(which)
        by_blocks = np.mean([_fold_losses(x, y, degree, blocks == f)[0] for f in range(count)])
        alike = [np.isin(x, x[which == f]) for f in range(count)]
        by_value = np.mean([_fold_losses(x, y, degree, held)[0] for held in alike])
        slips = {
            "This is the loss on the examples that chose the parameters; measure on the fold.": (
                training
            ),
            "The fold helped to choose the parameters; it must be left out.": leaky,
            "Trained on the fold, measured on the rest; it is the other way round.": swapped,
            "Every fold counts once, whatever its size: average the folds' losses.": pooled,
            "These folds are blocks of neighbors; fold f holds f, f + folds, f + 2 folds ...": (
                by_blocks
            ),
            "This is the sum over the folds; take the mean.": validation * count,
            "Held out by value: two examples may share an x; hold out by position.": by_value,
        }
        hint = _array_slip(got, {s: np.asarray(w) for s, w in slips.items()})
        hint = hint or "Print the indices of the first fold and of the rest."
        require(np.shape(got) == (), f"expected one number ({case})")
        same_array(got, np.asarray(validation), case, hint, tolerance=1e-5)


def _fold_losses(x: np.ndarray, y: np.ndarray, degree: int, held: np.ndarray) -> list[float]:
    """Return the right loss of one fold, then those of the usual slips."""
    X = powers(x, degree)
    rest, everything = ~held, np.ones(len(x), dtype=bool)
    pairs = [(rest, held), (rest, rest), (everything, held), (held, rest)]
    return [((X[b] @ least_squares(X[a], y[a]) - y[b]) ** 2).mean() for a, b in pairs]


PENALTY = 0.1  # of exercise 4: it keeps parameters small, so the scale of the inputs matters


@exercise("forward_pass.repair", "follow one validation example: by which numbers is it scaled?")
def repair(answer: Callable, generator: Generator) -> None:
    """Expect (training loss, validation loss) of a polynomial fitted on the training set."""
    rng = numpy_rng(generator)
    for n_train, n_valid, degree in [(8, 5, 2), (12, 12, 1), (9, 3, 3), (5, 7, 0)]:
        x_train, x_valid = rng.uniform(0, 2, n_train), rng.uniform(0, 2, n_valid)
        y_train, y_valid = np.sin(3 * x_train), np.sin(3 * x_valid) + 0.2
        data = x_train, y_train, x_valid, y_valid
        case = f"{n_train} training and {n_valid} validation examples, degree {degree}"
        got = call(answer, *data, degree, case=case)
        is_pair = isinstance(got, tuple | list) and len(got) == 2
        require(is_pair, "expected a pair: training loss, validation loss")
        slips = {
            "The validation examples helped to choose the parameters: a leak.": {"leak": True},
            "The validation inputs must be shifted and scaled by the TRAINING mean and std.": {
                "scale": "own"
            },
            "Mean and std come from both sets together: validation has leaked into them.": {
                "scale": "both"
            },
            "Mean and std come from the validation set; take the TRAINING set's.": {
                "scale": "valid"
            },
            "The inputs are not shifted and scaled.": {"scale": "none"},
            "The penalty is missing.": {"penalty": 0.0},
            "A polynomial of degree n has n + 1 parameters.": {"off": 1},
            "The validation loss is a mean over the validation examples.": {"wrong_n": True},
        }
        losses = {sentence: _scores(*data, degree, **fault) for sentence, fault in slips.items()}
        hint = _array_slip(np.asarray(got, dtype=float), losses)
        hint = hint or "More than one fault may be left; read it line by line."
        for name, number, right in zip(
            ("training", "validation"), got, _scores(*data, degree), strict=True
        ):
            same_array(number, right, f"{name} loss, {case}", hint, tolerance=1e-5)


def _scores(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_valid: np.ndarray,
    y_valid: np.ndarray,
    degree: int,
    leak: bool = False,
    scale: str = "train",
    off: int = 0,
    wrong_n: bool = False,
    penalty: float = PENALTY,
) -> np.ndarray:
    """The repaired function; the options plant one of the faults each."""
    both = np.concatenate([x_train, x_valid])
    by = {"train": (x_train, x_train), "own": (x_train, x_valid), "both": (both, both)}
    by |= {"valid": (x_valid, x_valid), "none": (np.array([-1.0, 1]), np.array([-1.0, 1]))}
    X, V = (
        powers((x - scale_by.mean()) / scale_by.std(), degree)[:, : degree + 1 - off]
        for x, scale_by in zip((x_train, x_valid), by[scale], strict=True)
    )
    rows, targets = (
        (np.concatenate([X, V]), np.concatenate([y_train, y_valid])) if leak else (X, y_train)
    )
    alpha = np.linalg.lstsq(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ targets)[0]
    squares = (V @ alpha - y_valid) ** 2
    validation = squares.sum() / (len(y_train) if wrong_n else len(y_valid))
    return np.array([((X @ alpha - y_train) ** 2).mean(), validation])


@exercise(
    "forward_pass.outlier", "try 3001 constants from 0 to 30, and keep the best of each loss."
)
def outlier(answer: Any, generator: Generator) -> None:
    """Expect the best constants under two losses, before and after one misread photo, and why."""
    names = {"squared_before", "squared_after", "absolute_before", "absolute_after", "why"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    misread = np.where(HEIGHTS == 2.52, 25.2, HEIGHTS)
    for when, heights in (("before", HEIGHTS), ("after", misread)):
        low, high = np.sort(heights)[5:7]  # between the two middle ones all are equally good
        middle, half = (low + high) / 2, (high - low) / 2
        hint = "Minimize the mean of (constant - height)² over the twelve heights."
        same_number(answer[f"squared_{when}"], heights.mean(), f"squared_{when}", hint, 0.03)
        hint = (
            "Minimize the mean of |constant - height|; each value between the two middle heights "
            "is equally good."
        )
        same_number(answer[f"absolute_{when}"], middle, f"absolute_{when}", hint, half + 0.03)
    require(
        answer["why"] == "b",
        "the explanation does not fit: with squares, what does one residual of 20 cost, compared "
        "with twelve residuals of 2?",
    )


BALCONY_NOISE = 0.5  # °C


def balcony(seed: int | np.random.Generator = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return hours (168,) and temperatures in °C (168,) of one week on a balcony."""
    rng = np.random.default_rng(seed)
    hours = np.arange(168.0)
    day = hours * 2 * np.pi / 24
    phases = rng.uniform(0, 2 * np.pi, 2)
    waves = rng.uniform(4, 7) * np.sin(day + phases[0])
    waves += rng.uniform(1.5, 3) * np.sin(2 * day + phases[1])
    trend = rng.uniform(5, 20) + rng.choice([-1, 1]) * rng.uniform(0.03, 0.06) * hours
    return hours, waves + trend + rng.normal(0, BALCONY_NOISE, 168)


@exercise("forward_pass.features", "what comes back every 24 hours? np.sin and np.cos may help.")
def features(answer: Callable, generator: Generator) -> None:
    """Expect features(hours): at most 8 columns that predict days 6 and 7 from days 1 to 5."""
    rng, losses = numpy_rng(generator), []
    for _ in range(12):
        hours, temperatures = balcony(rng)
        X, V = (call(answer, part, case="one week") for part in (hours[:120], hours[120:]))
        for name, got, rows in (("the first 120 hours", X, 120), ("the last 48 hours", V, 48)):
            is_table = isinstance(got, np.ndarray) and got.ndim == 2 and len(got) == rows
            require(is_table, f"expected an array of {rows} rows, one for each hour, for {name}")
            require(
                np.isfinite(got).all(), f"the columns hold numbers that are not finite ({name})"
            )
        require(X.shape[1] == V.shape[1], "the number of columns depends on the hours")
        require(1 <= X.shape[1] <= 8, f"{X.shape[1]} columns; at most 8 are allowed")
        alpha = least_squares(X, temperatures[:120])
        losses.append(((V @ alpha - temperatures[120:]) ** 2).mean())
    ratio = np.mean(losses) / BALCONY_NOISE**2
    require(
        ratio < 1.5,
        f"the loss on the two days that were kept back is {ratio:.3g} times the floor; the aim is "
        f"below 1.5. Draw prediction and truth for those days: what does the truth do that no sum "
        f"of your columns can do?",
    )
