"""Layers and losses on `autograd.Tensor`: enough for a classifier.

A layer is a plain object: call it on a Tensor, and `parameters()` lists what training may change.
All randomness comes from the numpy generator that is handed in. Knows nothing of data or training.

Shapes: N examples, V classes; `...` stands for any leading axes.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from minigpt.autograd import Tensor, as_tensor

# name: (function, gain); the gain makes up for the part of the signal that the function takes away,
# so that a deep network's activations neither fade nor blow up (He et al. 2015, section 2.2).
ACTIVATIONS = {
    "relu": (Tensor.relu, math.sqrt(2)),
    "tanh": (Tensor.tanh, 5 / 3),
    "none": (lambda x: x, 1.0),
}


class Linear:
    """Map (..., n_in) to (..., n_out): each output is a weighted sum of the inputs, and a bias."""

    def __init__(self, n_in: int, n_out: int, rng: np.random.Generator, gain: float = 1.0):
        """Draw weights of size gain / sqrt(n_in): sums of n_in terms then have size gain."""
        self.weight = Tensor(rng.normal(0, gain / math.sqrt(n_in), (n_in, n_out)))
        self.bias = Tensor(np.zeros(n_out))

    def __call__(self, x: Tensor | ArrayLike) -> Tensor:
        """Apply the layer."""
        return x @ self.weight + self.bias

    def parameters(self) -> list[Tensor]:
        """Return the weight and the bias."""
        return [self.weight, self.bias]


class Dropout:
    """Set a random share of the numbers to 0 while training, and scale the others up to make up.

    Source: Srivastava et al. 2014.
    """

    def __init__(self, share: float, rng: np.random.Generator):
        assert 0 <= share < 1, f"share = {share}: give the part to drop, from 0 to below 1"
        self.share, self.rng = share, rng

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """Drop numbers while training; change nothing otherwise."""
        if not training or self.share == 0:
            return x
        kept = self.rng.random(x.shape) >= self.share
        # Scaled up now, so that nothing need be scaled when the layer is used.
        return x * (kept / (1 - self.share))


class MLP:
    """Stack linear layers with an activation (and dropout) between each two: (..., n) -> (..., V).

    sizes: how many inputs, hidden units of each layer, and outputs. activation: relu, tanh or none.
    gain: size of the first weights; None takes the one that suits the activation.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rng: np.random.Generator,
        activation: str = "relu",
        dropout: float = 0.0,
        gain: float | None = None,
    ):
        self.activation, suitable_gain = ACTIVATIONS[activation]
        gain = suitable_gain if gain is None else gain
        self.layers = [Linear(n_in, n_out, rng, gain) for n_in, n_out in pairwise(sizes)]
        self.dropout = Dropout(dropout, rng)

    def __call__(self, x: Tensor | ArrayLike, training: bool = False) -> Tensor:
        """Return the logits; training: let dropout act."""
        x = as_tensor(x)
        # The last layer has no activation: logits may be any numbers, negative ones included.
        for layer in self.layers[:-1]:
            x = self.dropout(self.activation(layer(x)), training)
        return self.layers[-1](x)

    def parameters(self) -> list[Tensor]:
        """Return the weights and biases of all layers, first layer first."""
        return [p for layer in self.layers for p in layer.parameters()]

    def weights(self) -> list[Tensor]:
        """Return the weights alone: what an L2 penalty acts on."""
        return [layer.weight for layer in self.layers]


def log_softmax(logits: Tensor, axis: int = -1) -> Tensor:
    """Return the logarithms of the softmax, without ever forming a number too large or too small.

    Subtracting the largest logit changes no probability, and makes every exponent at most 0.
    """
    shifted = logits - logits.data.max(axis, keepdims=True)
    return shifted - shifted.exp().sum(axis, keepdims=True).log()


def softmax(logits: Tensor, axis: int = -1) -> Tensor:
    """Turn scores into probabilities: e^score over the sum of all e^score along the axis."""
    return log_softmax(logits, axis).exp()


def cross_entropy(logits: Tensor, targets: ArrayLike) -> Tensor:
    """Return the mean of -ln(probability of the right class): logits (..., V), targets (...)."""
    targets, V = np.asarray(targets), logits.shape[-1]
    assert logits.shape[:-1] == targets.shape, f"logits {logits.shape}, targets {targets.shape}"
    assert np.isin(targets, np.arange(V)).all(), f"targets must be whole numbers from 0 to {V - 1}"
    # From log_softmax, not from log(softmax): a probability that rounds to 0 has no logarithm.
    log_probabilities = log_softmax(logits).reshape(-1, V)
    return -log_probabilities[np.arange(targets.size), targets.ravel()].mean()


def mean_squared_error(predictions: Tensor, targets: ArrayLike) -> Tensor:
    """Return the mean squared difference; the shapes must be equal, not just broadcastable."""
    # (N, 1) against (N,) would broadcast to (N, N) and give a loss of nothing that was meant.
    shapes = predictions.shape, np.shape(targets)
    assert shapes[0] == shapes[1], f"predictions {shapes[0]}, targets {shapes[1]}"
    return ((predictions - targets) ** 2).mean()


def sum_of_squares(parameters: Iterable[Tensor]) -> Tensor:
    """Return the sum of the squares of all numbers: times a small factor, the L2 penalty."""
    return as_tensor(sum((p**2).sum() for p in parameters))
