"""Find the records in a JSON value: in a list, in columns, in articles with questions (SQuAD)."""

import json
from collections.abc import Iterator
from typing import Any

from minigpt.support.errors import DataError

Row = tuple[str, Any]  # a record's place, and the record or, if it is bad, its DataError
LISTS = ("data", "examples", "records", "rows", "items", "train", "instances")


def records_in(value: Any) -> Any:
    """Return the records of a JSON value: a list, an object of columns, or the list in an object.

    >>> records_in({"data": [{"a": 1}]}), records_in({"a": ["x", "y"], "b": {"0": 1, "1": 2}})
    ([{'a': 1}], [{'a': 'x', 'b': 1}, {'a': 'y', 'b': 2}])
    """
    if not isinstance(value, dict):
        return value
    for name in LISTS:
        if is_objects(held := value.get(name)):
            return held
    columns = [list(c.values()) if isinstance(c, dict) else c for c in value.values()]
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(lengths) == 1 and lengths != {-1} and len(columns) > 1 and not is_record(value):
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return [value] if is_record(value) else value


def is_objects(value: Any) -> bool:
    """Tell whether a value is a list of objects, and not an empty one."""
    return isinstance(value, list) and bool(value) and all(isinstance(x, dict) for x in value)


def is_record(value: dict) -> bool:
    """Tell whether an object is one record: it holds a text, a conversation, or paragraphs."""
    talks = any(name in value for name in ("messages", "conversations", "paragraphs"))
    return talks or any(isinstance(held, str) for held in value.values())


def opened(item: Any, where: str) -> Iterator[Row]:
    """Yield a record, or the questions of an article in the form of SQuAD.

    That is an object with paragraphs, each a context with its questions ("qas") and their answers.
    """
    paragraphs: Any = item.get("paragraphs") if isinstance(item, dict) else None
    if not is_objects(paragraphs):
        yield where, item
        return
    for part, paragraph in enumerate(paragraphs, start=1):
        context, questions = paragraph.get("context"), paragraph.get("qas")
        place = f"{where}, paragraph {part}"
        if not isinstance(questions, list):
            yield place, DataError("a paragraph without questions (qas)", place, "correct it")
            continue
        for number, question in enumerate(questions, start=1):
            there = f"{place}, question {number}"
            is_bad = not isinstance(question, dict)
            problem = DataError("no object for a question", there, "correct it")
            yield there, problem if is_bad else {"context": context, **question, "opening": context}


def parse_json(text: str, where: str) -> Any:
    """Parse one JSON value; raise DataError naming line and column of a mistake."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{where}, line {error.lineno}, column {error.colno}"
        more = "write one value in each line (.jsonl), or one array around all of them (.json)"
        remedy = more if error.msg == "Extra data" else "correct it"
        raise DataError(f"bad JSON: {error.msg}", where, remedy) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"bad JSON: {error}", where, "correct it") from None


def json_kind(value: object) -> str:
    """Name a JSON value: 3 -> "a number"."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else kinds.get(type(value), "a number")
