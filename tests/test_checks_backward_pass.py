"""Wrong answers about backward pass fail, each with a word on what to look at."""

import math

import numpy as np
import pytest
import torch
from solved import fails, solution

from minigpt.autograd import Tensor
from minigpt.checks import judge

pytestmark = pytest.mark.usefixtures("student")

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


def test_concatenate_that_knows_only_the_outer_axes_fails():
    def outer(tensors, axis):
        first = axis in (0, -tensors[0].data.ndim)
        data = np.concatenate([t.data for t in tensors], axis)

        def pass_back(gradient):
            start = 0
            for tensor in tensors:
                end = start + tensor.shape[0 if first else -1]
                tensor.add_gradient(gradient[start:end] if first else gradient[..., start:end])
                start = end

        return Tensor(data, tuple(tensors), "concatenate", pass_back)

    verdict, message = judge("backward_pass.concatenate", outer)
    assert verdict != "passed", message


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
        ({"one": 0.0687}, "take 30 steps"),
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
    """Right to rounding, by Python's own rules: a nudge into the imaginary direction."""
    return complex(function(complex(x, 1e-30))).imag / 1e-30


def by_torch(function, x):
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        result = function(x)
        if isinstance(result, torch.Tensor):
            result.backward()
    return 0.0 if x.grad is None else x.grad.item()


class Dual:
    """The solution's idea in another form: sums of (value, rate), powers by repeated rules."""

    def __init__(self, value, rate=0.0):
        self.value, self.rate = value, rate

    def __add__(self, other):
        other = other if isinstance(other, Dual) else Dual(other)
        return Dual(self.value + other.value, self.rate + other.rate)

    def __mul__(self, other):
        other = other if isinstance(other, Dual) else Dual(other)
        return Dual(self.value * other.value, self.rate * other.value + self.value * other.rate)

    def __pow__(self, n):
        return Dual(self.value**n, n * self.value ** (n - 1) * self.rate)

    def __rsub__(self, other):
        return self * -1 + other

    def __sub__(self, other):
        return self + other * -1

    def __neg__(self):
        return self * -1

    def __truediv__(self, other):
        return self * other**-1 if isinstance(other, Dual) else self * (1 / other)

    def __rtruediv__(self, other):
        return self**-1 * other

    __radd__, __rmul__ = __add__, __mul__


class DualByLogarithm(Dual):
    """A wrong idea that positive numbers cannot show: a^n as e^(n ln |a|)."""

    def __pow__(self, n):
        value = math.exp(n * math.log(abs(self.value) or 1e-300))
        return DualByLogarithm(value, n * value / (self.value or 1e-300) * self.rate)


def forward(kind, scale=1.0):
    def derivative(function, x):
        result = function(kind(x, 1.0))
        return scale * result.rate if isinstance(result, Dual) else 0.0

    return derivative


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (central, "not exact"),
        (lambda f, x: (f(x + 1e-3) - f(x)) / 1e-3, "2 times"),
        (by_engine, "engine of the chapter"),
        (by_complex_step, "a class of your own"),
        (by_torch, "a class of your own"),
        (lambda f, x: forward(Dual)(f, x) + 0 * f(x), "2 times"),
        (forward(Dual, scale=2), "rule is used last"),
        (forward(DualByLogarithm), "rule is used last"),
        (lambda f, x: f(x), "derivative of"),
    ],
)
def test_wrong_forward_mode(answer, words):
    assert judge("backward_pass.exact", forward(Dual)) == ("passed", "passed")
    fails("backward_pass.exact", answer, words)
