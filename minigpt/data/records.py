"""Read the good records of a file: the first bad one is named, or up to 1 % of them are left out.

Knows what a record's text is; what else a record holds is up to the caller.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from minigpt.data.decoding import Errors, ReadCounts, check_characters
from minigpt.data.formats import FORMATS, DataFile, ReadConfig, format_of
from minigpt.data.json_records import json_kind
from minigpt.support.errors import DataError

SKIP_LIMIT = 0.01  # share of bad records that `skip_bad` tolerates

T = TypeVar("T")


def read_records(
    file: DataFile, config: ReadConfig, counts: ReadCounts, convert: Callable[[object, str], T]
) -> Iterator[T]:
    """Yield what `convert(record, where)` makes of each record of a file.

    A record is bad if its reader or `convert` raises DataError. The first one ends the reading or,
    with `config.skip_bad`, is left out and counted; more than 1 % of bad ones raise in the end.
    """
    total = bad = 0
    first: DataError | None = None
    for where, record in FORMATS[format_of(file)].read(file, config, counts):
        total += 1
        try:
            if isinstance(record, DataError):
                raise record
            made = convert(record, where)
        except DataError as error:
            if not config.skip_bad:
                raise
            first, bad = first or error, bad + 1
        else:
            yield made
    counts.skipped += bad
    if first and bad > SKIP_LIMIT * total:
        share = f"{bad} of {total} records are bad, more than {SKIP_LIMIT:.0%}"
        raise DataError(f"{share}; the first: {first.what}", first.where, first.remedy)


def document_text(
    record: object, fields: Sequence[str], where: str, errors: Errors, counts: ReadCounts
) -> str:
    """Return the texts of a record's fields, one below the other; some may be empty, not all."""
    filled = [f for f in fields if not isinstance(record, dict) or record.get(f) not in ("", [])]
    texts = (record_text(record, f, where, errors, counts) for f in filled or fields[:1])
    return "\n".join(texts)


def record_text(record: object, field: str, where: str, errors: Errors, counts: ReadCounts) -> str:
    """Return a record's text, or raise DataError saying what is wrong and which fields it has."""
    if isinstance(record, str):
        return check_characters(record, where, errors, counts)
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
    return check_characters(value, where, errors, counts)
