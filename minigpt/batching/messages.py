"""Make a conversation of one record: by templates, or by the usual layouts.

Two templates make a conversation of a record: "Good or bad? {text}" and "{label}" put columns in
their places, and nothing else happens in the braces. Without templates the usual layouts are
recognized (`layouts.py`), and what was understood is counted so that a command can say it. Knows
one record at a time, and nothing of files but where a record stands.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from minigpt.batching.layouts import (
    COLUMN,
    Missing,
    as_message,
    by_name,
    columns_of,
    find_choices,
    find_talk,
    known_layout,
    right_answers,
    said_of,
)
from minigpt.chat import Message, check_messages
from minigpt.data.decoding import Errors, ReadCounts, check_characters
from minigpt.data.formats import DataFile
from minigpt.data.json_records import is_objects, json_kind
from minigpt.support.errors import ConfigError, DataError
from minigpt.support.settings import check_fields

NAMED = "label from the file's name"
ASK_COLUMNS = (
    'name them: --prompt "{column}" --answer "{column}"; without a header line {0}, {1} ...'
)
SPLIT_NAME = re.compile(r"(^|[_.-])(train(ing)?|test|dev|val(id(ation)?)?)$", re.IGNORECASE)


@dataclass(frozen=True)
class ExampleConfig:
    """Say how the records of a file become examples."""

    prompt: str | None = None
    """What the user says, columns in braces: "Good or bad? {text}"; \\n is a line end. Columns of a
    table without a header line are {0}, {1} ... (None: one of the usual layouts is recognized.)"""
    answer: str | None = None
    """What the model should answer, such as "{label}"."""
    columns: tuple[str, ...] = ()
    """Names for the columns of a table without a header line."""
    errors: Errors = "strict"
    """What to do with bytes that are not UTF-8: stop, or put a replacement character."""
    skip_bad: bool = False
    """Leave out bad examples, up to 1 % of a file, and count them."""
    answers: str | None = None
    """A file with the answer to each line of --data, in the same order (x.en and x.zh)."""
    encoding: str = ""
    """Encoding of the files, such as gb18030 or cp1252 (empty: UTF-8)."""

    def __post_init__(self):
        check_fields(self)
        if (self.prompt is None) != (self.answer is None):
            missing = "--prompt" if self.prompt is None else "--answer"
            raise ConfigError(f"no {missing}", missing, "give both --prompt and --answer, or none")


class Example(NamedTuple):
    """One conversation to learn from."""

    messages: list[Message]
    where: str  # file and line
    key: str  # examples with equal keys stay on one side of a split
    group: str  # which part of a set it is from, told by the file's name
    others: tuple[str, ...] = ()  # further right answers
    split: str = ""  # what the record itself says: "train", "test" or nothing
    rejected: str = ""  # of a pair: the worse answer, beside the last message
    record: dict | None = None  # of a prompt that a reward is given for: all of its columns


def to_example(
    file: DataFile, config: ExampleConfig, counts: ReadCounts, record: object, where: str
) -> Example | Missing:
    """Make a conversation of a record; raise DataError saying what is wrong with it.

    Returns Missing for one without an answer, and for one that says that its answer is a bad one.
    """
    if config.prompt is None and is_objects(record):
        record = {"messages": record}
    if not isinstance(record, dict):
        what = f"{json_kind(record)} where an object is expected"
        raise DataError(what, where, 'write {"prompt": "...", "answer": "..."}')
    try:
        messages, others, about = understood(file, config, record, where)
        refuse_bad(record, about, where)
        check_texts(messages, where)
    except Missing as missing:
        counts.notes[f"records left out: {missing.what}"] += 1
        return missing
    counts.layouts[about] += 1
    note_unused(record, about, counts)
    key = record.get("opening") or compared(messages)
    part = part_of(file, record)
    return Example(messages, where, str(key), part, tuple(others), said_split(record))


def understood(
    file: DataFile, config: ExampleConfig, record: dict, where: str
) -> tuple[list[Message], list[str], str]:
    """Return a record's messages, its further right answers, and how it was understood."""
    if config.prompt is None and not file.example:
        if talk := find_talk(record, where):
            return given_messages(talk.messages, where, config.errors), [], talk.about
        if found := find_choices(record, where):
            prompt, answer, used = found
            asked = ", ".join(f"`{name}`" for name in used)
            return turns(prompt, answer), [], f"choices from {asked}"
        record = flattened(record)
    prompt, answer = templates(record, where, config, file)
    names = by_name(record)
    answer_column = columns_of(answer)[0] if answer[:1] + answer[-1:] == "{}" else ""
    held = record.get(answer_column, record.get(names.get(answer_column, "")))
    several = right_answers(held) if may_be_several(answer_column, held, file) else None
    texts = [fill_template(prompt, record, where, config.errors)]
    if several is None:
        if held is None and answer_column in names:
            raise Missing("no answer", where, "add the answers")
        texts.append(fill_template(answer, record, where, config.errors))
    else:
        texts.append(several[0] if several else "")
    if not texts[1]:
        remedy = "remove the example, or leave it out with --skip-bad"
        raise Missing("an empty answer", where, remedy)
    is_line = set(record) == {"text", "label"} and record["label"] == file.label
    is_line = is_line and config.prompt is None and not file.columns
    about = NAMED if is_line else said_of(prompt, answer)
    return [*earlier(record, where, config), *turns(*texts)], (several or [])[1:], about


SEVERAL = ("answers", "answer", "target", "targets", "references")  # may hold several right ones
PLURAL = ("answers", "targets", "references")


def may_be_several(column: str, held: object, file: DataFile) -> bool:
    """Tell whether a column may hold several right answers.

    A text in brackets is a list in a table, which has no other way, or where the name is a plural;
    else it is an answer with brackets.
    """
    name = column.lower()
    is_table = file.path.suffix.lower() in (".csv", ".tsv")
    return name in SEVERAL and (not isinstance(held, str) or name in PLURAL or is_table)


def flattened(record: dict) -> dict:
    """Return a record whose parts are its columns: a pair of languages, or its first instance."""
    pair = record.get("translation")
    if isinstance(pair, dict) and len(pair) == 2:
        source, target = pair
        return {**record, "source": pair[source], "target": pair[target]}
    some = record.get("instances")
    if isinstance(some, list) and some and isinstance(some[0], dict):
        return {**record, **some[0]}
    return record


def earlier(record: dict, where: str, config: ExampleConfig) -> list[Message]:
    """Return what a record says before its prompt: columns `system` and `history`."""
    if config.prompt is not None:
        return []
    messages, history = [], record.get("history") or []
    if isinstance(system := record.get("system"), str) and system.strip():
        messages.append({"role": "system", "content": system.strip()})
    pairs = isinstance(history, list) and all(isinstance(x, list) and len(x) == 2 for x in history)
    if not pairs:
        remedy = 'write it as [["question", "answer"], ...], or leave it out'
        raise DataError("a history that is no list of pairs", where, remedy)
    for question, answer in history:
        sides = (as_text(side, "history", where, config.errors) for side in (question, answer))
        messages += turns(*sides)
    return messages


def refuse_bad(record: dict, about: str, where: str) -> None:
    """Raise Missing where a record says by itself that its answer is not to be learned."""
    label, weight = record.get("label"), record.get("weight")
    if isinstance(label, bool) and not label and "`label`" not in about and "choices" not in about:
        raise Missing("labeled as a bad answer", where, "give good answers")
    if weight in (0, "0", 0.0) and not isinstance(weight, bool):
        raise Missing("of weight 0", where, "give examples of a greater weight")


def note_unused(record: dict, about: str, counts: ReadCounts) -> None:
    """Note the columns of a record that nothing is made of."""
    used = ("opening", "system", "history", "split", "chosen", "translation", "instances")
    rest = [
        str(name)[:30]
        for name in record
        if f"`{str(name).strip().lower()}`" not in about.lower() and name not in used
    ]
    if rest and about != NAMED:
        counts.notes.setdefault(f"not used: {', '.join(rest[:8])}", 1)


def said_split(record: dict) -> str:
    """Return which side a record says that it is for, in its column `split`."""
    said = str(record.get("split", "")).lower()
    if said in ("test", "validation", "valid", "val", "dev", "eval"):
        return "test"
    return "train" if said in ("train", "training") else ""


def given_messages(messages: Any, where: str, errors: Errors) -> list[Message]:
    """Return the messages of a record, or raise DataError naming line and message."""
    if isinstance(messages, list):
        messages = [as_message(message, where) for message in messages]
    try:
        check_messages(messages)
    except DataError as error:
        raise DataError(error.what, f"{where}, {error.where}", error.remedy) from None
    kept = [
        {"role": m["role"], "content": as_text(m["content"], "content", where, errors)}
        for m in messages
    ]
    while len(kept) > 1 and kept[-1]["role"] != "assistant":
        kept.pop()  # nothing answers it, so there is nothing to learn
    first = next((n for n, m in enumerate(kept) if m["role"] != "system"), 0)
    while any(m["role"] == "assistant" for m in kept[first + 1 :]) and (
        kept[first]["role"] == "assistant"
    ):
        kept.pop(first)  # a greeting answers nothing
    return kept


def check_texts(messages: list[Message], where: str) -> None:
    """Raise DataError at an empty text, and where the assistant says nothing."""
    for message in messages:
        if not message["content"].strip():
            name = {"user": "prompt", "assistant": "answer"}.get(message["role"], message["role"])
            remedy = "remove the example, or leave it out with --skip-bad"
            raise DataError(f"an empty {name}", where, remedy)
    if all(message["role"] != "assistant" for message in messages):
        raise DataError("no answer to learn", where, "add a message of the assistant")
    if messages[0]["role"] == "assistant":
        raise DataError("an answer to nothing", where, "begin with a message of the user")


def prompt_text(messages: list[Message]) -> str:
    """Return all that is said before the first answer."""
    roles = [message["role"] for message in messages]
    return "\n".join(message["content"] for message in messages[: roles.index("assistant")])


def templates(
    record: dict, where: str, config: ExampleConfig, file: DataFile | None = None
) -> tuple[str, str]:
    """Return the two templates given, or those of the first layout that fits the record."""
    if config.prompt is not None and config.answer is not None:
        return config.prompt.replace("\\n", "\n"), config.answer.replace("\\n", "\n")
    if file and file.example:
        return file.example[0], file.example[1]
    if found := known_layout(record):
        return found
    texts = [name for name in record if str(name).strip().lower() in ("text", "content", "body")]
    if texts and not {"label", "answer", "output"} & set(by_name(record)):
        remedy = "to learn from texts alone: python -m minigpt train --data FILE; for examples "
        raise DataError(
            f"texts without answers (columns {shown(record)})", where, remedy + ASK_COLUMNS
        )
    raise DataError(
        f"prompt and answer are not to be found among the columns {shown(record)}",
        where,
        ASK_COLUMNS,
    )


def fill_template(template: str, record: dict, where: str, errors: Errors) -> str:
    """Put a record's values into a template, without spaces around the whole."""

    names = by_name(record)

    def value(found: re.Match[str]) -> str:
        name: str | None = found[1]
        if name is None:
            return found[0][0]
        name = name if name in record else names.get(name, name)
        if name not in record:
            remedy = "name one of these in --prompt and --answer (and {{ for a brace)"
            raise DataError(f"no column {name!r}; there are {shown(record)}", where, remedy)
        return as_text(record[name], name, where, errors)

    return COLUMN.sub(value, template).strip()


def as_text(value: object, name: str, where: str, errors: Errors) -> str:
    """Return a value as text: a number as it is written, a list of texts as lines."""
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int | float):
        whole = math.isfinite(value) and value == int_of(value)  # JSON's 1e400 is infinite
        value = str(int(value)) if whole else str(value)
    if not isinstance(value, str):
        what = f"column {name!r} holds {json_kind(value)}, not a text"
        raise DataError(what, where, "correct it, or leave it out with --skip-bad")
    return check_characters(value, where, errors, ReadCounts()) if value.strip() else ""


def int_of(value: float) -> float:
    """Return a number as a whole one if it is, so that labels 1 and 1.0 are one label."""
    return int(value) if abs(value) < 2**53 else value


def shown(record: dict) -> str:
    """List a record's columns for an error message."""
    names = [repr(str(name)[:30]) for name in record if name != "opening"]
    return ", ".join(names[:12]) or "none"


# --- parts ---


def turns(prompt: str, answer: str) -> list[Message]:
    """Return a question and its answer as messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def part_of(file: DataFile, record: dict) -> str:
    """Return which part of a set a file is: "qa1_train.txt" and "qa1_test.txt" -> "qa1".

    A file of lines of one label is no part: its name would give the answer away.
    """
    return "" if record.get("label") == file.label else SPLIT_NAME.sub("", file.path.stem)


def compared(messages: list[Message]) -> str:
    """Return a conversation's prompt in the form that is compared."""
    return " ".join(prompt_text(messages).casefold().split())
