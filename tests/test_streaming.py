"""Streaming: text that is shown piece by piece equals the text decoded at once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.chat import SPECIAL
from minigpt.streaming import TextStream
from minigpt.support.errors import DataError
from minigpt.tokenizer import BPETokenizer

SAMPLE = (
    "The cat's hat, the CAT'S mat: 1234 cats!\n\n  I'm   here...\r\n\tdéjà vu — naïve café\n"
    "我们在公园里看见一只猫。猫在公园里睡觉。🙂🙂 👩‍👩‍👧 مرحبا hello hello hello\n" * 4
)


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return BPETokenizer.train([SAMPLE], 400, SPECIAL)


def test_streaming_holds_back_every_partial_character(bpe):
    for text in ("é", "中", "🙂", "aé中🙂b", "👩‍👩‍👧"):
        data = text.encode("utf-8")
        for cut in range(len(data) + 1):
            stream = TextStream(bpe)
            ids = bpe.encode_bytes(data[:cut])
            shown = "".join(stream.push(token) for token in ids)
            assert text.startswith(shown)
            assert "\ufffd" not in shown
            ids += (rest := bpe.byte_tokens(data[cut:]))
            shown += "".join(stream.push(token) for token in rest) + stream.flush()
            assert shown == text == bpe.decode(ids)


@pytest.mark.slow
@given(st.lists(st.integers(0, 360), max_size=30))
@settings(max_examples=300, deadline=None)
def test_streaming_any_ids_equals_decoding_them(bpe, ids):
    stream = TextStream(bpe)
    assert "".join(map(stream.push, ids)) + stream.flush() == bpe.decode(ids)


def test_after_flush_the_stream_starts_anew(bpe):
    stream = TextStream(bpe)
    assert stream.push(bpe.byte_tokens("é".encode())[0]) + stream.flush() == "\ufffd"
    assert "".join(map(stream.push, bpe.encode("é"))) == "é"


def test_an_id_outside_the_vocabulary_is_refused(bpe):
    with pytest.raises(DataError, match=rf"id 9999 is outside .* {bpe.vocab_size} tokens"):
        TextStream(bpe).push(9999)
