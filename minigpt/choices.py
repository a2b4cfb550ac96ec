"""Ask by likelihood: which of some choices does a model find likeliest, and which last word?

Nothing is generated, so models that have not learned to answer can be asked, too. Conventions are
those of EleutherAI's lm-evaluation-harness: context and choice are encoded together, nothing ends a
choice, a long context loses its beginning, and of equal choices the first one counts. Each text
begins as a document does, which the harness does when asked: `add_bos_token=True`.
(`evaluate.likeliest` is for chats: it scores whole answers, their end included.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from minigpt.evaluate import token_scores
from minigpt.gpt import GPT
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import Tokenizer

Normalization = Literal["none", "characters", "bytes"]


@dataclass(frozen=True)
class Question:
    """A context and the ways in which it may go on, one of them right."""

    context: str
    choices: tuple[str, ...]
    """Each without the space that joins it to the context."""
    right: int
    """The place of the right choice."""

    def __post_init__(self):
        if not 0 <= self.right < len(self.choices):
            what = f"choice {self.right} of {len(self.choices)} is right"
            raise DataError(what, self.context[-40:], "count from 0")

    @property
    def text(self) -> str:
        """The context with its right end: what a training text would hold."""
        return f"{self.context} {self.choices[self.right]}"


class Continued(NamedTuple):
    """How a model finds one continuation of a context."""

    log_likelihood: float  # in nats, summed over its tokens
    is_greedy: bool  # each of its tokens is the likeliest
    n_tokens: int


def continuations(
    model: GPT, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]
) -> list[Continued]:
    """Return how a model finds the second text of each pair after the first."""
    encoded = [encode_pair(tokenizer, context, text) for context, text in pairs]
    block_size = model.config.block_size
    for (_, n), (_, text) in zip(encoded, pairs, strict=True):
        if n > block_size:
            what = f"a choice of {n} tokens, and a context length of {block_size}"
            raise DataError(what, repr(text[:40]), "give shorter choices")
    rows = [ids[-block_size - 1 :] for ids, _ in encoded]
    scored = token_scores(model, rows)
    return [
        Continued(-float(losses[-n:].sum()), bool(best[-n:].all()), n)
        for (losses, best), (_, n) in zip(scored, encoded, strict=True)
    ]


def encode_pair(tokenizer: Tokenizer, context: str, text: str) -> tuple[list[int], int]:
    """Return the ids of a context and its continuation, and how many are the continuation's.

    They are cut into tokens as one text, since a token may join the space to the word after it; a
    space at the context's end belongs to the continuation.
    """
    kept = context.rstrip()
    text = context[len(kept) :] + text
    whole, before = tokenizer.encode_batch([kept + text, kept])
    n = len(whole) - len(before)
    if n < 1:
        raise DataError("a choice without a token", repr(text[:40]), "give each choice a text")
    return [tokenizer.bos_id, *whole], n


def choice_log_likelihoods(
    model: GPT, tokenizer: Tokenizer, questions: Sequence[Question]
) -> list[np.ndarray]:
    """Return the log-likelihood of each question's choices (K,), in nats."""
    pairs = [(q.context, f" {choice}") for q in questions for choice in q.choices]
    found = iter(continuations(model, tokenizer, pairs))
    return [np.array([next(found).log_likelihood for _ in q.choices]) for q in questions]


def likeliest_choice(
    log_likelihoods: np.ndarray, choices: Sequence[str], normalize: Normalization = "none"
) -> int:
    """Return the place of the likeliest choice; long ones may be forgiven their length.

    "none" is lm-eval's acc, "characters" its acc_norm, "bytes" its acc_bytes. A sum gives short
    choices an advantage; a mean forgives long ones that are easy letter by letter.

    >>> likeliest_choice(np.array([-4.0, -6.0]), ["no", "certainly"], "none")
    0
    >>> likeliest_choice(np.array([-4.0, -6.0]), ["no", "certainly"], "characters")
    1
    """
    if normalize == "none":
        return int(np.argmax(log_likelihoods))
    if normalize not in ("characters", "bytes"):
        remedy = "none, characters or bytes"
        raise ConfigError(f"normalization {normalize!r}", "choices", f"choose from {remedy}")
    sizes = [len(c) if normalize == "characters" else len(c.encode("utf-8")) for c in choices]
    return int(np.argmax(log_likelihoods / np.array(sizes)))
