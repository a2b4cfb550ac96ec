"""Words of Chinese by counting: pieces that are learned as tokens."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigpt import storyworld
from minigpt.cohesion import cut_words
from minigpt.tokenizer import BPETokenizer, load_tokenizer

STORIES = [text for text, _ in storyworld.documents(600, seed=1_000_000)]


def tokens(tokenizer, text):
    return [tokenizer.decode([id_]) for id_ in tokenizer.encode(text)]


def test_things_have_one_token_in_every_sentence(tmp_path):
    plain = BPETokenizer.train(STORIES, 4096)
    words = BPETokenizer.train(STORIES, 4096, word_cohesion=0.3)

    def forms(tokenizer):
        found = (token for text in STORIES for token in tokens(tokenizer, text))
        return {token for token in found if "雨伞" in token}

    assert "雨伞" in forms(words)
    assert len(forms(plain)) > 3 * len(forms(words)), (forms(plain), forms(words))
    assert "，" in tokens(words, "后来，诺拉哭了。")
    words.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")  # an ordinary tokenizer, for any reader
    assert [again.encode(text) for text in STORIES[:50]] == [words.encode(t) for t in STORIES[:50]]


def test_every_text_comes_back_and_english_is_as_before():
    english = [text for text in STORIES if text.isascii()]
    plain = BPETokenizer.train(english, 900)
    words = BPETokenizer.train(english, 900, word_cohesion=0.3)
    assert plain.to_json() == words.to_json()
    mixed = BPETokenizer.train(STORIES, 900, word_cohesion=0.3)
    for text in [*STORIES[:50], "Ünïcode 雨 🎈\n\t一二三 abc", ""]:
        assert mixed.decode(mixed.encode(text)) == text


@pytest.mark.parametrize("cohesion", [0.01, 0.3, 1.0])
def test_no_character_is_lost_and_no_piece_joins_letters_with_others(cohesion):
    chunks = Counter({"把雨伞，": 3, "，雨伞": 2, "雨": 1, " it": 5, "伞伞伞": 4, "é1": 2})
    pieces = cut_words(chunks, cohesion)

    def characters(counted):
        total = Counter()
        for text, count in counted.items():
            for character in text:
                total[character] += count
        return total

    assert characters(pieces) == characters(chunks)
    assert all(
        len(p) == 1 or set(p) <= set("把雨伞") or not set(p) & set("把雨伞，") for p in pieces
    )


def test_words_of_scripts_with_spaces_stay_whole_also_beside_chinese():
    chunks = Counter({" été": 2, " привет": 1, "用iPhone拍": 3, " naïve": 1})
    assert cut_words(chunks, 0.3) == {
        " été": 2,
        " привет": 1,
        "用": 3,
        "iPhone": 3,
        "拍": 3,
        " naïve": 1,
    }


@given(
    st.dictionaries(st.text("雨伞把，a", min_size=1, max_size=6), st.integers(1, 9)),
    st.floats(0.01, 1),
)
def test_any_counts_give_pieces_that_spell_the_same(chunks, cohesion):
    pieces = cut_words(Counter(chunks), cohesion)
    letters = sum(len(text) * count for text, count in chunks.items())
    assert sum(len(piece) * count for piece, count in pieces.items()) == letters
    assert all(count > 0 for count in pieces.values())


def test_a_pair_is_joined_where_the_rarer_one_has_the_other_beside_it():
    chunks = Counter({"把雨伞": 2, "有雨伞": 1, "把灯笼": 2, "有灯笼": 1})
    assert cut_words(chunks, 0.8) == {"把": 4, "雨伞": 3, "灯笼": 3, "有": 2}
    assert cut_words(chunks, 0.1) == chunks
