"""Metrics against scikit-learn, sacrebleu and rouge-score, by hand, and what intervals promise."""

import collections
import doctest
import itertools
import json
import math
import random
import re
import string

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from sklearn import metrics as sklearn_metrics

from minigpt import metrics, storyworld
from minigpt.storyworld import World
from minigpt.support.errors import ConfigError, DataError

# Units that meet every rule of the tokenizations: marks, numbers, spaces, entities, both languages.
PIECES = [
    "the",
    "The",
    "cat",
    "a",
    "an",
    "sat",
    "on",
    "mat",
    "don't",
    "co-op",
    "1.5",
    "2,000",
    "3-4",
    "5-",
    "-",
    "--",
    ".",
    ",",
    "..",
    ".5",
    "5.",
    "!",
    "?",
    "'",
    '"',
    "(x)",
    "[y]",
    "{z}",
    "a/b",
    "&amp;",
    "&quot;",
    "&lt;b&gt;",
    "<skipped>",
    "$",
    "%",
    "^",
    "_",
    "`",
    "~",
    "#",
    "@",
    "*",
    "+",
    "=",
    ":",
    ";",
    "\\",
    "|",
    "é",
    "naïve",
    "我",
    "喜欢",
    "红球",
    "。",
    "，",
    "《书》",
    "12",
    "\n",
    "\t",
    "-\n",
    "\u3000",
    "ß",
    "İ",
    "—",
    "…",
    "&amp;quot;",
]
NAMES = ("precision", "recall", "f1")


def random_texts(count: int, seed: int) -> list[str]:
    """Return texts that share many n-grams: each is a damaged copy of one of a few."""
    rng = random.Random(seed)
    models = [[rng.choice(PIECES) for _ in range(rng.randrange(1, 25))] for _ in range(5)]
    texts = []
    for number in range(count):
        words = [rng.choice(PIECES) if rng.random() < 0.3 else word for word in models[number % 5]]
        texts.append("".join(word + rng.choice(["", " ", " ", " ", "  "]) for word in words))
    return texts


def pairs(count: int, seed: int) -> tuple[list[str], list[str]]:
    return random_texts(count, 2 * seed), random_texts(count, 2 * seed + 1)


@pytest.fixture(scope="module")
def translations(data_dir) -> dict[str, tuple[list[str], list[str]]]:
    """Return real pairs of texts that mean the same: two translations of one sentence."""
    text = (data_dir / "tatoeba-cmn" / "cmn.txt").read_text(encoding="utf-8")
    rows = [line.split("\t")[:2] for line in text.splitlines()]
    found: dict[str, tuple[list[str], list[str]]] = {}
    for language, source in (("zh", 0), ("en", 1)):
        groups = collections.defaultdict(list)
        for row in rows:
            groups[row[source]].append(row[1 - source])
        several = [group for group in groups.values() if len(group) > 1]
        several = several[:: len(several) // 300]  # they are sorted by length
        found[language] = [group[0] for group in several], [group[1] for group in several]
    return found


def test_docstrings_examples():
    assert doctest.testmod(metrics).attempted > 10
    assert doctest.testmod(metrics).failed == 0


# --- classes ---


@pytest.mark.parametrize("seed", range(8))
def test_classes_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = ["ant", "bee", "cat", "dog", "eel"][: 2 + seed % 4]
    # Uneven shares, and in some seeds a class that nobody calls or that does not occur.
    draw = [rng.choice(labels, size=57, p=rng.dirichlet([0.5] * len(labels))) for _ in range(2)]
    predictions, targets = (list(map(str, drawn)) for drawn in draw)
    matrix = metrics.confusion_matrix(predictions, targets, labels)
    theirs = sklearn_metrics.confusion_matrix(targets, predictions, labels=labels)
    assert matrix.tolist() == theirs.tolist()
    assert metrics.accuracy(predictions, targets) == pytest.approx(
        sklearn_metrics.accuracy_score(targets, predictions)
    )
    for average in (None, "macro", "micro"):
        expected = sklearn_metrics.precision_recall_fscore_support(
            targets, predictions, labels=labels, average=average, zero_division=0
        )
        for name, value in zip(NAMES, expected, strict=False):
            ours = getattr(metrics, name)(matrix, average)
            np.testing.assert_allclose(ours, value, atol=1e-12, err_msg=f"{name} {average}")


def test_a_class_that_nobody_calls_and_one_that_does_not_occur_count_0():
    matrix = metrics.confusion_matrix("aab", "aac", labels="abc")
    assert metrics.precision(matrix).tolist() == [1, 0, 0]
    assert metrics.recall(matrix).tolist() == [1, 0, 0]
    assert metrics.f1(matrix, "macro") == pytest.approx(1 / 3)
    assert metrics.f1(matrix, "micro") == metrics.accuracy("aab", "aac") == pytest.approx(2 / 3)


def test_labels_may_be_numbers_of_any_kind():
    matrix = metrics.confusion_matrix(np.array([0, 1, 1]), [0, 1, 0], labels=range(3))
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


# --- losses ---


def test_perplexity_of_a_fair_die_and_of_extremes():
    assert metrics.perplexity(math.log(6)) == pytest.approx(6)
    assert metrics.perplexity(0.0) == 1
    assert metrics.perplexity(1e6) == math.inf
    assert math.isnan(metrics.perplexity(math.nan))


def test_bits_per_byte_of_uniform_bytes_is_8():
    text = "我好"
    n_bytes = len(text.encode("utf-8"))
    assert metrics.bits_per_byte(n_bytes * math.log(256), n_bytes) == pytest.approx(8)


# --- texts ---


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("12 !", "en"),
        ("red", "en"),
        ("红", "zh"),
        ("红球 red ball", "en"),
        ("大红球 red ball", "zh"),
        ("Tom说：“好！”", "zh"),
        ("the word 红", "en"),
    ],
)
def test_the_language_of_a_text_is_that_of_most_of_its_units(text, language):
    assert metrics.language_of(text) == language


@pytest.mark.parametrize(("language", "tokenize"), [("en", "13a"), ("zh", "char")])
@pytest.mark.parametrize("seed", range(6))
def test_bleu_equals_sacrebleu_on_random_texts(language, tokenize, seed):
    predictions, targets = pairs(30, seed)
    expected = sacrebleu.corpus_bleu(predictions, [targets], tokenize=tokenize, force=True).score
    assert 0 < expected < 100
    assert metrics.bleu(predictions, targets, language) == pytest.approx(expected / 100, abs=1e-8)


@pytest.mark.parametrize(("language", "tokenize"), [("en", "13a"), ("zh", "char")])
def test_bleu_equals_sacrebleu_on_real_translations(translations, language, tokenize):
    predictions, targets = translations[language]
    expected = sacrebleu.corpus_bleu(predictions, [targets], tokenize=tokenize).score
    assert 10 < expected < 90
    assert metrics.bleu(predictions, targets, language) == pytest.approx(expected / 100, abs=1e-8)


def test_bleu_words_equal_13a_text_by_text():
    tokenizer = sacrebleu.BLEU(tokenize="13a")
    for text in random_texts(1500, seed=99):
        assert metrics.bleu_words(text) == tokenizer._preprocess_segment(text).split(), repr(text)


@pytest.mark.parametrize(
    ("prediction", "target"),
    [
        ("a b c d e", "a b c d e"),  # all there
        ("a b c d e", "a x b x c x d x e"),  # no two together: smoothed, and short
        ("a b x c d", "a b y c d"),  # nothing from order 3 on
        ("v w x y z", "a b c d e"),  # nothing at all
        ("a b c", "a b c"),  # too short for an order of 4
        ("", "a b c"),
        ("a b c d e f", ""),
        ("a a a a a a", "a b a c a d"),  # no unit counts more often than it is there
        ("the cat sat on the mat today", "the cat sat on the mat"),  # longer: no penalty
    ],
)
def test_bleu_of_one_text_equals_sacrebleu(prediction, target):
    expected = sacrebleu.corpus_bleu([prediction], [[target]], force=True).score
    assert metrics.bleu([prediction], [target]) == pytest.approx(expected / 100, abs=1e-12)


class Characters:
    """Cut texts for rouge-score as `metrics` does for Chinese."""

    def tokenize(self, text: str) -> list[str]:
        return [character for character in text if not character.isspace()]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("source", ["random", "real"])
def test_rouge_equals_rouge_score(language, source, request):
    names = ["rouge1", "rouge2", "rougeL"]
    if source == "random":
        predictions, targets = pairs(150, seed=7)
    else:
        predictions, targets = request.getfixturevalue("translations")[language]
    scorer = RougeScorer(names, tokenizer=Characters() if language == "zh" else None)
    seen = set()
    for prediction, target in zip(predictions, targets, strict=True):
        if language == "en" and not all(map(metrics.is_english, (prediction, target))):
            continue  # rouge-score finds no words of other scripts
        theirs = scorer.score(target, prediction)
        ours = {
            "rouge1": metrics.rouge_n(prediction, target, 1, language),
            "rouge2": metrics.rouge_n(prediction, target, 2, language),
            "rougeL": metrics.rouge_l(prediction, target, language),
        }
        assert ours == pytest.approx({name: theirs[name].fmeasure for name in names}, abs=1e-12)
        seen.update(round(value, 3) for value in ours.values())
    assert len(seen) > 20


def test_rouge_equals_rouge_score_on_real_summaries(data_dir):
    lines = (data_dir / "scitldr" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for row in map(json.loads, lines[:60]):
        first, summary = row["source"][0], row["target"][0]
        theirs = scorer.score(summary, first)
        assert metrics.rouge_n(first, summary, 1) == pytest.approx(theirs["rouge1"].fmeasure)
        assert metrics.rouge_n(first, summary, 2) == pytest.approx(theirs["rouge2"].fmeasure)
        assert metrics.rouge_l(first, summary) == pytest.approx(theirs["rougeL"].fmeasure)


def test_longest_common_subsequence_equals_trying_all():
    rng = random.Random(3)
    for _ in range(200):
        a, b = ("".join(rng.choices("abc", k=rng.randrange(7))) for _ in range(2))
        inside = [
            word
            for choice in range(1 << len(a))
            if (word := "".join(a[i] for i in range(len(a)) if choice >> i & 1)) is not None
            and re.search(".*".join(word), b)
        ]
        assert metrics.common_length(a, b) == max(map(len, inside))


def squad_words(text: str) -> list[str]:
    """Clean an answer as the evaluation of SQuAD is described: another way than the package's."""
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.split(r"(?<!\w)(?:an?|the)(?!\w)", text)).split()


def squad_f1(prediction: str, target: str) -> float:
    left, shared = squad_words(target), 0
    for word in squad_words(prediction):
        if word in left:
            left.remove(word)
            shared += 1
    total = len(squad_words(prediction)) + len(squad_words(target))
    return 2 * shared / total if total else 1.0


def test_answers_equal_a_plain_reading_of_squad(data_dir):
    data = json.loads((data_dir / "xquad" / "xquad.en.json").read_text(encoding="utf-8"))["data"]
    answers = [
        question["answers"][0]["text"]
        for article in data[:10]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    cases = list(itertools.pairwise(answers)) + list(zip(*pairs(300, 5), strict=True))
    for prediction, target in cases:
        assert metrics.token_f1(prediction, target) == pytest.approx(squad_f1(prediction, target))
        same = squad_words(prediction) == squad_words(target)
        assert metrics.exact_match(prediction, target) == same


@pytest.mark.parametrize(
    ("prediction", "target", "language", "exact", "f1"),
    [
        ("The red ball.", "a red ball", "en", 1, 1),
        ("theory", "the theory", "en", 1, 1),  # articles are whole words
        ("red red ball", "red ball", "en", 0, 0.8),  # no word counts more often than it is there
        ("", "", "en", 1, 1),
        ("", "ball", "en", 0, 0),
        ("the", "ball", "en", 0, 0),  # nothing is left of it
        ("红球。", "《红 球》", "zh", 1, 1),
        ("红球", "球红", "zh", 0, 1),
        ("大红球", "红球", "zh", 0, 0.8),
        ("NBA球星", "nba 球星", "zh", 1, 1),
        ("", "球", "zh", 0, 0),
    ],
)
def test_answers_by_hand(prediction, target, language, exact, f1):
    assert metrics.exact_match(prediction, target, language) == exact
    assert metrics.token_f1(prediction, target, language) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "target", "share"),
    [
        ("It rains. Tom ran. He fell.", "It rains. Tom ran. He fell.", 1),
        ("  It rains.  Tom ran.\nHe fell. ", "It rains. Tom ran. He fell.", 1),
        ("It rains. He fell.", "It rains. Tom ran. He fell.", 2 / 3),  # one left out costs one
        ("Tom ran. He fell.", "It rains. Tom ran. He fell.", 2 / 3),
        ("It rains. Oh! Tom ran. He fell.", "It rains. Tom ran. He fell.", 3 / 4),  # one put in
        ("He fell. Tom ran. It rains.", "It rains. Tom ran. He fell.", 1 / 3),  # out of order
        ("It rains. It rains. It rains.", "It rains.", 1 / 3),
        ("It rains. Tom ran. He fell", "It rains. Tom ran. He fell.", 2 / 3),  # word for word
        ("it rains.", "It rains.", 0),
        ("", "It rains.", 0),
        ("It rains.", "", 0),
        ("", "", 1),
        ('"Oh no!" said Tom. He fell.', '"Oh no!" said Tom. It rains.', 1 / 2),
        ("下雨了。汤姆跑了。", "下雨了。汤姆跑了。他摔倒了。", 2 / 3),
        ("“糟了。”汤姆跑了。", "“糟了。”他摔倒了。", 1 / 2),
        ("It rains.", "下雨了。", 0),
    ],
)
def test_sentences_right_by_hand(prediction, target, share):
    assert metrics.sentence_accuracy(prediction, target) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n", []),
        ("no end", ["no end"]),
        ("It rains. no end", ["It rains.", "no end"]),
        ('"Stop! Wait," said Tom.', ['"Stop!', 'Wait," said Tom.']),  # quoted ends count
        ('"Where is it?" asked Tom. "Here."', ['"Where is it?" asked Tom.', '"Here."']),
        ('"It is here." He ran.', ['"It is here."', "He ran."]),
        ("“在哪儿？”汤姆问。他跑了！", ["“在哪儿？”", "汤姆问。", "他跑了！"]),
        ("“在那儿。”他跑了。", ["“在那儿。”", "他跑了。"]),
        ("“给你，”他说。他跑了？", ["“给你，”他说。", "他跑了？"]),
    ],
)
def test_sentences_of_a_text(text, sentences):
    assert metrics.split_sentences(text) == sentences


@pytest.mark.parametrize("world", [World.full("all"), World.little()], ids=["full", "little"])
def test_sentences_are_those_that_a_story_was_told_in(world):
    for told in (storyworld.story(seed, world) for seed in range(300)):
        for side, text in enumerate((told.english, told.chinese)):
            sentences = [pair[side] for pair in told.sentences]
            assert metrics.split_sentences(text) == sentences
            assert metrics.sentence_accuracy(text, text) == 1
            without = (" ", "")[side].join(sentences[1:])
            expected = (len(sentences) - 1) / len(sentences)
            assert metrics.sentence_accuracy(without, text) == pytest.approx(expected)
            assert metrics.sentence_accuracy(text, without) == pytest.approx(expected)


# --- intervals ---


@pytest.mark.slow
def test_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    trials, held = 200, 0
    for trial in range(trials):
        scores = rng.random(80) < 0.7
        low, high = metrics.bootstrap_interval(scores, confidence=0.9, n_samples=200, seed=trial)
        held += low <= 0.7 <= high
    assert 0.81 < held / trials < 0.98  # 0.9, four standard errors of a share of 200


def test_interval_of_a_mean_is_the_textbooks_normal_one():
    scores = np.random.default_rng(1).normal(5, 2, size=400)
    low, high = metrics.bootstrap_interval(scores, n_samples=4000)
    half = 1.96 * scores.std() / 20
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)


def test_interval_of_a_mean_and_of_a_function_agree_and_depend_on_the_seed_alone():
    scores = np.random.default_rng(2).random(50)
    first = metrics.bootstrap_interval(scores, seed=4)
    assert first == metrics.bootstrap_interval(lambda items: scores[items].mean(), 50, seed=4)
    assert first != metrics.bootstrap_interval(scores, seed=5)
    assert metrics.bootstrap_interval([0.3] * 9) == pytest.approx((0.3, 0.3))


def test_more_confidence_is_wider_and_more_items_are_narrower():
    scores = np.random.default_rng(3).random(900)
    low, high = metrics.bootstrap_interval(scores[:90])
    wide = metrics.bootstrap_interval(scores[:90], confidence=0.99)
    narrow = metrics.bootstrap_interval(scores)
    assert wide[0] < low
    assert high < wide[1]
    assert 2 < (high - low) / (narrow[1] - narrow[0]) < 4.5  # about the root of 10


def test_interval_of_bleu_resamples_texts():
    predictions, targets = pairs(40, seed=1)
    counts = metrics.bleu_counts(predictions, targets)
    chosen = np.random.default_rng(0).integers(40, size=40)
    again = metrics.bleu([predictions[i] for i in chosen], [targets[i] for i in chosen])
    assert metrics.bleu_from_counts(counts[chosen].sum(axis=0)) == pytest.approx(again)
    low, high = metrics.bootstrap_interval(
        lambda items: metrics.bleu_from_counts(counts[items].sum(axis=0)), 40, n_samples=200
    )
    assert low < metrics.bleu(predictions, targets) < high


# --- bad input ---


@pytest.mark.parametrize(
    "measure",
    [
        metrics.accuracy,
        metrics.bleu,
        lambda predictions, targets: metrics.confusion_matrix(predictions, targets, ["x"]),
    ],
)
def test_unequal_or_empty_lists_say_how_many(measure):
    with pytest.raises(DataError, match=r"2 predictions for 1 targets.*one prediction for each"):
        measure(["x", "x"], ["x"])
    with pytest.raises(DataError, match=r"no predictions.*at least one"):
        measure([], [])


@pytest.mark.parametrize(
    ("predictions", "targets", "named"), [("az", "aa", "prediction 1"), ("aa", "za", "target 0")]
)
def test_unknown_label_is_named_with_its_place(predictions, targets, named):
    with pytest.raises(DataError, match=rf"'z' is none of the labels.*{named}.*add it to labels"):
        metrics.confusion_matrix(predictions, targets, labels="ab")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.confusion_matrix("a", "a", "aba"), ConfigError, "twice.*name each once"),
        (lambda: metrics.f1(np.eye(2), "mean"), ConfigError, "'mean'.*macro"),
        (lambda: metrics.bits_per_byte(1.0, 0), DataError, "0 bytes.*give a text"),
        (lambda: metrics.token_f1("a", "a", "fr"), ConfigError, "language 'fr'.*\"en\" or"),
        (lambda: metrics.rouge_n("a", "a", 0), ConfigError, "n = 0.*1 or more"),
        (lambda: metrics.bleu("a b", "a b"), DataError, "one text.*give lists"),
        (lambda: metrics.bootstrap_interval([]), DataError, "no items|0 items.*give scores"),
        (lambda: metrics.bootstrap_interval(len), DataError, "no items.*n_items above 0"),
        (lambda: metrics.bootstrap_interval([1], confidence=95), ConfigError, "95.*such as 0.95"),
        (lambda: metrics.bootstrap_interval([1], n_samples=0), ConfigError, "n_samples 0.*1 or"),
    ],
)
def test_bad_values_say_the_cause_and_the_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---- several right texts, and Chinese answers by CMRC 2018


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("language", "tokenize"), [("en", "13a"), ("zh", "char")])
def test_bleu_with_several_right_texts_equals_sacrebleu(language, tokenize, seed):
    rng = random.Random(seed)
    words = ["a", "b", "c", "d", "e", ",", "."] if language == "en" else list("红球大小在，。")
    join = " " if language == "en" else ""

    def text() -> str:
        return join.join(rng.choices(words, k=rng.randrange(4, 12)))

    n_texts, n_right = 12, rng.randrange(2, 5)
    predictions = [text() for _ in range(n_texts)]
    rights = [[text() for _ in range(n_right)] for _ in range(n_texts)]
    streams = [list(stream) for stream in zip(*rights, strict=True)]
    expected = sacrebleu.corpus_bleu(predictions, streams, tokenize=tokenize, force=True).score
    assert metrics.bleu(predictions, rights, language) == pytest.approx(expected / 100, abs=1e-8)
    one = metrics.bleu(predictions, [texts[0] for texts in rights], language)
    assert one != pytest.approx(expected / 100, abs=1e-8)


def test_bleu_clips_over_all_right_texts_and_not_by_the_best_alone():
    # "a" is in the first, "b" in the second: together both are right.
    (counts,) = metrics.bleu_counts(["a b"], [["a x", "b y z"]])
    assert counts.tolist() == [2, 2, 2, 0, 0, 0, 2, 1, 0, 0]
    with pytest.raises(DataError, match="no right text"):
        metrics.bleu_counts(["a"], [[]])


@pytest.mark.parametrize(
    ("prediction", "target", "match", "f1"),
    [
        ("《红球》。", "红球", 1, 1),
        ("在1998年8月", "1998年8月", 0, 8 / 9),  # 5 units and 4: 在, 1998, 年, 8, 月
        ("红大球", "红球", 0, 0.4),  # a run of 1: a bag of characters would give 0.8
        ("GPT", "gpt", 1, 1),
        ("红……", "红", 0, 0.5),  # an ellipsis stays
        ("", "红", 0, 0),
        ("a.b", "ab", 0, 0),  # the full stop of Latin script is none of CMRC's marks
    ],
)
def test_chinese_answers_by_the_definition_of_cmrc_2018(prediction, target, match, f1):
    assert metrics.cmrc_match(prediction, target) == match
    assert metrics.cmrc_f1(prediction, target) == pytest.approx(f1)
