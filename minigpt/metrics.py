"""Measure answers: classes, clusters, losses, texts, and how far to trust a score.

Every score is a share from 0 to 1, the larger the better (BLEU: papers print 100 times it);
perplexity and bits per byte alone are better smaller. `predictions` are what a model answered,
`targets` what is right. Texts are compared by words in English and by characters in Chinese.
Does not know about models or tokenizers.
"""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np
import regex

from minigpt.support.errors import ConfigError, DataError

Language = Literal["en", "zh"]
Average = Literal["macro", "micro"] | None


# --- classes ---


def accuracy(predictions: Sequence[Hashable], targets: Sequence[Hashable]) -> float:
    """Return the share of predictions that are right.

    >>> accuracy(["good", "bad", "bad", "bad"], ["good", "bad", "good", "bad"])
    0.75
    """
    check_pairs(predictions, targets)
    right = sum(a == b for a, b in zip(predictions, targets, strict=True))
    return float(right / len(targets))


def confusion_matrix(
    predictions: Sequence[Hashable], targets: Sequence[Hashable], labels: Sequence[Hashable]
) -> np.ndarray:
    """Count each target (row) with each prediction (column), (K, K) int64 in the order of labels.

    Raises DataError at a label that `labels` does not name.

    >>> confusion_matrix("abba", "abab", labels="ab").tolist()
    [[1, 1], [1, 1]]
    """
    check_pairs(predictions, targets)
    places = {label: place for place, label in enumerate(labels)}
    if len(places) < len(labels):
        raise ConfigError(f"labels {list(labels)} name one twice", "labels", "name each once")
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for item, (predicted, target) in enumerate(zip(predictions, targets, strict=True)):
        for kind, label in (("prediction", predicted), ("target", target)):
            if label not in places:
                raise DataError(
                    f"{label!r} is none of the labels {list(labels)}",
                    f"{kind} {item}",
                    "add it to labels, or correct it",
                )
        matrix[places[target], places[predicted]] += 1
    return matrix


def precision(matrix: np.ndarray, average: Average = None) -> np.ndarray | float:
    """Of all that was called a class, return the share that is of it; 0 where nothing was.

    From a confusion matrix (K, K): one value a class (K,), or an average (see `averaged`).

    >>> precision(np.array([[8, 2], [0, 90]])).round(3).tolist()
    [1.0, 0.978]
    """
    return averaged(matrix.diagonal(), matrix.sum(axis=0), average)


def recall(matrix: np.ndarray, average: Average = None) -> np.ndarray | float:
    """Of all that is of a class, return the share that was called so; 0 where nothing is.

    >>> recall(np.array([[8, 2], [0, 90]])).tolist()
    [0.8, 1.0]
    """
    return averaged(matrix.diagonal(), matrix.sum(axis=1), average)


def f1(matrix: np.ndarray, average: Average = None) -> np.ndarray | float:
    """Return the harmonic mean of precision and recall: 2 right / (called + are), by class.

    van Rijsbergen 1979, "Information Retrieval", chapter 7.

    >>> f1(np.array([[8, 2], [0, 90]])).round(3).tolist()
    [0.889, 0.989]
    """
    return averaged(2 * matrix.diagonal(), matrix.sum(axis=0) + matrix.sum(axis=1), average)


def averaged(part: np.ndarray, whole: np.ndarray, average: Average) -> np.ndarray | float:
    """Divide by class (K,); "macro" is the mean over classes, "micro" divides the sums.

    Macro counts every class alike, micro every item; over all classes, with one label an item,
    micro precision, recall and F1 are all the accuracy. 0/0 is 0.
    """
    if average == "micro":
        part, whole = part.sum(keepdims=True), whole.sum(keepdims=True)
    elif average not in (None, "macro"):
        raise ConfigError(f"average {average!r}", "metrics", 'give None, "macro" or "micro"')
    shares = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return shares if average is None else float(shares.mean())


# --- clusters ---


def purity(clusters: Sequence[Hashable], targets: Sequence[Hashable]) -> float:
    """Return the share of items whose class is the most common one of their cluster.

    It rises with the number of clusters, up to 1 where each item has its own.

    >>> purity([0, 0, 0, 1], ["theft", "theft", "storm", "storm"])
    0.75
    """
    table = contingency_table(clusters, targets)
    return float(table.max(axis=1).sum() / table.sum())


def adjusted_rand_index(clusters: Sequence[Hashable], targets: Sequence[Hashable]) -> float:
    """Return how well clusters agree with classes: 1 is perfectly, 0 as by chance.

    Counted are pairs of items that are together on both sides, less what chance brings together.
    Names do not matter, nor does the number of clusters. Hubert and Arabie 1985, "Comparing
    Partitions".

    >>> adjusted_rand_index([1, 1, 0, 0], ["a", "a", "b", "b"])
    1.0
    """

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    table = contingency_table(clusters, targets)
    rows, columns = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    chance = rows * columns / max(pairs(table.sum()), 1.0)
    most = (rows + columns) / 2
    return 1.0 if most == chance else (pairs(table) - chance) / (most - chance)


def contingency_table(clusters: Sequence[Hashable], targets: Sequence[Hashable]) -> np.ndarray:
    """Count how many items each cluster (row) has of each class (column)."""
    check_pairs(clusters, targets)
    rows, columns = (
        {name: place for place, name in enumerate(dict.fromkeys(s))} for s in (clusters, targets)
    )
    table = np.zeros((len(rows), len(columns)), dtype=np.int64)
    for cluster, target in zip(clusters, targets, strict=True):
        table[rows[cluster], columns[target]] += 1
    return table


# --- losses ---


def perplexity(loss: float) -> float:
    """Return exp(loss), loss in nats per token: as unsure as among this many equal choices.

    Jelinek et al. 1977, "Perplexity - a measure of the difficulty of speech recognition tasks".

    >>> round(perplexity(math.log(50)), 6)
    50.0
    """
    return math.inf if loss > 700 else math.exp(loss)


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """Convert the nats of a whole text into bits for each of its UTF-8 bytes.

    Comparable between tokenizers, as the loss a token is not.

    >>> bits_per_byte(8 * math.log(2), n_bytes=4)
    2.0
    """
    if n_bytes <= 0:
        raise DataError(f"{n_bytes} bytes", "bits per byte", "give a text with characters")
    return nats / n_bytes / math.log(2)


# --- cutting texts into units ---


def language_of(text: str) -> Language:
    """Return "zh" where a text has more Chinese characters than words of Latin letters, else "en".

    >>> language_of("红球 is red"), language_of("NBA球星")
    ('en', 'zh')
    """
    chinese = len(re.findall(r"[\u3400-\u9fff]", text))
    return "zh" if chinese > len(re.findall(r"[A-Za-z]+", text)) else "en"


def characters(text: str) -> list[str]:
    """Return the characters of a text but for the spaces: "我 好。" -> ["我", "好", "。"]."""
    return [character for character in text if not character.isspace()]


def bleu_words(text: str) -> list[str]:
    """Cut words and punctuation apart, "It's 1.5, no?" -> ["It's", "1.5", ",", "no", "?"].

    The rules of mteval-v13a (NIST), with which published BLEU scores are made (Post 2018).
    """
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for name, character in (("quot", '"'), ("amp", "&"), ("lt", "<"), ("gt", ">")):
        text = text.replace(f"&{name};", character)
    text = re.sub(r"([!-&(-+/:-@\[-`{-~])", r" \1 ", f" {text} ")  # all marks but ' , - .
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    text = re.sub(r"([0-9])(-)", r"\1 \2 ", text)
    return text.split()


def rouge_words(text: str) -> list[str]:
    """Return words and numbers in lower case, without marks: "It's 1!" -> ["it", "s", "1"].

    Of every script; in English the same words as rouge-score, which knows a to z alone.
    """
    text = text.lower()
    if is_english(text):
        return re.findall(r"[a-z0-9]+", text)
    return regex.findall(r"[\p{L}\p{M}\p{N}]+", text)


def is_english(text: str) -> bool:
    """Tell whether at least half of a text's letters, if it has any, are a to z."""
    letters = sum(letter.isalpha() for letter in text)
    return 2 * len(re.findall(r"[A-Za-z]", text)) >= letters


def answer_words(text: str) -> list[str]:
    """Return the words that count in an answer: "The red ball." -> ["red", "ball"].

    Lower case, without punctuation and articles: Rajpurkar et al. 2016 (SQuAD), section 6.1.
    """
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def answer_characters(text: str) -> list[str]:
    """Return an answer's characters without punctuation: "《红 球》" -> ["红", "球"]."""
    return [c for c in characters(text.lower()) if not unicodedata.category(c).startswith("P")]


def cut(
    text: str,
    language: Language,
    english: Callable[[str], list[str]],
    chinese: Callable[[str], list[str]] = characters,
) -> list[str]:
    """Cut a text into the units of its language."""
    if language not in ("en", "zh"):
        raise ConfigError(f"language {language!r}", "metrics", 'give "en" or "zh"')
    return english(text) if language == "en" else chinese(text)


def ngrams(units: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Count the runs of n units: "abab", 2 -> {ab: 2, ba: 1}."""
    return Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1))


# --- texts against one right text ---


def sentence_accuracy(prediction: str, target: str) -> float:
    """Return the share of a target's sentences that stand word for word in the prediction.

    Sentences are compared in order (longest common subsequence), so that one left out or put in
    costs one and not all after it. Sentences too many count: the share is of the longer text.

    >>> sentence_accuracy("It rains. Tom ran.", "It rains. Tom ran. He fell.")
    0.6666666666666666
    """
    found, wanted = split_sentences(prediction), split_sentences(target)
    longest = max(len(found), len(wanted))
    return common_length(found, wanted) / longest if longest else 1.0


SENTENCE_END = re.compile(
    r"(?<=[.!?])\s+|(?<=[.!?]\")\s+(?![a-z])|(?<=[。！？])(?!”)\s*|(?<=[。！？]”)\s*"
)


def split_sentences(text: str) -> list[str]:
    """Return a text's sentences, English or Chinese, each without the space around it."""
    return [part.strip() for part in SENTENCE_END.split(text.strip()) if part.strip()]


def exact_match(prediction: str, target: str, language: Language = "en") -> float:
    """Return 1.0 where two answers have the same words in the same order, else 0.0.

    In English that of SQuAD's official script, version 2.0; in Chinese all punctuation is left
    out (CMRC 2018's script has a list of its own: see `cmrc_match`).

    >>> exact_match("the red ball!", "Red ball"), exact_match("ball red", "red ball")
    (1.0, 0.0)
    """
    a, b = (cut(text, language, answer_words, answer_characters) for text in (prediction, target))
    return float(a == b)


def token_f1(prediction: str, target: str, language: Language = "en") -> float:
    """Return the F1 of the answers' words as bags: Rajpurkar et al. 2016 (SQuAD), section 6.1.

    In English that of SQuAD's official script, version 2.0; in Chinese of characters, as in MLQA
    (Lewis et al. 2020, arXiv:1910.07475). CMRC 2018 has another one: see `cmrc_f1`.

    >>> token_f1("a big red ball", "the red ball")
    0.8
    """
    a, b = (cut(text, language, answer_words, answer_characters) for text in (prediction, target))
    if not a or not b:
        return float(a == b)  # nothing is the right answer to nothing
    return overlap_f1((Counter(a) & Counter(b)).total(), len(a), len(b))


CMRC_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def cmrc_match(prediction: str, target: str) -> float:
    """Return 1.0 where two answers are equal but for case and CMRC 2018's marks, else 0.0.

    >>> cmrc_match("《红球》。", "红球"), cmrc_match("红 球", "红球")
    (1.0, 0.0)
    """
    a, b = (cmrc_plain(text) for text in (prediction, target))
    return float(a == b)


def cmrc_plain(text: str) -> str:
    """Return a text in lower case without the marks that CMRC 2018's script removes.

    Its list also has "……", but is asked for single characters, so an ellipsis stays.
    """
    return "".join(letter for letter in text.strip().lower() if letter not in CMRC_MARKS)


def cmrc_units(text: str) -> list[str]:
    """Cut an answer into Chinese characters, other words and marks: "用GPT-2" -> ["用", "gpt2"]."""
    return re.findall(r"[一-\u9fa5]|[^\W一-\u9fa5]+|[^\w\s]", cmrc_plain(text))


def cmrc_f1(prediction: str, target: str) -> float:
    """Return the F1 of two Chinese answers by their longest common run of units.

    That of the official script of CMRC 2018 (Cui et al. 2019, arXiv:1810.07366), where
    `token_f1(..., "zh")` takes the characters as a bag. The script cuts words of other scripts
    by NLTK; here they are runs of letters and digits.

    >>> cmrc_f1("大红球", "红球大"), token_f1("大红球", "红球大", "zh")
    (0.6666666666666666, 1.0)
    """
    a, b = cmrc_units(prediction), cmrc_units(target)
    return overlap_f1(common_run(a, b), len(a), len(b))


def common_run(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest run that both have without a gap: "abcd", "xbcy" -> 2."""
    longest, lengths = 0, [0] * (len(b) + 1)
    for unit in a:
        before = lengths
        lengths = [0, *(before[j] + 1 if unit == other else 0 for j, other in enumerate(b))]
        longest = max(longest, *lengths)
    return longest


def rouge_n(prediction: str, target: str, n: int, language: Language = "en") -> float:
    """Return the F1 of the n-grams that two summaries share: Lin 2004, section 2.

    >>> rouge_n("the cat sat", "the cat ran", n=1), rouge_n("the cat sat", "the cat ran", n=2)
    (0.6666666666666666, 0.5)
    """
    if n < 1:
        raise ConfigError(f"n = {n}", "rouge_n", "give 1 or more")
    a, b = (ngrams(cut(text, language, rouge_words), n) for text in (prediction, target))
    return overlap_f1((a & b).total(), a.total(), b.total())


def rouge_l(prediction: str, target: str, language: Language = "en") -> float:
    """Return the F1 of the longest common subsequence: Lin 2004, section 3.1.

    >>> rouge_l("the cat sat down", "the old cat sat")
    0.75
    """
    a, b = (cut(text, language, rouge_words) for text in (prediction, target))
    return overlap_f1(common_length(a, b), len(a), len(b))


def overlap_f1(shared: int, predicted: int, wanted: int) -> float:
    """Return the F1 of `shared` units among those predicted and those wanted."""
    if shared == 0:
        return 0.0
    precision, recall = shared / predicted, shared / wanted
    return 2 * precision * recall / (precision + recall)


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence: "abcd", "xbyd" -> 2.

    Row by row, `lengths[j]` is the answer for a's units so far and b's first j.
    """
    lengths = [0] * (len(b) + 1)
    for unit in a:
        before = lengths
        lengths = [0]
        for j, other in enumerate(b):
            longer = before[j] + 1 if unit == other else max(before[j + 1], lengths[j])
            lengths.append(longer)
    return lengths[-1]


# --- a corpus of texts ---

BLEU_ORDER = 4


def bleu(
    predictions: Sequence[str],
    targets: Sequence[str | Sequence[str]],
    language: Language = "en",
) -> float:
    """Return the BLEU of a whole corpus: Papineni et al. 2002, section 2.

    The share of n-grams, n = 1 to 4, that a right text has too (geometric mean), times a penalty
    for being shorter. A target is one right text or a list of several: an n-gram counts as often
    as in the one that has it most often, and the length is that of the nearest one. Equals
    sacrebleu's score / 100, its tokenize "13a" or "char".

    >>> round(bleu(["the cat sat on the mat"], ["the cat sat on a mat"]), 4)
    0.5373
    """
    return bleu_from_counts(bleu_counts(predictions, targets, language).sum(axis=0))


def bleu_counts(
    predictions: Sequence[str],
    targets: Sequence[str | Sequence[str]],
    language: Language = "en",
) -> np.ndarray:
    """Return what BLEU needs of each text, (N, 10): two lengths, then shared and all n-grams.

    The counts of any sample of texts are the sums of their rows: see `bootstrap_interval`.
    """
    if isinstance(predictions, str) or isinstance(targets, str):
        raise DataError("one text where a list is wanted", "bleu", "give lists of texts: [text]")
    check_pairs(predictions, targets)
    rows = []
    for prediction, target in zip(predictions, targets, strict=True):
        texts = [target] if isinstance(target, str) else list(target)
        if not texts:
            raise DataError("no right text", "bleu", "give at least one for each prediction")
        own = cut(prediction, language, bleu_words)
        rights = [cut(text, language, bleu_words) for text in texts]
        length = min(map(len, rights), key=lambda n: (abs(n - len(own)), n))
        shared, total = [], []
        for n in range(1, BLEU_ORDER + 1):
            mine, most = ngrams(own, n), Counter()
            for right in rights:
                most |= ngrams(right, n)
            shared.append((mine & most).total())  # none counted more often than it is right
            total.append(mine.total())
        rows.append([len(own), length, *shared, *total])
    return np.array(rows)


def bleu_from_counts(counts: np.ndarray) -> float:
    """Return the BLEU of summed counts (10,).

    The first order without a shared n-gram counts 1/2 of one, the next 1/4, and so on: Chen and
    Cherry 2014, method 3.
    """
    length, target_length = counts[:2]
    shared, total = counts[2 : 2 + BLEU_ORDER], counts[2 + BLEU_ORDER :]
    if not shared.any() or not total.all():
        return 0.0
    halvings = np.cumsum(shared == 0)
    precisions = np.where(shared == 0, 0.5**halvings, shared) / total
    penalty = min(0.0, 1 - target_length / length)
    return float(np.exp(penalty + np.log(precisions).mean()))


# --- how sure is a score ---


def bootstrap_interval(
    score: Sequence[float] | Callable[[np.ndarray], float],
    n_items: int | None = None,
    confidence: float = 0.95,
    n_samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return low and high between which the score would fall with other items of the same kind.

    `score` holds a score for each item, and their mean is meant; or it is a function from the
    places of a sample's items (n_items,) to the score of that sample, for measures that are not a
    mean. Samples are drawn with replacement: Efron and Tibshirani 1993, "An Introduction to the
    Bootstrap", chapter 13 (percentiles).

    >>> bootstrap_interval([1.0] * 60 + [0.0] * 40)
    (0.51, 0.69)
    >>> counts = bleu_counts(["a b c d", "a b x y"], ["a b c d", "a b c d"])
    >>> low, high = bootstrap_interval(lambda i: bleu_from_counts(counts[i].sum(axis=0)), 2)
    """
    if not callable(score):
        values = np.asarray(score, dtype=np.float64)
        return bootstrap_interval(
            lambda items: values[items].mean(), len(values), confidence, n_samples, seed
        )
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence}", "bootstrap", "give a share such as 0.95")
    if n_samples < 1:
        raise ConfigError(f"n_samples {n_samples}", "bootstrap", "give 1 or more")
    if not n_items:
        raise DataError(f"{n_items or 'no'} items", "bootstrap", "give scores, or n_items above 0")
    rng = np.random.default_rng(seed)
    samples = [score(rng.integers(n_items, size=n_items)) for _ in range(n_samples)]
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def check_pairs(predictions: Sequence, targets: Sequence) -> None:
    """Raise DataError unless there is one prediction for each target, and at least one."""
    if len(predictions) != len(targets):
        raise DataError(
            f"{len(predictions)} predictions for {len(targets)} targets",
            "metrics",
            "give one prediction for each target",
        )
    if len(targets) == 0:
        raise DataError("no predictions", "metrics", "give at least one prediction and its target")
