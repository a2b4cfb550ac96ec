"""Attention: each position looks back at the ones before it and takes what it needs.

Holds the masks, attention in its plain form, multi-head and grouped-query attention, RMSNorm and
rotary positions. Knows nothing of blocks, losses or tokens.

Shapes: B batch, T time (queries), S time (keys and values), C n_embd, H query heads,
G key-value heads (H is a multiple of G), D head_dim.

Sources: Vaswani et al. 2017, "Attention Is All You Need", sections 3.2 and 3.2.2; Ainslie et al.
2023, "GQA"; Su et al. 2021, "RoFormer", section 3.4; Zhang and Sennrich 2019, "Root Mean Square
Layer Normalization".
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.cache import KVCache
from minigpt.machine import kernels


def causal_mask(T: int, device: torch.device | None = None) -> Tensor:
    """Return a (T, T) mask that is True where query t may see key s, that is where s <= t."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def sliding_mask(T: int, window: int, device: torch.device | None = None) -> Tensor:
    """Return a (T, T) mask that is True where query t may see key s: the last `window`, t included.

    Source: Beltagy et al. 2020, "Longformer", section 3.1.

    >>> sliding_mask(3, window=2).int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """
    return causal_mask(T, device).triu(1 - window)


def document_mask(documents: Tensor) -> Tensor:
    """Return (B, 1, T, T): True where query t may see key s, of the same document and no later.

    documents (B, T): a number for each token's document. Several documents in one row would
    distract each other: who has what in one story has nothing to do with the story before it.

    >>> document_mask(torch.tensor([[0, 0, 1]]))[0, 0].int().tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    same = documents[:, :, None] == documents[:, None, :]  # (B, T, T)
    return (same & causal_mask(documents.size(1), documents.device))[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mix the values `v` by how well each query matches each key.

    q is (..., T, D), k and v are (..., S, D), mask is boolean and broadcasts to (..., T, S) with
    at least one True in each row (None: every query sees every key); returns (..., T, D).
    Source: Vaswani et al. 2017, equation 1.
    """
    scores = q / math.sqrt(q.size(-1)) @ k.transpose(-2, -1)  # (..., T, S)
    if mask is not None:
        scores.masked_fill_(~mask, -math.inf)
    weights = scores.softmax(dim=-1)  # each row sums to 1
    return weights @ v  # (..., T, D)


def rotary_table(
    length: int, head_dim: int, theta: float, slowdown: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each (length, head_dim): place t rotates pair i by t / theta^(2i/D).

    Pair i is made of dimensions i and i + D/2; the sine of a pair's first half is stored negative,
    as `apply_rotary` needs it. slowdown: how many times slower each pair rotates, (D/2).
    Source: Su et al. 2021, equations 15 and 34.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)  # (D/2)
    if slowdown is not None:
        frequencies = frequencies / slowdown
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)  # (length, D/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)  # (length, D)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of dimensions of x (..., T, D) by its position's angle; lengths stay."""
    half = x.size(-1) // 2  # rolled by it, each number meets its partner
    return (x * cos + x.roll(half, dims=-1) * sin).to(x.dtype)  # in float32, as the table is


class RMSNorm(nn.Module):
    """Divide each vector by its root mean square, then scale each dimension by a learned weight."""

    def __init__(self, size: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., size) to itself: x / sqrt(mean(x^2) + eps) * weight, computed in float32.

        The result has the weight's precision: under autocast it stays in float32.
        """
        y = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)
        return y.to(self.weight.dtype)


class Attention(nn.Module):
    """Let every position gather from the past with several heads, each with its own question.

    With its default options this is plain multi-head attention. Fewer `n_kv_head` than `n_head`
    share keys and values among groups of heads; `qk_norm` normalizes queries and keys per head.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int | None = None,
        head_dim: int | None = None,
        qk_norm: bool = False,
        dropout: float = 0.0,
        norm_eps: float = 1e-6,
        biases: bool = False,
    ):
        super().__init__()
        self.n_head = n_head
        self.n_kv_head = n_kv_head or n_head
        self.head_dim = head_dim or n_embd // n_head
        self.dropout = dropout
        assert n_head % self.n_kv_head == 0, (n_head, self.n_kv_head)
        self.query = nn.Linear(n_embd, n_head * self.head_dim, bias=biases)
        self.key = nn.Linear(n_embd, self.n_kv_head * self.head_dim, bias=biases)
        self.value = nn.Linear(n_embd, self.n_kv_head * self.head_dim, bias=biases)
        self.output = nn.Linear(n_head * self.head_dim, n_embd, bias=biases)
        self.query_norm = RMSNorm(self.head_dim, norm_eps) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(self.head_dim, norm_eps) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map x (B, T, C) to (B, T, C); position t depends on positions up to t alone.

        rotary: cosine and sine of these positions, (T, D) or (B, 1, T, D).
        cache: read the past from it and add these tokens to it, as layer number `layer`.
        mask: which keys (B, 1, T, S) each query sees; with a cache, the cache says it.
        """
        q = self.split_heads(self.query(x))  # (B, H, T, D)
        k = self.split_heads(self.key(x))  # (B, G, T, D)
        v = self.split_heads(self.value(x))  # (B, G, T, D)
        q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, G, S, D)
            q, mask = q.to(k.dtype), cache.mask
        # Without a mask a single new token sees all there is, and several see no later one.
        is_causal = mask is None and q.size(2) > 1
        dropout = self.dropout if self.training else 0.0
        is_grouped = self.n_kv_head < self.n_head
        mixed = kernels.attend(q, k, v, mask, is_causal, dropout, is_grouped)  # (B, H, T, D)
        return self.output(mixed.transpose(1, 2).flatten(2))  # (B, T, C)

    def split_heads(self, x: Tensor) -> Tensor:
        """Cut the last dimension into heads: (B, T, H * D) -> (B, H, T, D)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


@torch.no_grad()
def begin_as_copying(blocks: Iterable[nn.Module]) -> None:
    """Set first weights with which each attention head adds to x a part of what it looks at.

    The values are x in some orthonormal directions, and the output writes each direction back
    as it was read.
    """
    for layer in (m for b in blocks for m in b.modules() if isinstance(m, Attention)):
        nn.init.orthogonal_(layer.value.weight)  # (G * D, C)
        groups = layer.value.weight.unflatten(0, (layer.n_kv_head, layer.head_dim))
        heads = groups.repeat_interleave(layer.n_head // layer.n_kv_head, dim=0)
        layer.output.weight.copy_(heads.flatten(0, 1).T)  # (C, H * D)
