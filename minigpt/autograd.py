"""Reverse-mode differentiation on numpy arrays: a `Tensor` remembers how it was computed.

Each operator stands beside the function that passes a gradient back through it; `backward` walks
from a loss to everything it was computed from. All numbers are float64. Knows nothing of layers,
optimizers or devices.

Source: Baydin et al. 2018, "Automatic Differentiation in Machine Learning: a Survey", section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Axis = int | tuple[int, ...] | None


class Tensor:
    """Hold an array, its gradient, and the tensors (parents) that it was computed from.

    `grad` has the shape of `data`: how much the loss changes per change of each number. It starts
    at 0, and every `backward` adds to it. The array is shared with the caller, never changed.
    """

    # numpy asks the left side of `array * tensor` first; None makes it leave the answer to Tensor.
    __array_ufunc__ = None

    def __init__(
        self,
        data: ArrayLike,
        parents: tuple[Tensor, ...] = (),
        op: str = "",
        pass_back: Callable[[np.ndarray], None] = lambda gradient: None,
    ):
        self.data = np.asarray(data, dtype=float)
        self.grad = np.zeros_like(self.data)
        self.parents = parents
        self.op = op
        self.pass_back = pass_back  # takes this tensor's gradient, adds to its parents' gradients

    def add_gradient(self, gradient: np.ndarray) -> None:
        """Add a gradient: whoever is used twice is changed through both uses."""
        self.grad += unbroadcast(gradient, self.shape)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = np.zeros_like(self.data)

    def backward(self) -> None:
        """Add d self / d x to the `grad` of every tensor x that self was computed from."""
        assert self.data.size == 1, f"backward starts at one number, not at shape {self.shape}"
        order = topological_order(self)
        for node in order:
            if node.parents:
                node.zero_grad()  # results start anew; inputs and parameters keep what they have
        self.add_gradient(np.ones_like(self.data))
        for node in reversed(order):
            node.pass_back(node.grad)

    # Operators of two tensors

    def __add__(self, other: Tensor | ArrayLike) -> Tensor:
        """Add; d(a + b) = da + db."""
        other = as_tensor(other)

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient)
            other.add_gradient(gradient)

        return Tensor(self.data + other.data, (self, other), "+", pass_back)

    def __mul__(self, other: Tensor | ArrayLike) -> Tensor:
        """Multiply number by number; d(a b) = b da + a db."""
        other = as_tensor(other)

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient * other.data)
            other.add_gradient(gradient * self.data)

        return Tensor(self.data * other.data, (self, other), "*", pass_back)

    def __sub__(self, other: Tensor | ArrayLike) -> Tensor:
        """Subtract; d(a - b) = da - db."""
        other = as_tensor(other)

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient)
            other.add_gradient(-gradient)

        return Tensor(self.data - other.data, (self, other), "-", pass_back)

    def __truediv__(self, other: Tensor | ArrayLike) -> Tensor:
        """Divide number by number; d(a / b) = da / b - a db / b²."""
        other = as_tensor(other)

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient / other.data)
            other.add_gradient(-gradient * self.data / other.data**2)

        return Tensor(self.data / other.data, (self, other), "/", pass_back)

    def __matmul__(self, other: Tensor | ArrayLike) -> Tensor:
        """Multiply matrices, (..., n, k) @ (..., k, m) -> (..., n, m)."""
        other = as_tensor(other)
        assert self.data.ndim > 1 < other.data.ndim, f"@ of matrices, not {self.shape, other.shape}"

        def pass_back(gradient: np.ndarray) -> None:  # (..., n, m)
            self.add_gradient(gradient @ other.data.swapaxes(-1, -2))  # (..., n, k)
            other.add_gradient(self.data.swapaxes(-1, -2) @ gradient)  # (..., k, m)

        return Tensor(self.data @ other.data, (self, other), "@", pass_back)

    # Functions of one tensor, number by number

    def __pow__(self, exponent: float) -> Tensor:
        """Raise to a fixed power; d(a^n) = n a^(n-1) da."""
        assert isinstance(exponent, int | float), "the exponent is a plain number"

        def pass_back(gradient: np.ndarray) -> None:
            if exponent != 0:  # a^0 is 1 everywhere, also at 0, where the formula has 0 * 0^-1
                self.add_gradient(gradient * exponent * self.data ** (exponent - 1))

        return Tensor(self.data**exponent, (self,), f"**{exponent}", pass_back)

    def exp(self) -> Tensor:
        """Return e^a; d(e^a) = e^a da."""
        result = np.exp(self.data)

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient * result)

        return Tensor(result, (self,), "exp", pass_back)

    def log(self) -> Tensor:
        """Return the natural logarithm; d(ln a) = da / a."""

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient / self.data)

        return Tensor(np.log(self.data), (self,), "log", pass_back)

    def tanh(self) -> Tensor:
        """Squash into -1 to 1; d(tanh a) = (1 - tanh² a) da."""
        result = np.tanh(self.data)

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient * (1 - result**2))

        return Tensor(result, (self,), "tanh", pass_back)

    def relu(self) -> Tensor:
        """Replace what is negative by 0; the gradient passes where a > 0."""

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient * (self.data > 0))

        return Tensor(np.maximum(self.data, 0), (self,), "relu", pass_back)

    # Functions that change the shape

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Sum along an axis, or over all; each summand gets the whole gradient of its sum."""
        total = self.data.sum(axis, keepdims=True)

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(np.broadcast_to(gradient.reshape(total.shape), self.shape))

        return Tensor(total if keepdims else total.squeeze(axis), (self,), "sum", pass_back)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Take the largest along an axis, or of all; it alone gets the gradient (equals share)."""
        largest = self.data.max(axis, keepdims=True)

        def pass_back(gradient: np.ndarray) -> None:
            winners = self.data == largest
            share = winners / winners.sum(axis, keepdims=True)
            self.add_gradient(gradient.reshape(largest.shape) * share)

        return Tensor(largest if keepdims else largest.squeeze(axis), (self,), "max", pass_back)

    def reshape(self, *shape: int) -> Tensor:
        """Put the same numbers, in the same order, into another shape."""

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient.reshape(self.shape))

        return Tensor(self.data.reshape(*shape), (self,), "reshape", pass_back)

    def transpose(self, *axes: int) -> Tensor:
        """Reorder the axes (without arguments: turn them round, as rows and columns)."""
        order = [axis % self.data.ndim for axis in axes or range(self.data.ndim)[::-1]]

        def pass_back(gradient: np.ndarray) -> None:
            self.add_gradient(gradient.transpose(np.argsort(order)))  # argsort undoes the order

        return Tensor(self.data.transpose(order), (self,), "transpose", pass_back)

    def __getitem__(self, index: Any) -> Tensor:
        """Take elements by any numpy index; one that is taken twice gets both gradients."""

        def pass_back(gradient: np.ndarray) -> None:
            scattered = np.zeros_like(self.data)
            np.add.at(scattered, index, gradient)  # `scattered[index] += ` would count it once
            self.add_gradient(scattered)

        return Tensor(self.data[index], (self,), "[]", pass_back)

    # What the operators above already give

    def __neg__(self) -> Tensor:
        return self * -1

    def __radd__(self, other: ArrayLike) -> Tensor:
        return as_tensor(other) + self

    def __rsub__(self, other: ArrayLike) -> Tensor:
        return as_tensor(other) - self

    def __rmul__(self, other: ArrayLike) -> Tensor:
        return as_tensor(other) * self

    def __rtruediv__(self, other: ArrayLike) -> Tensor:
        return as_tensor(other) / self

    def __rmatmul__(self, other: ArrayLike) -> Tensor:
        return as_tensor(other) @ self

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Average along an axis, or over all."""
        total = self.sum(axis, keepdims)
        return total / (self.data.size / total.data.size)

    @property
    def T(self) -> Tensor:
        """Swap rows and columns."""
        return self.transpose()

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of the array."""
        return self.data.shape

    def item(self) -> float:
        """Return the only number as a Python float."""
        return self.data.item()

    def __repr__(self) -> str:
        return f"Tensor({np.array2string(self.data, prefix='Tensor(', separator=', ')})"


def as_tensor(value: Tensor | ArrayLike) -> Tensor:
    """Return a tensor as it is, and anything else as a constant."""
    return value if isinstance(value, Tensor) else Tensor(value)


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo broadcasting: sum a gradient over every axis along which `shape` was repeated.

    >>> unbroadcast(np.ones((4, 3)), (3,))
    array([4., 4., 4.])
    """
    if gradient.shape == shape:
        return gradient
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))  # axes added in front
    repeated = tuple(axis for axis, length in enumerate(shape) if length == 1)
    return gradient.sum(axis=repeated, keepdims=True)


def topological_order(root: Tensor) -> list[Tensor]:
    """List everything that root was computed from, parents before children, root last.

    A stack instead of recursion: a long computation would exceed Python's limit of nested calls.
    """
    order, seen, stack = [], set(), [(root, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(parent, False) for parent in node.parents]
    return order


def numeric_gradient(
    function: Callable[[], Tensor], tensor: Tensor, step: float = 1e-6
) -> np.ndarray:
    """Estimate d function() / d tensor by central differences: nudge each number up and down.

    function takes no argument, uses `tensor`, and returns a Tensor of one number. The error is of
    the order of step² and, from rounding, of 1e-16 / step.
    """
    original, gradient = tensor.data, np.zeros_like(tensor.data)
    for place in np.ndindex(original.shape):
        results = []
        for nudge in (step, -step):
            tensor.data = original.copy()
            tensor.data[place] += nudge
            results.append(function().item())
        gradient[place] = (results[0] - results[1]) / (2 * step)
    tensor.data = original
    return gradient


def check_gradients(
    function: Callable[[], Tensor], tensors: Sequence[Tensor], tolerance: float = 1e-5
) -> None:
    """Assert that `backward` and central differences agree for every tensor.

    The difference may be `tolerance` times the largest gradient (or times 1, if that is larger).
    """
    for tensor in tensors:
        tensor.zero_grad()
    function().backward()
    for number, tensor in enumerate(tensors):
        expected = numeric_gradient(function, tensor)
        error = np.abs(tensor.grad - expected).max(initial=0)
        limit = tolerance * max(1, np.abs(expected).max(initial=0))
        assert error <= limit, f"tensor {number}: backward and differences are {error:.2g} apart"
