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


def active_parameters(config: GPTConfig) -> int:
    """Return how many parameters work for one token: all, without the experts it does not use."""
    c = config.resolved()
    idle = matrix_parameters(c) - matrix_parameters(c, active=True)
    return count_parameters(config) - c.n_layer * idle


def matrix_parameters(c: ResolvedConfig, active: bool = False) -> int:
    """Return the number of weights in the matrices of one block; `c` is resolved.

    active: leave out the experts that a token does not use.
    """
    attention = c.n_embd * c.head_dim * (2 * c.n_head + 2 * c.n_kv_head)
    if c.mlp == "experts":
        experts = c.n_active if active else c.n_expert
        return attention + c.n_embd * (c.n_expert + experts * 3 * c.n_hidden)  # router, MLPs
    return attention + (3 if c.mlp == "swiglu" else 2) * c.n_embd * c.n_hidden


def norm_parameters(c: ResolvedConfig) -> int:
    """Return the number of parameters of one norm of the residual stream."""
    return c.n_embd * (2 if c.norm == "layer" and c.biases else 1)


def flops_per_token(config: GPTConfig, T: int | None = None) -> int:
    """Return the multiply-and-add operations (2 each) of one token's forward pass at length T.

    A training step costs three times as much. Every matrix weight takes 2; scores and mixing take
    4 * D a head for each of T keys (masked ones are computed as well). Tables are only read, and
    experts that a token does not use do nothing.
    """
    c = config.resolved()
    scores = 2 * (T or c.block_size) * c.n_head * c.head_dim
    block = 2 * matrix_parameters(c, active=True) + 2 * scores
    return c.n_layer * block + 2 * c.n_embd * c.vocab_size
