"""Conversations of any length made into rows: which fit, which are cut, and where."""

import numpy as np
import pytest

from minigpt.batching.conversations import cut_middle, fit, fit_prompts, flatten
from minigpt.batching.windows import IGNORE
from minigpt.support.errors import DataError

SHORT = ([1, 2, 3], [False, True, True])
LONG = (list(range(1, 13)), [False] * 9 + [True] * 3)


def test_rows_hold_conversations_with_a_separator_between_and_answers_as_targets():
    flat = flatten([SHORT, ([4, 5], [False, True])], 9, "refuse")
    idx, targets = flat.rows([np.array([0, 1]), np.array([1])], 8, separator=99)
    assert idx.tolist() == [[1, 2, 3, 99, 4, 5, 99], [4, 5, 99, 99, 99, 99, 99]]
    I = IGNORE
    assert targets.tolist() == [[2, 3, I, I, 5, I, I], [5, I, I, I, I, I, I]]


def test_what_just_fits_stays_as_it_is():
    for over_long in ("refuse", "drop", "cut"):
        assert fit(*LONG, 11, over_long, "a.txt") == LONG


def test_one_too_long_is_refused_dropped_or_cut():
    with pytest.raises(DataError, match=r"12 tokens, but rows hold 11 — a.txt"):
        fit(*LONG, 10, "refuse", "a.txt")
    assert fit(*LONG, 10, "drop", "a.txt") is None
    ids, trained = fit(*LONG, 8, "cut", "a.txt")
    assert (len(ids), sum(trained)) == (9, 3)
    assert ids[-3:] == LONG[0][-3:]


def test_long_ones_are_counted():
    assert flatten([SHORT, LONG, LONG], 8, "drop").n_over_long == 2
    assert flatten([SHORT, LONG], 11, "drop").n_over_long == 0


def test_prompts_lose_their_middle():
    prompts, count = fit_prompts([[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8]], 4, keep=())
    assert prompts == [[1, 2, 3], [1, 2, 3, 4], [1, 2, 7, 8]]
    assert count == 1


def test_cutting_takes_the_middle_of_the_longest_prompt():
    ids = list(range(20))
    trained = [False] * 3 + [True] * 2 + [False] * 12 + [True] * 3
    assert cut_middle(ids, trained, 14) == (
        [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17, 18, 19],
        [False] * 3 + [True] * 2 + [False] * 6 + [True] * 3,
    )
    assert cut_middle(ids, trained, 11) is None, "no more than template tokens would be left"
    whole = cut_middle(ids, [True] * 20, 14)
    assert whole == ([*range(7), *range(13, 20)], [True] * 14), "a text that is learned whole"
