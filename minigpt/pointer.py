"""Point: say that a token of the context comes again, and which one.

To repeat a name from a matrix of all tokens, a model must have learned how that very name travels
from the past to its output. A pointer looks at the past once more, and what it pays attention to is
a probability at once:

    p(next is w) = (1 - gate) * p(w by the head) + gate * (attention paid to places that hold w)

So what was learned from one name serves all names, and a small model that reads little recalls
much sooner. No other package has this option, so such a model cannot be exported.

Shapes: B batch, T time, S tokens seen, C n_embd, H heads, G key heads, D head_dim, V vocab_size.

Sources: Vinyals et al. 2015, "Pointer Networks"; See et al. 2017, "Get To The Point", section 2.2.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.attention import RMSNorm, apply_rotary, causal_mask
from minigpt.cache import KVCache

FIRST_GATE = -2.0  # a gate of 0.12: the head speaks first
LEAST = 1e-30  # keeps logarithms finite; far below what float32 adds


class Pointed(NamedTuple):
    """Where each position points, and how much that counts."""

    weights: Tensor  # (B, T, S), each row's sum is 1
    ids: Tensor  # (B, S), the tokens that stand there
    gate: Tensor  # (B, T), a logit

    def at(self, rows: Tensor, places: Tensor) -> "Pointed":
        """Return one position of each row, (B, 1, ...)."""
        return Pointed(
            self.weights[rows, places][:, None], self.ids, self.gate[rows, places][:, None]
        )

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Mix the head's logits (B, T, V) with what is pointed to; return log p (B, T, V)."""
        log_p = logits.float().log_softmax(dim=-1)
        ids = self.ids[:, None].expand_as(self.weights)  # (B, T, S)
        pointed = torch.zeros_like(log_p).scatter_add(2, ids, self.weights)
        return self.mix(log_p, pointed, self.gate[:, :, None])

    def losses(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Turn the head's losses at the targets, both (B, T), into those of the mixture."""
        holds = self.ids[:, None] == targets[:, :, None]  # (B, T, S)
        return -self.mix(-losses, (self.weights * holds).sum(dim=2), self.gate)

    @staticmethod
    def mix(log_p: Tensor, pointed: Tensor, gate: Tensor) -> Tensor:
        """Return log((1 - g) p + g q) for log p and q of one shape and the logit of g."""
        log_q = pointed.clamp_min(LEAST).log()
        return torch.logaddexp(F.logsigmoid(-gate) + log_p, F.logsigmoid(gate) + log_q)


class Pointer(nn.Module):
    """Attend to the context as a layer of attention does, and return the attention itself."""

    def __init__(self, n_embd: int, n_head: int, n_kv_head: int, head_dim: int, norm_eps: float):
        super().__init__()
        self.head_dim, self.shared = head_dim, n_head // n_kv_head
        self.query = nn.Linear(n_embd, n_head * head_dim, bias=False)
        self.key = nn.Linear(n_embd, n_kv_head * head_dim, bias=False)
        self.query_norm = RMSNorm(head_dim, norm_eps)
        self.key_norm = RMSNorm(head_dim, norm_eps)
        self.gate = nn.Parameter(torch.zeros(n_embd))
        self.gate_bias = nn.Parameter(torch.full((1,), FIRST_GATE))

    @torch.autocast("cpu", enabled=False)  # see `Attention.mix`
    def forward(
        self,
        x: Tensor,
        ids: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        layer: int,
        mask: Tensor | None,
    ) -> Pointed:
        """Point from each position of x (B, T, C), the blocks' output, to itself or earlier ones.

        ids: the tokens that can be pointed to, (B, S). The rest is as in `Attention.forward`.
        """
        q, k = (
            part(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for part in (self.query, self.key)
        )  # (B, H, T, D) and (B, G, T, D)
        q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        if cache is not None:
            k, _ = cache.update(layer, k, k)  # (B, G, S, D); nothing else is gathered
            mask = cache.mask
        T = q.size(2)
        if mask is None and T > 1:
            mask = causal_mask(T, x.device)
        k = k.repeat_interleave(self.shared, dim=1)  # (B, H, S, D)
        scores = (q.to(k.dtype) @ k.mT).float() * self.head_dim**-0.5  # (B, H, T, S)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights = scores.softmax(dim=-1).mean(dim=1)  # (B, T, S)
        return Pointed(weights, ids, (x.float() * self.gate).sum(dim=-1) + self.gate_bias)
