"""Store token ids in checked, memory-mapped files, and cut training and evaluation batches.

The batch of a step is a pure function of (seed, step): nothing has to be saved to resume a run,
and several processes take disjoint `shard`s of the same global batch.

Shapes: B batch, T time (block_size). Targets are the inputs' next tokens; IGNORE marks padding.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minigpt.corpus import Errors, Overlap, Piece, ReadCounts, read_pieces, split_documents
from minigpt.errors import ConfigError, DataError
from minigpt.files import fsync, fsync_directory
from minigpt.tokenizer import Tokenizer

IGNORE = -100  # the target that cross_entropy leaves out
MAGIC = b"minigpt tokens 1"  # the format's number is part of it
HEADER_BYTES = 512
GROUP = 1 << 20  # characters encoded at a time
REMAKE = "make the token file again from its text"

Batch = tuple[Tensor, Tensor]


# --- token files ---


@dataclass(frozen=True, eq=False)
class TokenFile:
    """A mapped token file: `tokens` (N,) of uint16 or uint32, and what its header says."""

    path: Path
    tokens: np.ndarray
    vocab_size: int
    eot_id: int | None
    max_id: int
    tokenizer_sha256: str
    sha256: str  # of the tokens' bytes

    def __len__(self) -> int:
        return len(self.tokens)

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raise DataError where the file was made by another tokenizer."""
        if self.tokenizer_sha256 != tokenizer.fingerprint:
            raise DataError(
                f"made by tokenizer {self.tokenizer_sha256[:12] or 'unknown'}, "
                f"not by {tokenizer.fingerprint[:12]}",
                str(self.path),
                "use the tokenizer.json that made it, or " + REMAKE,
            )


class TokenWriter:
    """Write a token file a stretch at a time; the file appears when the `with` block succeeds.

    Layout: the magic text, the SHA-256 of the fields, the fields as JSON padded with spaces to
    512 bytes, then the ids as little-endian uint16 (uint32 from 65,537 tokens on).
    """

    def __init__(self, path: Path, vocab_size: int, eot_id: int | None, tokenizer_sha256: str = ""):
        self.path = Path(path)
        self.vocab_size, self.eot_id = vocab_size, eot_id
        self.tokenizer_sha256 = tokenizer_sha256
        self.dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
        self.count, self.max_id = 0, -1
        self._digest = hashlib.sha256()
        self._temporary = self.path.with_name(f".tmp-{os.getpid()}-{self.path.name}")

    def write(self, ids: Sequence[int]) -> None:
        """Append ids; raise DataError at one outside the vocabulary."""
        array = np.asarray(ids, dtype=np.int64)
        outside = np.flatnonzero((array < 0) | (array >= self.vocab_size))
        if len(outside):
            raise DataError(
                f"id {array[outside[0]]} in a vocabulary of {self.vocab_size}",
                f"{self.path}, token {self.count + outside[0]}",
                "encode the text with the tokenizer whose vocab_size is given",
            )
        data = array.astype(self.dtype).tobytes()
        self._file.write(data)
        self._digest.update(data)
        self.count += len(array)
        self.max_id = max(self.max_id, int(array.max(initial=-1)))

    def __enter__(self) -> "TokenWriter":
        self._file = self._temporary.open("wb")
        self._file.write(bytes(HEADER_BYTES))
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        try:
            if error_type is None:
                self._file.seek(0)
                self._file.write(self._header())
                fsync(self._file)
            self._file.close()
            if error_type is None:
                self._temporary.replace(self.path)
        finally:
            self._file.close()
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)
        fsync_directory(self.path.parent)

    def _header(self) -> bytes:
        fields = {
            "dtype": self.dtype.str,
            "count": self.count,
            "vocab_size": self.vocab_size,
            "eot_id": self.eot_id,
            "max_id": self.max_id,
            "tokenizer_sha256": self.tokenizer_sha256,
            "sha256": self._digest.hexdigest(),
        }
        text = json.dumps(fields).encode("ascii").ljust(HEADER_BYTES - len(MAGIC) - 64)
        assert len(MAGIC) + 64 + len(text) == HEADER_BYTES, fields
        return MAGIC + hashlib.sha256(text).hexdigest().encode("ascii") + text


def write_tokens(
    path: Path,
    chunks: Iterable[Sequence[int]],
    vocab_size: int,
    eot_id: int | None,
    tokenizer_sha256: str = "",
) -> TokenFile:
    """Write all chunks of ids, one after the other, as one token file, and open it."""
    with TokenWriter(path, vocab_size, eot_id, tokenizer_sha256) as writer:
        for ids in chunks:
            writer.write(ids)
    return open_tokens(path, verify=False)


def open_tokens(path: Path, verify: bool = True) -> TokenFile:
    """Map a token file; `verify` reads it once and compares its SHA-256 and largest id.

    Raises DataError where the file is missing, cut, changed, of another format, or holds an id
    outside the vocabulary.
    """
    path = Path(path)
    fields = read_header(path)
    dtype, count = np.dtype(fields["dtype"]), fields["count"]
    expected, actual = HEADER_BYTES + count * dtype.itemsize, path.stat().st_size
    if actual != expected:
        raise DataError(f"{actual} bytes instead of {expected}", str(path), REMAKE)
    if count == 0:
        raise DataError("0 tokens", str(path), "give a text with characters")
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(count,))
    if verify:
        check_payload(tokens, fields, path)
    if fields["max_id"] >= fields["vocab_size"]:
        raise DataError(
            f"id {fields['max_id']} in a vocabulary of {fields['vocab_size']}", str(path), REMAKE
        )
    del fields["dtype"], fields["count"]
    return TokenFile(path=path, tokens=tokens, **fields)


def read_header(path: Path) -> dict:
    """Return the header's fields, or raise DataError saying what is wrong with it."""
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER_BYTES)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", str(path), REMAKE) from None
    digest, text = raw[len(MAGIC) : len(MAGIC) + 64], raw[len(MAGIC) + 64 :]
    if not raw.startswith(MAGIC):
        raise DataError(
            "not a token file of this version (another magic)", f"{path}, byte 0", REMAKE
        )
    if hashlib.sha256(text).hexdigest().encode("ascii") != digest:
        raise DataError("damaged header (checksum differs)", str(path), REMAKE)
    return json.loads(text)


def check_payload(tokens: np.ndarray, fields: dict, path: Path) -> None:
    """Compare checksum and largest id with the header, a stretch at a time."""
    digest, largest = hashlib.sha256(), -1
    for start in range(0, len(tokens), GROUP):
        stretch = tokens[start : start + GROUP]
        digest.update(stretch)
        largest = max(largest, int(stretch.max()))
    if digest.hexdigest() != fields["sha256"]:
        raise DataError("changed since it was written (SHA-256 differs)", str(path), REMAKE)
    fields["max_id"] = max(largest, fields["max_id"])


# --- training batches ---


class Windows:
    """Windows of T + 1 tokens that begin anywhere, drawn with replacement."""

    def __init__(self, tokens: TokenFile, batch_size: int, block_size: int, seed: int):
        check_sizes(tokens, batch_size, block_size, seed)
        self.tokens, self.seed = tokens.tokens, seed
        self.batch_size, self.block_size = batch_size, block_size

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step."""
        rng = np.random.default_rng((self.seed, step))
        starts = rng.integers(len(self.tokens) - self.block_size, size=self.batch_size)
        rows = self.tokens[starts[:, None] + np.arange(self.block_size + 1)]  # (B, T + 1)
        return inputs_and_targets(rows)


class Documents:
    """Rows that begin with a document: <|endoftext|>, its text, then the documents after it.

    The file ends with <|endoftext|> and is read as a circle, so every document can come first.
    """

    def __init__(self, tokens: TokenFile, batch_size: int, block_size: int, seed: int):
        check_sizes(tokens, batch_size, block_size, seed)
        self.tokens, self.seed = tokens.tokens, seed
        self.batch_size, self.block_size = batch_size, block_size
        self.starts, _ = document_spans(tokens)
        if len(self.starts) == 0:
            raise DataError("no documents", str(tokens.path), "give documents that are not empty")

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step."""
        rng = np.random.default_rng((self.seed, step))
        starts = self.starts[rng.integers(len(self.starts), size=self.batch_size)]
        places = (starts[:, None] + np.arange(self.block_size + 1)) % len(self.tokens)
        return inputs_and_targets(self.tokens[places])  # (B, T + 1)


def document_spans(tokens: TokenFile) -> tuple[np.ndarray, np.ndarray]:
    """Return for each document the place of the <|endoftext|> before it, and its length in tokens.

    The length counts one <|endoftext|>. The first document begins with the last token of the
    file. Empty documents are left out.
    """
    if tokens.eot_id is None or tokens.tokens[-1] != tokens.eot_id:
        raise DataError(
            "does not end with <|endoftext|>, so it is not a file of whole documents",
            str(tokens.path),
            "write <|endoftext|> after each document, or use windows",
        )
    parts = [
        start + np.flatnonzero(tokens.tokens[start : start + GROUP] == tokens.eot_id)
        for start in range(0, len(tokens), GROUP)
    ]
    ends = np.concatenate(parts)
    starts = np.roll(ends, 1)
    lengths = (ends - starts - 1) % len(tokens) + 1
    return starts[lengths > 1], lengths[lengths > 1]


def inputs_and_targets(rows: np.ndarray) -> Batch:
    """Split rows (B, T + 1) into inputs and next tokens (B, T) as int64 tensors."""
    return (
        torch.from_numpy(rows[:, :-1].astype(np.int64)),
        torch.from_numpy(rows[:, 1:].astype(np.int64)),
    )


def shard(batch: Batch, rank: int, world_size: int) -> Batch:
    """Return the rows of one of `world_size` processes: disjoint, together the whole batch."""
    rows = len(batch[0])
    assert 0 <= rank < world_size, (rank, world_size)
    assert rows % world_size == 0, (rows, world_size)
    mine = slice(rank * rows // world_size, (rank + 1) * rows // world_size)
    return batch[0][mine], batch[1][mine]


def check_sizes(tokens: TokenFile, batch_size: int, block_size: int, seed: int = 0) -> None:
    """Raise where no batch can be cut: ConfigError for a bad number, DataError for few tokens."""
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("block_size", block_size, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} {value}", "batches", f"give {least} or more")
    if len(tokens) < block_size + 1:
        raise DataError(
            f"{len(tokens)} tokens, but block_size {block_size} needs {block_size + 1}",
            str(tokens.path),
            "give more text or a smaller block_size",
        )


# --- evaluation batches ---


class EvalWindows:
    """Windows one after the other: every token but the first is a target exactly once."""

    def __init__(self, tokens: TokenFile, batch_size: int, block_size: int):
        check_sizes(tokens, batch_size, block_size=min(block_size, 1))
        self.tokens, self.batch_size, self.block_size = tokens.tokens, batch_size, block_size
        self.n_targets = len(tokens) - 1

    def __len__(self) -> int:
        return -(-self.n_targets // (self.batch_size * self.block_size))

    def __iter__(self) -> Iterator[Batch]:
        """Yield idx, targets (B, T) int64; the last batch has fewer rows, its last row padding."""
        step = self.batch_size * self.block_size
        for start in range(0, self.n_targets, step):
            stretch = self.tokens[start : start + step + 1].astype(np.int64)
            rows = -(-(len(stretch) - 1) // self.block_size)
            idx = np.zeros(rows * self.block_size, dtype=np.int64)
            targets = np.full_like(idx, IGNORE)
            idx[: len(stretch) - 1] = stretch[:-1]
            targets[: len(stretch) - 1] = stretch[1:]
            yield (
                torch.from_numpy(idx.reshape(rows, self.block_size)),
                torch.from_numpy(targets.reshape(rows, self.block_size)),
            )


class EvalDocuments:
    """Whole documents, one a row: input <|endoftext|> and text, targets text and <|endoftext|>.

    Rows are sorted by length, and each batch is as long as its longest row. Raises DataError
    where a document does not fit into block_size.
    """

    def __init__(self, tokens: TokenFile, batch_size: int, block_size: int):
        check_sizes(tokens, batch_size, block_size=1)
        starts, lengths = document_spans(tokens)
        if len(starts) and lengths.max() > block_size:
            raise DataError(
                f"a document of {lengths.max()} tokens, but block_size is {block_size}",
                f"{tokens.path}, token {starts[lengths.argmax()]}",
                "give a larger block_size, or evaluate on windows",
            )
        order = np.argsort(lengths, kind="stable")
        self.tokens, self.batch_size = tokens.tokens, batch_size
        self.starts, self.lengths = starts[order], lengths[order]
        self.n_documents, self.n_targets = len(starts), int(lengths.sum())

    def __len__(self) -> int:
        return -(-self.n_documents // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield idx, targets (B, T) int64; T is the batch's longest row, the last B may be less."""
        for first in range(0, self.n_documents, self.batch_size):
            starts = self.starts[first : first + self.batch_size, None]  # (B, 1)
            lengths = self.lengths[first : first + self.batch_size, None]  # (B, 1)
            steps = np.arange(lengths.max() + 1)
            idx, targets = inputs_and_targets(self.tokens[(starts + steps) % len(self.tokens)])
            padding = torch.from_numpy(steps[:-1] >= lengths)  # (B, T)
            yield idx.masked_fill(padding, 0), targets.masked_fill(padding, IGNORE)


# --- from text to token files ---


@dataclass(frozen=True, eq=False)
class Prepared:
    """What `prepare` made: two token files, what was read, and how much the two share."""

    train: TokenFile
    validation: TokenFile
    counts: ReadCounts
    overlap: float  # share of validation text whose lines also stand in training


def prepare(
    path: Path,
    tokenizer: Tokenizer,
    out_dir: Path,
    *,
    field: str = "text",
    errors: Errors = "strict",
    skip_bad: bool = False,
    validation_fraction: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write the text of a file or folder as out_dir/train.bin and out_dir/val.bin.

    <|endoftext|> follows each document. The text is read three times, never held whole: to check
    and count it, to encode it (`on_progress` gets characters done and in all), and to compare
    the two sides. Raises DataError where a side stays empty; nothing is then written.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    counts = ReadCounts()
    for _ in read_pieces(path, field, errors, skip_bad, counts):
        pass

    def read() -> Iterator[tuple[Piece, bool]]:
        pieces = read_pieces(path, field, errors, skip_bad)
        return split_documents(pieces, counts, validation_fraction)

    facts = (tokenizer.vocab_size, tokenizer.eot_id, tokenizer.fingerprint)
    overlap, done = Overlap(), 0
    with (
        TokenWriter(out_dir / "train.bin", *facts) as train,
        TokenWriter(out_dir / "val.bin", *facts) as validation,
    ):
        for piece, is_validation, ids in encode_pieces(read(), tokenizer):
            (validation if is_validation else train).write(ids)
            if is_validation:
                overlap.add_validation(piece.text)
            done += len(piece.text)
            if on_progress:
                on_progress(done, counts.characters)
        check_sides(train.count, validation.count, path)
    for piece, is_validation in read():
        if not is_validation:
            overlap.add_training(piece.text)
    return Prepared(
        train=open_tokens(out_dir / "train.bin"),
        validation=open_tokens(out_dir / "val.bin"),
        counts=counts,
        overlap=overlap.share,
    )


def encode_pieces(
    pieces: Iterable[tuple[Piece, bool]], tokenizer: Tokenizer
) -> Iterator[tuple[Piece, bool, list[int]]]:
    """Add each piece's ids, <|endoftext|> after a document.

    Pieces are encoded together, few at first, so that who wants little need not wait, then about
    a million characters at a time.
    """
    limit = 1 << 14
    pieces = iter(pieces)
    while group := take_characters(pieces, limit):
        texts = [piece.text for piece, _ in group]
        for (piece, is_validation), ids in zip(group, tokenizer.encode_batch(texts), strict=True):
            end = [tokenizer.eot_id] if piece.ends_document else []
            yield piece, is_validation, ids + end
        limit = min(2 * limit, GROUP)


def take_characters(pieces: Iterator[tuple[Piece, bool]], least: int) -> list[tuple[Piece, bool]]:
    """Take pieces until they have `least` characters together, or none is left."""
    group = []
    while least > 0 and (marked := next(pieces, None)) is not None:
        group.append(marked)
        least -= len(marked[0].text)
    return group


def document_ids(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield each document's ids with <|endoftext|> at the end, ready for `write_tokens`."""
    pieces = ((Piece(document, True), False) for document in documents)
    for _, _, ids in encode_pieces(pieces, tokenizer):
        yield ids


def check_sides(train: int, validation: int, path: Path) -> None:
    """Raise DataError where training or validation got no tokens."""
    if train == 0 or validation == 0:
        raise DataError(
            f"{train} training and {validation} validation tokens: one side is empty",
            str(path),
            "give more (or more varied) text, or another --validation-fraction",
        )
