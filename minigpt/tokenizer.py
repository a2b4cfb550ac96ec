"""Turn text into token ids and back: byte-level byte-pair encoding, or single characters.

The merges are learned and applied in bpe.py; here they become a vocabulary with special tokens, an
interface and a file. Every text is bytes, so to byte-pair encoding nothing is unknown.

Both tokenizers are saved as a `tokenizer.json` that the `tokenizers` library loads; that library
encodes batches where it is faster, on all cores and with identical ids. A special token never
comes out of a user's text: its spelling is encoded as ordinary text unless `allowed_special` names
it.

This module does not know about files of text, documents or models.
"""

import functools
import hashlib
import json
import operator
import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import tokenizers

from minigpt.bpe import (
    BYTE_SYMBOLS,
    PATTERN,
    Pair,
    check_surrogates,
    count_chunks,
    learn_merges,
    merge_chunk,
    split_chunks,
)
from minigpt.cohesion import cut_words
from minigpt.support.errors import ConfigError, DataError
from minigpt.support.files import atomic_write

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unknown|>"
REMEMBERED = 200_000  # chunks whose ids are kept, if they have at most 32 characters
FEW_CORES = 4  # up to so many, our memory for words is faster than the library on all of them

# --- the interface of all tokenizers ---


class Tokenizer:
    """Map text to ids and back; what `BPETokenizer` and `CharTokenizer` share.

    `token_bytes[id]` are the bytes that an id stands for, `special_tokens` the ids by name.
    """

    def __init__(self, token_bytes: list[bytes], special_tokens: dict[str, int]):
        self.token_bytes = token_bytes
        self.special_tokens = special_tokens
        self.vocab_size = len(token_bytes)
        self.eot_id = special_tokens[END_OF_TEXT]

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """Return the ids of `text`; special tokens only where `allowed_special` names them.

        Raises DataError at half a surrogate pair (not a character), ConfigError at a name in
        `allowed_special` that is not a special token.
        """
        check_surrogates(text)
        if not allowed_special:
            return self._encode(text)
        self._check_special(allowed_special)
        names = sorted(allowed_special, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
        ids: list[int] = []
        for n, part in enumerate(parts):  # every second part is a special token
            ids += [self.special_tokens[part]] if n % 2 else self._encode(part)
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, by whoever is faster; special tokens never.

        Words come again, and remembering their ids beats the library on a few cores. Clauses of
        Chinese hardly do: such texts, and all texts where cores are many, go to the library.
        """
        few = min(len(texts), os.cpu_count() or 1) <= FEW_CORES
        ours = [few and len(text.encode("utf-8", "replace")) < 2 * len(text) for text in texts]
        theirs = [text for text, is_ours in zip(texts, ours, strict=True) if not is_ours]
        for text in theirs:
            check_surrogates(text)
        encodings = iter(self._engine.encode_batch_fast(theirs, add_special_tokens=False))
        return [
            self.encode(text) if is_ours else next(encodings).ids
            for text, is_ours in zip(texts, ours, strict=True)
        ]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of any bytes; where they are UTF-8, those of their text."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of `ids`; raise DataError for an id outside the vocabulary."""
        return b"".join([self.token_bytes[self.check_id(token)] for token in ids])

    def check_id(self, token: int) -> int:
        """Return an id as a Python int, or raise DataError naming it and the vocabulary's size."""
        try:
            number = -1 if type(token).__name__.startswith("bool") else operator.index(token)
        except TypeError:
            number = -1
        if not 0 <= number < self.vocab_size:
            raise DataError(
                f"id {token!r} is outside the vocabulary of {self.vocab_size} tokens",
                "decode",
                f"give whole numbers from 0 to {self.vocab_size - 1}, made by this tokenizer",
            )
        return number

    def save(self, path: Path) -> None:
        """Write `tokenizer.json`, readable by the `tokenizers` library."""
        atomic_write(Path(path), self.to_json())

    def to_json(self) -> str:
        """Return the text of the saved file; equal tokenizers give equal text."""
        raise NotImplementedError

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the saved file: names the vocabulary in token files and checkpoints."""
        return hashlib.sha256(self.to_json().encode("utf-8")).hexdigest()

    def _encode(self, text: str) -> list[int]:
        raise NotImplementedError

    @functools.cached_property
    def _engine(self) -> tokenizers.Tokenizer:
        # Without added tokens the library has no way to find special tokens in a text.
        content = json.loads(self.to_json()) | {"added_tokens": []}
        return tokenizers.Tokenizer.from_str(json.dumps(content))

    def _check_special(self, names: Collection[str]) -> None:
        unknown = [names] if isinstance(names, str) else set(names) - set(self.special_tokens)
        if unknown:
            raise ConfigError(
                f"not special tokens: {sorted(unknown)}",
                "allowed_special",
                f"give a list with some of {list(self.special_tokens)}",
            )


def number_special(names: Sequence[str]) -> dict[str, int]:
    """Give the special tokens the first ids.

    The spelling <|word|> is always cut into several chunks, so no merge can ever produce it.
    """
    for name in names:
        if not re.fullmatch(r"<\|[a-z_]*[a-z][a-z_]*\|>", name):
            raise ConfigError(f"special token {name!r}", "special_tokens", "write it as <|word|>")
    if END_OF_TEXT not in names or len(set(names)) < len(names):
        raise ConfigError(
            f"special tokens {list(names)}",
            "special_tokens",
            f"give {END_OF_TEXT} and no name twice",
        )
    return {name: number for number, name in enumerate(names)}


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding: any text and any bytes round-trip exactly."""

    def __init__(self, merges: dict[Pair, int], special_tokens: dict[str, int]):
        token_bytes = [name.encode("utf-8") for name in special_tokens]
        self.byte_ids = {byte: len(token_bytes) + n for n, byte in enumerate(BYTE_SYMBOLS)}
        token_bytes += [bytes([byte]) for byte in BYTE_SYMBOLS]
        for first, second in merges:
            token_bytes.append(token_bytes[first] + token_bytes[second])
        assert len(set(token_bytes)) == len(token_bytes), "two merges give the same token"
        super().__init__(token_bytes, special_tokens)
        self.merges = merges
        self._remembered: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        word_cohesion: float = 0.0,
    ) -> "BPETokenizer":
        """Learn merges until the vocabulary has `vocab_size` tokens, or no pair is left.

        Ids: special tokens, the 256 bytes, then the merges in the order learned; the same as
        those of the library's BpeTrainer. With a `word_cohesion` above 0 Chinese is cut into words
        first (see `words.py`), and no token is learned that reaches beyond one.
        """
        special = number_special(special_tokens)
        first_new = len(special) + 256
        if vocab_size < first_new:
            raise ConfigError(
                f"vocab_size {vocab_size} is too small",
                "tokenizer training",
                f"give at least {first_new}: 256 bytes and {len(special)} special tokens",
            )
        chunks = count_chunks(texts)
        if not chunks:
            raise DataError("no text", "tokenizer training", "give at least one text")
        if word_cohesion:
            chunks = cut_words(chunks, word_cohesion)
        tokenizer = cls({}, special)
        words = [tokenizer.byte_tokens(chunk.encode("utf-8")) for chunk in chunks]
        merges = learn_merges(words, list(chunks.values()), range(first_new, vocab_size))
        return cls(merges, special)

    def byte_tokens(self, data: bytes) -> list[int]:
        """Return one id for each byte."""
        return [self.byte_ids[byte] for byte in data]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of any bytes; runs that are not UTF-8 are chunks of their own."""
        text = data.decode("utf-8", errors="surrogateescape")
        ids: list[int] = []
        for n, part in enumerate(re.split("([\udc80-\udcff]+)", text)):
            if n % 2:
                ids += self._merge(part.encode("utf-8", errors="surrogateescape"))
            else:
                ids += self._encode(part)
        return ids

    def to_json(self) -> str:
        symbols = ["".join(BYTE_SYMBOLS[byte] for byte in token) for token in self.token_bytes]
        symbols[: len(self.special_tokens)] = self.special_tokens
        byte_level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        split = {"pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
        return library_json(
            special_tokens=self.special_tokens,
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", **split},
                    {"type": "ByteLevel", **byte_level},
                ],
            },
            decoder={"type": "ByteLevel", **byte_level},
            unknown=None,
            vocab={symbol: number for number, symbol in enumerate(symbols)},
            merges=[[symbols[first], symbols[second]] for first, second in self.merges],
        )

    @classmethod
    def from_json(cls, content: dict) -> "BPETokenizer":
        """Read what `to_json` wrote; the caller compares the result with the file."""
        vocab, special = content["model"]["vocab"], special_of(content)
        first_new = len(special) + 256
        pairs = [(vocab[first], vocab[second]) for first, second in content["model"]["merges"]]
        return cls({pair: first_new + n for n, pair in enumerate(pairs)}, special)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        remembered = self._remembered
        for chunk in split_chunks(text):
            known = remembered.get(chunk)
            if known is None:
                known = self._merge(chunk.encode("utf-8"))
                if len(chunk) <= 32 and len(remembered) < REMEMBERED:
                    remembered[chunk] = known
            ids += known
        return ids

    def _merge(self, data: bytes) -> list[int]:
        return merge_chunk(self.byte_tokens(data), self.merges)


class CharTokenizer(Tokenizer):
    """One id for each character seen in training; any other character is <|unknown|>."""

    def __init__(self, characters: Sequence[str], special_tokens: dict[str, int]):
        tokens = [*special_tokens, *characters]
        super().__init__([token.encode("utf-8") for token in tokens], special_tokens)
        self.unknown_id = special_tokens[UNKNOWN]
        first = len(special_tokens)
        self.character_ids = {character: first + n for n, character in enumerate(characters)}

    @classmethod
    def train(
        cls, texts: Iterable[str], special_tokens: Sequence[str] = (END_OF_TEXT,)
    ) -> "CharTokenizer":
        """Collect the characters of the texts; ids: special tokens, <|unknown|>, code points."""
        characters: set[str] = set()
        for text in texts:
            check_surrogates(text)
            characters.update(text)
        if not characters:
            raise DataError("no text", "tokenizer training", "give at least one text")
        return cls(sorted(characters), number_special([*special_tokens, UNKNOWN]))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; Python is fast enough for one look-up a character."""
        return [self.encode(text) for text in texts]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of UTF-8 bytes; what is no character becomes <|unknown|>."""
        return self._encode(data.decode("utf-8", errors="replace"))

    def to_json(self) -> str:
        vocab = self.special_tokens | self.character_ids
        return library_json(
            self.special_tokens, None, {"type": "Fuse"}, unknown=UNKNOWN, vocab=vocab, merges=[]
        )

    @classmethod
    def from_json(cls, content: dict) -> "CharTokenizer":
        """Read what `to_json` wrote; the caller compares the result with the file."""
        special = special_of(content)
        return cls(list(content["model"]["vocab"])[len(special) :], special)

    def _encode(self, text: str) -> list[int]:
        return [self.character_ids.get(character, self.unknown_id) for character in text]


# --- files ---


def library_json(
    special_tokens: dict[str, int],
    pre_tokenizer: dict | None,
    decoder: dict,
    unknown: str | None,
    vocab: dict[str, int],
    merges: list[list[str]],
) -> str:
    """Return a tokenizer.json of the `tokenizers` library; without merges, characters are units."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": number, "content": name, **plain, "special": True}
        for name, number in special_tokens.items()
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": merges,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def special_of(content: dict) -> dict[str, int]:
    """Return the special tokens of a tokenizer.json, or raise ValueError where we number others."""
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    if special != number_special(list(special)):
        raise ValueError(f"special tokens {special}")
    return special


def load_tokenizer(path: Path) -> Tokenizer:
    """Read the tokenizer.json of a `BPETokenizer` or `CharTokenizer`.

    Raises DataError where the file is missing, damaged or of another kind.
    """
    path = Path(path)
    remedy = "train a tokenizer with minigpt, or copy the run's tokenizer.json again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = CharTokenizer if content["model"]["unk_token"] == UNKNOWN else BPETokenizer
        tokenizer = kind.from_json(content)
        ours = json.loads(tokenizer.to_json())
        for key in ("normalizer", "pre_tokenizer", "decoder", "model"):
            if content[key] != ours[key]:
                raise ValueError(f"its {key} is another, or its ids do not fit its merges")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", str(path), remedy) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"not a tokenizer of minigpt ({reason})", str(path), remedy) from None
    return tokenizer
