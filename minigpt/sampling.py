"""Choose the next token from a model's logits: greedy, temperature, top-k, top-p, min-p.

Knows nothing of models and texts: logits go in, token ids come out.

Shapes: B rows, V vocab_size, K tokens that are looked at.

Sources: Fan et al. 2018, "Hierarchical Neural Story Generation" (top-k); Holtzman et al. 2020,
"The Curious Case of Neural Text Degeneration" (top-p); Nguyen et al. 2024, "Turning Up the Heat"
(min-p).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minigpt.support.errors import TrainingError, require

FEW = 64  # tokens among which top-p looks first


@dataclass(frozen=True)
class SampleConfig:
    """Say how next tokens are chosen; the filters act in this order, each on what is left."""

    max_new_tokens: int = 200
    """Most tokens to write after the prompt."""
    temperature: float = 1.0
    """Divides the logits: 0 is greedy, below 1 bolder than the model, above 1 more varied."""
    top_k: int | None = None
    """Choose among this many most likely tokens (None: all)."""
    top_p: float = 1.0
    """Choose among the fewest most likely tokens that together have this probability."""
    min_p: float = 0.0
    """Choose among tokens at least this probable, relative to the most likely one."""
    seed: int = 0
    """The same seed gives the same text; each row of a batch has its own random numbers."""
    truncate: Literal["no", "left"] = "no"
    """Prompts longer than the context: "no" refuses them, "left" forgets their beginning."""
    compile: bool = False
    """Compile the step from token to token: a slow start, then faster (needs a C++ compiler)."""

    def __post_init__(self):
        whole, real = (int,), (int, float)
        self.check("max_new_tokens", whole, lambda value: value >= 0, "a whole number >= 0")
        self.check(
            "temperature",
            real,
            lambda value: 0 <= value < math.inf,
            "a finite number >= 0 (0 is greedy)",
        )
        self.check(
            "top_k",
            (int, type(None)),
            lambda value: value is None or value >= 1,
            "a whole number >= 1, or None for all tokens",
        )
        self.check("top_p", real, lambda value: 0 < value <= 1, "a number above 0, up to 1")
        self.check("min_p", real, lambda value: 0 <= value < 1, "a number from 0 to below 1")
        self.check("seed", whole, lambda value: value >= 0, "a whole number >= 0")
        self.check("compile", (bool,), lambda value: True, "True or False")
        self.check("truncate", (str,), lambda value: value in ("no", "left"), '"no" or "left"')

    def check(self, name: str, types: tuple[type, ...], holds, wanted: str) -> None:
        """Raise a ConfigError that shows the value unless its type and range are right."""
        value = getattr(self, name)
        require(type(value) in types and holds(value), name, value, wanted)


def next_probabilities(logits: Tensor, config: SampleConfig) -> Tensor:
    """Turn logits (B, V) into the probabilities (B, V) that the next token is drawn from."""
    logits = relative_logits(logits)
    if config.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    temperature = float(min(max(config.temperature, 1e-30), 1e30))  # float32 knows no 1e-300
    probabilities = (logits / temperature).softmax(dim=-1)
    if config.top_k is not None:
        probabilities = keep_top_k(probabilities, config.top_k)
    if config.top_p < 1:
        probabilities = keep_top_p(probabilities, config.top_p)
    if config.min_p > 0:
        probabilities = keep_min_p(probabilities, config.min_p)
    return probabilities


def relative_logits(logits: Tensor) -> Tensor:
    """Subtract each row's largest logit, so that no temperature can make any of them overflow.

    Raises TrainingError where the largest is not finite: such a model predicts nothing.
    """
    logits = logits.float()
    largest = logits.amax(dim=-1, keepdim=True)  # (B, 1), NaN if any logit is
    if not largest.isfinite().all():
        raise TrainingError(
            "the model's logits are not finite (NaN or infinity)",
            "next token",
            "its weights are damaged: use an earlier checkpoint, or train with a lower "
            "learning rate",
        )
    return logits - largest


def keep_top_k(probabilities: Tensor, top_k: int) -> Tensor:
    """Keep the `top_k` most likely tokens of each row (B, V); a larger `top_k` keeps all."""
    values, ids = probabilities.topk(min(top_k, probabilities.size(-1)))
    return normalize(torch.zeros_like(probabilities).scatter(-1, ids, values))


def keep_top_p(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the most likely tokens until they reach `top_p` together; at least one always stays.

    Few tokens nearly always suffice, and few are found much faster than all are sorted.
    """
    values, ids = probabilities.topk(min(FEW, probabilities.size(-1)))
    kept = torch.zeros_like(probabilities).scatter(-1, ids, nucleus(values, top_p))
    for row in (values.sum(dim=-1) < top_p).nonzero()[:, 0]:
        values, ids = probabilities[row].sort(descending=True, stable=True)
        kept[row] = kept[row].scatter(-1, ids, nucleus(values, top_p))
    return normalize(kept)


def nucleus(values: Tensor, top_p: float) -> Tensor:
    """Set to 0 what is not needed of falling probabilities (..., K) to reach `top_p`."""
    before = values.cumsum(dim=-1) - values  # what the more likely ones have together
    surplus = before >= top_p
    surplus[..., 0] = False  # a tiny top_p is 0 in float32
    return values.masked_fill(surplus, 0.0)


def keep_min_p(probabilities: Tensor, min_p: float) -> Tensor:
    """Keep the tokens that are at least `min_p` times as likely as the most likely one."""
    least = min_p * probabilities.amax(dim=-1, keepdim=True)  # (B, 1)
    return normalize(probabilities.masked_fill(probabilities < least, 0.0))


def normalize(weights: Tensor) -> Tensor:
    """Scale each row (..., V) to the sum 1."""
    return weights / weights.sum(dim=-1, keepdim=True)


def draw(probabilities: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Draw one token id a row, (B, V) -> (B,), where a uniform number in [0, 1) hits its share.

    The tokens' probabilities, laid end to end, fill the line from 0 to 1.
    """
    ends = probabilities.cumsum(dim=-1)  # (B, V)
    hits = torch.tensor(uniforms, dtype=ends.dtype, device=ends.device)[:, None] * ends[:, -1:]
    return torch.searchsorted(ends, hits, right=True).squeeze(-1)


def next_tokens(logits: Tensor, config: SampleConfig, uniforms: Sequence[float]) -> Tensor:
    """Choose one token id a row, (B, V) -> (B,), by these uniform numbers; the greatest if greedy.

    Greedy needs no lottery: drawing from `next_probabilities` would give the same.
    """
    if config.temperature == 0:
        return relative_logits(logits).argmax(dim=-1)
    return draw(next_probabilities(logits, config), uniforms)
