"""Attention: each position looks back at the ones before it and takes what it needs.

Holds the causal mask, attention in its explicit and its fused form, multi-head and grouped-query
attention, rotary positions and the key-value cache. Knows nothing of blocks, losses or tokens.

Shapes: B batch, T time (queries), S time (keys and values), C n_embd, H query heads,
G key-value heads (H is a multiple of G), D head_dim.

Sources: Vaswani et al. 2017, "Attention Is All You Need", sections 3.2 and 3.2.2; Ainslie et al.
2023, "GQA"; Su et al. 2021, "RoFormer", section 3.4; Zhang and Sennrich 2019, "Root Mean Square
Layer Normalization".
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt import kernels

# On CPUs the explicit form trains short sequences of bfloat16 faster: the fused backward is slow
# there. In float32 the fused form was up to twice as fast, from 64 tokens on.
EXPLICIT_ON_CPU_UP_TO = {torch.bfloat16: 512}  # tokens


def causal_mask(T: int, device: torch.device | None = None) -> Tensor:
    """Return a (T, T) mask that is True where query t may see key s, that is where s <= t."""
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0):
    """Mix the values `v` by how well each query matches each key.

    q is (..., T, D), k and v are (..., S, D), mask is boolean and broadcasts to (..., T, S) with
    at least one True in each row; returns (..., T, D). Source: Vaswani et al. 2017, equation 1.
    """
    scores = q / math.sqrt(q.size(-1)) @ k.transpose(-2, -1)  # (..., T, S)
    if mask is not None:
        scores.masked_fill_(~mask, -math.inf)
    weights = F.dropout(scores.softmax(dim=-1), dropout)  # each row sums to 1
    return weights @ v  # (..., T, D)


def rotary_table(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each (length, head_dim): position t turns pair i by t / theta^(2i/D).

    Pair i is made of dimensions i and i + D/2; the sine of a pair's first half is stored negative,
    as `rotate` needs it. Source: Su et al. 2021, equations 15 and 34.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)  # (D/2)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)  # (length, D/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)  # (length, D)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of dimensions of x (..., T, D) by its position's angle; lengths stay."""
    return kernels.turn(x.float(), cos, sin).to(x.dtype)


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
        return kernels.rms_norm(x.float(), self.weight.float(), self.eps).to(self.weight.dtype)


class KVCache:
    """Keep the keys and values of past tokens, so that a new token costs one step, not a re-run.

    Memory is taken once for `block_size` positions. `positions` (B,) counts the tokens of each
    row. Rows may differ in length: each is masked by its own count, so what padding leaves behind
    a shorter row is never seen, and its next tokens overwrite it. Rows of equal length, the common
    case, need neither a mask nor a look-up of places.
    """

    def __init__(
        self, n_layer: int, batch_size: int, n_kv_head: int, block_size: int, head_dim: int,
        device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        shape = (batch_size, n_kv_head, block_size, head_dim)  # (B, G, S, D), for each layer
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.positions = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.ids = torch.zeros(batch_size, block_size, dtype=torch.long, device=device)
        self.places, self.mask = slice(0), None  # of the tokens that are being added
        self.measure()

    @property
    def block_size(self) -> int:
        """The number of positions that fit."""
        return self.ids.size(1)

    @property
    def last(self) -> Tensor:
        """The newest token of each row (B,), 0 where there is none yet."""
        rows = torch.arange(len(self.positions), device=self.positions.device)
        return self.ids[rows, (self.positions - 1).clamp_min(0)] * (self.positions > 0)

    def reach(self, T: int) -> int:
        """Return how many positions T new tokens look at."""
        return self.length + T

    def begin(self, T: int) -> slice | Tensor:
        """Prepare for T new tokens a row; return their positions: a slice, or (B, T) if uneven.

        Sets `mask`, for all layers: which of the S positions each new token sees, (T, S), or
        (B, 1, T, S) if uneven; None where plain rules do: all (one token), or causal (no past).
        """
        end, device = self.reach(T), self.positions.device
        assert end <= self.block_size, (self.length, T, self.block_size)
        if self.is_even:
            self.places, self.mask = slice(self.length, end), None
            if T > 1 and self.length > 0:
                self.mask = causal_mask(end, device)[self.length :]  # (T, S)
        else:
            self.places = self.positions[:, None] + torch.arange(T, device=device)  # (B, T)
            seen = torch.arange(end, device=device)
            self.mask = (seen <= self.places[:, :, None])[:, None]  # (B, 1, T, S)
        return self.places

    def remember(self, idx: Tensor) -> Tensor:
        """Store the new tokens (B, T); return all tokens of each row, (B, S)."""
        rows = torch.arange(len(idx), device=idx.device)[:, None]
        self.ids[slice(None) if self.is_even else rows, self.places] = idx
        return self.ids[:, : self.reach(idx.size(1))]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, G, T, D) of one layer; return all of them, (B, G, S, D)."""
        B, _, T, _ = k.shape
        both = []
        for new, stored in ((k, self.keys[layer][:B]), (v, self.values[layer][:B])):
            if self.is_even:
                stored[:, :, self.places] = new
            else:
                rows = torch.arange(B, device=k.device)[:, None]  # (B, 1), meets places (B, T)
                stored[rows, :, self.places] = new.transpose(1, 2).to(stored.dtype)
            both.append(stored[:, :, : self.reach(T)])
        return both[0], both[1]

    def advance(self, counts: int | Tensor) -> None:
        """Count tokens as seen once every layer has stored them: one number, or one a row (B,)."""
        self.positions += counts
        if isinstance(counts, int):
            self.length += counts
        else:
            self.measure()

    def measure(self) -> None:
        """Find the longest row's length, and whether all are so long."""
        shortest, longest = self.positions.aminmax()
        self.length, self.is_even = int(longest), bool(shortest == longest)

    def part(self, start: int, end: int) -> "KVCache":
        """Return a cache of some rows that shares this one's memory; `measure` this one later."""
        part = copy.copy(self)
        part.keys = [stored[start:end] for stored in self.keys]
        part.values = [stored[start:end] for stored in self.values]
        part.positions, part.ids = self.positions[start:end], self.ids[start:end]
        part.measure()
        return part

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order; only rows that change their place are copied.

        A row may stand several times. Memory grows where there were never so many rows.
        """
        moved = [place for place, row in enumerate(rows) if place != row]
        sources = [rows[place] for place in moved]
        for both in (self.keys, self.values):
            for layer, stored in enumerate(both):
                copied = stored[sources, :, : self.length]
                if len(rows) > len(stored):
                    both[layer] = stored[rows]
                elif moved:
                    stored[moved, :, : self.length] = copied
        self.positions, self.ids = self.positions[rows], self.ids[rows]
        self.measure()


class StaticCache(KVCache):
    """A cache whose shapes are the same at every step, so that one compiled program does all.

    New tokens look at all positions, those that hold nothing yet being masked: reading them costs
    less than starting each operation by itself, above all on a GPU.
    """

    def __init__(self, *sizes, **where):
        super().__init__(*sizes, **where)
        for tensor in (*self.keys, *self.values, self.positions, self.ids):
            if tensor.is_cuda:  # a recorded step may write to it where it lies
                torch._dynamo.mark_static_address(tensor, guard=False)

    def reach(self, T: int) -> int:
        """Return how many positions T new tokens look at: all."""
        return self.block_size

    def advance(self, counts: int | Tensor) -> None:
        """Count tokens as seen; no number outside of tensors changes."""
        self.positions += counts

    def measure(self) -> None:
        """Treat rows as uneven, whatever their lengths."""
        self.length, self.is_even = self.block_size, False


class Attention(nn.Module):
    """Let every position gather from the past with several heads, each with its own question.

    With its default options this is plain multi-head attention. Fewer `n_kv_head` than `n_head`
    share keys and values among groups of heads; `qk_norm` normalises queries and keys per head.
    """

    def __init__(
        self, n_embd: int, n_head: int, n_kv_head: int | None = None, head_dim: int | None = None,
        qk_norm: bool = False, dropout: float = 0.0, norm_eps: float = 1e-6, biases: bool = False,
    ):  # fmt: skip
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
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None, layer: int = 0, mask: Tensor | None = None,
        source: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Map x (B, T, C) to (B, T, C); position t depends on positions up to t alone.

        rotary: cosine and sine of these positions, (T, D) or (B, 1, T, D).
        cache: read the past from it and add these tokens to it, as layer number `layer`.
        mask: without a cache, which keys (B, 1, T, T) each query sees (None: all up to its own).
        source: what the values are made from, (B, T, C) (None: x, as queries and keys are).
        """
        q = self.split_heads(self.query(x))  # (B, H, T, D)
        k = self.split_heads(self.key(x))  # (B, G, T, D)
        v = self.split_heads(self.value(x if source is None else source))  # (B, G, T, D)
        q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is None:
            mixed = self.mix(q, k, v, mask)  # (B, H, T, D)
        else:
            k, v = cache.update(layer, k, v)  # (B, G, S, D)
            mixed = self.mix(q.to(k.dtype), k, v, cache.mask).to(x.dtype)  # (B, H, T, D)
        return self.output(mixed.transpose(1, 2).flatten(2))  # (B, T, C)

    def split_heads(self, x: Tensor) -> Tensor:
        """Cut the last dimension into heads: (B, T, H * D) -> (B, H, T, D)."""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend by `mask`, or causally, in whichever form is faster here.

        Without a mask, fewer queries than keys (one new token) see everything. Within documents a
        CPU attends in float32: in bfloat16 it is hardly faster, and in the main job looking things
        up was learned worse (docs/experiments.md, section 5).
        """
        if mask is not None and q.is_cpu and v.dtype == torch.bfloat16:
            with torch.autocast("cpu", enabled=False):
                return self.mix(q.float(), k.float(), v.float(), mask).to(v.dtype)
        T, dropout = q.size(2), self.dropout if self.training else 0.0
        is_causal = mask is None and T == k.size(2)
        is_short = T == k.size(2) and T <= EXPLICIT_ON_CPU_UP_TO.get(v.dtype, 0)
        if q.is_cpu and q.requires_grad and is_short:
            mask = causal_mask(T, q.device) if mask is None else mask
            if self.n_kv_head < self.n_head:
                k, v = (x.repeat_interleave(self.n_head // self.n_kv_head, dim=1) for x in (k, v))
            return attend(q, k, v, mask, dropout)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal,
            enable_gqa=self.n_kv_head != self.n_head,
        )  # fmt: skip
