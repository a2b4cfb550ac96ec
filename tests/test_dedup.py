"""Repeats: exact ones all found; estimates within their error; near ones found, others kept."""

import random

import numpy as np
import pytest

from minigpt.data.dedup import (
    BLOCK,
    HASHES,
    RECALL,
    MinHash,
    exact_repeats,
    jaccard,
    near_repeats,
    rows_per_band,
    shingles,
    similarity,
)

WORDS = [f"word{n}" for n in range(5000)]


def sets_with(share: float, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of `size` items whose Jaccard similarity is close to `share`."""
    common = round(2 * size * share / (1 + share))
    items = np.random.default_rng(seed).choice(2**32, 2 * size, replace=False).astype(np.uint64)
    return np.sort(items[:size]), np.sort(items[size - common : 2 * size - common])


def text_of(count: int, seed: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


# --- shingles ---


def test_english_goes_by_words_and_chinese_by_characters():
    assert len(shingles("The cat sat on the mat.")) == 4
    assert len(shingles("今天天气很好。")) == 2
    assert len(shingles("今天天气很好，我们用 Python")) == 6
    assert len(shingles("ひらがなカタカナ")) == 4


def test_case_and_punctuation_do_not_count():
    assert np.array_equal(shingles("The cat, sat!"), shingles("the CAT sat"))
    assert np.array_equal(shingles("今天，天气很好"), shingles("今天天气 很好。"))
    assert jaccard(shingles("a b c"), shingles("a b d")) == 0


@pytest.mark.parametrize("text", ["", "!", "one", "one two", "🙂🙂", "中"])
def test_short_texts_have_one_shingle(text):
    assert len(shingles(text)) == 1
    assert jaccard(shingles(text), shingles(text)) == 1


def test_texts_without_letters_are_compared_as_they_stand():
    assert jaccard(shingles("🙂"), shingles("🙁")) == 0


def test_jaccard_by_hand():
    one, two = np.array([1, 2], dtype=np.uint64), np.array([2, 3], dtype=np.uint64)
    assert jaccard(one, two) == pytest.approx(1 / 3)
    assert jaccard(one, one) == 1


# --- estimates ---


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_estimates_keep_within_their_error(share):
    """Standard error sqrt(J (1 - J) / 128) for one pair; the mean of 60 must show no bias."""
    pairs = [sets_with(share, 300, seed) for seed in range(60)]
    minhash = MinHash()
    errors = [
        similarity(minhash.signature(a), minhash.signature(b)) - jaccard(a, b) for a, b in pairs
    ]
    sigma = (share * (1 - share) / HASHES) ** 0.5
    assert max(map(abs, errors)) < 4.5 * sigma
    assert abs(np.mean(errors)) < 4 * sigma / 60**0.5
    assert 0.6 * sigma < np.std(errors) < 1.5 * sigma


def test_estimates_on_real_sentences():
    minhash = MinHash()
    for seed in range(20):
        text = text_of(200, seed)
        other = text[:150] + text_of(50, seed + 1000)
        a, b = shingles(" ".join(text)), shingles(" ".join(other))
        estimate = similarity(minhash.signature(a), minhash.signature(b))
        assert abs(estimate - jaccard(a, b)) < 4.5 * 0.5 / HASHES**0.5


def test_a_signature_does_not_depend_on_order_or_blocks():
    items = np.random.default_rng(0).integers(0, 2**32, 3 * BLOCK + 5).astype(np.uint64)
    whole = MinHash().signature(items)
    parts = [MinHash().signature(items[n::7]) for n in range(7)]
    assert np.array_equal(whole, np.minimum.reduce(parts))
    assert np.array_equal(whole, MinHash().signature(items[::-1]))
    assert not np.array_equal(whole, MinHash(seed=1).signature(items))


# --- repeats ---


def test_exact_repeats():
    assert exact_repeats(["a", "b", "a", "A", "a", "b"]) == [False, False, True, False, True, True]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.99, 1.0])
def test_bands_find_pairs_at_the_threshold(threshold):
    rows = rows_per_band(threshold)
    assert 1 - (1 - threshold**rows) ** (HASHES // rows) >= RECALL
    longer = rows + 1
    assert longer > HASHES or 1 - (1 - threshold**longer) ** (HASHES // longer) < RECALL


@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_near_repeats_agree_with_comparing_all_pairs(threshold):
    """Pairs below the threshold are never removed, at least 97 % of those above it are."""
    texts = []
    for seed in range(60):
        text = text_of(60, seed)
        for changes in (0, 1, 2, 4, 8):
            other = list(text)
            for place in random.Random(seed).sample(range(60), changes):
                other[place] = "changed"
            texts.append(" ".join(other))
    found = near_repeats(texts, threshold)
    sets = [shingles(text) for text in texts]
    like = missed = 0
    for number, items in enumerate(sets):
        if found[number] is not None:
            assert found[found[number]] is None
            assert jaccard(items, sets[found[number]]) >= threshold
        kept = [n for n in range(number) if found[n] is None]
        best = max((jaccard(items, sets[n]) for n in kept), default=0)
        like += best >= threshold
        missed += best >= threshold and found[number] is None
    assert like >= 60
    assert missed <= 0.03 * like


def test_near_repeats_in_chinese_and_english():
    english = "Once upon a time there was a reliable otter named Ollie who lived in a river."
    chinese = "从前有一只名叫奥利的水獭，他和家人一起住在一条清澈的小河里。"
    texts = [
        english,
        chinese,
        english.upper() + "!",
        chinese.replace("，", ""),
        "Something else entirely, about a fox.",
        chinese[:10] + "后来他离开了家乡去了远方。",
    ]
    assert near_repeats(texts, 0.8) == [None, None, 0, 1, None, None]


def test_a_chain_of_small_changes_keeps_more_than_its_first_link():
    text = text_of(100, 1)
    texts = []
    for step in range(20):
        text[step * 5 : step * 5 + 5] = [f"new{step}"] * 5
        texts.append(" ".join(text))
    found = near_repeats(texts, 0.8)
    assert found[0] is None
    assert found[1] == 0
    assert sum(one is None for one in found) >= 3


def test_nothing_to_compare():
    assert near_repeats([], 0.8) == []
    assert exact_repeats([]) == []
