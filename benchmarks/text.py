"""Measure the tokenizer: training beside `tokenizers` and minbpe, encoding beside tiktoken."""

from types import ModuleType

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from benchmarks.timing import Row, clock, take_turns
from minigpt.bpe import PATTERN
from minigpt.tokenizer import END_OF_TEXT, BPETokenizer

PART = "tokenizer"


SIZES = (512, 8000)  # of the vocabularies
MOST = 400_000  # characters of a text


def measure_tokenizer(
    minbpe: ModuleType | None, tiktoken: ModuleType | None, texts: dict[str, str], quick: bool
) -> list[Row]:
    """Learn vocabularies of two sizes from each named text, and encode it, with the others."""
    sizes = (277,) if quick else SIZES
    rows = []
    for name, text in texts.items():
        for size in sizes:
            rows += measure_vocabulary(tiktoken, name, text[: 5000 if quick else MOST], size, quick)
    if minbpe is not None:
        name, text = next(iter(texts.items()))
        rows.append(measure_minbpe(minbpe, name, text[: 5000 if quick else None], quick))
    return rows


def measure_minbpe(minbpe: ModuleType, name: str, text: str, quick: bool) -> Row:
    """Learn merges once as minbpe does."""
    merges = 20 if quick else 512
    ours, _ = clock(lambda: BPETokenizer.train([text], 257 + merges))
    theirs, _ = clock(lambda: minbpe.RegexTokenizer(PATTERN).train(text, 256 + merges))
    what = f"training, {merges} merges of {name}, beside minbpe's RegexTokenizer (once)"
    return Row(PART, what, theirs / ours, "x faster", 100, note=f"{theirs:.1f} s")


def measure_vocabulary(
    tiktoken: ModuleType | None, name: str, text: str, vocab_size: int, quick: bool
) -> list[Row]:
    """Learn a vocabulary from a text, and encode that text, in turns with the others."""
    rounds = 1 if quick else 3
    ways = {
        "minigpt": lambda: BPETokenizer.train([text], vocab_size),
        "tokenizers": lambda: train_library(text, vocab_size),
    }
    seconds, trained = take_turns(ways, rounds)
    ours = trained["minigpt"]
    is_same = ours.encode(text) == trained["tokenizers"].encode(text).ids
    megabytes = len(text.encode("utf-8")) / 1e6
    rows = [
        Row(
            PART,
            f"training, {name} ({megabytes:.1f} MB), vocabulary {vocab_size}, beside tokenizers",
            seconds["tokenizers"] / seconds["minigpt"],
            "x faster",
            1,
            note=f"{seconds['minigpt']:.2f} s; {say_same(is_same)}",
        )
    ]
    return rows + measure_encoding(ours, tiktoken, f"{name}, vocabulary {vocab_size}", text, rounds)


def measure_encoding(
    ours: BPETokenizer, tiktoken: ModuleType | None, name: str, text: str, rounds: int
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
    rows = [Row(PART, f"encoding, {name}", speed, "MB a second")]
    if tiktoken is not None:
        is_same = [rank + special for rank in ids["tiktoken"]] == ids["minigpt"]
        ratio, note = seconds["minigpt"] / seconds["tiktoken"], say_same(is_same)
        what = f"encoding, {name}, beside tiktoken"
        rows.append(Row(PART, what, ratio, "x its time", 3, True, note))
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
