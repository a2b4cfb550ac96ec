"""Read files of any known format as records, each with its place: JSON Lines, JSON, tables, text.

FORMATS is the one table of them: whatever stands there can be read by every command. A reader
yields the place of each record ("my.csv, line 3") and the record or, if it is bad, its DataError.
A value is never opened as a path. Where a file's content is plainly of another format than its
suffix says, the content counts (`sniffing.py`).

To add a format, write a reader and an entry of FORMATS: suffixes as in {".parquet"}.
"""

import csv
import importlib
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minigpt.data.decoding import (
    Errors,
    ReadCounts,
    ReplacedCheck,
    decode_utf8,
    open_bytes,
    read_lines,
    with_encoding,
)
from minigpt.data.json_records import Row, json_kind, opened, parse_json, records_in
from minigpt.data.sniffing import (
    binary_format,
    delimiter_of,
    has_spaces,
    looks_like,
    opening_lines,
)
from minigpt.support.errors import DataError

LOOKED_AT = 50  # lines of a plain text by which its layout is told
LONGEST_FIELD = 1 << 26  # characters; an open quote swallows no more of a table
FASTTEXT = re.compile(r"\s*((?:__label__\S+\s+)+)(.+)")


class DataFile(NamedTuple):
    """A file to read, and what is known of it besides its content."""

    path: Path
    place: str  # its name in errors: of a file in an archive, archive and member
    label: str = ""  # what its name tells apart from its neighbors
    format: str = ""  # a name in FORMATS ("": by its suffix)
    columns: tuple[str, ...] = ()  # names of a table's columns that its first line does not give
    fields: tuple[str, ...] = ()  # that make up a document, where they are known
    separator: str = ""  # between the documents of a plain text
    encoding: str = ""  # of its bytes; "": UTF-8
    is_one: bool = False  # a whole plain text is one example, labeled by its folder
    example: tuple[str, ...] = ()  # templates of prompt and answer, where they are known


class ReadConfig(NamedTuple):
    """Say how the records of a file are read."""

    fields: tuple[str, ...] = ()  # that a table must have
    columns: tuple[str, ...] | None = ()  # (): those of the first line; None: "0", "1", ...
    errors: Errors = "strict"
    skip_bad: bool = False


class Format(NamedTuple):
    """One way to store records: the suffixes of its files, and its reader."""

    suffixes: frozenset[str]
    read: Callable[[DataFile, ReadConfig, ReadCounts], Iterator[Row]]


def format_of(file: DataFile) -> str:
    """Return the name of a file's format: the one that is known, or that of its suffix and content.

    A .json file of one object a line is "jsonl", a .txt file of JSON or of comma-separated columns
    that are well known is no plain text.
    """
    if file.format in FORMATS:
        return file.format
    suffix = file.path.suffix.lower()
    named = next((name for name, known in FORMATS.items() if suffix in known.suffixes), "text")
    binary = binary_format(file.path)
    return binary or looks_like(opening_lines(file.path, file.encoding), named)


def known_suffixes() -> list[str]:
    """Return the suffixes of all formats, in the order of FORMATS."""
    return [suffix for known in FORMATS.values() for suffix in sorted(known.suffixes)]


# --- JSON ---


def read_json_lines(file: DataFile, config: ReadConfig, counts: ReadCounts) -> Iterator[Row]:
    """Yield the value of each line that is not blank."""
    for where, text in file_lines(file, config.errors, counts):
        try:
            if isinstance(text, DataError):
                raise text
            if text.strip():
                yield from opened(parse_json(text.strip(), where), where)
        except DataError as error:
            yield where, error


def file_lines(file: DataFile, errors: Errors, counts: ReadCounts) -> Iterator[Any]:
    """Yield place and text of each line of a file."""
    return read_lines(file.path, file.place, errors, counts, file.encoding)


def read_json(file: DataFile, config: ReadConfig, counts: ReadCounts) -> Iterator[Row]:
    """Yield each record of a JSON file, which is held in memory: see `records_in`."""
    check = ReplacedCheck(file.path, file.place, counts)
    with open_bytes(file.path, file.place, file.encoding, config.errors) as stream:
        try:
            text = decode_utf8(stream.read(), config.errors, counts, file.place)
        except DataError as error:
            raise with_encoding(error, file.path) from None
    check.add(text)
    check.finish()
    items = records_in(parse_json(text.removeprefix("\ufeff"), file.place))
    if not isinstance(items, list):
        raise DataError(
            f"{json_kind(items)} where an array of objects is expected",
            file.place,
            "put the documents into one array, or one object a line into a .jsonl file",
        )
    for number, item in enumerate(items, start=1):
        yield from opened(item, f"{file.place}, item {number}")


# --- tables ---


def read_csv(file: DataFile, config: ReadConfig, counts: ReadCounts) -> Iterator[Row]:
    """Yield the rows of a .csv (RFC 4180: fields with commas or line ends stand in quotes).

    Semicolons, tabs or bars part the columns where they do so in most of the first rows, and a
    space after each of them is passed over.
    """
    first = opening_lines(file.path, file.encoding)
    delimiter = delimiter_of(first)
    if delimiter != ",":
        counts.notes[f"columns parted by {delimiter!r}"] = 1
    rows = csv.reader(
        table_lines(file, config.errors, counts),
        delimiter=delimiter,
        skipinitialspace=has_spaces(first, delimiter),
        strict=True,
    )
    return read_table(rows, file, config)


def read_tsv(file: DataFile, config: ReadConfig, counts: ReadCounts) -> Iterator[Row]:
    """Yield the rows of a .tsv: a tab always ends a field, and quotes are plain text."""
    lines = table_lines(file, config.errors, counts)
    return read_table(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), file, config)


def table_lines(file: DataFile, errors: Errors, counts: ReadCounts) -> Iterator[str]:
    """Yield the lines of a table with their ends, which may be those of an old Macintosh."""
    for _, text in file_lines(file, errors, counts):
        if isinstance(text, DataError):
            raise text
        if "\r" in text.rstrip("\r\n"):
            yield from io.StringIO(text, newline="")
        else:  # nearly always, and much faster
            yield text


def read_table(rows: Any, file: DataFile, config: ReadConfig) -> Iterator[Row]:
    """Yield the rows of a csv.reader as records: column name -> text.

    Raises DataError where one of `config.fields` is no column, or a name stands twice.
    """
    names: list[str] = list(file.columns if config.columns == () else config.columns or ())
    csv.field_size_limit(LONGEST_FIELD)
    if names:
        check_columns(names, config.fields, "the given names are", file.place)
    try:
        for row in rows:
            where = f"{file.place}, line {rows.line_num}"
            if config.columns is None and not names:  # no header line: this is a record already
                names = [str(number) for number in range(len(row))]
                check_columns(names, config.fields, "there are", where)
            if names and row:
                yield where, to_record(row, names, where)
            elif row:
                names = [name.strip() for name in row]
                check_columns(names, config.fields, "the first line has", where)
    except csv.Error as error:
        where = f"{file.place}, line {rows.line_num}"
        remedy = "correct it; texts with quotes, or very long ones, are safest in a .jsonl file"
        raise DataError(f"bad table: {error}", where, remedy) from None


def check_columns(names: list[str], fields: Sequence[str], origin: str, where: str) -> None:
    """Raise DataError where a wanted field is no column, or a name stands twice."""
    shown = ", ".join(repr(name[:30]) for name in names[:8])
    for name in fields:
        if name not in names:
            remedy = "name the column with --field; without a header line write its number, such "
            remedy += f"as --field {min(1, len(names) - 1)}"
            raise DataError(f"no column {name!r}; {origin} {shown}", where, remedy)
    given = [name for name in names if name]  # spreadsheets export empty columns without names
    if len(set(given)) < len(given):
        remedy = "give each column a name of its own; if there is no header line, use the columns' "
        remedy += "numbers: 0, 1, ..."
        raise DataError(f"a column name stands twice; {origin} {shown}", where, remedy)


def column_names(wanted: Sequence[str], columns: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the columns' names, or None where only numbers are wanted: there is no header line."""
    by_number = bool(wanted) and all(name.isdecimal() for name in wanted)
    return None if by_number and not columns else columns


def to_record(row: list[str], names: list[str], where: str) -> dict[str, str] | DataError:
    """Return a row as a record, or the error that it has another number of columns."""
    if len(row) == len(names):
        return dict(zip(names, row, strict=True))
    what = f"{len(row)} columns where {len(names)} are expected"
    return DataError(what, where, "correct the line, or leave it out with --skip-bad")


# --- text ---


def read_text(file: DataFile, config: ReadConfig, counts: ReadCounts) -> Iterator[Row]:
    """Yield the records of a plain text: rows of a table, questions of bAbI, or labeled lines."""
    lines = full_lines(file, config.errors, counts)
    if file.is_one:
        texts = [text for _, text in lines]
        bad = next((text for text in texts if isinstance(text, DataError)), None)
        yield file.place, bad or {"text": "\n".join(map(str, texts)), "label": file.label}
        return
    if file.format == "hellaswag":
        yield from hellaswag_records(lines)
        return
    first = list(itertools.islice(lines, LOOKED_AT))
    kind = text_kind([text for _, text in first if isinstance(text, str)])
    if kind == "table":
        yield from read_tsv(file, config, counts)
    elif kind == "babi":
        yield from babi_records(itertools.chain(first, lines))
    else:
        for where, text in itertools.chain(first, lines):
            yield where, text if isinstance(text, DataError) else line_record(text, kind, file)


def line_record(text: str, kind: str, file: DataFile) -> dict[str, str]:
    """Return a line as a record: labeled by itself (fastText's way) or else by its file's name."""
    if kind == "fasttext" and (found := FASTTEXT.match(text)):
        return {"text": found[2], "label": found[1].replace("__label__", "").strip()}
    return {"text": text, "label": file.label}


def full_lines(file: DataFile, errors: Errors, counts: ReadCounts) -> Iterator[Row]:
    """Yield place and text of each line that is not blank, without its end."""
    for where, text in file_lines(file, errors, counts):
        if isinstance(text, DataError):
            yield where, text
        elif text.strip():
            yield where, text.strip("\r\n")


def text_kind(lines: list[str]) -> str:
    """Tell by its first lines what a text is: "babi", "table" (tabs), "fasttext" or "lines"."""
    if not lines:
        return "lines"
    if all(FASTTEXT.match(line) for line in lines):
        return "fasttext"
    if lines[0].startswith("1 ") and any(re.match(r"\d+ .*\t.*\t[\d ]+$", line) for line in lines):
        return "babi"
    return "table" if lines[0].count("\t") else "lines"


def hellaswag_records(lines: Iterator[Row]) -> Iterator[Row]:
    """Yield each question of HellaSwag: six lines are a beginning, the right number, four ends."""
    while six := list(itertools.islice(lines, 6)):
        where, texts = six[0][0], [text for _, text in six]
        bad = next((text for text in texts if isinstance(text, DataError)), None)
        if bad is None and len(six) == 6:
            yield where, {"ctx": texts[0], "label": texts[1], "endings": texts[2:]}
        else:
            yield where, bad or DataError("fewer than six lines", where, "get the file again")


def babi_records(lines: Iterable[Row]) -> Iterator[Row]:
    """Yield each question of a bAbI file (Weston et al. 2015) with the story so far.

    "1 Mary left." and "2 Who left?\\tMary\\t1": numbers begin anew with each story. `opening`, its
    first sentence, keeps all questions on one story on one side of a split.
    """
    story: list[str] = []
    for where, line in lines:
        if isinstance(line, DataError):
            yield where, line
            continue
        number, _, rest = line.partition(" ")
        parts = [part.strip() for part in rest.split("\t")]
        if number == "1":
            story = []
        if not number.isdecimal() or len(parts) == 2:
            remedy = 'write "1 sentence", or "2 question", its answer and facts, parted by tabs'
            yield where, DataError("no line of a bAbI story", where, remedy)
        elif len(parts) == 1:
            story.append(parts[0])
        else:
            question, answer = parts[:2]
            record = {"story": " ".join(story), "question": question, "answer": answer}
            yield where, record | {"opening": story[0] if story else question}


# --- binary tables ---


def read_arrow(file: DataFile, config: ReadConfig, counts: ReadCounts) -> Iterator[Row]:
    """Yield the rows of a parquet or arrow file, which pyarrow reads; a part is in memory."""
    try:
        pyarrow = importlib.import_module("pyarrow")
        ipc, parquet = map(importlib.import_module, ("pyarrow.ipc", "pyarrow.parquet"))
    except ImportError:
        remedy = "install it: pip install pyarrow, or pip install minigpt-course[parquet]"
        raise DataError("parquet and arrow files need pyarrow", file.place, remedy) from None

    def batches() -> Iterator[Any]:
        with file.path.open("rb") as stream:
            head = stream.read(6)
            stream.seek(0)
            if head.startswith(b"PAR1"):
                yield from parquet.ParquetFile(stream).iter_batches()
            elif head == b"ARROW1":
                reader = ipc.open_file(stream)
                yield from map(reader.get_batch, range(reader.num_record_batches))
            else:
                yield from ipc.open_stream(stream)

    number = 0
    try:
        for batch in batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{file.place}, row {number}", record
    except (pyarrow.ArrowException, OSError) as error:
        cause = str(error).splitlines()[0][:80]
        place = f"{file.place}, after row {number}"
        raise DataError(f"a damaged table ({cause})", place, "get it again") from None


# The one place that knows which formats there are.
FORMATS: dict[str, Format] = {
    "text": Format(frozenset({".txt", ".text", ".md", ".rst"}), read_text),
    "jsonl": Format(frozenset({".jsonl", ".ndjson"}), read_json_lines),
    "json": Format(frozenset({".json"}), read_json),
    "csv": Format(frozenset({".csv"}), read_csv),
    "tsv": Format(frozenset({".tsv"}), read_tsv),
    "arrow": Format(frozenset({".parquet", ".arrow", ".feather"}), read_arrow),
}
