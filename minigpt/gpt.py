"""GPT: a stack of attention and MLP blocks that predicts the next token at every position.

The default architecture is exactly Qwen3's: RMSNorm before each part, normalised queries and keys,
rotary positions, SwiGLU, grouped queries, no biases. Knows nothing of text, files or training.

Shapes: B batch, T time, C n_embd, V vocab_size.

Sources: Radford et al. 2019 (GPT-2); Yang et al. 2025, "Qwen3 Technical Report", section 2;
Shazeer 2020, "GLU Variants Improve Transformer".
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.attention import Attention, KVCache, RMSNorm, rotary_table
from minigpt.errors import require


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
    """Width inside the MLP (None: 8/3 of n_embd, rounded up to a multiple of 32)."""
    dropout: float = 0.0
    """Share of activations dropped in training; 0 is best when no text is seen twice."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths, in positions."""
    norm_eps: float = 1e-6
    """Added to the mean square before its root is taken."""
    tie_embeddings: bool = True
    """Use one matrix for reading tokens in and for predicting them."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float:
                require(type(value) in (int, float), field.name, value, "a number")
            elif field.type is bool:
                require(type(value) is bool, field.name, value, "True or False")
            elif value is not None or field.default is not None:
                require(type(value) is int and 1 <= value < 2**31, field.name, value,
                      "a whole number from 1 to 2^31 - 1")  # fmt: skip
        require(0 <= self.dropout < 1, "dropout", self.dropout, "a number from 0 to below 1")
        require(1 < self.rope_theta < 1e30, "rope_theta", self.rope_theta, "a number above 1")
        require(0 < self.norm_eps < 1, "norm_eps", self.norm_eps, "a small number above 0")
        if self.head_dim is None:
            require(self.n_embd % self.n_head == 0, "n_embd", self.n_embd,
                  f"a multiple of n_head ({self.n_head}), or head_dim set")  # fmt: skip
        head_dim = self.head_dim or self.n_embd // self.n_head
        require(head_dim % 2 == 0, "head_dim", head_dim, "even: rotary positions turn pairs")
        n_kv_head = self.n_kv_head or self.n_head
        require(self.n_head % n_kv_head == 0, "n_kv_head", n_kv_head,
              f"a divisor of n_head ({self.n_head})")  # fmt: skip

    def resolved(self) -> "GPTConfig":
        """Return the same config with every None replaced by the number that it stands for."""
        return dataclasses.replace(
            self,
            n_kv_head=self.n_kv_head or self.n_head,
            head_dim=self.head_dim or self.n_embd // self.n_head,
            n_hidden=self.n_hidden or math.ceil(self.n_embd * 8 / 3 / 32) * 32,
        )


class MLP(nn.Module):
    """Transform each position by itself: SwiGLU, a hidden layer whose units have learned gates."""

    def __init__(self, n_embd: int, n_hidden: int):
        super().__init__()
        self.gate = nn.Linear(n_embd, n_hidden, bias=False)
        self.up = nn.Linear(n_embd, n_hidden, bias=False)
        self.down = nn.Linear(n_hidden, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Add to the residual stream first what attention gathers, then what the MLP makes of it."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.attention_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.attention = Attention(
            config.n_embd, config.n_head, config.n_kv_head, config.head_dim, qk_norm=True,
            dropout=config.dropout, norm_eps=config.norm_eps,
        )  # fmt: skip
        self.mlp_norm = RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = MLP(config.n_embd, config.n_hidden)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None = None
    ) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, cache, self.layer))
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x


class GPT(nn.Module):
    """Predict the next token at every position from the tokens up to it.

    >>> model = GPT(GPTConfig(vocab_size=65, block_size=16))
    >>> logits, loss = model(torch.zeros(2, 16, dtype=torch.long))
    >>> logits.shape
    torch.Size([2, 16, 65])
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config = config.resolved()
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        cos, sin = rotary_table(config.block_size, config.head_dim, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)  # (block_size, D)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Set random weights so that every block starts as "add nothing" and the loss near ln V."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5)
        for block in self.blocks:
            block.attention.output.weight.zero_()
            block.mlp.down.weight.zero_()
        self.head.weight.normal_(std=0.5 / self.config.n_embd)
        if not self.config.tie_embeddings:
            self.embedding.weight.normal_()

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, cache: KVCache | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Return the logits (B, T, V) and, where targets are given, the mean loss in nats.

        idx, targets: token ids (B, T); targets of -100 (batches.IGNORE) do not count. With a
        cache, idx holds only the tokens that are new since the last call.
        lengths: how many tokens of each row (B,) are real, the rest being padding on the right;
        then only the logits after each row's last real token are computed, (B, 1, V).
        """
        T = idx.size(1)
        assert T <= self.config.block_size, (T, self.config.block_size)
        if cache is None:
            rotary = self.cos[:T], self.sin[:T]  # (T, D)
        else:
            positions = cache.next_positions(T)  # (B, T)
            rotary = self.cos[positions][:, None], self.sin[positions][:, None]  # (B, 1, T, D)
        x = self.dropout(self.embedding(idx))  # (B, T, C)
        for block in self.blocks:
            x = block(x, rotary, cache)
        if cache is not None:
            cache.advance(T if lengths is None else lengths)
        if lengths is not None:
            x = x[torch.arange(len(x), device=x.device), lengths - 1][:, None]  # (B, 1, C)
        logits = self.head(self.norm(x))  # (B, T, V)
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        return logits, loss

    def new_cache(self, batch_size: int) -> KVCache:
        """Make an empty key-value cache for `batch_size` rows on this model's device."""
        config, weight = self.config, self.embedding.weight
        return KVCache(
            config.n_layer, batch_size, config.n_kv_head, config.block_size, config.head_dim,
            weight.device, weight.dtype,
        )  # fmt: skip


def count_parameters(config: GPTConfig) -> int:
    """Return the number of parameters by formula, without making the model."""
    c = config.resolved()
    attention = c.n_embd * c.head_dim * (2 * c.n_head + 2 * c.n_kv_head) + 2 * c.head_dim
    block = attention + 3 * c.n_embd * c.n_hidden + 2 * c.n_embd
    embeddings = c.vocab_size * c.n_embd * (1 if c.tie_embeddings else 2)
    return embeddings + c.n_layer * block + c.n_embd


def flops_per_token(config: GPTConfig, T: int | None = None) -> int:
    """Return the multiply-and-add operations (2 each) of one token's forward pass at length T.

    A training step costs three times as much. Every weight but the input embedding takes 2; scores
    and mixing take 4 * D a head for each of T keys (masked ones are computed as well).
    """
    c = config.resolved()
    T = T or c.block_size
    matrices = c.n_embd * c.head_dim * (2 * c.n_head + 2 * c.n_kv_head) + 3 * c.n_embd * c.n_hidden
    attention = 2 * 2 * T * c.n_head * c.head_dim
    return c.n_layer * (2 * matrices + attention) + 2 * c.n_embd * c.vocab_size
