"""Predict the next token by counting which tokens followed the same few tokens before.

An n-gram model knows the last n - 1 tokens alone. Most runs of n tokens never occur in training,
so each model also asks the shorter runs: smoothing says how much. Counting is sorting: every run
gets a key, and equal keys stand together. What no n-gram model knows: that words resemble each
other, and what happened more than n - 1 tokens ago.

Tokens are one array (N,) of documents, <|endoftext|> after each. A document is read from its start:
its first token follows <|endoftext|>, and nothing is seen of the document before. So losses compare
with those of a GPT on the same documents (`batching.EvalDocuments`).

Sources: Ney, Essen and Kneser 1994, "On structuring probabilistic dependences in stochastic
language modeling" (absolute discounting); Kneser and Ney 1995, "Improved backing-off for m-gram
language modeling"; Chen and Goodman 1998, "An empirical study of smoothing techniques for language
modeling", sections 2 and 3.
"""

import random
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal, NamedTuple, get_args

import numpy as np

from minigpt.support.errors import ConfigError, DataError

Smoothing = Literal["additive", "absolute", "kneser_ney"]


# --- the smallest: a table of pairs ---


class Bigram:
    """Predict from the last token alone: count each pair of neighbors, and divide by row.

    `counts` (V, V) says how often a token (column) followed another (row), `probabilities` (V, V)
    what that makes of the next token. To each count `alpha` is added, so that nothing is
    impossible. V is vocab_size; the table needs 16 V^2 bytes.

    >>> model = Bigram(np.array([1, 2, 1, 0]), vocab_size=3, alpha=1.0)  # 0 is <|endoftext|>
    >>> model.probabilities[1].round(2).tolist()  # 1 was followed by 2 and by 0
    [0.4, 0.2, 0.4]
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, alpha: float = 1.0):
        check_positive("alpha", alpha)
        before = np.roll(tokens, 1)  # the <|endoftext|> at the end comes before the first token
        self.counts = np.zeros((vocab_size, vocab_size))
        np.add.at(self.counts, (before, tokens), 1)
        smoothed = self.counts + alpha
        self.probabilities = smoothed / smoothed.sum(axis=1, keepdims=True)

    def loss(self, tokens: np.ndarray) -> float:
        """Return the mean of -log p over the tokens, in nats."""
        return float(-np.log(self.probabilities[np.roll(tokens, 1), tokens]).mean())


# --- counting runs of any length ---


class Level(NamedTuple):
    """All M distinct runs of k tokens in the training text, sorted by key.

    A run's key is (place of its first k - 1 tokens among the shorter runs) * vocab_size + its last
    token: so runs with the same beginning, the context, stand together.
    """

    keys: np.ndarray  # (M,)
    counts: np.ndarray  # (M,) how often the run occurs
    variety: np.ndarray  # (M,) after how many different tokens; its count if it begins a document
    opening: np.ndarray  # (M,) whether it begins a document, with <|endoftext|>


class Counts(NamedTuple):
    """What n-gram models up to some order are made of; `levels[k - 1]` holds the runs of k."""

    levels: list[Level]
    vocab_size: int
    eot_id: int


def count_ngrams(tokens: np.ndarray, vocab_size: int, eot_id: int, n: int) -> Counts:
    """Count all runs of 1 to n tokens that lie within a document; see `check_tokens` for errors."""
    check_positive("n", n)
    tokens = check_tokens(tokens, vocab_size, eot_id)
    levels: list[Level] = []
    contexts = np.zeros(len(tokens), dtype=np.int64)  # before each token: the run of none
    shorter = contexts  # the numbers of the runs of k - 1 tokens; read from k = 2 on
    for k in range(1, n + 1):
        ends = np.flatnonzero(contexts >= 0)  # where runs of k tokens end
        keys, first, inverse, counts = np.unique(
            contexts[ends] * vocab_size + tokens[ends],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        places = np.full(len(tokens), -1, dtype=np.int64)
        places[ends] = inverse
        first = ends[first]  # where each run ends for the first time
        opening = (tokens[first - k + 1] == eot_id) & (k > 1)
        if k > 1:
            suffixes = np.bincount(shorter[first], minlength=len(levels[-1].keys))
            variety = np.where(levels[-1].opening, levels[-1].counts, suffixes)
            levels[-1] = levels[-1]._replace(variety=variety)
        levels.append(Level(keys, counts, counts, opening))
        contexts, shorter = contexts_after(places, tokens, eot_id, k), places
    return Counts(levels, vocab_size, eot_id)


def contexts_after(places: np.ndarray, tokens: np.ndarray, eot_id: int, k: int) -> np.ndarray:
    """Return for each token the place of the run of k before it, -1 where there is none.

    From the place of the run of k that ends at each token. A run that ends with <|endoftext|> is
    nothing's context, but for <|endoftext|> alone.
    """
    if k > 1:
        places = np.where(tokens == eot_id, -1, places)
    return np.roll(places, 1)


def find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the place of each wanted key among the sorted keys, -1 where it is missing."""
    places = np.searchsorted(keys, wanted)
    places[places == len(keys)] = 0
    return np.where(keys[places] == wanted, places, -1)


# --- models ---


class Shares(NamedTuple):
    """A smoothed level: p(token | context) = share of the run + backoff x p(token | one less).

    Both end with what holds at place -1, for what was never seen: share 0 and backoff 1.
    """

    keys: np.ndarray  # (M,)
    shares: np.ndarray  # (M + 1,) by run
    backoffs: np.ndarray  # (contexts + 1,)


class NGram:
    """A smoothed n-gram model; every token of the vocabulary has a probability above 0.

    "additive" adds alpha to every count (Laplace 1814) and knows nothing of shorter runs.
    "absolute" takes the same small amount off every count, and shares out what it took as the
    shorter run says. "kneser_ney" (interpolated, modified) takes three amounts, off counts of 1, 2
    and more, and lets a shorter run count the different tokens it followed, not its occurrences:
    "Francisco" is frequent, but follows "San" alone.

    One `Counts` serves models of every order up to its own (`n`; None is all of it).

    >>> tokens = join_documents([[1, 2], [1, 3]], eot_id=0)
    >>> model = NGram(count_ngrams(tokens, vocab_size=4, eot_id=0, n=2), smoothing="additive")
    >>> model.next_probabilities([0, 1]).round(2).tolist()
    [0.17, 0.17, 0.33, 0.33]
    """

    def __init__(
        self,
        counts: Counts,
        n: int | None = None,
        smoothing: Smoothing = "kneser_ney",
        alpha: float = 1.0,
    ):
        self.n = len(counts.levels) if n is None else n
        self.vocab_size, self.eot_id = counts.vocab_size, counts.eot_id
        check_positive("alpha", alpha)
        if not 1 <= self.n <= len(counts.levels):
            raise ConfigError(
                f"n = {self.n}, but runs of 1 to {len(counts.levels)} were counted",
                "n-gram model",
                "count longer runs, or give a smaller n",
            )
        if smoothing not in get_args(Smoothing):
            raise ConfigError(
                f"smoothing {smoothing!r}",
                "n-gram model",
                'give "additive", "absolute" or "kneser_ney"',
            )
        self.levels: list[Shares] = []
        n_contexts = 1
        for k, level in enumerate(counts.levels[: self.n], start=1):
            contexts = level.keys // self.vocab_size
            is_longest = k == self.n
            if smoothing == "additive":
                used = np.where(is_longest | level.opening, level.counts, 0)
                weights = add(used, contexts, n_contexts, alpha * self.vocab_size)
            else:
                is_variety = smoothing == "kneser_ney" and not is_longest
                used = level.variety if is_variety else level.counts
                weights = take_off(used, contexts, n_contexts, discounts(used, smoothing))
            self.levels.append(Shares(level.keys, *weights))
            n_contexts = len(level.keys)

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Return the probability (N,) of each token after its document's tokens before it."""
        tokens = check_tokens(tokens, self.vocab_size, self.eot_id)
        p = np.full(len(tokens), 1 / self.vocab_size)
        contexts = np.zeros(len(tokens), dtype=np.int64)
        for k, level in enumerate(self.levels, start=1):
            places = find(level.keys, contexts * self.vocab_size + tokens)
            p = level.shares[places] + level.backoffs[contexts] * p
            contexts = contexts_after(places, tokens, self.eot_id, k)
        return p

    def loss(self, tokens: np.ndarray) -> float:
        """Return the mean of -log p over all tokens of whole documents, in nats.

        The targets are those of `batching.EvalDocuments`: every token, <|endoftext|> included, but
        for empty documents.
        """
        return float(-np.log(self.probabilities(tokens)).mean())

    def next_probabilities(self, context: Sequence[int]) -> np.ndarray:
        """Return the probability (V,) of every token after the context.

        A context that begins a document begins with <|endoftext|>; what stands before the last
        <|endoftext|> is not seen.
        """
        context = [int(token) for token in context]
        if self.eot_id in context:
            context = context[len(context) - 1 - context[::-1].index(self.eot_id) :]
        p = np.full(self.vocab_size, 1 / self.vocab_size)
        for k, level in enumerate(self.levels[: len(context) + 1], start=1):
            place = self.place(context[len(context) - k + 1 :])
            if place < 0:
                break  # a longer context was not seen either
            bounds = [place * self.vocab_size, (place + 1) * self.vocab_size]
            start, end = np.searchsorted(level.keys, bounds)
            p = level.backoffs[place] * p
            p[level.keys[start:end] - bounds[0]] += level.shares[start:end]
        return p

    def place(self, run: Sequence[int]) -> int:
        """Return where a run stands on its level, -1 if it was not seen; 0 for the run of none."""
        place = np.zeros(1, dtype=np.int64)
        for level, token in zip(self.levels, run, strict=False):
            place = find(level.keys, place * self.vocab_size + token)
        return int(place[0])

    def generate(
        self, prompt: Sequence[int] = (), max_new_tokens: int = 200, seed: int = 0
    ) -> list[int]:
        """Continue a document from its first tokens; stops before <|endoftext|>."""
        rng = random.Random(seed)
        ids = [self.eot_id, *prompt]
        for _ in range(max_new_tokens):
            ends = self.next_probabilities(ids[-self.n :]).cumsum()
            ids.append(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")))
            if ids[-1] == self.eot_id:
                return ids[1 + len(prompt) : -1]
        return ids[1 + len(prompt) :]


def add(
    counts: np.ndarray, contexts: np.ndarray, n_contexts: int, added: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares and backoffs of additive smoothing; `added` is alpha for all tokens.

    (count + alpha) / (total + alpha V) is a share of count / (total + alpha V), and the uniform
    1/V weighted with alpha V / (total + alpha V). Counts of 0 leave the shorter run as it is.
    """
    totals = np.bincount(contexts, counts, n_contexts) + added
    return np.append(counts / totals[contexts], 0.0), np.append(added / totals, 1.0)


def take_off(
    counts: np.ndarray, contexts: np.ndarray, n_contexts: int, amounts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares and backoffs when `amounts[count]` is taken off: (4,), the last for 3+."""
    totals = np.bincount(contexts, counts, n_contexts)
    taken = amounts[np.minimum(counts, 3)]
    left = np.bincount(contexts, taken, n_contexts)
    backoffs = np.divide(left, totals, out=np.ones(n_contexts), where=totals > 0)
    return np.append((counts - taken) / totals[contexts], 0.0), np.append(backoffs, 1.0)


def discounts(counts: np.ndarray, smoothing: Smoothing) -> np.ndarray:
    """Return how much is taken off counts of 0, 1, 2 and more, (4,).

    Estimated from how many runs occur once, twice, ...: Ney et al. 1994, section 4, and Chen and
    Goodman 1998, equation 26. Where these are too few: 0.5 (and 1, 1.5), as in KenLM
    (Heafield et al. 2013).

    >>> discounts(np.array([1] * 8 + [2] * 4 + [3] * 2 + [4] * 1), "kneser_ney").tolist()
    [0.0, 0.5, 1.25, 2.0]
    """
    once, twice, thrice, four_times = np.bincount(np.minimum(counts, 5), minlength=6)[1:5]
    if smoothing == "absolute":
        amount = once / (once + 2 * twice) if once and twice else 0.5
        return np.array([0.0, amount, amount, amount])
    if not (once and twice and thrice and four_times):
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = once / (once + 2 * twice)
    ratios = np.array([twice / once, thrice / twice, four_times / thrice])
    amounts = np.array([1, 2, 3]) - np.array([2, 3, 4]) * y * ratios
    return np.array([0.0, *amounts] if (amounts > 0).all() else [0.0, 0.5, 1.0, 1.5])


# --- tokens ---


def join_documents(documents: Iterable[Sequence[int]], eot_id: int) -> np.ndarray:
    """Return the ids of all documents in one array, <|endoftext|> after each.

    >>> join_documents([[5, 6], [7]], eot_id=0).tolist()
    [5, 6, 0, 7, 0]
    """
    ids = chain.from_iterable((*document, eot_id) for document in documents)
    return np.fromiter(ids, dtype=np.int64)


def check_tokens(tokens: np.ndarray, vocab_size: int, eot_id: int) -> np.ndarray:
    """Return tokens as int64 without empty documents.

    Raises DataError unless they are ids of the vocabulary and end with <|endoftext|>.
    """
    tokens = np.asarray(tokens).astype(np.int64)
    remedy = "give whole documents, encoded with one tokenizer, <|endoftext|> after each"
    outside = np.flatnonzero((tokens < 0) | (tokens >= vocab_size))
    if len(outside):
        raise DataError(
            f"id {tokens[outside[0]]} in a vocabulary of {vocab_size}",
            f"token {outside[0]}",
            remedy,
        )
    if len(tokens) == 0 or tokens[-1] != eot_id:
        raise DataError(
            f"{len(tokens)} tokens that do not end with <|endoftext|> ({eot_id})",
            "n-gram model",
            remedy,
        )
    is_eot = tokens == eot_id
    tokens = tokens[~(is_eot & np.roll(is_eot, 1))]
    if len(tokens) == 0:
        raise DataError("only empty documents", "n-gram model", remedy)
    return tokens


def check_positive(name: str, value: float) -> None:
    """Raise ConfigError unless a number is above 0."""
    if not value > 0:
        raise ConfigError(f"{name} = {value}", "n-gram model", f"give {name} above 0")
