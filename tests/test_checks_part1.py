"""Wrong answers to the exercises of Part I fail, each with a word on what to look at."""

import numpy as np
import pytest
from test_checks import settled, solution  # noqa: F401 (settled is a fixture for every test)

from minigpt.autograd import Tensor
from minigpt.checks import judge
from minigpt.checks.forward_pass import HEIGHTS, balcony, least_squares, powers


def fails(name: str, answer: object, words: str) -> None:
    """Require a verdict of failed with these words; an error of the answer itself is no verdict."""
    verdict, message = judge(name, answer)
    assert verdict == "failed", (verdict, message)
    assert words in message


# Forward pass

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


def scores(xt, yt, xv, yv, degree, own=False, off=0, leak=False, n=None):
    by = xv if own else xt
    X = powers((xt - xt.mean()) / xt.std(), degree)[:, : degree + 1 - off]
    V = powers((xv - by.mean()) / by.std(), degree)[:, : degree + 1 - off]
    rows, targets = (np.r_[X, V], np.r_[yt, yv]) if leak else (X, yt)
    alpha = least_squares(rows, targets)
    count = len(yt) if n else len(yv)
    return ((X @ alpha - yt) ** 2).mean(), ((V @ alpha - yv) ** 2).sum() / count


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"own": True}, "TRAINING mean"),
        ({"off": 1}, "n + 1 parameters"),
        ({"leak": True}, "a leak"),
        ({"n": True}, "mean over the validation"),
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
        (lambda h: waves(h, trend=False), "slow warming"),
        (lambda h: waves(h, turns=(1,)), "one plain wave"),
        (lambda h: waves(h, period=12), "daily wave"),
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


# Backward pass

GRADIENTS = {"L": 8, "a": -2, "b": 4, "c": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"a": 4}, "straight into the last product"),
        ({"a": -6}, "through u alone"),
        ({"a": -24}, "Where roads meet, add"),
        ({"b": 2}, "from b to u the rate is a"),
        ({"c": 1}, "from v to L"),
        ({"c": "2"}, "should be a number"),
        ({"L": -12}, "L is -12"),
        ({"d": 0}, "expected a dict"),
    ],
)
def test_wrong_gradients_by_hand(change, words):
    assert judge("backward_pass.by_hand", GRADIENTS) == ("passed", "passed")
    fails("backward_pass.by_hand", GRADIENTS | change, words)


def make_sigmoid(rate, overwrite=False, forward=lambda x: 1 / (1 + np.exp(-x))):
    def sigmoid(x):
        s = forward(x.data)

        def pass_back(gradient):
            if overwrite:
                x.grad = gradient * rate(x.data, s)
            else:
                x.add_gradient(rate(x.data, s) * (1 if rate.__name__ == "bare" else gradient))

        return Tensor(s, (x,), "sigmoid", pass_back)

    return sigmoid


def right_rate(x, s):
    return s * (1 - s)


def bare(x, s):
    return s * (1 - s)


def spoil_input(x):
    result = make_sigmoid(right_rate)(x)
    x.data *= 2
    return result


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (make_sigmoid(right_rate, overwrite=True), "use add_gradient"),
        (make_sigmoid(bare), "arrives is missing"),
        (make_sigmoid(lambda x, s: x * (1 - x)), "use the result s"),
        (make_sigmoid(lambda x, s: 1 - s), "Only half"),
        (make_sigmoid(lambda x, s: 1 - s * s), "numeric_gradient"),
        (make_sigmoid(right_rate, forward=np.tanh), "forward"),
        (make_sigmoid(right_rate, forward=lambda x: 1 / (1 + np.exp(x))), "1 / (1 + e^-x)"),
        (lambda x: 1 / (1 + (-x).exp()), "chain of several"),
        (lambda x: Tensor(1 / (1 + np.exp(-x.data))), "no parents"),
        (lambda x: 1 / (1 + np.exp(-x.data)), "expected a Tensor"),
        (lambda x: Tensor(1 / (1 + np.exp(-x.data)), (x,)), "Nothing was passed back"),
        (spoil_input, "changed in place"),
    ],
)
def test_wrong_sigmoid(answer, words):
    assert judge("backward_pass.sigmoid", make_sigmoid(right_rate)) == ("passed", "passed")
    fails("backward_pass.sigmoid", answer, words)


def concatenate(tensors, axis, take=None, forward_axis=None, overwrite=False, parts=None):
    ends = np.cumsum([t.shape[axis] for t in tensors])[:-1]

    def pass_back(gradient):
        pieces = np.split(gradient, ends, axis)
        for number, (tensor, piece) in enumerate(zip(tensors, pieces, strict=True)):
            if overwrite:
                tensor.grad = piece
            elif take is None or number == take:
                tensor.add_gradient(piece if parts is None else parts(piece))

    along = axis if forward_axis is None else forward_axis
    data = np.concatenate([t.data for t in tensors], along)
    return Tensor(data, tuple(tensors), "concatenate", pass_back)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"take": 0}, "Nothing was passed back to it"),
        ({"overwrite": True}, "Overwritten"),
        ({"parts": lambda piece: piece[..., ::-1]}, "Which part"),
        ({"parts": lambda piece: 2 * piece}, "Which part"),
    ],
)
def test_wrong_concatenate(options, words):
    assert judge("backward_pass.concatenate", concatenate) == ("passed", "passed")
    fails("backward_pass.concatenate", lambda *a: concatenate(*a, **options), words)


def test_wrong_concatenate_forward():
    def reversed_order(tensors, axis):
        return concatenate(tensors[::-1], axis)

    fails("backward_pass.concatenate", reversed_order, "forward")
    fails("backward_pass.concatenate", lambda t, axis: t[0], "no parents")


def layer(x, w, b, arriving, rate="out", d_x="through", d_w=1.0, axis=0):
    before = x @ w + b
    out = np.tanh(before)
    d_before = arriving * (1 - (out if rate == "out" else before) ** 2)
    first = {"through": d_before, "direct": arriving}[d_x]
    scale = len(x) if d_w == "mean" else d_w
    return out, first @ w.T, x.T @ d_before / scale, d_before.sum(axis=axis)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": "before"}, "of its RESULT"),
        ({"d_x": "direct"}, "through the tanh first"),
        ({"d_w": "mean"}, "not a mean"),
        ({"axis": None}, "one entry per unit"),
        ({"axis": 1}, "sum over the lines"),
    ],
)
def test_each_fault_left_in_the_layer_is_named(options, words):
    assert judge("backward_pass.repair", layer) == ("passed", "passed")
    fails("backward_pass.repair", lambda *a: layer(*a, **options), words)


def test_the_planted_layer_fails_as_it_is():
    fails("backward_pass.repair", solution("backward_pass.repair").names["broken"], "through")
    fails("backward_pass.repair", lambda *a: layer(*a)[1:], "four arrays")

    def in_place(x, w, b, arriving):
        x -= 1
        return layer(x + 1, w, b, arriving)

    fails("backward_pass.repair", in_place, "changed in place")


DEPTH = {
    "half": 8.582e-10,
    "one": 0.06584,
    "two": 5.646e-23,
    "two_without_tanh": 2.0**30,
    "why": "c",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"two": 2.0**30}, "tanh is missing"),
        ({"one": 0.0687}, "30 steps"),
        ({"half": 0.5}, "FIRST x"),
        ({"two": 0}, "two is 0"),
        ({"why": "a"}, "explanation"),
        ({"why": "b"}, "explanation"),
        ({"why": "d"}, "explanation"),
    ],
)
def test_wrong_depth(change, words):
    assert judge("backward_pass.depth", DEPTH) == ("passed", "passed")
    fails("backward_pass.depth", DEPTH | change, words)


def central(function, x, nudge=1e-5):
    return (function(x + nudge) - function(x - nudge)) / (2 * nudge)


def by_engine(function, x):
    x = Tensor(x)
    result = function(x)
    if isinstance(result, Tensor):
        result.backward()
    return x.grad.item()


def by_complex_step(function, x):
    """Right in exact arithmetic, and to rounding: a nudge into the imaginary direction."""
    return complex(function(complex(x, 1e-30))).imag / 1e-30


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (central, "not exact"),
        (lambda f, x: (f(x + 1e-3) - f(x)) / 1e-3, "2 times"),
        (by_engine, "engine of the chapter"),
        (lambda f, x: by_complex_step(f, x) + 0 * f(x), "2 times"),
        (lambda f, x: by_complex_step(f, x) * 2, "rule is used last"),
        (lambda f, x: f(x), "derivative of"),
    ],
)
def test_wrong_forward_mode(answer, words):
    assert judge("backward_pass.exact", by_complex_step) == ("passed", "passed")
    fails("backward_pass.exact", answer, words)
