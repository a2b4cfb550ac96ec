"""Speculative decoding: something cheap drafts a few tokens, and the model checks them at once.

One pass over k + 1 tokens costs little more than one over a single token, since the weights are
read once either way. So each draft that the model would have written itself is a step saved. What
is written has exactly the distribution of the model alone: greedy texts are equal, drawn ones
equally likely, whatever the draft is. A bad draft costs time, never quality.

Shapes: T time, V vocab_size.

Sources: Leviathan, Kalman and Matias 2023, "Fast Inference from Transformers via Speculative
Decoding", section 2.3; Chen et al. 2023, "Accelerating Large Language Model Decoding with
Speculative Sampling", algorithm 2.
"""

import random
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minigpt.classification import refuse_classifier
from minigpt.generate import check_prompts, evaluating, prefill
from minigpt.gpt import GPT
from minigpt.ngram import Counts
from minigpt.sampling import SampleConfig, draw, next_probabilities
from minigpt.support.errors import ConfigError, require

# From all ids so far, and how many tokens are wanted: the draft, of that many tokens or fewer.
Draft = Callable[[Sequence[int], int], list[int]]


class NGramDraft:
    """Draft by counting: each time the token that most often followed the last few.

    The longest run that was seen in training decides; it is one look into a table, so a draft costs
    next to nothing.
    """

    def __init__(self, counts: Counts):
        self.vocab_size, self.n = counts.vocab_size, len(counts.levels)
        self.places: list[dict[int, int]] = []  # for runs of each length, by key
        self.best: list[list[int]] = []  # by the place of the run before it
        n_contexts = 1
        for level in counts.levels:
            order = np.argsort(level.counts, kind="stable")  # the last one written stays
            best = np.full(n_contexts, -1)
            best[level.keys[order] // self.vocab_size] = level.keys[order] % self.vocab_size
            self.best.append(best.tolist())
            self.places.append({key: place for place, key in enumerate(level.keys.tolist())})
            n_contexts = len(level.keys)

    def __call__(self, ids: Sequence[int], count: int) -> list[int]:
        """Return `count` tokens that may follow the ids."""
        recent = list(ids[-self.n :])
        for _ in range(count):
            recent.append(self.likeliest(recent))
        return recent[len(recent) - count :]

    def likeliest(self, ids: Sequence[int]) -> int:
        """Return the most frequent token after the longest run at the end of the ids."""
        for length in range(min(self.n - 1, len(ids)), -1, -1):
            place: int | None = 0
            for level, token in enumerate(ids[len(ids) - length :]):
                place = self.places[level].get(place * self.vocab_size + token)
                if place is None:
                    break
            if place is not None and self.best[length][place] >= 0:
                return self.best[length][place]
        raise AssertionError("the run of none was counted")


def accept_or_replace(
    p: Tensor, q: Tensor, token: int, uniforms: tuple[float, float]
) -> tuple[bool, int]:
    """Decide on a token that was drawn from q (V): keep it, or replace it, so that p (V) holds.

    It is kept with probability min(1, p / q). Otherwise another one is drawn from what p has more
    of than q. Both together draw from p: Leviathan et al. 2023, appendix A.1.
    """
    if uniforms[0] * q[token] < p[token]:
        return True, token
    missing = (p - q).clamp(min=0)  # (V)
    return False, int(draw(missing[None], uniforms[1:]).item())


def check_draft(p: Tensor, tokens: Sequence[int], rng: random.Random) -> list[int]:
    """Return what is written of a draft: the tokens that are kept, and one of the model's own.

    p (T, V): the model's probabilities at each of the T - 1 drafted tokens, and after the last. A
    draft is sure of its tokens (q is 1 there), so each is kept with probability p.
    """
    written = []
    for row, token in zip(p, tokens, strict=False):
        q = torch.zeros_like(row).index_fill(0, torch.tensor(token, device=row.device), 1.0)
        is_kept, token = accept_or_replace(row, q, token, (uniform(rng), uniform(rng)))
        written.append(token)
        if not is_kept:
            return written
    return [*written, int(draw(p[-1:], [uniform(rng)]).item())]


def uniform(rng: random.Random) -> float:
    """Return a number from 0 to below 1 that a float32 holds exactly: none is rounded up to 1."""
    return rng.getrandbits(24) / 2**24


class Speculated(NamedTuple):
    """What was written, and what it took; the stop id that ended a text is not in `ids`."""

    ids: list[int]
    n_passes: int  # of the model, the prompt's not included
    n_drafted: int
    n_kept: int


@torch.inference_mode()
def speculate(
    model: GPT,
    prompt: Sequence[int],
    draft: Draft,
    config: SampleConfig | None = None,
    n_draft: int = 6,
    stop_ids: Collection[int] = (),
) -> Speculated:
    """Continue a prompt as `generate` does, with up to `n_draft` drafted tokens in each pass.

    Temperature and filters of the config hold. Raises ConfigError for penalties and biases, which
    would need each token before the next, and for a text that may outgrow the context.
    """
    config = config or SampleConfig()
    check_speculation(model, prompt, config, n_draft)
    rng, ids, limit = random.Random(config.seed), list(prompt), len(prompt) + config.max_new_tokens
    passes = drafted = kept = 0
    with evaluating(model):
        cache = model.new_cache(1, limit)
        if len(prompt) > 1:
            prefill(model, cache, [prompt[:-1]])
        while len(ids) < limit:
            wanted = min(n_draft, limit - len(ids) - 1)  # behind them comes one of the model's own
            tokens = draft(ids, wanted)[:wanted]
            idx = torch.tensor([[ids[-1], *tokens]], device=cache.positions.device)  # (1, T)
            logits, _ = model(idx, cache=cache)  # (1, T, V)
            written = check_draft(next_probabilities(logits[0], config), tokens, rng)
            cache.advance(len(written) - idx.size(1))  # what was not kept is forgotten
            passes, drafted, kept = passes + 1, drafted + len(tokens), kept + len(written) - 1
            for token in written:
                if token in stop_ids:
                    return Speculated(ids[len(prompt) :], passes, drafted, kept)
                ids.append(token)
    return Speculated(ids[len(prompt) :], passes, drafted, kept)


def check_speculation(
    model: GPT, prompt: Sequence[int], config: SampleConfig, n_draft: int
) -> None:
    """Raise a ConfigError for what `speculate` cannot do."""
    refuse_classifier(model, "write")
    check_prompts(model, [prompt], config)
    require(n_draft >= 0, "n_draft", n_draft, "0 or more")
    if config.reads_history or config.logit_bias:
        what = "penalties and biases do not go with a draft"
        raise ConfigError(what, "speculative decoding", "use generate, or leave them out")
    longest = model.config.block_size - len(prompt)
    if config.max_new_tokens > longest:
        what = f"{config.max_new_tokens} new tokens do not fit behind {len(prompt)} in the context"
        raise ConfigError(what, "speculative decoding", f"ask for at most {longest}")
