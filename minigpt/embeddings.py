"""Give every word a vector, learned from the words that stand near it.

Skip-gram: from a word, say which words stand around it. Instead of a softmax over the whole
vocabulary, each true pair is told apart from a few pairs with words drawn at random (negative
sampling). Words that keep the same company end up with similar vectors, and some relations become
directions. One vector a word, whatever it means here: "bank" has one for river and money; and
nothing of the order of the words is known.

Sources: Mikolov et al. 2013a, "Efficient estimation of word representations in vector space"
(skip-gram, analogies), 2013b, "Distributed representations of words and phrases and their
compositionality" (negative sampling, frequent words).

Shapes: N tokens, P pairs, B pairs of a batch, K noise words for each, V vocab_size, C n_embd.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.support.errors import ConfigError, DataError, require

Analogy = tuple[str, str, str, str]  # a is to b as c is to d


# --- what stands near what ---


def skip_gram_pairs(tokens: np.ndarray, eot_id: int, window: int = 5) -> np.ndarray:
    """Return every (center, context) of two words of one document, at most `window` apart: (P, 2).

    Each two neighbors give two pairs, one from each side. Tokens (N,) are documents with
    <|endoftext|> after each.

    >>> skip_gram_pairs(np.array([5, 6, 7, 0, 8, 9, 0]), eot_id=0, window=1).tolist()
    [[5, 6], [6, 7], [8, 9], [6, 5], [7, 6], [9, 8]]
    """
    require(window >= 1, "window", window, "1 or more words")
    tokens = np.asarray(tokens)
    # Numbers the documents, so that no pair reaches from one into the next.
    document = np.cumsum(tokens == eot_id)
    found = []
    for distance in range(1, window + 1):
        first, second = tokens[:-distance], tokens[distance:]
        inside = (document[:-distance] == document[distance:]) & (first != eot_id)
        found.append(np.stack([first[inside], second[inside]], axis=1))
    one_way = np.concatenate(found)
    return np.concatenate([one_way, one_way[:, ::-1]])


def thin_frequent(
    tokens: np.ndarray, eot_id: int, threshold: float, rng: np.random.Generator
) -> np.ndarray:
    """Leave out some occurrences of frequent words; those that remain move closer together.

    A word that makes up the share f of the text stays with probability sqrt(threshold / f):
    Mikolov et al. 2013b, equation 5. <|endoftext|> always stays.
    """
    require(threshold > 0, "threshold", threshold, "a share of the text above 0")
    tokens = np.asarray(tokens)
    shares = np.bincount(tokens) / len(tokens)
    # At most 1: words rarer than the threshold always stay.
    stays = np.sqrt(threshold / np.maximum(shares, threshold))
    stays[eot_id] = 1.0
    return tokens[rng.random(len(tokens)) < stays[tokens]]


def noise_distribution(tokens: np.ndarray, vocab_size: int, eot_id: int) -> np.ndarray:
    """Return how likely each word is to be drawn as a wrong answer, (V,): its count to the 3/4.

    Rare words are drawn more often than they occur. Source: Mikolov et al. 2013b, section 2.2.
    """
    counts = np.bincount(tokens, minlength=vocab_size).astype(float)
    counts[eot_id] = 0.0
    weights = counts**0.75
    return weights / weights.sum()


# --- learning the vectors ---


class SkipGram(nn.Module):
    """Two vectors for each word: one as the center, one as the context of others."""

    def __init__(self, vocab_size: int, n_embd: int, generator: torch.Generator | None = None):
        super().__init__()
        self.centers = nn.Embedding(vocab_size, n_embd)
        self.contexts = nn.Embedding(vocab_size, n_embd)
        nn.init.uniform_(self.centers.weight, -0.5 / n_embd, 0.5 / n_embd, generator)
        # One side at 0 makes every score 0 at first; the other is random, or all words would learn
        # the same.
        nn.init.zeros_(self.contexts.weight)

    def forward(self, centers: Tensor, contexts: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of telling true pairs (B,), (B,) from noise (B, K), mean over pairs."""
        v = self.centers(centers)  # (B, C)
        others = self.contexts(torch.cat((contexts[:, None], noise), dim=1))  # (B, 1 + K, C)
        scores = (others * v[:, None]).sum(dim=-1)  # (B, 1 + K)
        return -(F.logsigmoid(scores[:, 0]) + F.logsigmoid(-scores[:, 1:]).sum(dim=-1)).mean()


def skip_gram_batches(
    tokens: np.ndarray,
    eot_id: int,
    window: int,
    threshold: float,
    batch_size: int,
    rng: np.random.Generator,
) -> Iterator[Tensor]:
    """Yield batches of pairs (B, 2) without end; every pass over the text thins it anew.

    Raises DataError for a text without pairs.
    """
    while True:
        thinned = thin_frequent(tokens, eot_id, threshold, rng)
        # Shuffled: neighbors in the text would put the same few words into one batch.
        pairs = torch.from_numpy(rng.permutation(skip_gram_pairs(thinned, eot_id, window)))
        if len(pairs) == 0:
            raise DataError(
                "no two words next to each other",
                "skip-gram training",
                "give longer documents, or a higher threshold",
            )
        yield from pairs.split(batch_size)


def train_skip_gram(
    tokens: np.ndarray,
    vocab_size: int,
    eot_id: int,
    n_embd: int = 48,
    window: int = 3,
    n_noise: int = 5,
    max_steps: int = 1200,
    batch_size: int = 2048,
    learning_rate: float = 0.01,
    threshold: float = 1e-3,
    seed: int = 0,
) -> tuple[SkipGram, list[float]]:
    """Train a skip-gram model; return it and the loss of every step.

    The learning rate falls in a straight line to 0. Raises DataError for a text without pairs.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    noise = torch.from_numpy(noise_distribution(tokens, vocab_size, eot_id))
    model = SkipGram(vocab_size, n_embd, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    batches = skip_gram_batches(tokens, eot_id, window, threshold, batch_size, rng)
    losses: list[float] = []
    for step in range(max_steps):
        centers, contexts = next(batches).T
        wrong = torch.multinomial(noise, len(centers) * n_noise, True, generator=generator)
        loss = model(centers, contexts, wrong.view(-1, n_noise))
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / max_steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


# --- asking the vectors ---


class WordVectors:
    """Words and their vectors (V, C), each of length 1: a dot product is the cosine of an angle.

    >>> vectors = WordVectors(["up", "high", "down"], np.array([[2.0, 0], [1, 1], [-3, 0]]))
    >>> vectors.neighbors("up", 2)
    [('high', 0.71), ('down', -1.0)]
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray):
        self.words = list(words)
        self.vectors = np.asarray(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.place = {word: number for number, word in enumerate(self.words)}

    def __getitem__(self, word: str) -> np.ndarray:
        """Return the vector (C,) of a word; DataError for a word that has none."""
        if word not in self.place:
            raise DataError(
                f"{word!r} has no vector",
                "word vectors",
                "ask for a word of the vocabulary, spelled as there",
            )
        return self.vectors[self.place[word]]

    def nearest(self, vector: np.ndarray, k: int, without: Iterable[str] = ()) -> list:
        """Return the k words that point most in the direction of a vector, with the cosines."""
        cosines = self.vectors @ (vector / np.linalg.norm(vector))
        # The asked words would otherwise win: b - a + c lies near b and c themselves.
        cosines[[self.place[word] for word in without]] = -np.inf
        best = np.argsort(-cosines, kind="stable")[:k]
        return [(self.words[place], round(float(cosines[place]), 2)) for place in best]

    def neighbors(self, word: str, k: int = 5) -> list[tuple[str, float]]:
        """Return the k words most similar to a word, itself left out, with the cosines."""
        return self.nearest(self[word], k, without=[word])

    def analogy(self, a: str, b: str, c: str) -> str:
        """Say what is to c as b is to a: the word nearest to b - a + c, the three left out."""
        return self.nearest(self[b] - self[a] + self[c], 1, without=[a, b, c])[0][0]


def analogy_score(vectors: WordVectors, questions: Sequence[Analogy]) -> float:
    """Return the share of analogies (a is to b as c is to d) answered by d exactly."""
    if not questions:
        raise DataError("no questions", "analogy score", "give at least one (a, b, c, d)")
    return sum(vectors.analogy(a, b, c) == d for a, b, c, d in questions) / len(questions)


def neighbor_score(vectors: WordVectors, classes: Sequence[Sequence[str]], k: int = 3) -> float:
    """Return which share of the k nearest neighbors of each word are of its own class."""
    right = [
        neighbor in group
        for group in classes
        for word in group
        for neighbor, _ in vectors.neighbors(word, k)
    ]
    return sum(right) / len(right)


def principal_plane(vectors: np.ndarray) -> np.ndarray:
    """Return the two coordinates (V, 2) in which vectors (V, C) differ most, for a picture.

    These are the first two principal components: Pearson 1901.
    """
    if len(vectors) < 2:
        raise ConfigError(f"{len(vectors)} vectors", "picture of vectors", "give at least 2")
    centered = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    return centered @ axes[:2].T
