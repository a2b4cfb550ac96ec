"""Wrong answers about forward pass fail, each with a word on what to look at."""

import numpy as np
import pytest
from solved import fails, solution

from minigpt.checks import judge
from minigpt.checks.forward_pass import HEIGHTS, balcony, least_squares, powers

pytestmark = pytest.mark.usefixtures("student")

BY_HAND = {"predictions": [1, 3, 5, 7], "loss": 0.75, "best_a0": 1.25, "best_loss": 0.6875}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"predictions": [2, 3, 5, 7]}, "prediction 0"),
        ({"predictions": [1, 3, 5]}, "four numbers"),
        ({"predictions": ["1", 3, 5, 7]}, "should be a number"),
        ({"loss": 3}, "sum of the squares"),
        ({"loss": -0.25}, "without squares"),
        ({"loss": 0.866}, "loss is 0.866"),
        ({"best_a0": 0.75}, "wrong way"),
        ({"best_a0": 4.25}, "mean of the targets"),
        ({"best_loss": 0.75}, "with the new"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_by_hand(change, words):
    assert judge("forward_pass.by_hand", BY_HAND) == ("passed", "passed")
    fails("forward_pass.by_hand", BY_HAND | change, words)


def spoil_weights(x, y, weights, degree):
    weights /= weights.max()
    return weighted(x, y, weights, degree)


def weighted(x, y, weights, degree):
    root = np.sqrt(weights)
    return least_squares(powers(x, degree) * root[:, None], y * root)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, y, w, d: least_squares(powers(x, d), y), "no effect"),
        (lambda x, y, w, d: weighted(x, y, w**2, d), "squared here"),
        (lambda x, y, w, d: weighted(x, y, w, d)[::-1], "highest power"),
        (lambda x, y, w, d: least_squares(powers(x, d), y * w), "rows of X are not"),
        (lambda x, y, w, d: weighted(x, y, w, d + 1), "shape"),
        (lambda x, y, w, d: weighted(x, y, 1 / (w + 1e-9), d), "condition"),
        (lambda x, y, w, d: weighted(x, y, w, d).tolist(), "expected an array"),
        (lambda x, y, w, d: weighted(x, y, w, d) * np.nan, "NaN"),
        (spoil_weights, "changed in place"),
    ],
)
def test_wrong_weighted_fit(answer, words):
    assert judge("forward_pass.weighted", weighted)[0] == "passed"
    fails("forward_pass.weighted", answer, words)


def folds(x, y, degree, count, which=None, train="rest", average=np.mean):
    which = np.arange(len(x)) % count if which is None else which(len(x), count)
    losses, sizes = [], []
    for f in range(count):
        held = which == f
        sets = {
            "rest": (~held, held),
            "all": (held | True, held),
            "self": (~held, ~held),
            "swap": (held, ~held),
        }
        a, b = sets[train]
        alpha = least_squares(powers(x[a], degree), y[a])
        losses.append(((powers(x[b], degree) @ alpha - y[b]) ** 2).mean())
        sizes.append(held.sum())
    return np.average(losses, weights=sizes) if average == "pooled" else average(losses)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": "all"}, "must be left out"),
        ({"train": "self"}, "measure on the fold"),
        ({"train": "swap"}, "other way round"),
        ({"average": np.sum}, "sum over the folds"),
        ({"average": np.max}, "indices"),
        ({"average": "pooled"}, "Every fold counts once"),
        ({"which": lambda n, k: np.sort(np.arange(n) % k)}, "blocks"),
        ({"average": np.array}, "one number"),
    ],
)
def test_wrong_cross_validation(options, words):
    assert judge("forward_pass.folds", folds)[0] == "passed"
    fails("forward_pass.folds", lambda *a: folds(*a, **options), words)


def test_folds_by_value_fail():
    """A wrong idea that inputs without equal x cannot show."""

    def by_value(x, y, degree, count):
        losses = []
        for f in range(count):
            held = np.isin(x, x[f::count])
            alpha = least_squares(powers(x[~held], degree), y[~held])
            losses.append(((powers(x[held], degree) @ alpha - y[held]) ** 2).mean())
        return np.mean(losses)

    fails("forward_pass.folds", by_value, "hold out by position")


def scores(xt, yt, xv, yv, degree, own=False, off=0, leak=False, n=None, by=None, penalty=0.1):
    both = np.r_[xt, xv]
    by_train, by_valid = by(xt, xv, both) if by else (xt, xv if own else xt)
    X = powers((xt - by_train.mean()) / by_train.std(), degree)[:, : degree + 1 - off]
    V = powers((xv - by_valid.mean()) / by_valid.std(), degree)[:, : degree + 1 - off]
    rows, targets = (np.r_[X, V], np.r_[yt, yv]) if leak else (X, yt)
    squares = rows.T @ rows + penalty * np.eye(rows.shape[1])
    alpha = np.linalg.lstsq(squares, rows.T @ targets, rcond=None)[0]
    count = len(yt) if n else len(yv)
    return ((X @ alpha - yt) ** 2).mean(), ((V @ alpha - yv) ** 2).sum() / count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"own": True}, "TRAINING mean"),
        ({"off": 1}, "n + 1 parameters"),
        ({"leak": True}, "a leak"),
        ({"n": True}, "mean over the validation"),
        ({"by": lambda train, valid, both: (both, both)}, "leaked into them"),
        ({"by": lambda train, valid, both: (valid, valid)}, "from the validation set"),
        ({"by": lambda *sets: (np.array([-1.0, 1]),) * 2}, "not shifted and scaled"),
        ({"penalty": 0.0}, "penalty is missing"),
        ({"leak": True, "own": True}, "More than one fault"),
    ],
)
def test_each_fault_left_in_the_repair_is_named(options, words):
    assert judge("forward_pass.repair", scores)[0] == "passed"
    fails("forward_pass.repair", lambda *a: scores(*a, **options), words)


def test_the_planted_function_fails_as_it_is():
    fails("forward_pass.repair", solution("forward_pass.repair").names["broken"], "More than one")
    fails("forward_pass.repair", lambda *a: scores(*a)[0], "expected a pair")


OUTLIER = {
    "squared_before": 3.21,
    "squared_after": 5.1,
    "absolute_before": 3.6,
    "absolute_after": 3.8,
    "why": "b",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"squared_after": 3.21}, "squared_after"),
        ({"squared_before": np.median(HEIGHTS).item()}, "(constant - height)²"),
        ({"absolute_after": 5.1}, "|constant - height|"),
        ({"absolute_before": 3.21}, "two middle heights"),
        ({"why": "a"}, "explanation"),
        ({"why": "c"}, "explanation"),
        ({"why": "d"}, "explanation"),
    ],
)
def test_wrong_outlier(change, words):
    for absolute in (3.53, 3.6, 3.65):
        assert judge("forward_pass.outlier", OUTLIER | {"absolute_before": absolute})[0] == "passed"
    fails("forward_pass.outlier", OUTLIER | change, words)


def waves(hours, period=24.0, turns=(1, 2), trend=True):
    angles = [2 * np.pi * t * hours / period for t in turns]
    columns = [f(a) for a in angles for f in (np.sin, np.cos)] + [hours] * trend
    return np.stack([np.ones_like(hours), *columns], axis=1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda h: powers((h - 84) / 84, 7), "times the floor"),
        (lambda h: waves(h, trend=False), "times the floor"),
        (lambda h: waves(h, turns=(1,)), "no sum of your columns"),
        (lambda h: waves(h, period=12), "times the floor"),
        (lambda h: waves(h, turns=(1, 2, 3, 4)), "10 columns"),
        (lambda h: waves(h)[:50], "120 rows"),
        (lambda h: waves(h)[:, : 5 + (h[0] == 0)], "depends on the hours"),
        (lambda h: waves(h) / 0 if h[0] else waves(h), "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_wrong_features(answer, words):
    fails("forward_pass.features", answer, words)


def test_other_features_pass_as_well():
    assert judge("forward_pass.features", waves)[0] == "passed"
    three = judge("forward_pass.features", lambda h: waves(h, turns=(1, 2, 3)))
    assert three == ("passed", "passed")
    hours, temperatures = balcony(0)
    assert hours.shape == temperatures.shape == (168,)
    assert np.array_equal(balcony(0)[1], temperatures)
    assert not np.array_equal(balcony(1)[1], temperatures)
