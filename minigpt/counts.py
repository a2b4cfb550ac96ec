"""Count a model's parameters and operations by formula, without making the model.

Tests compare the formulas with the tensors of real models of every architecture.
"""

from minigpt.gpt import GPTConfig, ResolvedConfig


def count_parameters(config: GPTConfig) -> int:
    """Return the number of parameters by formula, without making the model."""
    c = config.resolved()
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    block = matrix_parameters(c) + 2 * norm_parameters(c) + 2 * c.head_dim * c.qk_norm
    if c.biases:  # of query, key and value; attention's output, the MLP's output; hidden layers
        block += queries + 2 * keys + 2 * c.n_embd + c.n_hidden * (2 if c.mlp == "swiglu" else 1)
    rows = c.vocab_size * (1 if c.tie_embeddings else 2)  # of the tables, each C wide
    rows += c.block_size * (c.positions == "learned")
    return rows * c.n_embd + c.n_layer * block + norm_parameters(c)


def matrix_parameters(c: ResolvedConfig) -> int:
    """Return the number of weights in the matrices of one block; `c` is resolved."""
    attention = c.n_embd * c.head_dim * (2 * c.n_head + 2 * c.n_kv_head)
    return attention + (3 if c.mlp == "swiglu" else 2) * c.n_embd * c.n_hidden


def norm_parameters(c: ResolvedConfig) -> int:
    """Return the number of parameters of one norm of the residual stream."""
    return c.n_embd * (2 if c.norm == "layer" and c.biases else 1)


def flops_per_token(config: GPTConfig, T: int | None = None) -> int:
    """Return the multiply-and-add operations (2 each) of one token's forward pass at length T.

    A training step costs three times as much. Every matrix weight takes 2; scores and mixing take
    4 * D a head for each of T keys (masked ones are computed as well). Tables are only read.
    """
    c = config.resolved()
    scores = 2 * (T or c.block_size) * c.n_head * c.head_dim
    block = 2 * matrix_parameters(c) + 2 * scores
    return c.n_layer * block + 2 * c.n_embd * c.vocab_size
