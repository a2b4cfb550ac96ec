"""Pieces of chunks give the ids of whole chunks, and a piece never ends where a merge reaches."""

import random
from itertools import pairwise

import numpy as np
import pytest

from minigpt.bpe import PATTERN, merge_chunk, split_chunks
from minigpt.machine.pieces import PieceCutter, first_part, last_part
from minigpt.tokenizer import BPETokenizer

CHINESE = "却说曹操，引兵而来。刘备、关羽、张飞大喜，乃引兵而去！操曰：“吾知之矣。”" * 4
MIXED = "naïve café, 曹操 says: don't! Ünïcode 🙂🙂 한국어 русский текст, ελληνικά"


@pytest.fixture(autouse=True)
def every_text_is_long(monkeypatch):
    monkeypatch.setattr("minigpt.tokenizer.LONG", 0)


def plain_ids(tokenizer: BPETokenizer, text: str) -> list[int]:
    """Merge each chunk as a whole: what pieces must be equal to."""
    return [
        number
        for chunk in split_chunks(text)
        for number in merge_chunk(
            tokenizer.byte_tokens(chunk.encode("utf-8")), tokenizer.merges, tokenizer.merged_ids
        )
    ]


@pytest.mark.parametrize("vocab_size", [257, 280, 320, 512, 1000])
def test_pieces_give_the_ids_of_whole_chunks(vocab_size):
    rng = random.Random(vocab_size)
    tokenizer = BPETokenizer.train([CHINESE, MIXED], vocab_size)
    letters = sorted(set(CHINESE + MIXED)) + list("𠀀鿿 \n")
    for _ in range(300):
        text = "".join(rng.choices(letters, k=rng.randrange(40)))
        assert tokenizer.encode(text) == plain_ids(tokenizer, text)


def test_merges_of_parts_of_characters_are_kept_together():
    # Few bytes, few characters: merges that begin or end inside a character are learned.
    rng = random.Random(1)
    letters = "一丁丂七丄，、é"
    text = "".join(rng.choices(letters, k=4000))
    tokenizer = BPETokenizer.train([text], 700)
    inside = [token for token in tokenizer.token_bytes[257:] if 0x80 <= token[0] < 0xC0]
    assert len(inside) > 5
    for _ in range(500):
        text = "".join(rng.choices(letters, k=rng.randrange(1, 30)))
        assert tokenizer.encode(text) == plain_ids(tokenizer, text)


def test_a_text_is_cut_where_nothing_joins_and_nowhere_else():
    merges = [(b"\xe4", b"\xb8"), (b"\xe4\xb8", b"\x80"), ("一".encode(), "一".encode())]
    cutter = PieceCutter(merges)
    assert cutter.cut("一一丁一，一一", ["一一丁一，一一"]) == ["一一", "丁", "一", "，", "一一"]
    assert cutter.cut("一一一", ["一", "一一"]) == ["一", "一一"]  # a chunk's end stays
    assert PieceCutter([(b"\x81", b"\xe4")]).cut("丁一丁a", ["丁一丁a"]) == ["丁一", "丁", "a"]


def test_pieces_of_the_same_table_place_only_grow(monkeypatch):
    monkeypatch.setattr("minigpt.machine.pieces.PLACES", 1)
    cutter = PieceCutter([(b"a", b"b")])
    cutter.cut("ab", ["ab"])
    assert cutter.cut("xya", ["xya"]) == ["xya"]
    assert np.count_nonzero(cutter.joined) == 1


def test_ends_and_beginnings_are_characters_or_what_is_there_of_them():
    assert last_part("a一".encode()) == "一".encode()
    assert last_part(b"\x80\x81") == b"\x80\x81"
    assert first_part("一a".encode()) == "一".encode()
    assert first_part(b"\xe4\xb8") == b"\xe4\xb8"


def test_clauses_share_their_pieces():
    tokenizer = BPETokenizer.train([CHINESE], 300)
    clauses = [CHINESE[n : n + 9] for n in range(60)]
    text = "\n".join(clauses)
    pieces = tokenizer._chunks(text)
    assert "".join(pieces) == text
    assert len(set(pieces)) < len(set(split_chunks(text)))
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    assert all(first < second for first, second in pairwise(ends))
    assert PATTERN == tokenizer.vocabulary.pattern
