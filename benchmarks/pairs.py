"""A GPT that also looks up each pair of neighboring tokens: what an n-gram model knows, at once.

For texts of few characters alone, whose pairs fit into a table; it trains, and does not decode.

Shapes: B batch, T time, C n_embd, V vocab_size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.gpt import GPT, GPTConfig


class PairEmbedding(nn.Embedding):
    """Add to a token's vector that of the pair which it makes with the token before it."""

    def __init__(self, vocab_size: int, n_embd: int):
        super().__init__(vocab_size, n_embd)
        self.pairs = nn.Parameter(torch.zeros(vocab_size**2, n_embd))

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, T, C) for tokens (B, T); before a row's first token stands token 0."""
        previous = F.pad(input[:, :-1], (1, 0))  # (B, T)
        return super().forward(input) + self.pairs[previous * self.num_embeddings + input]


class PairGPT(GPT):
    """A GPT with a table of token pairs."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        table = PairEmbedding(config.vocab_size, config.n_embd)
        table.weight = self.embedding.weight
        self.embedding = table
