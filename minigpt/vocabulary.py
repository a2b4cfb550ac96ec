"""A vocabulary as data: the tokens and their ids, the merges, the pattern, the special tokens.

Byte-pair encoding is the same in GPT-2, Llama 3 and Qwen. What differs is data: where text is cut,
which pairs are joined, which id each token has, what is marked as special. A `Vocabulary` holds
all of it and nothing else, and is stored as a `tokenizer.json` of the `tokenizers` library.

Reads the files of those families. What we cannot do as the library does it is refused, and the
field is named: a wrong id is worse than none. Knows how to encode nothing; see tokenizer.py.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from minigpt.bpe import BYTE_SYMBOLS, GPT2_PATTERN, PATTERN, Pair
from minigpt.machine.chunks import PROVEN, splitter
from minigpt.support.errors import DataError

SYMBOL_BYTES = {symbol: byte for byte, symbol in BYTE_SYMBOLS.items()}
LARGEST_VOCABULARY = 10_000_000  # ids above are damage: the list of tokens would fill the memory
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}


class Unsupported(ValueError):
    """A tokenizer.json asks for something that this package does not do."""


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in text by its spelling, before the text is cut.

    One that is not `special`, such as Qwen's <think>, is always found; a special one only where
    the caller allows it.
    """

    content: str
    id: int
    special: bool = True
    lstrip: bool = False  # takes the white space before it along
    rstrip: bool = False  # and after it
    normalized: bool = False  # looked for after normalization, not before


@dataclass(frozen=True)
class Vocabulary:
    """All that tells one byte-level tokenizer from another. Raises ValueError if it cannot work."""

    ids: dict[bytes, int]  # of the tokens that text is made of
    merges: Sequence[tuple[bytes, bytes]]  # the earliest first
    added: Sequence[AddedToken] = ()
    pattern: str = PATTERN
    normalizer: Literal["NFC"] | None = None  # the form of Unicode that text is brought into
    ignore_merges: bool = False  # a chunk that is a token becomes it, whatever the merges say
    post_processor: dict[str, Any] | None = field(default=None, repr=False)  # kept for others

    def __post_init__(self) -> None:
        splitter(self.pattern)  # a pattern that is none is noticed now
        for byte in range(256):
            if bytes([byte]) not in self.ids:
                raise Unsupported(f"model.vocab: byte {byte} is missing")
        names = [*self.ids.values(), *(token.id for token in self.added)]
        for number in names:
            if type(number) is not int or not 0 <= number < LARGEST_VOCABULARY:
                raise ValueError(f"id {number!r}")
        number, times = Counter(names).most_common(1)[0]
        if times > 1:
            raise ValueError(f"id {number} belongs to {times} tokens")
        if len({token.content for token in self.added}) < len(self.added):
            raise ValueError("added_tokens: a name stands twice")
        for number, (first, second) in enumerate(self.merges):
            for token in (first, second, first + second):
                if token not in self.ids:
                    raise ValueError(f"model.merges, number {number}: no token {token!r}")

    @property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each id; of an id that the file leaves out, none."""
        spelled = [(number, data) for data, number in self.ids.items()]
        spelled += [(token.id, token.content.encode("utf-8")) for token in self.added]
        listed = [b""] * (max(spelled)[0] + 1)
        for number, data in spelled:
            listed[number] = data
        return listed

    def to_json(self) -> str:
        """Return the text of a tokenizer.json; equal vocabularies give equal text."""
        vocab = {to_symbols(data): number for data, number in self.ids.items()}
        # With ignore_merges a chunk may become any token of the vocabulary: not a special one.
        if not self.ignore_merges:
            vocab |= {token.content: token.id for token in self.added}
        split = {"pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False}
        byte_level = BYTE_LEVEL | {"use_regex": False}
        return library_json(
            added=self.added,
            normalizer=self.normalizer and {"type": self.normalizer},
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [{"type": "Split", **split}, byte_level],
            },
            post_processor=self.post_processor,
            decoder=byte_level,
            unknown=None,
            ignore_merges=self.ignore_merges,
            vocab=dict(sorted(vocab.items(), key=lambda item: item[1])),
            merges=[[to_symbols(first), to_symbols(second)] for first, second in self.merges],
        )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Vocabulary":
        """Read a tokenizer.json of any byte-level model.

        Raises Unsupported where the library would do what we do not, another ValueError or a
        LookupError, TypeError or AttributeError where the file is damaged.
        """
        model = content["model"]
        expect("model.type", model.get("type", "BPE"), "BPE")
        expect("model.dropout", model.get("dropout"), None, 0.0)
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            expect(f"model.{key}", model.get(key), None, "")
        for key in ("truncation", "padding"):
            expect(key, content.get(key), None)
        for step in flat(content.get("decoder"), "decoders") or [{"type": None}]:
            expect("decoder.type", step["type"], "ByteLevel")
        added = [added_token(token) for token in content.get("added_tokens", [])]
        names = {token.content: token.id for token in added}
        ids = {}
        for symbols, number in model["vocab"].items():
            if symbols not in names:
                ids[to_bytes(symbols)] = number
            elif names[symbols] != number:
                raise ValueError(f"{symbols} has id {number} and, as added token, {names[symbols]}")
        return cls(
            ids,
            [merge_of(merge) for merge in model["merges"]],
            added,
            pattern_of(content.get("pre_tokenizer")),
            normalizer_of(content.get("normalizer")),
            bool(model.get("ignore_merges", False)),
            content.get("post_processor"),
        )


def number_tokens(
    merges: Iterable[Pair], special_tokens: dict[str, int], pattern: str = PATTERN
) -> Vocabulary:
    """Number tokens as this package trains them: special ones, the 256 bytes, then the merges.

    So a smaller vocabulary is the beginning of a larger one.
    """
    names = [name.encode("utf-8") for name in special_tokens]
    names += [bytes([byte]) for byte in BYTE_SYMBOLS]
    joined = []
    for first, second in merges:
        joined.append((names[first], names[second]))
        names.append(names[first] + names[second])
    if len(set(names)) < len(names):
        name, _ = Counter(names).most_common(1)[0]
        raise DataError(f"two merges give the token {name!r}", "merges", "leave one of them out")
    ids = {name: number for number, name in enumerate(names) if number >= len(special_tokens)}
    added = [AddedToken(name, number) for name, number in special_tokens.items()]
    return Vocabulary(ids, joined, added, pattern)


# --- the fields of a tokenizer.json ---


def to_symbols(data: bytes) -> str:
    """Write bytes as printable characters: b" cat" -> "Ġcat"."""
    return "".join(map(BYTE_SYMBOLS.__getitem__, data))


def to_bytes(symbols: str) -> bytes:
    """Read what `to_symbols` wrote."""
    try:
        return bytes(map(SYMBOL_BYTES.__getitem__, symbols))
    except KeyError:
        raise Unsupported(f"model.vocab: {symbols!r} is not written in byte symbols") from None


def expect(name: str, value: Any, *allowed: Any) -> None:
    """Raise Unsupported where a field has a value that changes ids in a way we do not know."""
    if value not in allowed:
        raise Unsupported(f"{name} is {value!r}"[:200])


def flat(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps that a field holds: none, one, or those of a Sequence."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [each for inner in step[key] for each in flat(inner, key)]


def normalizer_of(content: dict[str, Any] | None) -> Literal["NFC"] | None:
    """Return the normalization form that a file asks for."""
    steps = flat(content, "normalizers")
    for step in steps:
        expect("normalizer.type", step["type"], "NFC")
    return "NFC" if steps else None


def pattern_of(content: dict[str, Any] | None) -> str:
    """Return the pattern that cuts: of one Split, or of GPT-2, which ByteLevel has built in."""
    steps = flat(content, "pretokenizers")
    expect("pre_tokenizer", [step["type"] for step in steps], ["ByteLevel"], ["Split", "ByteLevel"])
    byte_level = steps[-1]
    name = "pre_tokenizer.ByteLevel"
    expect(f"{name}.add_prefix_space", byte_level.get("add_prefix_space", True), False)
    expect(f"{name}.use_regex", byte_level.get("use_regex", True), len(steps) == 1)
    if len(steps) == 1:
        return GPT2_PATTERN
    split, name = steps[0], "pre_tokenizer.Split"
    expect(f"{name}.pattern", list(split["pattern"]), ["Regex"])
    pattern = split["pattern"]["Regex"]
    ways = [("Isolated", False)]
    if pattern in PROVEN:  # it matches every character, so there is nothing to remove
        ways.append(("Removed", True))
    expect(f"{name}.behavior and invert", (split["behavior"], split["invert"]), *ways)
    return pattern


def added_token(content: dict[str, Any]) -> AddedToken:
    """Read an added token with its flags."""
    name = content["content"]
    if not isinstance(name, str) or not name:
        raise ValueError(f"added token {name!r}")
    expect(f"single_word of added token {name}", content.get("single_word", False), False)
    flags = ("special", "lstrip", "rstrip", "normalized")
    return AddedToken(name, content["id"], *(bool(content.get(flag, False)) for flag in flags))


def merge_of(content: str | list[str]) -> tuple[bytes, bytes]:
    """Read a merge: ["Ġ", "t"], or "Ġ t" as older files write it."""
    first, second = content.split(" ") if isinstance(content, str) else content
    return to_bytes(first), to_bytes(second)


def library_json(
    added: Iterable[AddedToken],
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any] | None,
    post_processor: dict[str, Any] | None,
    decoder: dict[str, Any],
    unknown: str | None,
    ignore_merges: bool,
    vocab: dict[str, int],
    merges: list[list[str]],
) -> str:
    """Return a tokenizer.json of the `tokenizers` library; without merges, characters are units."""
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": vocab,
        "merges": merges,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token.id,
                "content": token.content,
                "single_word": False,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "normalized": token.normalized,
                "special": token.special,
            }
            for token in added
        ],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
