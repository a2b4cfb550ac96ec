"""Store token ids in files that are checked and memory-mapped: header, checksum, then the ids."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigpt.support.errors import DataError
from minigpt.support.files import fsync, fsync_directory
from minigpt.tokenizer import Tokenizer

MAGIC = b"minigpt tokens 1"  # the format's number is part of it
HEADER_BYTES = 512
STRETCH = 1 << 20  # tokens that are read at a time
REMAKE = "make the token file again from its text"


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
    for start in range(0, len(tokens), STRETCH):
        stretch = tokens[start : start + STRETCH]
        digest.update(stretch.data)
        largest = max(largest, int(stretch.max()))
    if digest.hexdigest() != fields["sha256"]:
        raise DataError("changed since it was written (SHA-256 differs)", str(path), REMAKE)
    fields["max_id"] = max(largest, fields["max_id"])
