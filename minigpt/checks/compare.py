"""What all checks share: call an answer without trusting it, and compare it with what is right."""

import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Wrong(Exception):
    """An answer is wrong; the message says what to look at."""


def require(condition: object, message: str) -> None:
    """Raise Wrong with the message unless the condition holds."""
    if not condition:
        raise Wrong(message)


def call(answer: Callable, *inputs: Any, case: str) -> Any:
    """Call the answer on copies of the inputs; raise Wrong where it changed one of them."""
    require(callable(answer), f"expected a function, got {type(answer).__name__}")
    copies = [_copy(each) for each in inputs]
    result = answer(*copies)
    for number, (before, after) in enumerate(zip(inputs, copies, strict=True), 1):
        if isinstance(before, Tensor | np.ndarray):
            same = before.shape == after.shape and (before == after).all()
            kind = "tensor" if isinstance(before, Tensor) else "array"
            require(same, f"input {number} was changed in place ({case}); work on a new {kind}")
    require(result is not None, f"the function returned None ({case}); is a return missing?")
    return result


def _copy(value: Any) -> Any:
    """Return a tensor or an array that may be changed; anything else as it is."""
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def same_array(
    got: Any, expected: np.ndarray, case: str, look_at: str, tolerance: float = 1e-6
) -> None:
    """Require a numpy array (or number) of the same shape and values, as `same_tensor` does."""
    kinds = np.ndarray | np.generic | int | float
    require(isinstance(got, kinds), f"expected an array, got {type(got).__name__} ({case})")
    got = np.asarray(got)
    require(got.dtype.kind in "fiu", f"the array holds {got.dtype}, expected numbers ({case})")
    values = torch.from_numpy(got.astype(float))
    same_tensor(values, torch.from_numpy(np.array(expected, dtype=float)), case, look_at, tolerance)


def numpy_rng(generator: torch.Generator) -> np.random.Generator:
    """Return a numpy source of random numbers that is seeded by a torch one."""
    return np.random.default_rng(integers(generator, 0, 2**31 - 2)[0])


def same_tensor(
    got: Any, expected: Tensor, case: str, look_at: str, tolerance: float = 1e-4
) -> None:
    """Require a tensor of the same shape, kind and values; name the first place that differs."""
    require(isinstance(got, Tensor), f"expected a tensor, got {type(got).__name__} ({case})")
    require(
        got.shape == expected.shape,
        f"the shape is {tuple(got.shape)}, expected {tuple(expected.shape)} ({case})",
    )
    require(
        got.dtype == expected.dtype, f"the dtype is {got.dtype}, expected {expected.dtype} ({case})"
    )
    require(
        not got.is_floating_point() or not got.isnan().any(),
        f"the result holds NaN ({case}): a row of softmax with nothing but -inf, or inf - inf?",
    )
    close = got == expected
    if got.is_floating_point():
        near = (got - expected).abs() <= tolerance * (1 + expected.abs())
        close |= near & expected.isfinite()  # everything is within an infinite distance
    if not close.all():
        place = tuple((~close).nonzero()[0].tolist())
        values = f"is {_show(got[place])}, expected {_show(expected[place])}"
        index = f"[{', '.join(map(str, place))}] " if place else ""
        raise Wrong(f"the value {index}{values} ({case}). {look_at}")


def same_number(got: Any, expected: float, name: str, look_at: str, slack: float) -> None:
    """Require a finite number within the slack of what is right."""
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    require(
        isinstance(got, int | float) and not isinstance(got, bool),
        f"{name} should be a number, got {got!r}",
    )
    require(abs(got - expected) <= slack, f"{name} is {got:.4g}, which is not right. {look_at}")


def same_results(
    answer: Any,
    expected: dict[str, Any],
    hint: Callable[[str, Any], str],
    slack: float = 0.01,
    list_slack: float = 0.006,
    each: str = "number",
    first: int = 1,
) -> None:
    """Require a dict of results by name: numbers, lists of numbers, and letters that choose.

    hint(name, what was written) says what to look at. The places of a list are called `each` and
    counted from `first`.
    """
    named = isinstance(answer, dict) and set(answer) == set(expected)
    require(named, f"expected a dict of {sorted(expected)}")
    for name, right in expected.items():
        got = answer[name]
        if isinstance(right, str):
            require(got == right, f"{name} is {got!r}. {hint(name, got)}")
            continue
        if not isinstance(right, list):
            same_number(got, right, name, hint(name, got), slack)
            continue
        fits = isinstance(got, tuple | list) and len(got) == len(right)
        require(fits, f"{name} should be a list of {len(right)} numbers, got {got!r}")
        for place, pair in enumerate(zip(got, right, strict=True), first):
            same_number(*pair, f"{name}, {each} {place},", hint(name, got), list_slack)


def number_slip(got: Any, slips: dict[float, str], near: float = 0.006) -> str:
    """Return the sentence of the wrong number that `got` equals, or nothing."""
    if isinstance(got, int | float) and not isinstance(got, bool):
        return next((s for wrong, s in slips.items() if abs(got - wrong) < near), "")
    return ""


def array_slip(got: Any, slips: dict[str, np.ndarray]) -> str:
    """Return the sentence of the wrong array that `got` equals, or nothing."""
    for sentence, wrong in slips.items():
        if np.shape(got) == np.shape(wrong) and np.allclose(got, wrong, rtol=1e-6, atol=1e-9):
            return sentence
    return ""


def slip_hint(name: str, got: Any, slips: dict[tuple[str, tuple], str]) -> str:
    """Return the hint of the slip (name, numbers) -> hint that a list shows; "" where none fits."""
    if not isinstance(got, tuple | list) or not all(isinstance(x, int | float) for x in got):
        return ""
    for (slipped, numbers), hint in slips.items():
        fits = slipped == name and len(numbers) == len(got)
        if fits and all(abs(a - b) < 0.012 for a, b in zip(got, numbers, strict=True)):
            return hint
    return ""


def integers(generator: torch.Generator, low: int, high: int, count: int = 1) -> list[int]:
    """Draw `count` whole numbers from low to high, both included."""
    return torch.randint(low, high + 1, (count,), generator=generator).tolist()


def _show(value: Tensor) -> str:
    number = value.item()
    return f"{number:.4g}" if isinstance(number, float) else str(number)


class LargestTensor(TorchFunctionMode):
    """Watch the torch calls in a `with` block: their names, and the tensors that they return.

    numbers, shape: of the largest tensor. shapes: of all. names: of the functions that were called.
    """

    def __init__(self):
        super().__init__()
        self.numbers, self.shape = 0, ()
        self.shapes: set[tuple[int, ...]] = set()
        self.names: set[str] = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run the call and measure what it returns."""
        result = function(*args, **(kwargs or {}))
        self.names.add(getattr(function, "__name__", ""))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self.shapes.add(tuple(each.shape))
                if each.numel() > self.numbers:
                    self.numbers, self.shape = each.numel(), tuple(each.shape)
        return result


class RowsThrough(TorchFunctionMode):
    """Watch how many rows a `with` block multiplies by one matrix (C, D): at once, and in all."""

    PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "mm", "linear", "einsum", "bmm", "mv")

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.matrix, self.most, self.total = matrix, 0, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run the call; count the rows of what meets the matrix."""
        tensors = [each for each in args if isinstance(each, Tensor)]
        own = [each.data_ptr() == self.matrix.data_ptr() for each in tensors]
        if getattr(function, "__name__", "") in self.PRODUCTS and any(own):
            others = [each.numel() for each, is_own in zip(tensors, own, strict=True) if not is_own]
            rows = sum(others) // self.matrix.size(0)
            self.most, self.total = max(self.most, rows), self.total + rows
        return function(*args, **(kwargs or {}))


def require_own(answer: Any, *names: str) -> None:
    """Raise Wrong where an answer's code uses what minigpt has under one of these names."""
    for used, value in _names_used(answer, set()):
        module = getattr(value, "__module__", None) or ""
        is_package = module.split(".")[0] == "minigpt" or value is None
        name = getattr(value, "__name__", used)
        require(
            not (is_package and (name in names or used in names)),
            f"your answer uses minigpt's own {name}; this exercise is to build it",
        )


def _names_used(answer: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield (name, value or None) for what a function, and the functions it calls, may use."""
    if not isinstance(answer, types.FunctionType) or id(answer) in seen:
        return
    seen.add(id(answer))
    codes = [answer.__code__]
    while codes:
        code = codes.pop()
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        for name in code.co_names:
            value = answer.__globals__.get(name)
            yield name, value
            if (getattr(value, "__module__", None) or "").split(".")[0] != "minigpt":
                yield from _names_used(value, seen)
