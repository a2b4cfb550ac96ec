"""Baselines: against scikit-learn, by hand, and on the cases that trip them."""

import doctest
import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from minigpt import baselines
from minigpt.baselines import NaiveBayes, bag_of_words, first_sentence, majority, sources
from minigpt.support.errors import DataError

WORDS = ["red", "ball", "sad", "happy", "the", "it's", "42", "红球", "红", "丢了", "NBA", "café"]


def random_texts(seed: int, count: int) -> tuple[list[str], list[str]]:
    rng = random.Random(seed)
    labels = [rng.choice(["a", "b", "c"]) for _ in range(count)]
    texts = []
    for label in labels:
        weights = [1 + 3 * (i % 3 == "abc".index(label)) for i in range(len(WORDS))]
        texts.append(" ".join(rng.choices(WORDS, weights, k=rng.randrange(1, 9))))
    return texts, labels


def test_docstrings_examples():
    result = doctest.testmod(baselines)
    assert result.attempted > 6
    assert result.failed == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alpha", [1.0, 0.1])
def test_naive_bayes_equals_scikit_learn(seed, alpha):
    texts, labels = random_texts(seed, 60)
    others = random_texts(seed + 100, 40)[0]
    vectorizer = CountVectorizer(analyzer=lambda text: list(bag_of_words(text).elements()))
    theirs = MultinomialNB(alpha=alpha).fit(vectorizer.fit_transform(texts), labels)
    ours = NaiveBayes(texts, labels, alpha)
    assert ours.predict(others) == theirs.predict(vectorizer.transform(others)).tolist()
    scores = np.array([ours.scores(text) for text in others])
    expected = theirs.predict_joint_log_proba(vectorizer.transform(others))
    np.testing.assert_allclose(scores, expected, atol=1e-10)


def test_naive_bayes_without_known_words_says_the_most_common_label():
    model = NaiveBayes(["red ball", "red", "sad"], ["x", "x", "y"])
    assert model.predict(["unknown words", "", "!?"]) == ["x", "x", "x"]
    assert NaiveBayes(["!", "?"], ["x", "x"]).predict(["anything"]) == ["x"]  # no word at all


def test_naive_bayes_sees_neighbors_in_chinese_alone():
    assert bag_of_words("不开心")["不开"] == 1
    assert "red ball" not in bag_of_words("red ball")
    assert bag_of_words("红 球") == {"红": 1, "球": 1}  # a space parts them


def test_majority_does_not_depend_on_the_order():
    assert majority(["b", "a", "b", "a"]) == majority(["a", "a", "b", "b"]) == "a"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("He said 1.5 is enough. More.", "He said 1.5 is enough."),
        ("Really? Yes.", "Really?"),
        ("no end at all", "no end at all"),
        ("a title\nand the text", "a title"),
        ("  丢了！他哭了。", "丢了！"),
        ("", ""),
    ],
)
def test_first_sentence(text, first):
    assert first_sentence(text) == first


def test_sources_keep_words_whole_and_texts_apart():
    prompts = ["Good or bad? great film", "Good or bad? grim film"]
    assert sources(prompts) == ["great", "grim"]
    assert sources(["译成英文：他来了。", "译成英文：我去。"]) == ["他来了。", "我去。"]
    assert sources(["the same", "the same"]) == ["the same", "the same"]
    assert sources(["Q: a", "Q: ab"]) == ["a", "ab"]
    assert sources([]) == []


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(DataError, match=r"no training answers.*give at least one"):
        majority([])
    with pytest.raises(DataError, match=r"1 texts for 2 labels.*one label for each text"):
        NaiveBayes(["a"], ["x", "y"])
    with pytest.raises(DataError, match=r"0 texts for 0 labels.*at least one"):
        NaiveBayes([], [])
