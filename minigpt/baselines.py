"""Baselines: what a score must beat before it says that a model understood anything.

Each answers from something cheap: the most common answer, the text itself, or the words of a prompt
as a bag, without their order (naive Bayes, logistic regression). They learn from the same training
examples as the model. Does not know about models or tokenizers.
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
import torch

from minigpt.machine.optimizer import LBFGS
from minigpt.support.errors import DataError

T = TypeVar("T", bound=Hashable)

# A run of Chinese characters, or a word or number of any other script.
UNIT = re.compile(r"[\u3400-\u9fff]+|[^\W_\u3400-\u9fff]+(?:'[^\W_]+)?")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


def majority(answers: Sequence[T]) -> T:
    """Return the most common answer; between equally common ones, the smallest.

    >>> majority(["bad", "good", "good"])
    'good'
    """
    if not answers:
        raise DataError("no training answers", "majority baseline", "give at least one")
    return min(Counter(answers).items(), key=lambda pair: (-pair[1], pair[0]))[0]


def first_sentence(text: str) -> str:
    """Return a text up to its first sentence's end: the usual baseline for summaries.

    >>> first_sentence("Tom lost it. He wept."), first_sentence("丢了。他哭了。")
    ('Tom lost it.', '丢了。')
    """
    return SENTENCE_END.split(text.strip(), maxsplit=1)[0]


def sources(prompts: Sequence[str]) -> list[str]:
    """Return each prompt without what all begin and end with, that is without the instruction.

    >>> sources(["Translate: I see.\\nChinese:", "Translate: Look!\\nChinese:"])
    ['I see.', 'Look!']
    """
    start = common_words(prompts)
    rests = [prompt[start:] for prompt in prompts]
    end = common_words([rest[::-1] for rest in rests])
    if not re.search(r"\w", rests[0][len(rests[0]) - end :] if rests else ""):
        end = 0  # texts often end with the same mark
    return [rest[: len(rest) - end].strip() for rest in rests]


def common_words(texts: Sequence[str]) -> int:
    """Return how many characters all texts begin with, cut back to the end of a word."""
    if len(set(texts)) < 2:
        return 0
    first, last = min(texts), max(texts)  # all that lies between them begins as both do
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    while n and any(is_inside_word(text, n) for text in texts):
        n -= 1
    return n


def is_inside_word(text: str, place: int) -> bool:
    """Tell whether a cut before `place` would part two letters or digits of a script with spaces.

    >>> is_inside_word("red ball", 2), is_inside_word("red ball", 3), is_inside_word("红球", 1)
    (True, False, False)
    """
    around = text[place - 1 : place + 1]
    return len(around) == 2 and around.isalnum() and around.lower() < "\u3400"


def bag_of_words(text: str) -> Counter[str]:
    """Count a text's words in lower case; of Chinese its characters, and its pairs of neighbors.

    >>> sorted(bag_of_words("The 红球 the").items())
    [('the', 2), ('球', 1), ('红', 1), ('红球', 1)]
    """
    bag: Counter[str] = Counter()
    for unit in UNIT.findall(text.lower()):
        if "\u3400" <= unit[0] <= "\u9fff":
            bag.update(unit)
            bag.update(unit[i : i + 2] for i in range(len(unit) - 1))
        else:
            bag[unit] += 1
    return bag


class NaiveBayes:
    """Guess a text's label from its words alone: multinomial naive Bayes.

    p(label | words) is taken as proportional to p(label) times the product of p(word | label),
    both counted in training, each word with `alpha` added; unknown words say nothing.
    Source: Manning, Raghavan and Schütze 2008, "Introduction to Information Retrieval", ch. 13.2.

    >>> model = NaiveBayes(["a fine day", "a sad day", "sad"], ["good", "bad", "bad"])
    >>> model.predict(["what a fine day", "sad rain"])
    ['good', 'bad']
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str], alpha: float = 1.0):
        if len(texts) != len(labels) or not texts:
            raise DataError(
                f"{len(texts)} texts for {len(labels)} labels",
                "bag of words",
                "give one label for each text, and at least one",
            )
        bags = [bag_of_words(text) for text in texts]
        self.labels = sorted(set(labels))
        self.places = {word: i for i, word in enumerate(sorted(set().union(*bags)))}
        rows = {label: i for i, label in enumerate(self.labels)}
        counts = np.zeros((len(self.labels), len(self.places)))
        for bag, label in zip(bags, labels, strict=True):
            for word, count in bag.items():
                counts[rows[label], self.places[word]] += count
        shares = Counter(labels)
        self.log_prior = np.log([shares[label] / len(labels) for label in self.labels])  # (K,)
        smoothed = counts + alpha
        self.log_p = np.log(smoothed / smoothed.sum(axis=1, keepdims=True))  # (K, words)

    def scores(self, text: str) -> np.ndarray:
        """Return log p(label) + log p(words | label) for each label, (K,)."""
        known = {self.places[w]: n for w, n in bag_of_words(text).items() if w in self.places}
        counts = np.array(list(known.values()), dtype=float)
        return self.log_prior + self.log_p[:, list(known)] @ counts

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return the likeliest label of each text."""
        return [self.labels[int(self.scores(text).argmax())] for text in texts]


class LogisticRegression:
    """Guess a text's label from its words, weighted by how telling they are (TF-IDF).

    Usually the strongest of the cheap models. Weights of unit rows: count times
    ln((1 + n) / (1 + texts with the word)) + 1; the loss is the summed cross-entropy plus half the
    squared weights, as scikit-learn's LogisticRegression on TfidfVectorizer has it by default.
    Source: Manning, Raghavan and Schütze 2008, chapters 6.2 and 15.

    >>> model = LogisticRegression(["a fine day", "a sad day", "sad"], ["good", "bad", "bad"])
    >>> model.predict(["what a fine day", "sad rain"])
    ['good', 'bad']
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[str], max_iter: int = 100):
        if len(texts) != len(labels) or not texts:
            raise DataError(
                f"{len(texts)} texts for {len(labels)} labels",
                "logistic regression",
                "give one label for each text, and at least one",
            )
        bags = [bag_of_words(text) for text in texts]
        self.labels = sorted(set(labels))
        seen = Counter(word for bag in bags for word in bag)
        self.places = {word: i for i, word in enumerate(sorted(seen))}
        self.idf = {word: np.log((1 + len(texts)) / (1 + n)) + 1 for word, n in seen.items()}
        numbers = {label: i for i, label in enumerate(self.labels)}
        targets = torch.tensor([numbers[label] for label in labels])
        rows = self.rows(bags)
        K, V = len(self.labels), len(self.places)
        self.weight = torch.zeros(V + 1, K, dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros(K, dtype=torch.float64, requires_grad=True)
        parameters = [self.weight, self.bias]
        optimizer = LBFGS(parameters, max_iter=max_iter, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            self.weight.grad = self.bias.grad = None
            scores = self.scores(rows)
            loss = torch.nn.functional.cross_entropy(scores, targets, reduction="sum")
            loss = (loss + self.weight.square().sum() / 2) / len(targets)
            loss.backward()
            return loss

        optimizer.step(closure)

    def rows(self, bags: Sequence[Counter[str]]) -> tuple[torch.Tensor, ...]:
        """Return the words of all bags, where each bag begins, and the words' weights."""
        words, starts, weights = [], [], []
        for bag in bags:
            known = {self.places[w]: n * self.idf[w] for w, n in bag.items() if w in self.places}
            known = known or {len(self.places): 0.0}  # a place that says nothing
            length = np.sqrt(sum(value * value for value in known.values())) or 1.0
            starts.append(len(words))
            words += known
            weights += [value / length for value in known.values()]
        return (
            torch.tensor(words),
            torch.tensor(starts),
            torch.tensor(weights, dtype=torch.float64),
        )

    def scores(self, rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the score of each label for each text, (N, K)."""
        words, starts, weights = rows
        bags = torch.nn.functional.embedding_bag(
            words, self.weight, starts, mode="sum", per_sample_weights=weights
        )
        return bags + self.bias

    @torch.no_grad()
    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return the likeliest label of each text."""
        if not texts:
            return []
        best = self.scores(self.rows([bag_of_words(text) for text in texts])).argmax(dim=1)
        return [self.labels[place] for place in best.tolist()]
