"""Measure the tokenizer: training beside `tokenizers` and minbpe, encoding beside tiktoken."""

from types import ModuleType

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from benchmarks.timing import Row, clock, take_turns
from minigpt.bpe import PATTERN
from minigpt.tokenizer import END_OF_TEXT, BPETokenizer

PART = "tokenizer"


def measure_tokenizer(
    minbpe: ModuleType | None, tiktoken: ModuleType | None, text: str, quick: bool
) -> list[Row]:
    """Learn 512 merges from a text, and encode that text, in turns with the others."""
    merges, rounds = (20, 1) if quick else (512, 5)
    text = text[:5000] if quick else text
    ways = {
        "minigpt": lambda: BPETokenizer.train([text], 256 + 1 + merges),
        "tokenizers": lambda: train_library(text, 256 + 1 + merges),
    }
    seconds, trained = take_turns(ways, rounds)
    ours = trained["minigpt"]
    is_same = ours.encode(text) == trained["tokenizers"].encode(text).ids
    megabytes = len(text.encode("utf-8")) / 1e6
    rows = [
        Row(
            PART,
            f"training, {merges} merges of {megabytes:.1f} MB, beside tokenizers",
            seconds["tokenizers"] / seconds["minigpt"],
            "x faster",
            1,
            note=f"{seconds['minigpt']:.2f} s; {say_same(is_same)}",
        )
    ]
    if minbpe is not None:
        theirs, _ = clock(lambda: minbpe.RegexTokenizer(PATTERN).train(text, 256 + merges))
        what, note = "training, beside minbpe's RegexTokenizer (once)", f"{theirs:.1f} s"
        rows.append(Row(PART, what, theirs / seconds["minigpt"], "x faster", 100, note=note))
    return rows + measure_encoding(ours, tiktoken, text, rounds)


def measure_encoding(
    ours: BPETokenizer, tiktoken: ModuleType | None, text: str, rounds: int
) -> list[Row]:
    """Encode a text with a tokenizer that has not seen it yet."""
    special = len(ours.special_tokens)

    def encode() -> list[int]:
        return BPETokenizer(ours.vocabulary).encode(text)

    ways = {"minigpt": encode}
    if tiktoken is not None:
        ranks = {data: rank for rank, data in enumerate(ours.token_bytes[special:])}
        theirs = tiktoken.Encoding(
            "ours", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
        )
        ways["tiktoken"] = lambda: theirs.encode_ordinary(text)
    seconds, ids = take_turns(ways, rounds)
    speed = len(text.encode("utf-8")) / 1e6 / seconds["minigpt"]
    rows = [Row(PART, "encoding", speed, "MB a second")]
    if tiktoken is not None:
        is_same = [rank + special for rank in ids["tiktoken"]] == ids["minigpt"]
        ratio, note = seconds["minigpt"] / seconds["tiktoken"], say_same(is_same)
        rows.append(Row(PART, "encoding, beside tiktoken", ratio, "x its time", 3, True, note))
    return rows


def say_same(is_same: bool) -> str:
    """Say whether both gave the same ids, without which no time means anything."""
    return "equal ids" if is_same else "OTHER ids"


def train_library(text: str, vocab_size: int) -> tokenizers.Tokenizer:
    """Train the tokenizer of the `tokenizers` library that corresponds to ours."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    library.train_from_iterator([text], trainer)
    return library
