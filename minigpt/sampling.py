"""Choose the next token from a model's logits: penalties and bias, temperature, filters, a draw.

The order is that of the fields of `SampleConfig`: repetition penalty, presence and frequency
penalty, bias, a constraint (if any), temperature, top-k, top-p, min-p.

Knows nothing of models and texts: logits and the ids written so far go in, token ids come out.

Shapes: B rows, V vocab_size, K tokens that are looked at.

Sources: Keskar et al. 2019, "CTRL", section 4.1 (repetition penalty); OpenAI's API reference
(presence and frequency penalty, bias); Fan et al. 2018, "Hierarchical Neural Story Generation"
(top-k); Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (top-p); Nguyen et
al. 2024, "Turning Up the Heat" (min-p).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from minigpt.machine.sorting import sort_until
from minigpt.support.errors import ConfigError, TrainingError
from minigpt.support.settings import (
    above,
    at_least,
    at_most,
    below,
    check_fields,
    numbers_by_id,
)


@dataclass(frozen=True)
class SampleConfig:
    """Say how next tokens are chosen; what the fields ask for is done in their order."""

    max_new_tokens: Annotated[int, at_least(0)] = 200
    """Most tokens to write after the prompt."""
    repetition_penalty: Annotated[float, at_least(0.01), at_most(100)] = 1.0
    """Above 1: tokens that occurred, in the prompt too, become less likely (1: off; CTRL)."""
    presence_penalty: Annotated[float, at_least(-2), at_most(2)] = 0.0
    """Subtracted from the logit of every token written so far, once."""
    frequency_penalty: Annotated[float, at_least(-2), at_most(2)] = 0.0
    """Subtracted from a token's logit for each time it was written."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Added to the logits of these tokens: pairs of an id and a number from -100 to 100."""
    temperature: Annotated[float, at_least(0)] = 1.0
    """Divides the logits. 0: always the likeliest token; below 1: safer, more repetitive;
    above 1: more varied."""
    top_k: Annotated[int | None, at_least(1)] = None
    """Choose among this many most likely tokens (None: all)."""
    top_p: Annotated[float, above(0), at_most(1)] = 1.0
    """Choose among the fewest most likely tokens that together have this probability."""
    min_p: Annotated[float, at_least(0), below(1)] = 0.0
    """Choose among tokens at least this probable, relative to the most likely one."""
    seed: Annotated[int, at_least(0)] = 0
    """The same seed gives the same text; each row of a batch has its own random numbers."""
    truncate: Literal["no", "left"] = "no"
    """Prompts longer than the context: "no" refuses them, "left" forgets their beginning."""
    compile: bool = False
    """Compile the step from token to token: a slow start, then faster (needs a C++ compiler)."""

    def __post_init__(self):
        check_fields(self)
        object.__setattr__(self, "logit_bias", numbers_by_id("logit_bias", self.logit_bias, 100))

    @property
    def reads_history(self) -> bool:
        """Tell whether the choice depends on the tokens so far, and not on the logits alone."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)


class History:
    """The tokens of each row so far: what penalties and constraints look at.

    prompts: the ids that each row began with, those that the context has forgotten included.
    written: the ids that were added to each row since.
    seen: which tokens occurred in a row at all, (B, V).
    counts: how often each was written, (B, V).
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device | str = "cpu",
    ):
        self.prompts = [list(prompt) for prompt in prompts]
        self.written: list[list[int]] = [[] for _ in prompts]
        self.counts = torch.zeros(len(prompts), vocab_size, device=device)
        self.seen = torch.zeros_like(self.counts, dtype=torch.bool)
        for row, prompt in enumerate(self.prompts):
            self.seen[row, prompt] = True

    def append(self, rows: list[int], tokens: Sequence[int]) -> None:
        """Keep these rows, in this order, and add one token to each."""
        if rows != list(range(len(self.written))):
            self.prompts = [self.prompts[row] for row in rows]
            self.written = [list(self.written[row]) for row in rows]
            self.seen, self.counts = self.seen[rows], self.counts[rows]
        for written, token in zip(self.written, tokens, strict=True):
            written.append(token)
        # Counting on costs the same however long the text is; counting anew would not.
        every = torch.arange(len(rows), device=self.counts.device)
        ids = torch.tensor(tokens, device=self.counts.device)
        self.seen[every, ids] = True
        self.counts[every, ids] += 1


# Returns other logits (B, V) in view of what was written; -inf forbids a token.
Constraint = Callable[[Tensor, History], Tensor]


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred (B, V) less likely: CTRL's formula, by the sign of the logit.

    >>> penalize_repetition(torch.tensor([[2.0, -1.0]]), torch.tensor([[True, True]]), 2.0).tolist()
    [[1.0, -2.0]]
    """
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)  # both go down
    return torch.where(seen, penalized, logits)


def penalize_counts(logits: Tensor, counts: Tensor, presence: float, frequency: float) -> Tensor:
    """Subtract `presence` once, and `frequency` for each time that a token was written (B, V).

    >>> penalize_counts(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 4.0]]), 1.0, 0.5).tolist()
    [[0.0, -1.5, -3.0]]
    """
    return logits - presence * (counts > 0) - frequency * counts


def add_bias(logits: Tensor, logit_bias: Sequence[tuple[int, float]]) -> Tensor:
    """Add a number to the logit of each token that is named; logits (B, V) stay as they are."""
    ids, values = zip(*logit_bias, strict=True)
    logits = logits.clone()
    logits[:, list(ids)] += torch.tensor(values, device=logits.device)
    return logits


def adjust_logits(
    logits: Tensor,
    config: SampleConfig,
    history: History | None = None,
    constraint: Constraint | None = None,
) -> Tensor:
    """Return logits (B, V) after penalties, bias and constraint; unchanged where all are off.

    Raises ConfigError for a constraint that leaves a row without any token.
    """
    if history is None:
        assert not config.reads_history, "penalties need a history"
        assert constraint is None, "a constraint needs a history"
    else:
        logits = logits.float()
        # The sign matters here, so this works on the model's own logits and comes first.
        if config.repetition_penalty != 1:
            logits = penalize_repetition(logits, history.seen, config.repetition_penalty)
        if config.presence_penalty != 0 or config.frequency_penalty != 0:
            penalties = config.presence_penalty, config.frequency_penalty
            logits = penalize_counts(logits, history.counts, *penalties)
    if config.logit_bias:
        logits = add_bias(logits.float(), config.logit_bias)
    if constraint is not None and history is not None:
        # The last word: nothing that follows gives a forbidden token a chance again.
        logits = constraint(logits, history)
        if (logits == -torch.inf).all(dim=-1).any():
            raise ConfigError(
                "the constraint forbids every token",
                "next token",
                "let it allow one, for example the end of the text",
            )
    return logits


def next_probabilities(logits: Tensor, config: SampleConfig) -> Tensor:
    """Turn adjusted logits (B, V) into the probabilities (B, V) that the next token is drawn from.

    Temperature comes first, then the filters, each acting on what the one before it has left.
    """
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
    """Keep the most likely tokens until they reach `top_p` together; at least one always stays."""
    values, ids = sort_until(probabilities, top_p)  # falling, (B, K)
    before = values.cumsum(dim=-1) - values  # what the more likely ones have together
    surplus = before >= top_p
    surplus[:, 0] = False  # a tiny top_p is 0 in float32
    kept = values.masked_fill(surplus, 0.0)
    return normalize(torch.zeros_like(probabilities).scatter(-1, ids, kept))


def keep_min_p(probabilities: Tensor, min_p: float) -> Tensor:
    """Keep the tokens that are at least `min_p` times as likely as the most likely one."""
    least = min_p * probabilities.amax(dim=-1, keepdim=True)  # (B, 1)
    return normalize(probabilities.masked_fill(probabilities < least, 0.0))


def normalize(weights: Tensor) -> Tensor:
    """Scale each row (..., V) to the sum 1."""
    return weights / weights.sum(dim=-1, keepdim=True)


def draw(probabilities: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Draw one token id per row, (B, V) -> (B,), where a uniform number in [0, 1) hits its share.

    The tokens' probabilities, laid end to end, fill the line from 0 to 1.
    """
    ends = probabilities.cumsum(dim=-1)  # (B, V)
    hits = torch.tensor(uniforms, dtype=ends.dtype, device=ends.device)[:, None] * ends[:, -1:]
    return torch.searchsorted(ends, hits, right=True).squeeze(-1)


def next_tokens(
    logits: Tensor,
    config: SampleConfig,
    uniforms: Sequence[float],
    history: History | None = None,
    constraint: Constraint | None = None,
) -> Tensor:
    """Choose one token id per row, (B, V) -> (B,), by these uniform numbers.

    history: the tokens so far, in the order of the rows; needed where penalties are on
    (`config.reads_history`) or a constraint is given.
    """
    logits = adjust_logits(logits, config, history, constraint)
    if config.temperature == 0:
        # No lottery is needed: drawing from `next_probabilities` would give the same token.
        return relative_logits(logits).argmax(dim=-1)
    return draw(next_probabilities(logits, config), uniforms)
