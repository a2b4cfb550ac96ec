"""Turn the bytes of a user's file into text, and name the place of every byte that is not UTF-8.

Bytes are decoded as UTF-8 and otherwise kept as they are: line ends, NUL, Unicode form. Only a
byte-order mark at the beginning goes. Knows nothing of formats.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

import regex

from minigpt.support.errors import DataError

REPLACE = "replace invalid bytes with --errors replace, or save the file as UTF-8"

Errors = Literal["strict", "replace"]
Line = tuple[str, str | DataError]  # a line's place, and its text or what is wrong with it


@dataclass
class ReadCounts:
    """What reading has met so far; pass one to a reader and look at it afterwards."""

    documents: int = 0
    characters: int = 0
    replaced: int = 0  # U+FFFD put in place of invalid bytes (errors="replace")
    skipped: int = 0  # bad records left out (skip_bad=True)


def open_bytes(path: Path, place: str) -> BufferedReader:
    """Open a file for reading, or raise DataError: it cannot be read, or it is UTF-16 or UTF-32."""
    try:
        stream = path.open("rb")
    except OSError as error:
        remedy = "check the file and its rights"
        raise DataError(f"cannot be read: {error.strerror}", place, remedy) from None
    try:
        refuse_other_encodings(stream.peek(4096)[:4096], place)
    except DataError:
        stream.close()
        raise
    return stream


def read_lines(path: Path, place: str, errors: Errors, counts: ReadCounts) -> Iterator[Line]:
    """Yield place and text of each line, its end included, or a DataError in place of the text.

    Only a line feed ends a line. One line is in memory at a time.
    """
    offset = 0
    with open_bytes(path, place) as stream:
        for number, raw in enumerate(stream, start=1):
            where = f"{place}, line {number}"
            try:
                text = decode_utf8(raw, errors, counts, where, offset)
                yield where, text.removeprefix("\ufeff") if number == 1 else text
            except DataError as error:
                yield where, error
            offset += len(raw)


def decode_utf8(raw: bytes, errors: Errors, counts: ReadCounts, where: str, offset: int = 0) -> str:
    """Decode UTF-8; raise DataError naming the byte, or replace and count what is invalid."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if errors == "replace":
            text = raw.decode("utf-8", errors="replace")
            counts.replaced += text.count("\ufffd") - raw.count("\ufffd".encode())
            return text
        what = f"invalid UTF-8: byte 0x{raw[error.start]:02X} ({error.reason})"
        raise DataError(what, f"{where}, byte {offset + error.start}", REPLACE) from None


def complete_length(raw: bytes) -> int:
    """Return how many bytes end with a complete character: b"a\\xe4\\xb8" -> 1."""
    for back in range(1, min(4, len(raw) + 1)):
        byte = raw[-back]
        if byte >= 0xC0:  # the first byte of a character of 2, 3 or 4 bytes
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(raw) - back if length > back else len(raw)
        if byte < 0x80:
            break
    return len(raw)


def refuse_other_encodings(raw: bytes, place: str) -> None:
    """Raise DataError for UTF-16 and UTF-32, recognized by their mark or by their zero bytes."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if raw.startswith(mark):
            raise DataError(f"{name} text", f"{place}, byte 0", "save the file as UTF-8")
    even, odd = raw[::2].count(0), raw[1::2].count(0)
    if min(even, odd) == 0 and max(even, odd) * 4 > len(raw):
        what = "UTF-16 text (every other byte is zero)"
        raise DataError(what, f"{place}, byte 0", "save the file as UTF-8")


def check_characters(text: str, where: str, errors: Errors, counts: ReadCounts) -> str:
    """Refuse a text without characters, and half surrogate pairs (or replace and count them)."""
    if not text.strip():
        raise DataError("empty text", where, "remove the record, or leave it out with --skip-bad")
    lone = len(regex.findall(r"\p{Cs}", text))
    if lone and errors == "strict":
        raise DataError(f"{lone} lone surrogates (half characters)", where, REPLACE)
    counts.replaced += lone
    return regex.sub(r"\p{Cs}", "\ufffd", text) if lone else text
