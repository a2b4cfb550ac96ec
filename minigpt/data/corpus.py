"""Read the user's own text: plain text, JSON Lines, JSON arrays, and folders of them.

Text comes in pieces, so that a file larger than the memory, even one of a single line, can be
read: a piece is a whole document or, of a long plain text, up to 256 KiB of it.
Bytes are decoded as UTF-8 and otherwise kept as they are: line ends, NUL, Unicode form.

This module does not know about tokens. Field values are text and nothing else: a path or an
address in the data is never opened.
"""

import codecs
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal, NamedTuple

import regex

from minigpt.support.errors import ConfigError, DataError

SUFFIXES = (".txt", ".text", ".md", ".rst", ".json", ".jsonl")  # what is read inside a folder
PIECE_BYTES = 1 << 18  # no piece of a plain text is longer
SKIP_LIMIT = 0.01  # share of bad records that `skip_bad` tolerates
REPLACE = "replace invalid bytes with --errors replace, or save the file as UTF-8"

# Places where no chunk of the tokenizer's pattern can cross: between a character and a following
# space, and after the end of a line that does not begin with a space. Searched from the end.
CUT_WINDOW = 4000  # characters
SAFE_CUT = regex.compile(r"(?r)(?<=\S)(?= )|(?<=\n)(?=\S)")

Errors = Literal["strict", "replace"]


class Piece(NamedTuple):
    """A stretch of text; `ends_document` is True for the last (or only) piece of a document."""

    text: str
    ends_document: bool


@dataclass
class ReadCounts:
    """What reading has met so far; pass one to `read_pieces` and look at it afterwards."""

    documents: int = 0
    characters: int = 0
    replaced: int = 0  # U+FFFD put in place of invalid bytes (errors="replace")
    skipped: int = 0  # bad records left out (skip_bad=True)


def read_documents(path: Path, field: str = "text", errors: Errors = "strict") -> Iterator[str]:
    """Yield whole documents; see `read_pieces`, which needs less memory for long texts."""
    pieces: list[str] = []
    for text, ends_document in read_pieces(path, field, errors):
        pieces.append(text)
        if ends_document:
            yield "".join(pieces)
            pieces = []


def read_pieces(
    path: Path,
    field: str = "text",
    errors: Errors = "strict",
    skip_bad: bool = False,
    counts: ReadCounts | None = None,
) -> Iterator[Piece]:
    """Yield the text of a file, or of all text files in a folder, in pieces.

    A plain text file is one document; each line of a .jsonl file and each item of a .json array
    is one: the string in its `field`, or a list of strings joined by newlines. A long plain text
    is cut where no token can cross: before a space or after a line end; where there is neither in
    4,000 characters, anywhere between two characters.

    Raises DataError naming file and byte or line. With `errors="replace"` invalid bytes become
    U+FFFD; with `skip_bad` up to 1 % of a file's records may be bad. Both are counted in `counts`.
    """
    if errors not in ("strict", "replace"):
        raise ConfigError(f"errors={errors!r}", "--errors", 'give "strict" or "replace"')
    path, counts = Path(path), ReadCounts() if counts is None else counts
    for file in list_files(path):
        if file.suffix.lower() in (".json", ".jsonl"):
            pieces = read_records(file, field, errors, skip_bad, counts)
        else:
            pieces = read_plain(file, errors, counts)
        for piece in pieces:
            counts.characters += len(piece.text)
            counts.documents += piece.ends_document
            yield piece
    if counts.characters == 0:
        raise DataError("no text", str(path), "give a file or folder with text in it")


# --- files ---


def list_files(path: Path) -> list[Path]:
    """Return the file itself, or the text files inside a folder and its folders, sorted.

    A link inside a folder is never followed out of it.
    """
    path = Path(path)
    if path.is_file():
        if path.stat().st_size == 0:
            raise DataError("0 bytes", str(path), "give a file with text in it")
        return [path]
    if not path.is_dir():
        what = "not a file or folder" if path.exists() else "no such file or folder"
        raise DataError(what, str(path), "check the path given as data")
    root = path.resolve()
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    for file in inside:
        if not file.resolve().is_relative_to(root):
            raise DataError(
                "a link that leads out of the data folder",
                str(file),
                "copy the file into the folder, or give it as data by itself",
            )
    texts = [file for file in inside if file.suffix.lower() in SUFFIXES and not file.is_symlink()]
    texts = [file for file in texts if file.stat().st_size > 0]
    if not texts:
        found = sorted({file.suffix or file.name for file in inside})[:8]
        raise DataError(
            f"no text files among {len(inside)} files (found {', '.join(found) or 'nothing'})",
            str(path),
            f"give files that are not empty and end in {', '.join(SUFFIXES)}",
        )
    return texts


def open_bytes(file: Path) -> BufferedReader:
    """Open a file for reading, or raise DataError saying why it cannot be read."""
    try:
        return file.open("rb")
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", str(file), "check the file and its rights"
        ) from None


# --- plain text ---


def read_plain(file: Path, errors: Errors, counts: ReadCounts) -> Iterator[Piece]:
    """Yield the pieces of one plain text file; the last one ends the document.

    Memory stays below 3 x PIECE_BYTES, however long the text and its lines are.
    """
    offset, rest, text = 0, b"", ""
    with open_bytes(file) as stream:
        while raw := rest + stream.read(PIECE_BYTES // 2):
            is_last = not stream.peek(1)
            if offset == 0:
                refuse_other_encodings(raw, file)
            complete = len(raw) if is_last else complete_length(raw)
            rest = raw[complete:]
            text += decode(raw[:complete], errors, counts, str(file), offset)
            if offset == 0:
                text = text.removeprefix("\ufeff")
            offset += complete
            cut = len(text) if is_last else safe_cut(text, len(text) - 1)
            held, text, raw = text[cut:], text[:cut], b""
            yield Piece(text, is_last)
            text = held


def safe_cut(text: str, end: int) -> int:
    """Return the last index up to `end` where no token can cross, looking back CUT_WINDOW."""
    found = SAFE_CUT.search(text, max(1, end - CUT_WINDOW), end)
    return found.start() if found else end


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


def decode(raw: bytes, errors: Errors, counts: ReadCounts, where: str, offset: int = 0) -> str:
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


def refuse_other_encodings(raw: bytes, file: Path) -> None:
    """Raise DataError for UTF-16 and UTF-32, recognized by their mark or by their zero bytes."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if raw.startswith(mark):
            raise DataError(f"{name} text", f"{file}, byte 0", "save the file as UTF-8")
    even, odd = raw[:4096:2].count(0), raw[1:4096:2].count(0)
    if min(even, odd) == 0 and max(even, odd) * 4 > len(raw[:4096]):
        raise DataError(
            "UTF-16 text (every other byte is zero)", f"{file}, byte 0", "save the file as UTF-8"
        )


# --- JSON ---


def read_records(
    file: Path, field: str, errors: Errors, skip_bad: bool, counts: ReadCounts
) -> Iterator[Piece]:
    """Yield one document for each line of a .jsonl file or each item of a .json array."""
    source = read_lines if file.suffix.lower() == ".jsonl" else read_array
    records = bad = 0
    for where, record in source(file, errors, counts):
        records += 1
        try:
            text = record_text(record, field, where, errors, counts)
        except DataError:
            if not skip_bad:
                raise
            bad += 1
        else:
            yield Piece(text, True)
    counts.skipped += bad
    if bad > SKIP_LIMIT * records:
        raise DataError(
            f"{bad} of {records} records are bad, more than {SKIP_LIMIT:.0%}",
            str(file),
            "read it once without --skip-bad: the error names the first bad record",
        )


def read_lines(
    file: Path, errors: Errors, counts: ReadCounts
) -> Iterator[tuple[str, object | DataError]]:
    """Yield place and value of each line that is not blank; an error in place of a bad value."""
    offset = 0
    with open_bytes(file) as stream:
        for number, raw in enumerate(stream, start=1):
            where = f"{file}, line {number}"
            if number == 1:
                refuse_other_encodings(raw, file)
            try:
                text = decode(raw, errors, counts, where, offset)
                if text := text.removeprefix("\ufeff").strip():
                    yield where, parse_json(text, where)
            except DataError as error:
                yield where, error
            offset += len(raw)


def read_array(file: Path, errors: Errors, counts: ReadCounts) -> Iterator[tuple[str, object]]:
    """Yield place and value of each item of a JSON array, which is held in memory."""
    with open_bytes(file) as stream:
        raw = stream.read()
    refuse_other_encodings(raw, file)
    items = parse_json(decode(raw, errors, counts, str(file)).removeprefix("\ufeff"), str(file))
    if not isinstance(items, list):
        raise DataError(
            f"{json_kind(items)} where an array of objects is expected",
            str(file),
            "put the documents into one array, or one object a line into a .jsonl file",
        )
    for number, item in enumerate(items, start=1):
        yield f"{file}, item {number}", item


def parse_json(text: str, where: str) -> object:
    """Parse one JSON value; raise DataError naming line and column of a mistake."""
    remedy = "correct it"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{where}, line {error.lineno}, column {error.colno}"
        if error.msg == "Extra data":
            remedy = "if it holds one object a line, let its name end in .jsonl"
        raise DataError(f"bad JSON: {error.msg}", where, remedy) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"bad JSON: {error}", where, remedy) from None


def record_text(record: object, field: str, where: str, errors: Errors, counts: ReadCounts) -> str:
    """Return a record's text, or raise DataError saying what is wrong and which fields it has."""
    if isinstance(record, DataError):
        raise record
    if isinstance(record, str):
        return record_characters(record, where, errors, counts)
    if not isinstance(record, dict):
        raise DataError(
            f"{json_kind(record)} where an object is expected", where, 'write {"text": "..."}'
        )
    if field not in record:
        near = difflib.get_close_matches(field, record, n=1, cutoff=0.0)
        remedy = f"name the field with --field {near[0]}" if near else "give the object a text"
        raise DataError(f"no field {field!r}; it has {', '.join(record) or 'none'}", where, remedy)
    value = record[field]
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if not isinstance(value, str):
        raise DataError(
            f"field {field!r} holds {json_kind(value)}, not a text",
            where,
            "name a field that holds a text or a list of texts with --field",
        )
    return record_characters(value, where, errors, counts)


def record_characters(text: str, where: str, errors: Errors, counts: ReadCounts) -> str:
    """Refuse a text without characters, and half surrogate pairs (or replace and count them)."""
    if not text.strip():
        raise DataError("empty text", where, "remove the record, or leave it out with --skip-bad")
    lone = len(regex.findall(r"\p{Cs}", text))
    if lone and errors == "strict":
        raise DataError(f"{lone} lone surrogates (half characters)", where, REPLACE)
    counts.replaced += lone
    return regex.sub(r"\p{Cs}", "\ufffd", text) if lone else text


def json_kind(value: object) -> str:
    """Name a JSON value: 3 -> "a number"."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")
