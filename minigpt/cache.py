"""The key-value cache: what attention needs to know of past tokens, kept from step to step.

Knows nothing of attention or models: keys and values come in, and all that were stored go out.

Shapes: B batch, T time (new tokens), S all tokens, G key-value heads, D head_dim.

Source: Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 3.3.
"""

import copy

import torch
from torch import Tensor


class KVCache:
    """Keep the keys and values of past tokens, so that a new token costs one step, not a re-run.

    Memory is taken once for `block_size` positions. `positions` (B,) counts the tokens of each
    row. Rows may differ in length: each is masked by its own count, so what padding leaves behind
    a shorter row is never seen, and its next tokens overwrite it. Rows of equal length, the common
    case, need neither a mask nor a look-up of places.
    """

    def __init__(
        self,
        n_layer: int,
        batch_size: int,
        n_kv_head: int,
        block_size: int,
        head_dim: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        window: int | None = None,
    ):
        shape = (batch_size, n_kv_head, block_size, head_dim)  # (B, G, S, D), for each layer
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(n_layer)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.positions = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.block_size = block_size  # positions that fit
        self.window = window  # of them, how many a token sees: itself and those just before it
        self.places: Tensor | None = None  # of the tokens that are being added, where uneven
        self.mask: Tensor | None = None
        self.measure()

    def reach(self, T: int) -> int:
        """Return how many positions T new tokens look at."""
        return self.length + T

    def begin(self, T: int) -> slice | Tensor:
        """Prepare for T new tokens a row; return their positions: a slice, or (B, T) if uneven.

        Sets `mask`, for all layers: which of the S positions each new token sees, (T, S), or
        (B, 1, T, S) if uneven; None where no mask is needed: a single token sees all there are, and
        without a past `Attention` is causal.
        """
        end, device = self.reach(T), self.positions.device
        assert end <= self.block_size, (self.length, T, self.block_size)
        if self.is_even:
            self.mask = None
            if (T > 1 and self.length > 0) or self.window is not None:
                places = torch.arange(self.length, end, device=device)  # (T)
                self.mask = self.seen(places, end)  # (T, S)
            return slice(self.length, end)
        self.places = self.positions[:, None] + torch.arange(T, device=device)  # (B, T)
        self.mask = self.seen(self.places, end)[:, None]  # (B, 1, T, S)
        return self.places

    def seen(self, places: Tensor, end: int) -> Tensor:
        """Return which of S = `end` positions the tokens at `places` (..., T) see: (..., T, S)."""
        distances = places[..., None] - torch.arange(end, device=places.device)  # (..., T, S)
        seen = distances >= 0
        return seen if self.window is None else seen & (distances < self.window)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, G, T, D) of one layer; return all of them, (B, G, S, D)."""
        B, _, T, _ = k.shape
        both = []
        for new, stored in ((k, self.keys[layer][:B]), (v, self.values[layer][:B])):
            if self.is_even:
                stored[:, :, self.length : self.length + T] = new
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
        part.positions = self.positions[start:end]
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
        self.positions = self.positions[rows]
        self.measure()
