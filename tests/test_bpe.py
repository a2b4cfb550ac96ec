"""Byte-pair encoding: merges as the `tokenizers` library learns them, applied as by scanning."""

import json
import random

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from minigpt.bpe import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    PATTERN,
    LinkedWords,
    learn_merges,
    merge_chunk,
    merge_long,
    merge_short,
    split_chunks,
)
from minigpt.tokenizer import END_OF_TEXT, BPETokenizer

SAMPLE = (
    "The cat's hat, the CAT'S mat: 1234 cats!\n\n  I'm   here...\r\n\tdéjà vu — naïve café\n"
    "我们在公园里看见一只猫。猫在公园里睡觉。🙂🙂 👩‍👩‍👧 مرحبا hello hello hello\n" * 4
)


def library_train(texts: list[str], vocab_size: int) -> dict:
    """Return the "model" part of the tokenizer.json that the library itself trains."""
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return json.loads(engine.to_str())["model"]


def assert_trains_like_library(texts: list[str], vocab_size: int) -> None:
    ours = json.loads(BPETokenizer.train(texts, vocab_size).to_json())["model"]
    theirs = library_train(texts, vocab_size)
    assert ours["merges"] == theirs["merges"]
    assert ours["vocab"] == theirs["vocab"]


def merge_by_scanning(ids: list[int], merges: dict[tuple[int, int], int]) -> list[int]:
    """Apply merges the slow way: the whole chunk once for each merge."""
    for pair, new_id in merges.items():
        merged: list[int] = []
        for token in ids:
            # behind what was just joined stands new_id, so nothing is joined twice
            joins = merged and (merged[-1], token) == pair
            merged[len(merged) - bool(joins) :] = [new_id if joins else token]
        ids = merged
    return ids


def test_first_merges_by_hand():
    # ab stands 3 times, bc once; then abc once and " " + ab once: the smaller ids win.
    tokenizer = BPETokenizer.train(["abc ab ab"], 257 + 2)
    assert tokenizer.token_bytes[257:] == [b"ab", b" ab"]
    assert tokenizer.encode("ab ab") == [257, 258]


def test_ties_go_to_the_smaller_pair_of_ids():
    tokenizer = BPETokenizer.train(["zy ab"], 257 + 3)
    assert tokenizer.token_bytes[257:] == [b"ab", b"zy", b" ab"]


def test_join_counts_the_neighbors_out_and_in():
    linked = LinkedWords([[5, 1, 2, 6], [1, 2]], [3, 1])
    assert linked.join((1, 2), 9) == {(5, 9), (9, 6)}
    assert linked.words() == [[5, 9, 6], [9]]
    left = {pair: count for pair, count in linked.pair_counts.items() if count}
    assert left == {(5, 9): 3, (9, 6): 3}


def test_join_goes_from_left_to_right():
    linked = LinkedWords([[1, 1, 1], [1, 1, 1, 1]], [1, 1])
    linked.join((1, 1), 9)
    assert linked.words() == [[9, 1], [9, 9]]
    assert {pair: n for pair, n in linked.pair_counts.items() if n} == {(9, 1): 1, (9, 9): 1}


def test_learning_on_one_long_word_takes_work_in_proportion(monkeypatch):
    # 75,000 letters without a space once took eleven times as long as the same with spaces
    class Counting(list):
        looked = 0

        def __getitem__(self, index):
            Counting.looked += 1
            return super().__getitem__(index)

    class Counted(LinkedWords):
        def __init__(self, words, counts):
            super().__init__(words, counts)
            self.after = Counting(self.after)

    monkeypatch.setattr("minigpt.bpe.LinkedWords", Counted)
    letters = random.Random(0).choices(range(26), k=8000)
    for words in ([letters], [letters[n : n + 5] for n in range(0, len(letters), 5)]):
        Counting.looked = 0
        learn_merges(words, [1] * len(words), range(256, 456))
        assert 0 < Counting.looked < 2 * len(letters)


@pytest.mark.parametrize("letters", ["a", "ab", "aab", "ab c", "!?", "\n x", "中文a", "é🙂 "])
def test_merges_equal_the_librarys_on_random_text(letters):
    for seed in range(12):
        rng = random.Random(seed)
        texts = ["".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(4)]
        assert_trains_like_library(texts, 257 + rng.randint(0, 60))


@pytest.mark.parametrize(
    "name",
    [
        "alice/11-0.txt",
        "unicode-lipsum/Chinese-Lipsum.utf8.txt",
        "sanguo/sanguo.txt",
        "multi30k/french",
        pytest.param("unicode-lipsum/Emoji-Lipsum.utf8.txt", marks=pytest.mark.slow),
        "emoji-test/unicode-emoji-test.txt",
    ],
)
def test_merges_equal_the_librarys_on_real_text(name, data_dir):
    if name == "multi30k/french":
        import zipfile

        with zipfile.ZipFile(data_dir / "tatoeba-fra" / "fra-eng.zip") as archive:
            text = archive.read("fra.txt").decode("utf-8")
    else:
        text = (data_dir / name).read_text(encoding="utf-8", errors="replace")
    assert_trains_like_library([text[:12_000], text[20_000:50_000]], 700)


def test_training_stops_where_no_pair_is_left():
    tokenizer = BPETokenizer.train(["abab"], 1000)
    assert tokenizer.vocab_size == 259  # ab, abab
    assert_trains_like_library(["abab"], 1000)


@pytest.mark.slow
@given(st.text(alphabet="ab c1!\n é中🙂'stT", max_size=80))
@settings(max_examples=300, deadline=None)
def test_both_ways_of_merging_equal_scanning(text):
    tokenizer = BPETokenizer.train([SAMPLE + "aaaaaaa aabaabaab\n\n\n\n"], 420)
    for data in (text.encode("utf-8"), *(chunk.encode("utf-8") for chunk in split_chunks(text))):
        ids = tokenizer.byte_tokens(data)
        as_learned = {pair: tokenizer.merged_ids[n] for pair, n in tokenizer.merges.items()}
        expected = merge_by_scanning(ids, as_learned)
        for merge in (merge_chunk, merge_short, merge_long):
            assert merge(list(ids), as_learned) == expected, merge
            assert merge(list(ids), tokenizer.merges, tokenizer.merged_ids) == expected, merge


def test_a_short_chunk_and_a_long_one_are_merged_in_their_own_ways(monkeypatch):
    monkeypatch.setattr("minigpt.bpe.merge_short", lambda *_: "short")
    monkeypatch.setattr("minigpt.bpe.merge_long", lambda *_: "long")
    assert [merge_chunk([1] * length, {}) for length in (48, 49)] == ["short", "long"]


class CountingMerges(dict):
    """Count the look-ups: the work that merging does, whatever the machine's speed."""

    looked_up = 0

    def get(self, key, default=None):
        self.looked_up += 1
        return super().get(key, default)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", " ", "\n", "ab", "中", "abcdefgh"])
def test_work_is_linear_on_one_huge_chunk(unit):
    training = [unit * 3000, "abc bca cab aab"]
    tokenizer = BPETokenizer.train(training, 300)
    work = []
    for size in (20_000, 40_000):
        tokenizer.merges = CountingMerges(tokenizer.merges)
        ids = tokenizer.encode(unit * size)
        work.append(tokenizer.merges.looked_up)
        assert ids == tokenizer.encode_batch([unit * size])[0]
    assert work[1] <= 2.1 * work[0]
    assert work[1] <= 10 * len((unit * 40_000).encode("utf-8"))


def test_a_repeated_pair_is_joined_from_the_left():
    merges = {(1, 1): 9}
    for merge in (merge_short, merge_long):
        assert merge([1, 1, 1], merges) == [9, 1]
        assert merge([2, 1, 1, 1, 1, 1], merges) == [2, 9, 9, 1]


def test_two_merges_may_make_one_token_and_an_early_one_may_wait_for_a_late_one():
    """As in Llama 3's file: ab + c and a + bc are one token, and the ids follow no order."""
    a, b, c, ab, bc, abc, abca = range(7)
    merges = {(abc, a): 0, (b, c): 1, (a, bc): 2, (a, b): 3, (ab, c): 4}
    new_ids = [abca, bc, abc, ab, abc]
    for merge in (merge_short, merge_long):
        assert merge([a, b, c, a], merges, new_ids) == [abca]
        assert merge([a, b, a, b, c, b], merges, new_ids) == [ab, abc, b]
        assert merge([ab, c, a, bc, a], merges, new_ids) == [abc, abca]


@pytest.mark.parametrize("letters", ["ab", "abc"])
def test_both_ways_agree_where_merges_have_any_order(letters):
    """Random vocabularies in which numbers, ids and dependencies follow no order."""
    for seed in range(60):
        rng = random.Random(seed)
        tokens = list(letters)
        for _ in range(25):
            joined = rng.choice(tokens) + rng.choice(tokens)
            tokens += [joined] if joined not in tokens and len(joined) < 9 else []
        ids = {token: number for number, token in enumerate(rng.sample(tokens, len(tokens)))}
        pairs = [(x, y) for x in tokens for y in tokens if x + y in ids]
        rng.shuffle(pairs)
        merges = {(ids[x], ids[y]): number for number, (x, y) in enumerate(pairs)}
        new_ids = [ids[x + y] for x, y in pairs]
        row = [ids[letter] for letter in rng.choices(letters, k=120)]
        assert merge_short(row, merges, new_ids) == merge_long(row, merges, new_ids)


def test_chunks_lose_nothing():
    assert "".join(split_chunks(SAMPLE)) == SAMPLE
    assert split_chunks("I'm 42!") == ["I", "'m", " ", "4", "2", "!"]
    assert split_chunks("a  b\n\n c") == ["a", " ", " b", "\n\n", " c"]


def test_each_published_pattern_cuts_digits_in_its_own_way():
    assert split_chunks("12345") == ["1", "2", "3", "4", "5"]
    assert split_chunks("12345", GPT4_PATTERN) == ["123", "45"]
    assert split_chunks(" 12345", GPT2_PATTERN) == [" 12345"]
    assert split_chunks("I'LL\n\nx", GPT2_PATTERN) == ["I", "'", "LL", "\n", "\n", "x"]
    assert split_chunks("I'LL\n\nx", GPT4_PATTERN) == ["I", "'LL", "\n\n", "x"]
