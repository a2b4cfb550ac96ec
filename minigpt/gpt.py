"""GPT: a stack of attention and MLP blocks that predicts the next token at every position.

The default architecture is exactly Qwen3's: RMSNorm before each part, normalized queries and keys,
rotary positions, SwiGLU, grouped queries, no biases. `ARCHITECTURES` names the settings that make
it Llama's or GPT-2's. Knows nothing of text, files or training.

Shapes: B batch, T time, C n_embd, V vocab_size, D head_dim.

Sources: Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama); Yang et al. 2025, "Qwen3
Technical Report", section 2.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.attention import Attention, RMSNorm, begin_as_copying, sliding_mask
from minigpt.batching.windows import IGNORE
from minigpt.cache import KVCache
from minigpt.layers import (
    MLP,
    LearnedPositions,
    NoPositions,
    Rotary,
    SwiGLU,
    gelu,
    llama3_slowdown,
    squared_relu,
)
from minigpt.machine.device import logits_at_once
from minigpt.moe import MoE
from minigpt.support.errors import require
from minigpt.support.settings import above, at_least, at_most, below, check_fields

Size = Annotated[int, at_least(1), at_most(2**31 - 1)]
OptionalSize = Annotated[int | None, at_least(1), at_most(2**31 - 1)]


@dataclass(frozen=True)
class GPTConfig:
    """Describe a model's size and shape; fields that are None follow from the others."""

    vocab_size: Size
    """Number of token ids."""
    block_size: Size = 256
    """Context length: the most tokens that the model sees at once."""
    n_layer: Size = 4
    """Number of blocks."""
    n_head: Size = 4
    """Query heads in each attention layer."""
    n_kv_head: OptionalSize = None
    """Key-value heads, shared by groups of query heads (None: n_head, nothing shared)."""
    n_embd: Size = 128
    """Width of the residual stream."""
    head_dim: OptionalSize = None
    """Width of one head (None: n_embd / n_head)."""
    n_hidden: OptionalSize = None
    """Width inside the MLP, or inside one expert (None: 4 n_embd; with gates: 8/3 n_embd, up to a
    multiple of 32)."""
    n_expert: Size = 4
    """Experts of each MLP; experts alone."""
    n_active: Size = 1
    """Experts that each token uses; experts alone."""
    balance: Annotated[float, at_least(0), below(1e3)] = 0.01
    """Weight of the loss that keeps experts evenly used; experts alone."""
    dropout: Annotated[float, at_least(0), below(1)] = 0.0
    """Share of activations dropped in training; 0 is best when no text is seen twice."""
    rope_theta: Annotated[float, above(1), below(1e30)] = 10_000.0
    """Base of the rotary wavelengths, in positions."""
    rope_scaling: tuple[float, float, float, float] | None = None
    """Slower rotations for a longer context, as Llama 3.1 has them: factor, low and high turns, and
    the context before (None: as they are). See `layers.llama3_slowdown`."""
    norm_eps: Annotated[float, above(0), below(1)] = 1e-6
    """Added to the mean square before its root is taken."""
    tie_embeddings: bool = True
    """Use one matrix for reading tokens in and for predicting them."""
    norm: Literal["rms", "layer"] = "rms"
    """Normalization layer: RMSNorm or LayerNorm."""
    mlp: Literal["swiglu", "gelu", "relu2", "experts"] = "swiglu"
    """Gated units, a plain hidden layer of GELU or squared ReLU units, or a mixture of experts."""
    positions: Literal["rotary", "learned", "none"] = "rotary"
    """Rotate queries and keys, add a learned vector, or leave order to the causal mask."""
    window: OptionalSize = None
    """Tokens that attention looks back over in each layer, itself included (None: all)."""
    qk_norm: bool = True
    """Normalize queries and keys in each head: attention cannot grow too sharp in training."""
    biases: bool = False
    """Add a learned constant after each matrix of the blocks and in each LayerNorm."""
    init: Literal["identity", "copying", "gpt2"] = "identity"
    """First weights: blocks that add nothing yet, the same but attention copies what it looks at,
    or GPT-2's small random numbers."""

    def __post_init__(self):
        check_fields(self)
        if self.head_dim is None:
            wanted = f"a multiple of n_head ({self.n_head}), or head_dim set"
            require(self.n_embd % self.n_head == 0, "n_embd", self.n_embd, wanted)
        head_dim = self.head_dim or self.n_embd // self.n_head
        has_pairs = head_dim % 2 == 0 or self.positions != "rotary"
        require(has_pairs, "head_dim", head_dim, "an even number: rotary positions rotate pairs")
        n_kv_head = self.n_kv_head or self.n_head
        wanted = f"a divisor of n_head ({self.n_head})"
        require(self.n_head % n_kv_head == 0, "n_kv_head", n_kv_head, wanted)
        if self.rope_scaling is not None:
            object.__setattr__(self, "rope_scaling", check_scaling(self.rope_scaling))
        if self.mlp == "experts":
            wanted = f"at most n_expert ({self.n_expert})"
            require(self.n_active <= self.n_expert, "n_active", self.n_active, wanted)
            require(not self.biases, "biases", self.biases, "False: experts have none")

    def resolved(self) -> "ResolvedConfig":
        """Return the same config with every None replaced by the number that it stands for."""
        gated = self.mlp in ("swiglu", "experts")
        default_hidden = math.ceil(self.n_embd * 8 / 3 / 32) * 32 if gated else 4 * self.n_embd
        settings: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        settings["n_kv_head"] = self.n_kv_head or self.n_head
        settings["head_dim"] = self.head_dim or self.n_embd // self.n_head
        settings["n_hidden"] = self.n_hidden or default_hidden
        return ResolvedConfig(**settings)


def check_scaling(numbers: Any) -> tuple[float, float, float, float]:
    """Return a config's `rope_scaling` as a tuple (JSON makes lists); ConfigError if impossible."""
    is_four = isinstance(numbers, tuple | list) and len(numbers) == 4
    holds = is_four and all(type(n) in (int, float) and 0 < n < 1e12 for n in numbers)
    holds = holds and numbers[0] >= 1 and numbers[1] < numbers[2]
    wanted = "four numbers: a factor from 1 on, low turns, more high turns, the context before"
    require(holds, "rope_scaling", numbers, wanted)
    factor, low, high, context = map(float, numbers)
    return factor, low, high, context


@dataclass(frozen=True)
class ResolvedConfig(GPTConfig):
    """A config that leaves nothing open; made by `GPTConfig.resolved`."""

    n_kv_head: Size = 1
    head_dim: Size = 1
    n_hidden: Size = 1


# What makes the default architecture that of a known family; sizes are chosen beside it.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"qk_norm": False},
    "gpt2": {
        "norm": "layer",
        "mlp": "gelu",
        "positions": "learned",
        "qk_norm": False,
        "biases": True,
        "norm_eps": 1e-5,
        "init": "gpt2",
    },
}


Maker = Callable[[ResolvedConfig], nn.Module]
NORMS: dict[str, Maker] = {
    "rms": lambda c: RMSNorm(c.n_embd, c.norm_eps),
    "layer": lambda c: nn.LayerNorm(c.n_embd, c.norm_eps, bias=c.biases),
}
MLPS: dict[str, Maker] = {
    "swiglu": lambda c: SwiGLU(c.n_embd, c.n_hidden, c.biases),
    "gelu": lambda c: MLP(c.n_embd, c.n_hidden, gelu, c.biases),
    "relu2": lambda c: MLP(c.n_embd, c.n_hidden, squared_relu, c.biases),
    "experts": lambda c: MoE(c.n_embd, c.n_hidden, c.n_expert, c.n_active, c.balance),
}
POSITIONS: dict[str, Maker] = {
    "rotary": lambda c: Rotary(
        c.block_size,
        c.head_dim,
        c.rope_theta,
        c.rope_scaling and llama3_slowdown(c.head_dim, c.rope_theta, *c.rope_scaling),
    ),
    "learned": lambda c: LearnedPositions(c.block_size, c.n_embd),
    "none": lambda c: NoPositions(),
}


class Block(nn.Module):
    """Add to the residual stream first what attention gathers, then what the MLP makes of it."""

    def __init__(self, config: ResolvedConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.attention_norm = NORMS[config.norm](config)
        self.attention = Attention(
            config.n_embd,
            config.n_head,
            config.n_kv_head,
            config.head_dim,
            qk_norm=config.qk_norm,
            dropout=config.dropout,
            norm_eps=config.norm_eps,
            biases=config.biases,
        )
        self.mlp_norm = NORMS[config.norm](config)
        self.mlp = MLPS[config.mlp](config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: KVCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Map (B, T, C) to (B, T, C); all but x is as in `Attention.forward`."""
        gathered = self.attention(self.attention_norm(x), rotary, cache, self.layer, mask)
        x = x + self.dropout(gathered)
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x


class GPT(nn.Module):
    """Predict the next token at every position from the tokens up to it.

    >>> model, idx = GPT(GPTConfig(vocab_size=65, block_size=16)), torch.zeros(2, 16).long()
    >>> logits, _ = model(idx)
    >>> logits.shape
    torch.Size([2, 16, 65])
    >>> _, loss = model(idx, targets=idx)
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = c = config.resolved()
        self.embedding = nn.Embedding(c.vocab_size, c.n_embd)
        self.positions = POSITIONS[c.positions](c)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c, layer) for layer in range(c.n_layer))
        self.norm = NORMS[c.norm](c)
        self.head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        if c.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw the first weights by `config.init`; with each choice the loss begins near ln V.

        identity: every block starts as "add nothing". copying: so does every MLP, but attention
        adds what it looks at, which a story's names need. gpt2: what writes to the residual stream
        is the smaller, the more layers write, so that the stream's size does not depend on their
        number. Source: Radford et al. 2019, section 2.3.
        """
        c, identity = self.config, self.config.init != "gpt2"
        for name, p in (*self.blocks.named_parameters(), *self.head.named_parameters()):
            if name.endswith("bias"):
                p.zero_()
            elif p.ndim >= 2:  # (out, in), or (experts, out, in)
                p.normal_(std=p.size(-1) ** -0.5 if identity else 0.02)
                if "output" in name or "down" in name:  # these write to the stream
                    p.mul_(0.0 if identity else (2 * c.n_layer) ** -0.5)
        head_std = 0.5 / c.n_embd if identity else 0.02
        table_std = 1.0 if identity and not c.tie_embeddings else head_std
        self.embedding.weight.normal_(std=table_std)
        self.head.weight.normal_(std=head_std)
        for table in self.positions.parameters():
            table.normal_(std=table_std)
        begin_as_copying(self.blocks if c.init == "copying" else ())

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the logits (B, T, V) and None or, where targets are given, None and the mean loss.

        idx, targets: token ids (B, T); targets of -100 (windows.IGNORE) do not count. The loss is
        in nats. With a cache, idx holds only the tokens that are new since the last call.
        mask: which tokens each token sees, (B, 1, T, T) (None: itself and all before it).
        """
        x = self.hidden(idx, cache, mask)  # (B, T, C)
        if cache is not None:
            cache.advance(idx.size(1))
        if targets is None:
            return self.head(self.norm(x)), None  # (B, T, V)
        loss = self.loss(x, targets)
        if self.training:  # layers such as a mixture of experts may ask for more than this
            loss = loss + sum(getattr(m, "auxiliary_loss", 0.0) for m in self.blocks.modules())
        return None, loss

    def hidden(
        self,
        idx: Tensor,
        cache: KVCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the residual stream (B, T, C) after the last block, for ids as in `forward`."""
        T = idx.size(1)
        assert T <= self.config.block_size, (T, self.config.block_size)
        positions = slice(0, T) if cache is None else cache.begin(T)
        x, rotary = self.positions(self.embedding(idx), positions)  # (B, T, C)
        x, mask = self.dropout(x), self.within_window(mask, T)
        for block in self.blocks:
            x = block(x, rotary, cache, mask)  # (B, T, C)
        return x

    def within_window(self, mask: Tensor | None, T: int) -> Tensor | None:
        """Return the mask, as in `forward`, without what is further back than `config.window`.

        A cache masks by itself.
        """
        window = self.config.window
        if window is None:
            return mask
        near = sliding_mask(T, window, self.embedding.weight.device)  # (T, T)
        return near if mask is None else near & mask

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss at the targets (B, T) that count, for x (B, T, C) from `hidden`.

        All logits together would be the largest tensor by far, so they are made some rows at a
        time.
        """
        counted = targets != IGNORE
        rows = max(logits_at_once(x.device) // self.config.vocab_size, 1)
        if x.is_cpu and not counted.all():  # a GPU would have to wait to know where they are
            x, targets = x[counted], targets[counted]  # (N, C), (N)
        pieces = zip(x.view(-1, x.size(-1)).split(rows), targets.flatten().split(rows), strict=True)
        losses = [
            F.cross_entropy(self.head(self.norm(some)).float(), ids, reduction="none")
            for some, ids in pieces
        ]
        return torch.cat(losses).sum() / counted.sum()

    def new_cache(self, batch_size: int, length: int | None = None) -> KVCache:
        """Make an empty key-value cache on this model's device: rows, and places (None: all)."""
        c, weight = self.config, self.embedding.weight
        return KVCache(
            c.n_layer,
            batch_size,
            c.n_kv_head,
            c.block_size if length is None else length,
            c.head_dim,
            device=weight.device,
            dtype=weight.dtype,
            window=c.window,
        )
