"""Layers: what a GPT has besides attention: MLPs and positions.

The kinds of positions share one call, so that a model reads the same with any of them. Knows
nothing of configs or of the model that it is part of.

Shapes: B batch, T time, C n_embd, D head_dim.

Sources: Shazeer 2020, "GLU Variants Improve Transformer"; Hendrycks and Gimpel 2016, "Gaussian
Error Linear Units"; So et al. 2021, "Primer" (squared ReLU); Su et al. 2021, "RoFormer".
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.attention import rotary_table


class SwiGLU(nn.Module):
    """Transform each position by itself: a hidden layer whose units have learned gates."""

    def __init__(self, n_embd: int, n_hidden: int, biases: bool = False):
        super().__init__()
        self.gate = nn.Linear(n_embd, n_hidden, bias=biases)
        self.up = nn.Linear(n_embd, n_hidden, bias=biases)
        self.down = nn.Linear(n_hidden, n_embd, bias=biases)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class MLP(nn.Module):
    """Transform each position by itself: one hidden layer of units without gates."""

    def __init__(
        self,
        n_embd: int,
        n_hidden: int,
        activation: Callable[[Tensor], Tensor],
        biases: bool = False,
    ):
        super().__init__()
        self.up = nn.Linear(n_embd, n_hidden, bias=biases)
        self.down = nn.Linear(n_hidden, n_embd, bias=biases)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return self.down(self.activation(self.up(x)))


def gelu(x: Tensor) -> Tensor:
    """Pass each number on by the share of a normal distribution below it, as GPT-2 computes it."""
    return F.gelu(x, approximate="tanh")


def squared_relu(x: Tensor) -> Tensor:
    """Cut negative numbers off, and square the rest. Source: So et al. 2021, section 4.1."""
    return F.relu(x).square()


class Rotary(nn.Module):
    """Tell positions by rotating queries and keys, in every layer."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, block_size: int, head_dim: int, theta: float, slowdown: Tensor | None = None
    ):
        super().__init__()
        cos, sin = rotary_table(block_size, head_dim, theta, slowdown)
        self.register_buffer("cos", cos, persistent=False)  # (block_size, D)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor, positions: slice | Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return x and the cosines and sines, (1, T, D) or (B, 1, T, D), of these positions."""
        return x, (self.cos[positions].unsqueeze(-3), self.sin[positions].unsqueeze(-3))


def llama3_slowdown(
    head_dim: int, theta: float, factor: float, low: float, high: float, context: float
) -> Tensor:
    """Return how many times slower each pair of a head rotates in a longer context, (D/2).

    A pair that turned fewer than `low` times within the old context rotates `factor` times slower:
    it has not seen a whole turn, and would come to angles that are new to it. One that turned more
    than `high` times stays as it is, since neighbors are told apart by it. In between the change is
    gradual. Source: Grattafiori et al. 2024, "The Llama 3 Herd of Models", section 3.4.2, as the
    published configurations of Llama 3.1 spell it out.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)  # (D/2)
    turns = context * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return 1 / (kept + (1 - kept) / factor)


class LearnedPositions(nn.Module):
    """Tell positions by adding to each token a vector that its position has learned."""

    def __init__(self, block_size: int, n_embd: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(block_size, n_embd))

    def forward(self, x: Tensor, positions: slice | Tensor) -> tuple[Tensor, None]:
        """Add the vectors of these positions, a slice of length T or a tensor (B, T), to x."""
        return x + self.weight[positions], None


class NoPositions(nn.Module):
    """Tell no positions: a token knows only what comes before it, not how far away."""

    def forward(self, x: Tensor, positions: slice | Tensor) -> tuple[Tensor, None]:
        """Return x as it is."""
        return x, None
