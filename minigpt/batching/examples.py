"""Read supervised examples of the user's own as conversations: prompt and answer, or messages.

Two templates make a conversation of a record: "Good or bad? {text}" and "{label}" put columns in
their places, and nothing else happens in the braces. Without templates the usual layouts are
recognized (`layouts.py`), and what was understood is counted so that a command can say it. What a
record is, and in which files, the readers in `data` know.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
from minigpt.data.discovery import LANGUAGES, NO_LABEL, find_files, has_own_tests
from minigpt.data.formats import (
    DataFile,
    ReadConfig,
    column_names,
    file_lines,
    format_of,
    is_objects,
    json_kind,
)
from minigpt.data.records import read_records
from minigpt.data.sniffing import delimiter_of, opening_lines, rows_of
from minigpt.data.sources import find_source, is_set
from minigpt.data.splitting import Overlap, in_validation
from minigpt.support.errors import ConfigError, DataError
from minigpt.support.settings import check_fields

MOST_LABELS = 30  # more different answers than that are texts
MOST_MISSING = 0.5  # share of records without an answer that are left out
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
    word: str | Path,
    config: ExampleConfig,
    split: str = "train",
    counts: ReadCounts | None = None,
) -> tuple[list[Example], int]:
    """Return the examples and how many bad ones were left out; `counts` gets what was understood.

    Raises DataError naming file and line of the first bad one or, with `skip_bad`, of the first in
    a file of which more than 1 % are bad; and where all have one and the same label, which is the
    name of the file. `split="test"` reads the test files of a data set that is given by its name,
    and of a folder that has some.
    """
    counts = ReadCounts() if counts is None else counts
    refuse_unfit(str(word))
    if config.answers is not None:
        examples = list(parallel_examples(Path(word), Path(config.answers), config, counts))
    else:
        examples = table_examples(word, config, split, counts)
    if not examples:
        raise DataError("no examples", str(word), "give a file with examples in it")
    return examples, counts.skipped


def table_examples(
    word: str | Path, config: ExampleConfig, split: str, counts: ReadCounts
) -> list[Example]:
    """Return the examples of files in which each record is one."""
    files = find_files(word, split, encoding=config.encoding, counts=counts)
    if not files:
        raise DataError("a data set without test files", str(word), "give examples of your own")
    unlabeled = sum(file.label == NO_LABEL for file in files)
    if unlabeled:
        counts.notes["texts outside of the labels' folders, left out"] += unlabeled
        files = [file for file in files if file.label != NO_LABEL]
    wanted = columns_of(f"{config.prompt or ''}{config.answer or ''}")
    columns = column_names(wanted, config.columns)
    reading = ReadConfig((), columns, config.errors, config.skip_bad)
    found: list[Example | Missing] = []
    for file in files:
        if config.prompt is None and not config.columns:
            file = with_guessed_columns(file, counts)
        found += read_records(file, reading, counts, partial(to_example, file, config, counts))
    examples = [example for example in found if isinstance(example, Example)]
    missing = [example for example in found if isinstance(example, Missing)]
    if len(missing) > MOST_MISSING * len(found):
        what = f"{missing[0].what} in {len(missing)} of {len(found)} records"
        raise DataError(what, missing[0].where, missing[0].remedy)
    refuse_one_class(files, examples, counts)
    return examples


def refuse_one_class(
    files: Sequence[DataFile], examples: Sequence[Example], counts: ReadCounts
) -> None:
    """Raise DataError where every label is the name of one file, or the name of a language."""
    if set(counts.layouts) != {NAMED}:
        return
    labels = {example.messages[-1]["content"] for example in examples}
    where = ", ".join(file.place for file in files[:2])
    if len(labels) == 2 and labels <= LANGUAGES:
        remedy = f"if their lines belong together: --data {files[0].path.name}"
        remedy += f" --answers {files[1].path.name}"
        raise DataError("two texts that differ by their language", where, remedy)
    if len(labels) == 1:
        raise DataError(
            f"lines without answers (only their file's name, {labels.pop()!r}, would be one)",
            where,
            "give prompts and answers as .jsonl, .csv or .tsv, or a file or folder for each label; "
            f"text to read is for: train --data {files[0].path.name}",
        )


UNFIT = {
    "language-modeling": "texts to read: python -m minigpt train --data {}",
    "robustness": "texts to read: python -m minigpt train --data {}",
    "vision": "pictures: the chapter on seeing reads them",
}


def refuse_unfit(word: str) -> None:
    """Raise DataError where a public data set has no examples, and say what it is for."""
    source = find_source(word) if is_set(word) else None
    use = UNFIT.get(source.task) if source else None
    if source and source.task == "benchmark" and source.fields == ("text",):
        use = "a text to predict: python -m minigpt evaluate --checkpoint RUN --text {}"
    if use:
        raise DataError("a data set without prompts and answers", word, use.format(word))


def parallel_examples(
    prompts: Path, answers: Path, config: ExampleConfig, counts: ReadCounts
) -> Iterator[Example]:
    """Yield an example for each line of one text, answered by the same line of another one."""
    sides = []
    for path in (prompts, answers):
        (file, *more) = find_files(path, encoding=config.encoding)
        if more:
            raise DataError("several files", str(path), "give one file of lines on each side")
        sides.append(file_lines(file, config.errors, counts))
    counts.layouts[f"prompt from {prompts.name}, answer from {answers.name}"] += 1
    for left, right in itertools.zip_longest(*sides):
        if left is None or right is None:
            longer = answers if left is None else prompts
            where, _ = left or right or ("", "")
            remedy = "give two files of as many lines each"
            raise DataError(f"{longer.name} has more lines", where, remedy)
        for _, text in (left, right):
            if isinstance(text, DataError):
                raise text
        texts = [str(text).strip() for _, text in (left, right)]
        if all(texts):
            messages = turns(*texts)
            yield Example(messages, left[0], compared(messages), "")
        elif any(texts):
            counts.notes["lines without a line on the other side, left out"] += 1


def turns(prompt: str, answer: str) -> list[Message]:
    """Return a question and its answer as messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def own_tests(
    word: str | Path, config: ExampleConfig, counts: ReadCounts | None = None
) -> list[Example]:
    """Return the test examples that a public data set or a folder brings, if it has any."""
    if config.answers is not None or not has_own_tests(str(word)):
        return []
    return load_examples(word, config, "test", counts)[0]


def recognized(examples: Sequence[Example], counts: ReadCounts) -> str:
    """Say in one line what was understood: "9 examples: prompt from `a`, answer from `b`; ..."."""
    labels = {example.messages[-1]["content"] for example in examples}
    recur = len(labels) <= min(MOST_LABELS, len(examples) / 2)
    kinds = [f"{len(labels)} labels"] if recur else []
    several = sum(bool(example.others) for example in examples)
    kinds += [f"{several:,} with several right answers"] if several else []
    line = f"{len(examples):,} examples: {', '.join([*list(counts.layouts)[:3], *kinds])}"
    return "; ".join([line, *said_notes(counts)])


def said_notes(counts: ReadCounts) -> list[str]:
    """Return what else a user should know, each with its count where it is not a single one."""
    return [f"{n:,} {note}" if n > 1 else note for note, n in counts.notes.items()]


def with_guessed_columns(file: DataFile, counts: ReadCounts) -> DataFile:
    """Give a table without a header line its columns, where it is plain which one is a label.

    That is one whose value in the first line comes again below; the longest other one is the text.
    """
    kind = format_of(file)
    if file.columns or kind not in ("csv", "tsv", "text"):
        return file
    first = opening_lines(file.path, file.encoding)
    rows = rows_of(first, delimiter_of(first) if kind == "csv" else "\t")
    width = len(rows[0]) if rows else 0
    if width < 2 or len(rows) < 4 or any(len(row) != width for row in rows):
        return file
    if known_layout(rows[0]) or find_choices(dict.fromkeys(rows[0], ""), "") is not None:
        return file
    columns = list(zip(*rows, strict=True))
    labels = [
        n
        for n, column in enumerate(columns)
        if column[0] in column[1:] and len(set(column)) <= len(rows) / 2
    ]
    lengths = [0 if n in labels else sum(map(len, column)) for n, column in enumerate(columns)]
    if not labels or max(lengths) < 4 * len(rows):
        return file
    text = lengths.index(max(lengths))
    counts.notes["no header line, so the columns are a guess (--prompt, --answer)"] = 1
    numbers = tuple(map(str, range(width)))
    return file._replace(columns=numbers, example=(f"{{{text}}}", f"{{{labels[0]}}}"))


def part_of(file: DataFile, record: dict) -> str:
    """Return which part of a set a file is: "qa1_train.txt" and "qa1_test.txt" -> "qa1".

    A file of lines of one label is no part: its name would give the answer away.
    """
    return "" if record.get("label") == file.label else SPLIT_NAME.sub("", file.path.stem)


# --- from a record to a conversation ---


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
    several = right_answers(held) if answer_column in SEVERAL else None
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
        value = str(int(value)) if value == int_of(value) else str(value)
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
