"""Read text to learn from as documents, in pieces: a file larger than the memory can be read.

A document is a whole plain text, or one record of any other format: its text stands in one field.
A piece is a whole document or, of a long plain text, up to 256 KiB of it, even where it is one
line. This module does not know about tokens.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import regex

from minigpt.data.decoding import (
    SPELLED,
    Errors,
    ReadCounts,
    ReplacedCheck,
    complete_length,
    decode_utf8,
    open_bytes,
    with_encoding,
)
from minigpt.data.discovery import Word, find_files
from minigpt.data.formats import FORMATS, DataFile, ReadConfig, column_names, format_of
from minigpt.data.records import document_text, read_records
from minigpt.support.errors import ConfigError, DataError

PIECE_BYTES = 1 << 18  # no piece of a plain text is longer

# Places where no chunk of our pattern, GPT-2's or GPT-4's can cross: between a character and a
# following space, and after the end of a line that is not blank, before one that begins with a
# character. (GPT-2's takes all but the last of several line ends together.) Searched from the end.
CUT_WINDOW = 4000  # characters
SAFE_CUT = regex.compile(r"(?r)(?<=\S)(?= )|(?<=\S\n)(?=\S)")

# Dumps of stories and web pages end each document with a line of this kind. The line becomes no
# token: as anywhere, a user's text never becomes a special token.
MARKER_LINE = regex.compile(r"(?:(?<=\n)|^)[ \t]*<\|(?:endoftext|end_of_text)\|>[ \t]*(?:\r?\n|$)")
LONGEST_MARKER = 64  # characters of such a line
MARKER_BYTES = regex.compile(rb"(?m)^[ \t]*<\|(?:endoftext|end_of_text)\|>[ \t]*\r?$")
HTML = regex.compile(r"\s*(?:<!doctype html|<html)", regex.IGNORECASE)


class Piece(NamedTuple):
    """A stretch of text; `ends_document` is True for the last (or only) piece of a document."""

    text: str
    ends_document: bool


def read_documents(
    data: Word | Iterable[Word], field: str = "text", errors: Errors = "strict"
) -> Iterator[str]:
    """Yield whole documents; see `read_pieces`, which needs less memory for long texts."""
    pieces: list[str] = []
    for text, ends_document in read_pieces(data, field, errors):
        pieces.append(text)
        if ends_document:
            yield "".join(pieces)
            pieces = []


def read_pieces(
    data: Word | Iterable[Word],
    field: str = "text",
    errors: Errors = "strict",
    skip_bad: bool = False,
    counts: ReadCounts | None = None,
) -> Iterator[Piece]:
    """Yield the text of files, folders, patterns, archives or public data sets, in pieces.

    A plain text is one document; a line that holds <|endoftext|> alone, or the file's separator,
    ends one. Of every other format each record is one: the string in its `field` (a column of a
    table, or its number where there is no header line), or a list of strings joined by newlines.
    A data set that is given by its name brings its own fields and separator. A long plain text is
    cut where no token can cross: before a space or after a line end; where there is neither in
    4,000 characters, anywhere between two characters.

    Raises DataError naming file and byte or line. With `errors="replace"` invalid bytes become
    U+FFFD; with `skip_bad` up to 1 % of a file's records may be bad. Both are counted in `counts`.
    """
    if errors not in ("strict", "replace"):
        raise ConfigError(f"errors={errors!r}", "--errors", 'give "strict" or "replace"')
    counts = ReadCounts() if counts is None else counts
    files = find_files(data, counts=counts)
    for file in files:
        check_documents(file)
        if format_of(file) == "text":
            pieces = plain_documents(file, errors, counts)
        else:
            pieces = record_pieces(file, field, errors, skip_bad, counts)
        for piece in pieces:
            counts.characters += len(piece.text)
            counts.spelled += len(SPELLED.findall(piece.text)) if "<|" in piece.text else 0
            counts.documents += piece.ends_document
            yield piece
    if counts.characters == 0:
        place = ", ".join(file.place for file in files[:3])
        raise DataError("no text", place, "give a file or folder with text in it")


def record_pieces(
    file: DataFile, field: str, errors: Errors, skip_bad: bool, counts: ReadCounts
) -> Iterator[Piece]:
    """Yield one document for each record of a file."""
    fields = file.fields if field == "text" and file.fields else (field,)

    def to_text(record: object, where: str) -> str:
        return document_text(record, fields, where, errors, counts)

    config = ReadConfig(fields, column_names(fields, ()), errors, skip_bad)
    for text in read_records(file, config, counts, to_text):
        yield Piece(text, True)


def check_documents(file: DataFile) -> None:
    """Raise DataError where a data set has a form of its own, which is not that of documents."""
    if file.format and file.format not in FORMATS:
        raise DataError(
            f"its form ({file.format}) is not that of documents",
            file.place,
            "finetune and evaluate --data take it, if it holds questions; train takes texts",
        )


# --- plain text ---


def plain_documents(file: DataFile, errors: Errors, counts: ReadCounts) -> Iterator[Piece]:
    """Yield the documents of a plain text, parted by its separator or by marker lines."""
    pieces = read_plain(file, errors, counts)
    if file.separator:
        return separated(pieces, separator_text(file.separator))
    return separated(pieces, MARKER_LINE) if has_markers(file) else pieces


def separator_text(separator: str) -> str:
    """Return a separator as the command line means it: backslash and n are a line end."""
    return separator.replace("\\n", "\n").replace("\\t", "\t")


def has_markers(file: DataFile) -> bool:
    """Tell whether some line of a text holds nothing but <|endoftext|>."""
    held = b""
    with open_bytes(file.path, file.place, file.encoding, "replace") as stream:
        while raw := stream.read(PIECE_BYTES):
            lines = held + raw
            if b"<|end" in lines and MARKER_BYTES.search(lines):
                return True
            held = lines[-LONGEST_MARKER:].rpartition(b"\n")[
                2
            ]  # a line cut in two; a marker's is short
    return False


def read_plain(file: DataFile, errors: Errors, counts: ReadCounts) -> Iterator[Piece]:
    """Yield the pieces of one plain text file; the last one ends the document.

    Memory stays below 3 x PIECE_BYTES, however long the text and its lines are.
    """
    offset, rest, text = 0, b"", ""
    check = ReplacedCheck(file.path, file.place, counts)
    with open_bytes(file.path, file.place, file.encoding, errors) as stream:
        while raw := rest + stream.read(PIECE_BYTES // 2):
            is_last = not stream.peek(1)
            complete = len(raw) if is_last else complete_length(raw)
            rest = raw[complete:]
            try:
                new = decode_utf8(raw[:complete], errors, counts, file.place, offset)
            except DataError as error:
                raise with_encoding(error, file.path) from None
            check.add(new)
            text += new.removeprefix("\ufeff") if offset == 0 else new
            if offset == 0 and HTML.match(text):
                counts.notes["HTML, read with its tags (data prepare takes them out)"] += 1
            offset += complete
            cut = len(text) if is_last else safe_cut(text, len(text) - 1)
            held, text, raw = text[cut:], text[:cut], b""
            yield Piece(text, is_last)
            text = held
    check.finish()


def safe_cut(text: str, end: int) -> int:
    """Return the last index up to `end` where no token can cross, looking back CUT_WINDOW."""
    found = SAFE_CUT.search(text, max(1, end - CUT_WINDOW), end)
    return found.start() if found else end


def separated(pieces: Iterable[Piece], separator: str | regex.Pattern[str]) -> Iterator[Piece]:
    """Part one long document where a separator stands; what holds no text is left out."""
    is_text = isinstance(separator, str)
    pattern = regex.compile(regex.escape(separator)) if is_text else separator
    longest = len(separator) if is_text else LONGEST_MARKER
    held, is_open = "", False  # is_open: the document's first piece was yielded already
    for piece in pieces:
        text = held + piece.text
        end = len(text) if piece.ends_document else len(text) - longest
        *whole, held = parts_of(text, pattern, end)
        for text in [*whole, held] if piece.ends_document else whole:
            if is_open or text.strip():
                yield Piece(text, True)
            is_open = False
        # A separator may be cut in two, so its beginning is held back with a little text.
        cut = safe_cut(held, len(held) - longest) if len(held) > max(PIECE_BYTES, longest) else 0
        if cut > 0 and not piece.ends_document:
            yield Piece(held[:cut], False)
            held, is_open = held[cut:], True


def parts_of(text: str, pattern: regex.Pattern[str], end: int) -> list[str]:
    """Cut a text at the matches of a pattern that begin before `end`; the last part is the rest."""
    parts, start = [], 0
    for found in pattern.finditer(text):
        if found.start() >= end:
            break
        parts.append(text[start : found.start()])
        start = found.end()
    return [*parts, text[start:]]
