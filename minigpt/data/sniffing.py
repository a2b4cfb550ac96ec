"""Tell by its first lines which format a file has, and how the columns of a table are parted.

Only what is beyond doubt counts; otherwise the file's suffix is believed.
"""

import codecs
import csv
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LOOKED_AT = 1 << 16  # bytes of a file
ROWS = 20  # of a table
DELIMITERS = ",;\t|"
BINARY = {b"PAR1": "arrow", b"ARROW1": "arrow"}  # first bytes -> format
# Names of columns by which a table is known whose file is called a text.
WELL_KNOWN = (
    {"text", "label"},
    {"sentence", "label"},
    {"review", "sentiment"},
    {"question", "answer"},
    {"prompt", "completion"},
    {"prompt", "response"},
    {"prompt", "answer"},
    {"input", "output"},
    {"source", "target"},
    {"instruction", "output"},
)


def opening_bytes(path: Path) -> bytes:
    """Return the first bytes of a file, or none where it cannot be read: its reader says why."""
    try:
        with path.open("rb") as stream:
            return stream.read(LOOKED_AT)
    except OSError:
        return b""


def binary_format(path: Path) -> str | None:
    """Return the format of a file that is no text but can be read, or None."""
    raw = opening_bytes(path)
    return next((name for magic, name in BINARY.items() if raw.startswith(magic)), None)


def opening_lines(path: Path, encoding: str = "") -> list[str]:
    """Return the whole lines at a file's beginning, with their ends; a file of one line is one."""
    raw = opening_bytes(path)
    try:
        decoder = codecs.getincrementaldecoder(encoding or "utf-8")(errors="replace")
        lines = decoder.decode(raw).removeprefix("\ufeff").splitlines(keepends=True)
    except (LookupError, UnicodeError):
        return []
    return lines[:-1] if len(raw) == LOOKED_AT else lines


def looks_like(lines: list[str], named: str) -> str:
    """Return the format of a file that begins with some lines and is called `named`.

    >>> looks_like(['{"a": 1}\\n', '{"a": 2}\\n'], "json"), looks_like(["[\\n", "1]\\n"], "jsonl")
    ('jsonl', 'json')
    """
    full = [line.strip() for line in lines if line.strip()]
    if not full or named not in ("json", "jsonl", "text", "tsv"):
        return named
    if full[0][0] in "[{":
        return json_kind(full, named)
    if named == "tsv" and "\t" not in full[0] and delimiter_of(lines) != ",":
        return "csv"
    if named == "tsv" and "\t" not in full[0] and is_known_table(lines, ","):
        return "csv"
    if named == "text" and any(is_known_table(lines, mark) for mark in ",;|"):
        return "csv"
    return named


def json_kind(full: list[str], named: str) -> str:
    """Tell a JSON file from one of JSON Lines, by the lines that are not blank."""
    first, second = value_of(full[0]), value_of(full[1]) if len(full) > 1 else None
    if named == "text":
        if is_object(first) and (len(full) == 1 or is_object(second)):
            return "jsonl"
        whole = first if len(full) == 1 else value_of("\n".join(full))
        is_list = isinstance(whole, list) and whole and all(map(is_object, whole))
        return "json" if is_list else named
    if first is None:  # an array or an object over many lines, or one very long line
        return "json" if full[0] in ("[", "{") or full[0].startswith(("[{", "[ {")) else named
    if len(full) > 1:
        return "json" if second is None and named == "json" else "jsonl"
    is_talk = (
        isinstance(first, list) and bool(first) and all(is_object(m) and len(m) < 4 for m in first)
    )
    is_talk = is_talk and all({"role", "from"} & set(m) for m in first)
    return "jsonl" if is_talk else "json" if isinstance(first, list) else named


def value_of(text: str) -> Any:
    """Return the JSON value that a text is, or None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def is_object(value: Any) -> bool:
    """Tell whether a JSON value is an object."""
    return isinstance(value, dict)


# --- tables ---


def rows_of(lines: Iterable[str], delimiter: str) -> list[list[str]]:
    """Return the first rows of a table with this delimiter."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        return [row for row in itertools.islice(reader, ROWS) if row]
    except csv.Error:
        return []


def delimiter_of(lines: list[str]) -> str:
    """Return what parts the columns: whatever gives most rows as many columns as the first one.

    >>> delimiter_of(["a;b\\n", "x, y;1\\n"]), delimiter_of(["text\\n", "x; y\\n"])
    (';', ',')
    """

    def fitting(delimiter: str) -> int:
        rows = rows_of(lines, delimiter)
        width = len(rows[0]) if rows else 0
        return sum(len(row) == width for row in rows) if width > 1 else 0

    return max(DELIMITERS, key=fitting)  # of equal ones the first


def has_spaces(lines: list[str], delimiter: str) -> bool:
    """Tell whether a space follows each delimiter of the first line: "a, b"."""
    first = lines[0] if lines else ""
    marks = first.count(delimiter)
    return marks > 0 and first.count(delimiter + " ") == marks


def is_known_table(lines: list[str], delimiter: str) -> bool:
    """Tell whether the first line names well-known columns, and each other one has as many."""
    rows = rows_of(lines, delimiter)
    if len(rows) < 2 or len(rows[0]) < 2:
        return False
    names = {name.strip().lower() for name in rows[0]}
    known = any(pair <= names for pair in WELL_KNOWN)
    return known and all(len(row) == len(rows[0]) for row in rows)
