"""Grade answers: the score of a task with its interval, beside the best of its baselines.

Scores and baselines (`baselines.py`) are computed on the same items; the 95 % interval is where the
score would fall with other items of the same kind. Does not know where answers come from.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from minigpt import metrics
from minigpt.baselines import LogisticRegression, NaiveBayes, first_sentence, majority, sources
from minigpt.chat import Message
from minigpt.metrics import Language
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import Tokenizer

MOST_LABELS = 30  # more different answers than that are texts


@dataclass(frozen=True)
class Item:
    """One thing to be asked, and its right answer."""

    task: str
    messages: tuple[Message, ...]
    """The conversation up to the question; the last message is the user's."""
    answer: str
    language: Language = "en"
    """Of the answer."""
    group: str = ""
    """Items of one group share their majority and their bag of words."""
    baselines: Mapping[str, str] = field(default_factory=dict)
    """What simple baselines would answer, by name."""
    source: str = ""
    """The text that the question is about, if it is known."""
    accepts: Callable[[str], bool] | None = None
    """Tells whether a text is right, where many are."""
    others: tuple[str, ...] = ()
    """Further right answers: what is given counts by the one that it is nearest to."""

    @property
    def right(self) -> tuple[str, ...]:
        """All right answers."""
        return (self.answer, *self.others)

    @property
    def prompt(self) -> str:
        """The last message: what is asked."""
        return self.messages[-1]["content"]


# --- grading ---


def same_text(prediction: str, item: Item) -> float:
    """Return 1.0 for the right answer, character for character."""
    return float(prediction.strip() in {answer.strip() for answer in item.right})


def nearest(
    measure: Callable[[str, str, Language], float],
) -> Callable[[str, Item], float]:
    """Return the grade by the right answer that a text is nearest to, as SQuAD's script has it."""
    return lambda text, item: max(measure(text, right, item.language) for right in item.right)


def is_accepted(prediction: str, item: Item) -> bool:
    """Tell whether an answer is right, where the item itself knows and many are."""
    assert item.accepts is not None, item.task
    return item.accepts(prediction)


GRADES: dict[str, Callable[[str, Item], float]] = {  # score of one answer, from 0 to 1
    "exact": same_text,  # a text
    "accuracy": same_text,  # a label
    "sentences": nearest(lambda text, right, language: metrics.sentence_accuracy(text, right)),
    "exact_match": nearest(metrics.exact_match),
    "token_f1": nearest(metrics.token_f1),
    "cmrc_match": nearest(lambda text, right, language: metrics.cmrc_match(text, right)),
    "cmrc_f1": nearest(lambda text, right, language: metrics.cmrc_f1(text, right)),
    "rouge_l": nearest(metrics.rouge_l),
    "accepted": lambda text, item: float(is_accepted(text, item)),
}
BY_LABEL = ("f1", "precision", "recall")
METRICS = (*GRADES, "bleu", *BY_LABEL)
OFFICIAL = {  # what a metric equals, as the tests show
    "f1": "scikit-learn's f1_score (macro)",
    "precision": "scikit-learn's precision_score (macro)",
    "recall": "scikit-learn's recall_score (macro)",
    "exact_match": "SQuAD 2.0's script (English)",
    "token_f1": "SQuAD 2.0's script (English) and MLQA's (Chinese: a bag of characters)",
    "cmrc_match": "CMRC 2018's script",
    "cmrc_f1": "CMRC 2018's script (other scripts than Chinese by runs of letters, not NLTK)",
    "rouge_l": "rouge-score without stemming (English)",
    "bleu": "sacrebleu / 100 (13a; Chinese: characters)",
}


def scorer(
    metric: str, predictions: Sequence[str], items: Sequence[Item]
) -> Callable[[np.ndarray], float]:
    """Return the function from the places of some items to the score of the answers to these.

    "bleu" is that of all texts together; "f1", "precision" and "recall" are means over the labels;
    the others are means over the items.
    """
    metrics.check_pairs(predictions, items)
    pairs = list(zip(predictions, items, strict=True))
    if metric == "bleu":
        counts = np.concatenate(
            [metrics.bleu_counts([text], [item.right], item.language) for text, item in pairs]
        )
        return lambda places: metrics.bleu_from_counts(counts[places].sum(axis=0))
    if metric in BY_LABEL:
        texts = [text.strip() for text in predictions]
        targets = [
            text if text in item.others else item.answer
            for text, item in zip(texts, items, strict=True)
        ]
        return label_scorer(metric, texts, targets)
    if metric not in GRADES:
        raise ConfigError(
            f"metric {metric!r} is unknown", "evaluate", f"choose from {', '.join(METRICS)}"
        )
    values = np.array([GRADES[metric](text, item) for text, item in pairs])
    return lambda places: float(values[places].mean())


def label_scorer(
    metric: str, predictions: Sequence[str], targets: Sequence[str]
) -> Callable[..., float]:
    """Return a scorer of the mean F1, precision or recall over the labels that some items have.

    What is none of the labels, such as a wrong spelling, is a miss.
    """
    labels = sorted(set(targets))
    numbers = {label: k for k, label in enumerate(labels)}
    K = len(labels)
    codes = np.array(
        [
            numbers[target] * (K + 1) + numbers.get(text, K)
            for text, target in zip(predictions, targets, strict=True)
        ]
    )

    def score(places: np.ndarray) -> float:
        matrix = np.bincount(codes[places], minlength=K * (K + 1)).reshape(K, K + 1)
        right, called, are = matrix.diagonal(), matrix[:, :K].sum(axis=0), matrix.sum(axis=1)
        shares = {"f1": (2 * right, called + are), "precision": (right, called)}
        part, whole = shares.get(metric, (right, are))
        there = are > 0
        return float(metrics.averaged(part[there], whole[there], "macro"))

    return score


class TaskScore(NamedTuple):
    """A task's score and 95 % interval, beside the best of its baselines; all from 0 to 1."""

    name: str
    metric: str
    score: float
    low: float
    high: float
    n: int
    baseline: float = 0.0
    baseline_name: str = "none"
    baselines: Mapping[str, float] = {}

    def as_dict(self) -> dict:
        """Return all but the name, ready for report.json."""
        fields = self._asdict()
        del fields["name"]
        return fields


def score_task(
    name: str,
    metric: str,
    predictions: Sequence[str],
    items: Sequence[Item],
    train_items: Sequence[Item] = (),
) -> TaskScore:
    """Grade the answers to a task's items, and every baseline's answers to the same items.

    The baselines learn from `train_items`. The interval is that of other items of the same kind.
    """
    score = scorer(metric, predictions, items)
    every = np.arange(len(items))
    low, high = metrics.bootstrap_interval(score, len(items))
    blind = {
        baseline: scorer(metric, texts, items)(every)
        for baseline, texts in baseline_answers(items, train_items).items()
    }
    best = max(blind, key=lambda baseline: blind[baseline], default="none")
    return TaskScore(
        name,
        metric,
        score(every),
        low,
        high,
        len(items),
        blind.get(best, 0.0),
        best,
        blind,
    )


def baseline_answers(
    items: Sequence[Item], train_items: Sequence[Item] = ()
) -> dict[str, list[str]]:
    """Return the answers of every baseline to the items, by its name.

    Those that the items know; and from training items of the same group the most common answer
    ("majority") and what the prompt's words suggest ("bag_of_words" and "tf_idf", where answers
    recur). Where a group has no training items of its own, all of its task's count.
    """
    names = sorted({name for item in items for name in item.baselines})
    found = {name: [item.baselines.get(name, "") for item in items] for name in names}
    groups = defaultdict(list)
    for item in train_items:
        groups[group_of(item)].append(item)
    places = defaultdict(list)
    for place, item in enumerate(items):
        places[group_of(item)].append(place)
    for group, there in places.items():
        taught = groups.get(group) or pooled(group, train_items)
        for name, texts in learned_answers([items[place] for place in there], taught).items():
            row = found.setdefault(name, [""] * len(items))
            for place, text in zip(there, texts, strict=True):
                row[place] = text
    return found


def pooled(group: tuple[str, str, str], items: Sequence[Item]) -> list[Item]:
    """Return the items of a group's task, of its language if there are some."""
    task, language, _ = group
    same = [item for item in items if item.task == task]
    return [item for item in same if item.language == language] or same


def group_of(item: Item) -> tuple[str, str, str]:
    return item.task, item.language, item.group


def learned_answers(items: Sequence[Item], taught: Sequence[Item]) -> dict[str, list[str]]:
    """Return what training examples suggest as answers to items of the same group."""
    if not taught:
        return {}
    if taught[0].accepts is not None:
        return {"majority": [most_accepted(taught)] * len(items)}
    labels = [item.answer for item in taught]
    found = {"majority": [majority(labels)] * len(items)}
    if 1 < len(set(labels)) <= len(labels) / 2:  # answers that hardly recur are no labels
        known, asked = ([item.prompt for item in side] for side in (taught, items))
        found["bag_of_words"] = NaiveBayes(known, labels).predict(asked)
        found["tf_idf"] = LogisticRegression(known, labels).predict(asked)
    return found


def most_accepted(taught: Sequence[Item], candidates: int = 8, tried_on: int = 24) -> str:
    """Return the one of some training answers that is right for most other training items."""
    others = taught[-tried_on:]
    texts = [item.answer for item in taught[:candidates]]
    return max(texts, key=lambda text: sum(is_accepted(text, item) for item in others))


# --- examples of any kind ---


def example_items(
    conversations: Sequence[Sequence[Message]],
    groups: Sequence[str] = (),
    task: str = "examples",
    others: Sequence[tuple[str, ...]] = (),
) -> list[Item]:
    """Return an item for each conversation: the assistant's last message is the right answer.

    The baselines "copy" and "first_sentence" know the prompt without what all prompts share.
    """
    places = [last_answer(messages) for messages in conversations]
    groups, others = groups or [""] * len(places), others or [()] * len(places)
    pairs = list(zip(conversations, places, strict=True))
    texts = sources([messages[place - 1]["content"] for messages, place in pairs])
    made = []
    for (messages, place), source, group, more in zip(pairs, texts, groups, others, strict=True):
        answer = messages[place]["content"]
        blind = {"copy": source, "first_sentence": first_sentence(source)}
        made.append(
            Item(
                task,
                tuple(messages[:place]),
                answer,
                metrics.language_of(answer),
                group,
                blind,
                source,
                others=more,
            )
        )
    return made


def last_answer(messages: Sequence[Message]) -> int:
    """Return the place of the assistant's last message; one must stand before it."""
    places = [n for n, message in enumerate(messages) if n and message["role"] == "assistant"]
    if not places:
        raise DataError("no answer to a message", str(messages)[:60], "add a message of each role")
    return places[-1]


def fitting_metrics(items: Sequence[Item]) -> tuple[str, ...]:
    """Return the metrics that suit the items' answers: of labels if they recur, else of texts."""
    if len({item.answer for item in items}) <= min(MOST_LABELS, len(items) / 2):
        return "accuracy", "f1", "precision", "recall"
    names = "exact_match", "token_f1", "rouge_l", "bleu"
    chinese = sum(item.language == "zh" for item in items)
    return (*names, "cmrc_match", "cmrc_f1") if 2 * chinese > len(items) else names


def about_metrics(names: Iterable[str]) -> str:
    """Say which official script each of some metrics equals.

    >>> about_metrics(["accuracy", "bleu"])
    'bleu equals sacrebleu / 100 (13a; Chinese: characters).'
    """
    said = [f"{name} equals {OFFICIAL[name]}" for name in names if name in OFFICIAL]
    return "; ".join(said) + "." if said else ""


def score_parts(
    names: Sequence[str],
    predictions: Sequence[str],
    items: Sequence[Item],
    train_items: Sequence[Item] = (),
) -> dict[str, dict]:
    """Grade answers by every metric named: {metric: {"score", "baseline", ...}}.

    Where the items have several groups, such as one file for each kind of question, the first
    metric is given for each group as well.
    """
    scores = {
        name: score_task(name, name, predictions, items, train_items).as_dict() for name in names
    }
    groups = sorted({item.group for item in items})
    for group in groups if len(groups) > 1 else []:
        pairs = zip(predictions, items, strict=True)
        texts, asked = zip(*(pair for pair in pairs if pair[1].group == group), strict=True)
        taught = [item for item in train_items if item.group == group]
        scores[group] = score_task(group, names[0], texts, asked, taught).as_dict()
    return scores


# --- contamination ---


def text_hash(text: str) -> bytes:
    """Return 16 bytes that stand for a text."""
    return hashlib.blake2b(text.strip().encode("utf-8"), digest_size=16).digest()


def document_hashes(tokens: np.ndarray, tokenizer: Tokenizer) -> set[bytes]:
    """Return the hashes of all documents of a token file (N,): what a model may have seen."""
    ends = np.flatnonzero(np.asarray(tokens) == tokenizer.eot_id)
    return {
        text_hash(tokenizer.decode(part[part != tokenizer.eot_id].tolist()))
        for part in np.split(np.asarray(tokens), ends)
    }


def contamination(items: Sequence[Item], seen: Collection[bytes]) -> float:
    """Return the share of items whose source (or else prompt) was seen in training, by hash."""
    if not items:
        raise DataError("no items", "contamination", "give at least one")
    return sum(text_hash(item.source or item.prompt) in seen for item in items) / len(items)
