"""Layers: what a GPT has besides attention: MLPs, positions, and a table for pairs of tokens.

The four kinds of positions share one call, so that a model reads the same with any of them. Knows
nothing of configs or of the model that it is part of.

Shapes: B batch, T time, S tokens seen, C n_embd, D head_dim.

Sources: Shazeer 2020, "GLU Variants Improve Transformer"; Hendrycks and Gimpel 2016, "Gaussian
Error Linear Units"; So et al. 2021, "Primer" (squared ReLU); Su et al. 2021, "RoFormer"; Bai et
al. 2021, "Segatron" (positions among sentences).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.attention import rotary_table
from minigpt.machine import kernels

SENTENCE_THETA = 30.0  # base of the wavelengths in sentences, of which a text has few


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
    return kernels.squared_relu(x)


class Rotary(nn.Module):
    """Tell positions by turning queries and keys, in every layer."""

    def __init__(self, block_size: int, head_dim: int, theta: float):
        super().__init__()
        cos, sin = rotary_table(block_size, head_dim, theta)
        self.register_buffer("cos", cos, persistent=False)  # (block_size, D)
        self.register_buffer("sin", sin, persistent=False)

    def forward(
        self, x: Tensor, positions: slice | Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return x and the cosines and sines, (1, T, D) or (B, 1, T, D), of these positions."""
        return x, (self.cos[positions].unsqueeze(-3), self.sin[positions].unsqueeze(-3))


class RotaryBySentence(nn.Module):
    """Turn one half of the pairs by which token it is, the other half by which sentence.

    Sentences are counted anew in each section, such as a message of a conversation. So from a
    sentence of a translation, the one that it translates lies at the same turn in every text,
    however far it is in tokens.
    """

    def __init__(
        self,
        vocab_size: int,
        head_dim: int,
        theta: float,
        ends: Sequence[int],
        sections: Sequence[int],
    ):
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim  # (D/2)
        is_odd = torch.arange(head_dim // 2) % 2
        self.register_buffer("by_token", theta**-exponents * is_odd, persistent=False)
        by_sentence = SENTENCE_THETA**-exponents * (1 - is_odd)
        self.register_buffer("by_sentence", by_sentence, persistent=False)
        for name, ids in (("ends", ends), ("sections", sections)):
            table = torch.zeros(vocab_size, dtype=torch.bool)  # (V), whether a token is one
            table[list(ids)] = True
            self.register_buffer(name, table, persistent=False)

    def forward(
        self, x: Tensor, positions: slice | Tensor, seen: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return x and the cosines and sines, (B, 1, T, D), of these positions.

        seen: all tokens up to the last of these positions, (B, S), from the text's first on.
        """
        if isinstance(positions, slice):
            tokens = torch.arange(seen.size(1), device=seen.device)
            positions = tokens[positions].expand(len(seen), -1)  # (B, T)
        sentences = sentence_numbers(self.ends[seen], self.sections[seen]).gather(1, positions)
        angles = positions[..., None] * self.by_token + sentences[..., None] * self.by_sentence
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # (B, 1, T, D/2)
        return x, (torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def sentence_numbers(is_end: Tensor, is_section: Tensor) -> Tensor:
    """Count for each token the sentences that ended before it in its section; all are (B, S).

    >>> ends = torch.tensor([[False, True, False, True, False, False, True, False]])
    >>> section = torch.tensor([[False, False, False, False, True, False, False, False]])
    >>> sentence_numbers(ends, section).tolist()
    [[0, 0, 1, 1, 0, 0, 0, 1]]
    """
    ended = is_end.long().cumsum(dim=1) - is_end.long()  # sentences before this token, in all
    return ended - (ended * is_section).cummax(dim=1).values


class LearnedPositions(nn.Module):
    """Tell positions by adding to each token a vector that its position has learned."""

    def __init__(self, block_size: int, n_embd: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(block_size, n_embd))

    def forward(
        self, x: Tensor, positions: slice | Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Add the vectors of these positions, a slice of length T or a tensor (B, T), to x."""
        return x + self.weight[positions], None


class NoPositions(nn.Module):
    """Tell no positions: a token knows only what comes before it, not how far away."""

    def forward(
        self, x: Tensor, positions: slice | Tensor, seen: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Return x as it is."""
        return x, None


class Bigrams(nn.Module):
    """Look up a vector for each pair of neighboring tokens: what an n-gram model knows, at once.

    A table of V * V rows has one for each pair; in a smaller one, pairs share rows by chance.
    """

    def __init__(self, size: int, vocab_size: int, n_embd: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, n_embd))
        self.size = size
        self.stride = vocab_size if size == vocab_size**2 else 1_000_003  # a prime scatters pairs

    def forward(self, idx: Tensor, before: Tensor) -> Tensor:
        """Return (B, T, C) for tokens idx (B, T); `before` (B,) stand before the first of them."""
        previous = torch.cat((before[:, None], idx[:, :-1]), dim=1)  # (B, T)
        return F.embedding((previous * self.stride + idx) % self.size, self.weight)
