"""Read supervised examples of the user's own as conversations: prompt and answer, or messages.

Two templates make a conversation of a record: "Good or bad? {text}" and "{label}" put columns in
their places, and nothing else happens in the braces. Without templates the usual layouts are
recognized. What a record is, and in which files, the readers in `data` know.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minigpt.chat import Message, check_messages
from minigpt.data.decoding import Errors, ReadCounts, check_characters
from minigpt.data.discovery import find_files
from minigpt.data.formats import DataFile, ReadConfig, column_names, json_kind
from minigpt.data.records import read_records
from minigpt.data.sources import is_set
from minigpt.data.splitting import Overlap, in_validation
from minigpt.support.errors import ConfigError, DataError
from minigpt.support.settings import check_fields

# What records usually look like: the first pair of templates whose columns are all there is taken.
LAYOUTS = (
    ("{instruction}\n\n{input}", "{output}"),
    ("{instruction}\n\n{context}", "{response}"),
    ("{instruction}", "{output}"),
    ("{instruction}", "{response}"),
    ("{story}\n{question}", "{answer}"),
    ("{prompt}", "{answer}"),
    ("{prompt}", "{response}"),
    ("{prompt}", "{completion}"),
    ("{question}", "{answer}"),
    ("{text}", "{label}"),
    ("{text_a}", "{label}"),
    ("{sentence}", "{label}"),
)
SPLIT_NAME = re.compile(r"(^|[_.-])(train(ing)?|test|dev|val(id(ation)?)?)$", re.IGNORECASE)
COLUMN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")  # a doubled brace stands for itself


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


def read_examples(
    path: str | Path,
    prompt: str | None = None,
    answer: str | None = None,
    columns: Sequence[str] = (),
    errors: Errors = "strict",
    skip_bad: bool = False,
) -> list[list[Message]]:
    """Return the conversations of a file, folder, pattern or data set; see `ExampleConfig`."""
    config = ExampleConfig(prompt, answer, tuple(columns), errors, skip_bad)
    examples, _ = load_examples(path, config)
    return [example.messages for example in examples]


def load_examples(
    word: str | Path, config: ExampleConfig, split: str = "train"
) -> tuple[list[Example], int]:
    """Return the examples and how many bad ones were left out.

    Raises DataError naming file and line of the first bad one or, with `skip_bad`, of the first in
    a file of which more than 1 % are bad. `split="test"` reads the test files of a data set that is
    given by its name.
    """
    files = find_files(word, split)
    if not files:
        raise DataError("a data set without test files", str(word), "give examples of your own")
    wanted = columns_of(f"{config.prompt or ''}{config.answer or ''}")
    columns = column_names(wanted, config.columns)
    reading = ReadConfig((), columns, config.errors, config.skip_bad)
    counts = ReadCounts()
    examples = [
        example
        for file in files
        for example in read_records(file, reading, counts, partial(to_example, file, config))
    ]
    if not examples:
        raise DataError("no examples", str(word), "give a file with examples in it")
    return examples, counts.skipped


def own_tests(word: str | Path, config: ExampleConfig) -> list[Example]:
    """Return the test examples of a public data set that is given by its name, if it has any."""
    has_tests = is_set(str(word)) and find_files(word, "test")
    return load_examples(word, config, "test")[0] if has_tests else []


def part_of(file: DataFile, record: dict) -> str:
    """Return which part of a set a file is: "qa1_train.txt" and "qa1_test.txt" -> "qa1".

    A file of lines of one label is no part: its name would give the answer away.
    """
    return "" if record.get("label") == file.label else SPLIT_NAME.sub("", file.path.stem)


# --- from a record to a conversation ---


def to_example(file: DataFile, config: ExampleConfig, record: object, where: str) -> Example:
    """Make a conversation of a record; raise DataError saying what is wrong with it."""
    if not isinstance(record, dict):
        what = f"{json_kind(record)} where an object is expected"
        raise DataError(what, where, 'write {"prompt": "...", "answer": "..."}')
    if config.prompt is None and "messages" in record:
        messages = given_messages(record["messages"], where, config.errors)
    else:
        prompt, answer = templates(record, where, config)
        messages = [
            {"role": "user", "content": fill_template(prompt, record, where, config.errors)},
            {"role": "assistant", "content": fill_template(answer, record, where, config.errors)},
        ]
    check_texts(messages, where)
    key = record.get("opening") or compared(messages)
    return Example(messages, where, str(key), part_of(file, record))


def given_messages(messages: Any, where: str, errors: Errors) -> list[Message]:
    """Return the messages of a record, or raise DataError naming line and message."""
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


def templates(record: dict, where: str, config: ExampleConfig) -> tuple[str, str]:
    """Return the two templates given, or those of the first layout that fits the record."""
    if config.prompt is not None and config.answer is not None:
        return config.prompt.replace("\\n", "\n"), config.answer.replace("\\n", "\n")
    for prompt, answer in LAYOUTS:
        if all(name in record for name in columns_of(prompt + answer)):
            return prompt, answer
    raise DataError(
        f"prompt and answer are not to be found among the columns {shown(record)}",
        where,
        'name them: --prompt "{column}" --answer "{column}"; without a header line {0}, {1} ...',
    )


def columns_of(template: str) -> list[str]:
    """Return the columns that a template names: "{a} {{b}} {c}" -> ["a", "c"]."""
    return [found[1] for found in COLUMN.finditer(template) if found[1] is not None]


def fill_template(template: str, record: dict, where: str, errors: Errors) -> str:
    """Put a record's values into a template, without spaces around the whole."""

    def value(found: re.Match) -> str:
        name = found[1]
        if name is None:
            return found[0][0]
        if name not in record:
            remedy = "name one of these in --prompt and --answer (and {{ for a brace)"
            raise DataError(f"no column {name!r}; there are {shown(record)}", where, remedy)
        return as_text(record[name], name, where, errors)

    return COLUMN.sub(value, template).strip()


def as_text(value: object, name: str, where: str, errors: Errors) -> str:
    """Return a value as text: a number as it is written, a list of texts as lines."""
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    elif isinstance(value, bool | int | float):
        value = str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str):
        what = f"column {name!r} holds {json_kind(value)}, not a text"
        raise DataError(what, where, "correct it, or leave it out with --skip-bad")
    return check_characters(value, where, errors, ReadCounts()) if value.strip() else ""


def shown(record: dict) -> str:
    """List a record's columns for an error message."""
    names = [repr(str(name)[:30]) for name in record if name != "opening"]
    return ", ".join(names[:12]) or "none"


# --- two sides ---


def split_examples(
    examples: Sequence[Example], fraction: float
) -> tuple[list[Example], list[Example]]:
    """Return examples to train on and examples held out, chosen by a hash of their keys.

    So equal prompts are on one side, and an example stays on its side when others are added.
    """
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[in_validation(example.key, fraction)].append(example)
    return sides


def overlap(train: Sequence[Example], held_out: Sequence[Example]) -> float:
    """Return the share of held-out examples whose prompt also stands in training.

    Prompts are compared without regard to case and spaces.
    """
    measure = Overlap(parts=lambda prompt: [prompt], weigh=lambda prompt: 1)
    for example in held_out:
        measure.add_validation(compared(example.messages))
    for example in train:
        measure.add_training(compared(example.messages))
    return measure.share


def compared(messages: list[Message]) -> str:
    """Return a conversation's prompt in the form that is compared."""
    return " ".join(prompt_text(messages).casefold().split())
