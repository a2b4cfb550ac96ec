"""Checks of the backward pass exercises, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Generator

from minigpt.autograd import Tensor
from minigpt.checks import exercise
from minigpt.checks.compare import array_slip, call, numpy_rng, require, same_array, same_number

# By hand: u = a b, v = u + c, L = v a. From a two roads lead to L.
HAND = {"L": 8.0, "a": -2.0, "b": 4.0, "c": 2.0}
HAND_SLIPS = {
    ("a", 4.0): "That is the road straight into the last product; a is also in u.",
    ("a", -6.0): "That is the road through u alone; a also stands in the last product.",
    ("a", -24.0): "Where roads meet, add; along a road, multiply.",
    ("b", 2.0): "That is the gradient of u; from b to u the rate is a.",
    ("c", 1.0): "That is the rate from c to v; from v to L it is a.",
}


@exercise("backward_pass.by_hand", "draw the graph first: how many roads lead from a to L?")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect L and its gradients by a, b and c."""
    require(
        isinstance(answer, dict) and set(answer) == set(HAND), f"expected a dict of {list(HAND)}"
    )
    for name, right in HAND.items():
        what = "L" if name == "L" else f"the gradient of {name}"
        is_number = isinstance(answer[name], int | float)
        hint = HAND_SLIPS.get((name, float(answer[name])), "") if is_number else ""
        hint = hint or "Write a rate at each arrow, then multiply along each road."
        same_number(answer[name], right, what, hint, 1e-6)


def _gradients(
    function: Callable, arrays: list[np.ndarray], rng: np.random.Generator, case: str
) -> tuple[Tensor, np.ndarray, list[np.ndarray]]:
    """Run an answer on tensors; return its result, the gradient sent to it, and the gradients.

    Each input has a gradient of 1 before, so an answer that overwrites instead of adding is seen.
    """
    tensors = [Tensor(array.copy()) for array in arrays]
    result = function(tensors)
    require(isinstance(result, Tensor), f"expected a Tensor, got {type(result).__name__} ({case})")
    require(
        result.parents, f"the result has no parents ({case}): Tensor(data, parents, op, pass_back)"
    )
    require(np.isfinite(result.data).all(), f"the result is not finite ({case})")
    sent = rng.normal(size=result.shape)
    for tensor in tensors:
        tensor.grad = np.ones(tensor.shape)
    (result * sent).sum().backward()
    for number, (tensor, array) in enumerate(zip(tensors, arrays, strict=True), 1):
        require(np.array_equal(tensor.data, array), f"input {number} was changed in place ({case})")
    return result, sent, [tensor.grad for tensor in tensors]


@exercise("backward_pass.sigmoid", "with s for the result, the rate is s · (1 - s).", travels=False)
def sigmoid(answer: Callable, generator: Generator) -> None:
    """Expect sigmoid(x): one operator, forward 1 / (1 + e^-x), backward s (1 - s)."""
    rng = numpy_rng(generator)
    for shape, size in [((4, 3), 1.0), ((), 2.0), ((5,), 30.0)]:
        x, case = rng.normal(size=shape) * size, f"shape {shape}, numbers of about {size:g}"
        with np.errstate(all="ignore"):
            result, sent, [got] = _gradients(
                lambda t, case=case: call(answer, t[0], case=case), [x], rng, case
            )
        s = 1 / (1 + np.exp(-x))
        same_array(result.data, s, f"forward, {case}", "The formula is 1 / (1 + e^-x).")
        one_step = len(result.parents) == 1 and not result.parents[0].parents
        require(one_step, "this is a chain of several operators; make one, with its own pass_back")
        slips = {
            "Overwritten instead of added: x had a gradient before, use add_gradient.": (
                sent * s * (1 - s)
            ),
            "The gradient that arrives is missing as a factor.": 1 + s * (1 - s),
            "The rate is taken at x; it must use the result s.": 1 + sent * x * (1 - x),
            "Only half of the rate: it is s times (1 - s).": 1 + sent * (1 - s),
            "Nothing was passed back.": np.ones(shape),
        }
        look_at = array_slip(got, slips) or "Compare with numeric_gradient."
        same_array(got, 1 + sent * s * (1 - s), f"gradient, {case}", look_at)


@exercise(
    "backward_pass.concatenate",
    "np.cumsum of the lengths says where each part ends.",
    travels=False,
)
def concatenate(answer: Callable, generator: Generator) -> None:
    """Expect concatenate(tensors, axis): put side by side; each gets its own part back."""
    rng = numpy_rng(generator)
    cases = [([(2, 3), (4, 3)], 0), ([(2, 3), (2, 1), (2, 2)], 1), ([(1, 2, 2), (1, 2, 5)], -1)]
    cases += [([(2, 1, 3), (2, 4, 3)], 1), ([(2, 3, 2, 2), (2, 1, 2, 2)], -3)]  # in the middle
    for shapes, axis in cases:
        arrays = [rng.normal(size=shape) for shape in shapes]
        case = f"shapes {', '.join(map(str, shapes))}, axis {axis}"
        result, sent, got = _gradients(
            lambda t, axis=axis, case=case: call(answer, t, axis, case=case), arrays, rng, case
        )
        look_at = "np.concatenate puts arrays side by side along an axis."
        same_array(result.data, np.concatenate(arrays, axis), f"forward, {case}", look_at)
        ends = np.cumsum([array.shape[axis] for array in arrays])[:-1]
        for number, part in enumerate(np.split(sent, ends, axis)):
            slips = {
                "Nothing was passed back to it.": np.ones(part.shape),
                ("Overwritten instead of added: use add_gradient."): part,
            }
            hint = array_slip(got[number], slips) or "Which part of the gradient belongs to it?"
            same_array(got[number], 1 + part, f"gradient of tensor {number}, {case}", hint)
    twice = Tensor(rng.normal(size=(2, 2)))
    call(answer, [twice, twice], 0, case="one tensor twice").sum().backward()
    hint = "The same tensor twice gets both parts: add, do not overwrite."
    same_array(twice.grad, np.full((2, 2), 2.0), "gradient of one tensor given twice", hint)


@exercise("backward_pass.repair", "compare each line with the rates of tanh, +, and @.")
def repair(answer: Callable, generator: Generator) -> None:
    """Expect (out, d_x, d_w, d_b) of out = tanh(x @ w + b), for the gradient that arrives."""
    rng = numpy_rng(generator)
    for N, k, m in [(4, 3, 2), (1, 2, 5), (6, 3, 3)]:
        x, w, b, arriving = (rng.normal(size=shape) for shape in [(N, k), (k, m), (m,), (N, m)])
        case = f"x {(N, k)}, w {(k, m)}"
        got = call(answer, x, w, b, arriving, case=case)
        is_four = isinstance(got, tuple | list) and len(got) == 4
        require(is_four, "expected four arrays: out, d_x, d_w, d_b")
        before = x @ w + b
        out = np.tanh(before)
        d_before = arriving * (1 - out**2)
        expected = {
            "out": out,
            "d_x": d_before @ w.T,
            "d_w": x.T @ d_before,
            "d_b": d_before.sum(0),
        }
        hints = {
            "out": "The forward pass was right.",
            "d_x": "It comes through the tanh first, then through the product with w.",
            "d_w": "It is a sum over the lines of x, not a mean.",
            "d_b": "b was used for every line: sum over the lines, and keep one entry per unit.",
        }
        wrong = arriving * (1 - before**2)
        slips = [wrong @ w.T, x.T @ wrong, wrong.sum(0), x.T @ wrong / N, wrong.sum()]
        for (name, right), value in zip(expected.items(), got, strict=True):
            through = any(array_slip(value, {"same": slip}) for slip in slips)
            hint = "The rate of tanh is 1 - tanh², of its RESULT." if through else hints[name]
            fits = np.shape(value) == right.shape
            require(fits, f"{name} has the shape {np.shape(value)}, not {right.shape}. {hint}")
            same_array(value, right, f"{name}, {case}", hint)


def _depth(weight: float, bent: bool, steps: int = 30) -> float:
    """Return d(x after `steps` steps) / d(x before) by the product of the rates, from 0.5."""
    x, product = 0.5, 1.0
    for _ in range(steps):
        x = math.tanh(weight * x) if bent else weight * x
        product *= weight * (1 - x * x) if bent else weight
    return product


@exercise("backward_pass.depth", "x = Tensor(0.5), a loop of 30 steps, then backward; read x.grad.")
def depth(answer: Any, generator: Generator) -> None:
    """Expect the gradient through 30 steps for three weights, one without tanh, and why."""
    expected = {
        "half": _depth(0.5, True),
        "one": _depth(1.0, True),
        "two": _depth(2.0, True),
        "two_without_tanh": _depth(2.0, False),
    }
    names = {*expected, "why"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    for name, right in expected.items():
        got, look_at = (
            answer[name],
            "Did you take 30 steps, and read the gradient of the FIRST x, at 0.5?",
        )
        if (
            isinstance(got, int | float)
            and name != "two_without_tanh"
            and got == _depth(2.0, False)
        ):
            look_at = "The tanh is missing in each step."
        same_number(got, right, name, look_at, 0.02 * right if right < 1 else 0.25)
    require(
        answer["why"] == "c",
        "the explanation does not fit: print x after each step with weight 2, and 1 - x² beside "
        "it. By how much does one step multiply the gradient?",
    )


FUNCTIONS: dict[str, tuple[Callable, Callable]] = {  # formula: (function, its derivative)
    "x": (lambda x: x, lambda x: 1.0),
    "7": (lambda x: 7.0, lambda x: 0.0),
    "x + x": (lambda x: x + x, lambda x: 2.0),
    "3 - x": (lambda x: 3 - x, lambda x: -1.0),
    "x - 3": (lambda x: x - 3, lambda x: 1.0),
    "2 + 5 * x": (lambda x: 2 + 5 * x, lambda x: 5.0),
    "x * x * x": (lambda x: x * x * x, lambda x: 3 * x * x),
    "x * 4 + 1": (lambda x: x * 4 + 1, lambda x: 4.0),
    "2 / x": (lambda x: 2 / x, lambda x: -2 / x**2),
    "x / 4": (lambda x: x / 4, lambda x: 0.25),
    "-x": (lambda x: -x, lambda x: -1.0),
    "x ** 5": (lambda x: x**5, lambda x: 5 * x**4),
    "x ** -2": (lambda x: x**-2, lambda x: -2 * x**-3),
    "x ** 1": (lambda x: x**1, lambda x: 1.0),
    "x * x - 2 / x": (lambda x: x * x - 2 / x, lambda x: 2 * x + 2 / x**2),
    "(x * x + 1) / (x - 4)": (
        lambda x: (x * x + 1) / (x - 4),
        lambda x: (2 * x * (x - 4) - (x * x + 1)) / (x - 4) ** 2,
    ),
    "(1 - x * (2 - x)) ** 3": (
        lambda x: (1 - x * (2 - x)) ** 3,
        lambda x: 3 * (1 - x * (2 - x)) ** 2 * (2 * x - 2),
    ),
}


AWAY_FROM_0 = {"2 / x", "x ** -2", "x * x - 2 / x"}  # formulas that divide by x


@exercise(
    "backward_pass.exact", "a number that carries its own rate along: (value, rate).", travels=False
)
def exact(answer: Callable, generator: Generator) -> None:
    """Expect derivative(function, x), exact to rounding, from one call without an engine."""
    rng = numpy_rng(generator)
    places = [(formula, sign * rng.uniform(0.5, 3)) for formula in FUNCTIONS for sign in (1, -1)]
    places += [(formula, 0.0) for formula in FUNCTIONS if formula not in AWAY_FROM_0]
    for formula, place in places:
        function, derivative = FUNCTIONS[formula]
        x, asked = float(place), []

        def counted(each: Any, function: Callable = function, asked: list = asked) -> Any:
            asked.append(each)
            return function(each)

        case = f"{formula} at x = {x:.3f}"
        got = call(answer, counted, x, case=case)
        is_engine = any(isinstance(each, Tensor) for each in asked)
        require(
            not is_engine, "that is the engine of the chapter, which walks back; go forward here"
        )
        borrowed = any(
            isinstance(each, complex) or type(each).__module__.split(".")[0] in ("numpy", "torch")
            for each in asked
        )
        require(
            not borrowed,
            "the rules of somebody else's numbers were used; write a class of your own",
        )
        right = float(derivative(x))
        look_at = f"It should be {right:.6g}. Which rule is used last in this formula?"
        same_number(got, right, f"the derivative of {case}", look_at, 1e-5 * (1 + abs(right)))
        require(
            abs(got - right) <= 1e-12 * (1 + abs(right)),
            f"close, but not exact ({case}): a nudge has an error; rules have none",
        )
        require(len(asked) == 1, f"the function was called {len(asked)} times; once is enough")
