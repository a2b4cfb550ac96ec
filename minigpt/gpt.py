"""GPT: a stack of attention and MLP blocks that predicts the next token at every position.

The default architecture is exactly Qwen3's: RMSNorm before each part, normalized queries and keys,
rotary positions, SwiGLU, grouped queries, no biases. `FORMS` names the settings that make it
Llama's or GPT-2's. Knows nothing of text, files or training.

Shapes: B batch, T time, C n_embd, V vocab_size, D head_dim.

Sources: Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama); Yang et al. 2025, "Qwen3
Technical Report", section 2.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.attention import Attention, RMSNorm, document_mask
from minigpt.batching.windows import IGNORE
from minigpt.cache import KVCache, StaticCache
from minigpt.layers import (
    MLP,
    Bigrams,
    LearnedPositions,
    NoPositions,
    Rotary,
    RotaryBySentence,
    SwiGLU,
    gelu,
    squared_relu,
)
from minigpt.pointer import Pointed, Pointer
from minigpt.support.errors import require

# So many logits are computed at a time: on CPUs, what their own memory holds (4 MB).
LOGITS_AT_ONCE, LOGITS_AT_ONCE_ON_GPU = 2**20, 2**28


@dataclass(frozen=True)
class GPTConfig:
    """Describe a model's size and shape; fields that are None follow from the others."""

    vocab_size: int
    """Number of token ids."""
    block_size: int = 256
    """Context length: the most tokens that the model sees at once."""
    n_layer: int = 4
    """Number of blocks."""
    n_head: int = 4
    """Query heads in each attention layer."""
    n_kv_head: int | None = None
    """Key-value heads, shared by groups of query heads (None: n_head, nothing shared)."""
    n_embd: int = 128
    """Width of the residual stream."""
    head_dim: int | None = None
    """Width of one head (None: n_embd / n_head)."""
    n_hidden: int | None = None
    """Width inside the MLP (None: 4 n_embd; swiglu: 8/3 n_embd, up to a multiple of 32)."""
    dropout: float = 0.0
    """Share of activations dropped in training; 0 is best when no text is seen twice."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths, in positions."""
    norm_eps: float = 1e-6
    """Added to the mean square before its root is taken."""
    tie_embeddings: bool = True
    """Use one matrix for reading tokens in and for predicting them."""
    norm: Literal["rms", "layer"] = "rms"
    """What evens out the size of vectors: RMSNorm or LayerNorm."""
    mlp: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    """Gated units, or a plain hidden layer of GELU or squared ReLU units."""
    positions: Literal["rotary", "learned", "none", "sentences"] = "rotary"
    """Turn queries and keys, add a learned vector, let the causal mask alone tell the order, or
    turn half of each query and key by the number of its sentence."""
    sentence_ends: tuple[int, ...] = ()
    """Ids of tokens that end a sentence; commands fill them in, as their tokenizer has them."""
    section_starts: tuple[int, ...] = ()
    """Ids of tokens from which on sentences are counted anew; commands fill them in, too."""
    qk_norm: bool = True
    """Normalize queries and keys in each head: attention cannot grow too sharp in training."""
    biases: bool = False
    """Add a learned constant after each matrix of the blocks and in each LayerNorm."""
    bigram_size: int | None = None
    """Rows of a table for pairs of tokens (None: no table); fewer than V * V rows are shared."""
    init: Literal["identity", "gpt2"] = "identity"
    """First weights: blocks that add nothing yet, or GPT-2's small random numbers."""
    separator_id: int | None = None
    """In training no position sees what stands before the last such token (None: sees it)."""
    values: Literal["stream", "tokens"] = "stream"
    """What attention gathers: what the blocks before made of tokens, or the tokens themselves."""
    pointer: bool = False
    """Also point to tokens of the context that come again: a small model recalls much sooner."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                require(type(value) in (int, float), field.name, value, "a number")
            elif field.type is bool:
                require(type(value) is bool, field.name, value, "True or False")
            elif get_origin(field.type) is Literal:
                choices = get_args(field.type)
                holds = type(value) is str and value in choices
                require(holds, field.name, value, f"one of {', '.join(choices)}")
            elif get_origin(field.type) is tuple:
                holds = type(value) in (tuple, list) and all(type(v) is int for v in value)
                holds = holds and all(0 <= v < self.vocab_size for v in value)
                require(holds, field.name, value, "a list of ids below vocab_size")
                object.__setattr__(self, field.name, tuple(value))  # JSON knows lists alone
            elif value is not None or field.default is not None:
                least = 0 if field.name == "separator_id" else 1  # the first id is 0
                require(
                    type(value) is int and least <= value < 2**31,
                    field.name,
                    value,
                    f"a whole number from {least} to 2^31 - 1",
                )
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number from 0 to below 1")
        require(1 < self.rope_theta < 1e30, "rope_theta", self.rope_theta, "a number above 1")
        require(0 < self.norm_eps < 1, "norm_eps", self.norm_eps, "a small number above 0")
        if self.head_dim is None:
            require(
                self.n_embd % self.n_head == 0,
                "n_embd",
                self.n_embd,
                f"a multiple of n_head ({self.n_head}), or head_dim set",
            )
        head_dim = self.head_dim or self.n_embd // self.n_head
        is_even = head_dim % 2 == 0 or self.positions not in ("rotary", "sentences")
        require(is_even, "head_dim", head_dim, "an even number: rotary positions turn pairs")
        n_kv_head = self.n_kv_head or self.n_head
        require(
            self.n_head % n_kv_head == 0,
            "n_kv_head",
            n_kv_head,
            f"a divisor of n_head ({self.n_head})",
        )

    def resolved(self) -> "GPTConfig":
        """Return the same config with every None replaced by the number that it stands for."""
        gated = self.mlp == "swiglu"
        default_hidden = math.ceil(self.n_embd * 8 / 3 / 32) * 32 if gated else 4 * self.n_embd
        return dataclasses.replace(
            self,
            n_kv_head=self.n_kv_head or self.n_head,
            head_dim=self.head_dim or self.n_embd // self.n_head,
            n_hidden=self.n_hidden or default_hidden,
            bigram_size=self.bigram_size and min(self.bigram_size, self.vocab_size**2),
        )


# What makes the default architecture that of a known family; sizes are chosen beside it.
FORMS = {
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


NORMS = {
    "rms": lambda c: RMSNorm(c.n_embd, c.norm_eps),
    "layer": lambda c: nn.LayerNorm(c.n_embd, c.norm_eps, bias=c.biases),
}
MLPS = {
    "swiglu": lambda c: SwiGLU(c.n_embd, c.n_hidden, c.biases),
    "gelu": lambda c: MLP(c.n_embd, c.n_hidden, gelu, c.biases),
    "relu2": lambda c: MLP(c.n_embd, c.n_hidden, squared_relu, c.biases),
}
POSITIONS = {
    "rotary": lambda c: Rotary(c.block_size, c.head_dim, c.rope_theta),
    "learned": lambda c: LearnedPositions(c.block_size, c.n_embd),
    "none": lambda c: NoPositions(),
    "sentences": lambda c: RotaryBySentence(
        c.vocab_size, c.head_dim, c.rope_theta, c.sentence_ends, c.section_starts
    ),
}


class Block(nn.Module):
    """Add to the residual stream first what attention gathers, then what the MLP makes of it."""

    def __init__(self, config: GPTConfig, layer: int):
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
        source: Tensor | None = None,
    ) -> Tensor:
        """Map (B, T, C) to (B, T, C); all but x is as in `Attention.forward`."""
        gathered = self.attention(self.attention_norm(x), rotary, cache, self.layer, mask, source)
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
        self.config = config = config.resolved()
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.bigrams = None
        if config.bigram_size is not None:
            self.bigrams = Bigrams(config.bigram_size, config.vocab_size, config.n_embd)
        self.positions = POSITIONS[config.positions](config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = NORMS[config.norm](config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.pointer = None
        if config.pointer:
            self.pointer = Pointer(
                config.n_embd, config.n_head, config.n_kv_head, config.head_dim, config.norm_eps
            )
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw the first weights by `config.init`; with either choice the loss begins near ln V.

        identity: every block starts as "add nothing". gpt2: what writes to the residual stream is
        the smaller, the more layers write, so that the stream's size does not depend on their
        number. Source: Radford et al. 2019, section 2.3.
        """
        c, identity = self.config, self.config.init == "identity"
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5 if identity else 0.02)
                if module.bias is not None:
                    module.bias.zero_()
        for block in self.blocks:
            for writer in (block.attention.output, block.mlp.down):
                writer.weight.mul_(0.0 if identity else (2 * c.n_layer) ** -0.5)
        head_std = 0.5 / c.n_embd if identity else 0.02
        table_std = 1.0 if identity and not c.tie_embeddings else head_std
        self.embedding.weight.normal_(std=table_std)
        self.head.weight.normal_(std=head_std)
        if self.bigrams is not None:
            self.bigrams.weight.zero_()
        if c.positions == "learned":
            self.positions.weight.normal_(std=table_std)

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the logits (B, T, V) and None or, where targets are given, None and the mean loss.

        idx, targets: token ids (B, T); targets of -100 (batches.IGNORE) do not count. The loss is
        in nats. With a cache, idx holds only the tokens that are new since the last call.
        lengths: how many tokens of each row (B,) are real, the rest being padding on the right;
        then only the logits after each row's last real token are computed, (B, 1, V).
        """
        B, T = idx.shape
        assert T <= self.config.block_size, (T, self.config.block_size)
        positions = slice(0, T) if cache is None else cache.begin(T)
        seen = idx if cache is None else cache.remember(idx)  # (B, S)
        x = self.embedding(idx)  # (B, T, C)
        if self.bigrams is not None:
            x = x + self.bigrams(idx, idx.new_zeros(B) if cache is None else cache.last)
        x, rotary = self.positions(x, positions, seen)
        x = self.dropout(x)
        source = None
        if self.config.values == "tokens":
            source = F.rms_norm(x, x.shape[-1:], eps=self.config.norm_eps)  # (B, T, C)
        is_separated = targets is not None and self.config.separator_id is not None
        mask = document_mask(idx, self.config.separator_id) if is_separated else None
        for block in self.blocks:
            x = block(x, rotary, cache, mask, source)  # (B, T, C)
        pointed = None
        if self.pointer is not None:
            layer = self.config.n_layer
            pointed = self.pointer(self.norm(x), seen, rotary, cache, layer, mask)
        if cache is not None:
            cache.advance(T if lengths is None else lengths)
        if lengths is not None:
            rows = torch.arange(B, device=x.device)
            x = x[rows, lengths - 1][:, None]  # (B, 1, C)
            pointed = None if pointed is None else pointed.at(rows, lengths - 1)
        if targets is not None:
            return None, self.loss(x, targets, pointed)
        logits = self.head(self.norm(x))  # (B, T, V)
        return (logits if pointed is None else pointed.log_probabilities(logits)), None

    def loss(self, x: Tensor, targets: Tensor, pointed: Pointed | None = None) -> Tensor:
        """Return the mean loss at the targets (B, T) that count, after the blocks gave x (B, T, C).

        All logits together would be the largest tensor by far. So they are made some rows at a
        time, and on CPUs none where no target counts (a GPU would have to wait to know).
        """
        counted = targets != IGNORE
        if x.is_cpu and not counted.all():
            kept, wanted = x[counted], targets[counted]  # (N, C), (N)
        else:
            kept, wanted = x.flatten(0, 1), targets.flatten()
        logits = LOGITS_AT_ONCE if x.is_cpu else LOGITS_AT_ONCE_ON_GPU
        rows = max(logits // self.config.vocab_size, 1)
        losses = torch.cat(
            [
                F.cross_entropy(self.head(self.norm(some)).float(), ids, reduction="none")
                for some, ids in zip(kept.split(rows), wanted.split(rows), strict=True)
            ]
        )  # (N)
        if pointed is not None:
            if x.is_cpu:
                losses = losses.new_zeros(counted.shape).masked_scatter(counted, losses)
            losses = pointed.losses(losses.view_as(targets), targets).masked_fill(~counted, 0.0)
        return losses.sum() / counted.sum()

    def new_cache(
        self,
        batch_size: int,
        length: int | None = None,
        static: bool = False,
    ) -> KVCache:
        """Make an empty key-value cache on this model's device: rows, and places (None: all)."""
        c, weight = self.config, self.embedding.weight
        length = c.block_size if length is None else length
        return (StaticCache if static else KVCache)(
            c.n_layer + c.pointer,
            batch_size,
            c.n_kv_head,
            length,
            c.head_dim,
            device=weight.device,
            dtype=weight.dtype,
        )
