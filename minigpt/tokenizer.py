"""Turn text into token ids and back: byte-level byte-pair encoding, or single characters.

The merges are learned and applied in bpe.py, and vocabulary.py holds what tells one tokenizer from
another; here both get an interface. Every text is bytes, so to byte-pair encoding nothing is
unknown, and the vocabularies of GPT-2, Llama 3 and Qwen work as our own do.

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
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from minigpt.bpe import (
    PATTERN,
    check_surrogates,
    count_chunks,
    learn_merges,
    merge_chunk,
)
from minigpt.cohesion import cut_words
from minigpt.machine.chunks import splitter
from minigpt.machine.pieces import PieceCutter
from minigpt.support.errors import ConfigError, DataError
from minigpt.support.files import atomic_write
from minigpt.vocabulary import AddedToken, Unsupported, Vocabulary, library_json, number_tokens

END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, "<|end_of_text|>")  # what published models call it: GPT-2 and Qwen, Llama 3
UNKNOWN = "<|unknown|>"
WHITE = "".join(chr(n) for n in range(0x3001) if chr(n).isspace() and not 0x1C <= n <= 0x1F)
REMEMBERED = 200_000  # chunks whose ids are kept, if they have at most 32 characters
NFC = tokenizers.normalizers.NFC()
LONG = 5_000  # characters from which it pays to cut Chinese into pieces
FEW_CORES = 4  # up to so many, our memory for words is faster than the library on all of them

# --- the interface of all tokenizers ---


class Tokenizer:
    """Map text to ids and back; what `BPETokenizer` and `CharTokenizer` share.

    `token_bytes[id]` are the bytes that an id stands for, `special_tokens` the ids by name.
    """

    def __init__(self, token_bytes: list[bytes], added: Sequence[AddedToken]):
        self.token_bytes = token_bytes
        self.vocab_size = len(token_bytes)
        self.added = tuple(added)
        self.special_tokens = {token.content: token.id for token in added if token.special}

    @functools.cached_property
    def eot_id(self) -> int:
        """The id that ends a document; raises DataError where the vocabulary has none."""
        for name in ENDS:
            if name in self.special_tokens:
                return self.special_tokens[name]
        raise DataError(
            "no token that ends a text",
            f"special tokens {list(self.special_tokens)[:5]}",
            f"use a tokenizer with one of {', '.join(ENDS)}",
        )

    def encode(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """Return the ids of `text`; special tokens only where `allowed_special` names them.

        Raises DataError at half a surrogate pair (not a character), ConfigError at a name in
        `allowed_special` that is not a special token.
        """
        check_surrogates(text)
        if allowed_special:
            self._check_special(allowed_special)
        return self._encode_parts(text, allowed_special)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, by whoever is faster; special tokens never.

        Words come again, and remembering their ids beats the library on a few cores. Clauses of
        Chinese hardly do: such texts, and all texts where cores are many, go to the library.
        """
        refuse_text(texts, "encode_batch")
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
            kind = str(getattr(token, "dtype", type(token).__name__))  # bool, torch.bool, numpy's
            number = -1 if "bool" in kind else operator.index(token)
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

    def _encode_parts(self, text: str, allowed_special: Collection[str] = ()) -> list[int]:
        """Take out the tokens that are found by their spelling, and encode what is between them."""
        wanted = [t for t in self.added if not t.special or t.content in allowed_special]
        # Most are looked for in the text as it was written, some in its normal form.
        early = [token for token in wanted if not token.normalized]
        late = [token for token in wanted if token.normalized]
        ids: list[int] = []
        for part in cut_added(text, early):
            pieces = [part] if isinstance(part, int) else cut_added(self._normalize(part), late)
            for piece in pieces:
                ids += [piece] if isinstance(piece, int) else self._encode(piece)
        return ids

    def _normalize(self, text: str) -> str:
        return text

    @functools.cached_property
    def _engine(self) -> tokenizers.Tokenizer:
        content = json.loads(self.to_json())
        # Without its special tokens the library has no way to find them in a text.
        content["added_tokens"] = [t for t in content["added_tokens"] if not t["special"]]
        content["model"]["vocab"] |= {t["content"]: t["id"] for t in content["added_tokens"]}
        return tokenizers.Tokenizer.from_str(json.dumps(content))

    def _check_special(self, names: Collection[str]) -> None:
        unknown = [names] if isinstance(names, str) else set(names) - set(self.special_tokens)
        if unknown:
            raise ConfigError(
                f"not special tokens: {sorted(unknown)}",
                "allowed_special",
                f"give a list with some of {list(self.special_tokens)}",
            )


def refuse_text(texts: Iterable[str], where: str) -> None:
    """Raise ConfigError where one text is given instead of a list: its letters would be texts."""
    if isinstance(texts, str):
        raise ConfigError("one text where a list is wanted", where, "give a list of texts: [text]")


def cut_added(text: str, added: Iterable[AddedToken]) -> Iterator[str | int]:
    """Yield the ids of added tokens that a text spells, and the texts between them, in order.

    >>> list(cut_added("a<|x|>b", [AddedToken("<|x|>", 7)]))
    ['a', 7, 'b']
    """
    tokens = {token.content: token for token in added}
    end = 0
    for match in spellings(tuple(tokens)).finditer(text) if tokens else ():
        token = tokens[match[0]]
        before = text[end : match.start()]
        if before := before.rstrip(WHITE) if token.lstrip else before:
            yield before
        yield token.id
        end = match.end()
        while token.rstrip and text[end : end + 1] and text[end] in WHITE:
            end += 1
    if end < len(text):
        yield text[end:]


@functools.lru_cache(maxsize=64)
def spellings(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of these names; where several fit, the longest."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))


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

    def __init__(self, vocabulary: Vocabulary):
        super().__init__(vocabulary.token_bytes, vocabulary.added)
        self.vocabulary = vocabulary
        ids = vocabulary.ids
        self.byte_ids = [ids[bytes([byte])] for byte in range(256)]
        # A pair has the number of its merge: the order is the file's, whatever the ids are.
        pairs = enumerate(vocabulary.merges)
        self.merges = {(ids[first], ids[second]): number for number, (first, second) in pairs}
        self.merged_ids = [ids[first + second] for first, second in vocabulary.merges]
        self._split = splitter(vocabulary.pattern)
        self._remembered: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        word_cohesion: float = 0.0,
        pattern: str = PATTERN,
    ) -> "BPETokenizer":
        """Learn merges until the vocabulary has `vocab_size` tokens, or no pair is left.

        Ids: special tokens, the 256 bytes, then the merges in the order learned; the same as
        those of the library's BpeTrainer. With a `word_cohesion` above 0 Chinese is cut into words
        first (see cohesion.py), and no token is learned that reaches beyond one.
        """
        refuse_text(texts, "tokenizer training")
        special = number_special(special_tokens)
        first_new = len(special) + 256
        if vocab_size < first_new:
            raise ConfigError(
                f"vocab_size {vocab_size} is too small",
                "tokenizer training",
                f"give at least {first_new}: 256 bytes and {len(special)} special tokens",
            )
        chunks = count_chunks(texts, splitter(pattern))
        if not chunks:
            raise DataError("no text", "tokenizer training", "give at least one text")
        if word_cohesion:
            chunks = cut_words(chunks, word_cohesion)
        tokenizer = cls(number_tokens([], special))
        words = [tokenizer.byte_tokens(chunk.encode("utf-8")) for chunk in chunks]
        merges = learn_merges(words, list(chunks.values()), range(first_new, vocab_size))
        return cls(number_tokens(merges, special, pattern))

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
                ids += self._encode_parts(part)
        return ids

    def to_json(self) -> str:
        return self.vocabulary.to_json()

    def _normalize(self, text: str) -> str:
        if self.vocabulary.normalizer is None or text.isascii():
            return text
        # The library's edition of Unicode, not Python's, so that the ids are the same everywhere.
        return NFC.normalize_str(text)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        remembered = self._remembered
        for chunk in self._chunks(text):
            known = remembered.get(chunk)
            if known is None:
                known = self._merge(chunk.encode("utf-8"))
                if len(chunk) <= 32 and len(remembered) < REMEMBERED:
                    remembered[chunk] = known
            ids += known
        return ids

    def _chunks(self, text: str) -> list[str]:
        """Cut text where no merge may cross, and Chinese also where none does."""
        chunks = self._split(text)
        if len(text) < LONG or text.isascii() or self.vocabulary.ignore_merges:
            return chunks  # with ignore_merges a whole chunk may be a token
        return self._cutter.cut(text, chunks)

    @functools.cached_property
    def _cutter(self) -> PieceCutter:
        return PieceCutter(self.vocabulary.merges)

    def _merge(self, data: bytes) -> list[int]:
        if self.vocabulary.ignore_merges and data in self.vocabulary.ids:
            return [self.vocabulary.ids[data]]
        return merge_chunk(self.byte_tokens(data), self.merges, self.merged_ids)


class CharTokenizer(Tokenizer):
    """One id for each character seen in training; any other character is <|unknown|>."""

    def __init__(self, characters: Sequence[str], special_tokens: dict[str, int]):
        tokens = [*special_tokens, *characters]
        added = [AddedToken(name, number) for name, number in special_tokens.items()]
        super().__init__([token.encode("utf-8") for token in tokens], added)
        self.unknown_id = special_tokens[UNKNOWN]
        first = len(special_tokens)
        self.character_ids = {character: first + n for n, character in enumerate(characters)}

    @classmethod
    def train(
        cls, texts: Iterable[str], special_tokens: Sequence[str] = (END_OF_TEXT,)
    ) -> "CharTokenizer":
        """Collect the characters of the texts; ids: special tokens, <|unknown|>, code points."""
        refuse_text(texts, "tokenizer training")
        characters: set[str] = set()
        for text in texts:
            check_surrogates(text)
            characters.update(text)
        if not characters:
            raise DataError("no text", "tokenizer training", "give at least one text")
        return cls(sorted(characters), number_special([*special_tokens, UNKNOWN]))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text; Python is fast enough for one look-up a character."""
        refuse_text(texts, "encode_batch")
        return [self.encode(text) for text in texts]

    def encode_bytes(self, data: bytes) -> list[int]:
        """Return the ids of UTF-8 bytes; what is no character becomes <|unknown|>."""
        return self._encode(data.decode("utf-8", errors="replace"))

    def to_json(self) -> str:
        return library_json(
            added=self.added,
            normalizer=None,
            pre_tokenizer=None,
            post_processor=None,
            decoder={"type": "Fuse"},
            unknown=UNKNOWN,
            ignore_merges=False,
            vocab=self.special_tokens | self.character_ids,
            merges=[],
        )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CharTokenizer":
        """Read what `to_json` wrote; raise ValueError at anything else."""
        special = {token["content"]: token["id"] for token in content["added_tokens"]}
        if special != number_special(list(special)):
            raise ValueError(f"special tokens {special}")
        tokenizer = cls(list(content["model"]["vocab"])[len(special) :], special)
        ours = json.loads(tokenizer.to_json())
        for key in ("normalizer", "pre_tokenizer", "decoder", "model"):
            if content[key] != ours[key]:
                raise ValueError(f"its {key} is not that of a vocabulary of characters")
        return tokenizer

    def _encode(self, text: str) -> list[int]:
        return [self.character_ids.get(character, self.unknown_id) for character in text]


# --- files ---


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json: ours, or one of GPT-2, Llama 3, Qwen and their relatives.

    The ids are those of the `tokenizers` library. Raises DataError where the file is missing or
    damaged, or asks for what we do not do as the library does it.
    """
    path = Path(path)
    remedy = "copy the tokenizer.json again, or train a tokenizer with minigpt"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["model"].get("unk_token") == UNKNOWN:
            tokenizer = CharTokenizer.from_json(content)
        else:
            tokenizer = BPETokenizer(Vocabulary.from_json(content))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", str(path), remedy) from None
    except Unsupported as error:
        remedy = "use a byte-level tokenizer.json, as GPT-2, Llama 3 and Qwen have, or train one"
        raise DataError(f"not supported: {error}", str(path), remedy) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"not a tokenizer.json ({reason})", str(path), remedy) from None
    return tokenizer
