"""Planted items are found, whole or changed; what only shares words is not."""

import numpy as np
import pytest

from minigpt.contamination import overlaps, units
from minigpt.storyworld import World, story
from minigpt.support.errors import ConfigError

STORIES = [story(seed, World.little()) for seed in range(3000, 3040)]


def test_planted_items_are_found_and_no_others():
    items = [each.english for each in STORIES[:20]]
    planted = [f"Look: {items[3].upper()}!", items[8].replace(",", ""), items[11][40:]]
    training = [each.english for each in STORIES[20:]] + planted
    shares = overlaps(items, iter(training), n=13)
    assert set(np.flatnonzero(shares >= 0.5)) == {3, 8, 11}
    assert shares[3] == shares[8] == 1
    assert 0.5 < shares[11] < 1


def test_chinese_items_are_compared_by_characters():
    items = [each.chinese for each in STORIES[:6]]
    shares = overlaps(items, ["听我说：" + items[2].replace("，", ""), items[4][:30]], n=13)
    assert shares[2] == 1
    assert 0 < shares[4] < 0.7
    assert shares[0] < 0.5
    assert units("红风筝, Ok!红风筝") == ["红", "风", "筝", "o", "k", "红", "风", "筝"]


def test_a_short_item_is_looked_for_as_a_whole():
    items = ["the red kite flew away", "the red kite", "red kite flew far away"]
    text = ["one day the red kite flew away again"]
    assert overlaps(items, text).tolist() == [1, 0, 0]
    assert overlaps(items, text, n=4).tolist() == [1, 0, 0]
    assert overlaps(items, []).tolist() == [0, 0, 0]
    assert overlaps([], text).tolist() == []


def test_an_n_gram_that_two_items_share_counts_for_both():
    items = ["a b c d e f", "x a b c d"]
    assert overlaps(items, ["a b c d"], n=4).tolist() == pytest.approx([1 / 3, 1 / 2])


def test_too_short_n_grams_are_refused():
    with pytest.raises(ConfigError):
        overlaps(["a b c d"], ["a b c d"], n=3)
