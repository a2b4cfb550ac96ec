"""Read the rows of .csv and .tsv files as records: column name -> text.

A .csv follows RFC 4180 (fields with commas or line ends stand in quotes). In a .tsv a tab always
ends a field and quotes are plain text, as in most corpora.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from minigpt.data.corpus import Errors, ReadCounts, decode, refuse_other_encodings
from minigpt.support.errors import DataError


def read_table(
    path: Path,
    kind: Literal["csv", "tsv"],
    fields: Sequence[str],
    columns: Sequence[str],
    errors: Errors,
    counts: ReadCounts,
) -> Iterator[tuple[str, dict[str, str] | DataError]]:
    """Yield place and record of each row, or an error in place of a bad row.

    `columns` are the names of the columns where the first line does not give them. Raises DataError
    where one of `fields` is not among them.
    """
    rows = read_rows(path, kind, errors, counts)
    names = list(columns) or next(rows, ("", []))[1]
    check_columns(names, fields, bool(columns), f"{path}, line 1")
    for where, row in rows:
        yield where, to_record(row, names, where)


def read_rows(
    path: Path, kind: Literal["csv", "tsv"], errors: Errors, counts: ReadCounts
) -> Iterator[tuple[str, list[str]]]:
    """Yield place and fields of each row that is not blank, the header line included."""
    raw = path.read_bytes()
    refuse_other_encodings(raw, path)
    text = decode(raw, errors, counts, str(path)).removeprefix("\ufeff")
    style = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == "tsv" else {"strict": True}
    rows = csv.reader(io.StringIO(text, newline=""), **style)
    try:
        for row in rows:
            if row:
                yield f"{path}, line {rows.line_num}", row
    except csv.Error as error:
        where = f"{path}, line {rows.line_num}"
        remedy = "correct it; texts with quotes, or very long ones, are safest in a .jsonl file"
        raise DataError(f"bad table: {error}", where, remedy) from None


def check_columns(names: list[str], fields: Sequence[str], given: bool, where: str) -> None:
    """Raise DataError where a wanted field is no column, or a name stands twice."""
    shown = ", ".join(repr(name[:30]) for name in names[:8])
    origin = "the given names are" if given else "the first line has"
    remedy = "name the column with --field; if the first line is data already, name all columns "
    remedy += "with --columns"
    for name in fields:
        if name not in names:
            raise DataError(f"no column {name!r}; {origin} {shown}", where, remedy)
    if len(set(names)) < len(names):
        raise DataError(f"a column name stands twice; {origin} {shown}", where, remedy)


def to_record(row: list[str], names: list[str], where: str) -> dict[str, str] | DataError:
    """Return a row as a record, or the error that it has another number of columns."""
    if len(row) == len(names):
        return dict(zip(names, row, strict=True))
    what = f"{len(row)} columns where {len(names)} are expected"
    return DataError(what, where, "correct the line, or leave it out with --skip-bad")
