"""Read supervised examples of the user's own as conversations: prompt and answer, or messages.

How a record becomes a conversation is the affair of `messages.py`; what a record is, and in which
files, the readers in `data` know.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from minigpt.batching.layouts import (
    Missing,
    columns_of,
    find_choices,
    known_layout,
)
from minigpt.batching.messages import (
    NAMED,
    Example,
    ExampleConfig,
    compared,
    to_example,
    turns,
)
from minigpt.chat import Message
from minigpt.data.decoding import Errors, ReadCounts
from minigpt.data.discovery import LANGUAGES, NO_LABEL, find_files, has_own_tests
from minigpt.data.formats import (
    DataFile,
    ReadConfig,
    column_names,
    file_lines,
    format_of,
)
from minigpt.data.records import read_records
from minigpt.data.sniffing import delimiter_of, opening_lines, rows_of
from minigpt.data.sources import find_source, is_set
from minigpt.data.splitting import Overlap, in_validation
from minigpt.support.errors import DataError

MOST_LABELS = 30  # more different answers than that are texts
MOST_MISSING = 0.5  # share of records without an answer that are left out

# Makes an example of a record: of a file, by some settings, with counts, the record, its place.
Maker = Callable[[DataFile, ExampleConfig, ReadCounts, object, str], Example | Missing]


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
    make: Maker = to_example,
) -> tuple[list[Example], int]:
    """Return the examples and how many bad ones were left out; `counts` gets what was understood.

    Raises DataError naming file and line of the first bad one or, with `skip_bad`, of the first in
    a file of which more than 1 % are bad; and where all have one and the same label, which is the
    name of the file. `split="test"` reads the test files of a data set that is given by its name,
    and of a folder that has some. `make` says what a record is read as (`pairs.py` has others).
    """
    counts = ReadCounts() if counts is None else counts
    refuse_unfit(str(word))
    if config.answers is not None:
        examples = list(parallel_examples(Path(word), Path(config.answers), config, counts))
    else:
        examples = table_examples(word, config, split, counts, make)
    if not examples:
        raise DataError("no examples", str(word), "give a file with examples in it")
    return examples, counts.skipped


def table_examples(
    word: str | Path, config: ExampleConfig, split: str, counts: ReadCounts, make: Maker
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
        found += read_records(file, reading, counts, partial(make, file, config, counts))
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


def own_tests(
    word: str | Path,
    config: ExampleConfig,
    counts: ReadCounts | None = None,
    make: Maker = to_example,
) -> list[Example]:
    """Return the test examples that a public data set or a folder brings, if it has any."""
    if config.answers is not None or not has_own_tests(str(word)):
        return []
    return load_examples(word, config, "test", counts, make)[0]


def recognized(examples: Sequence[Example], counts: ReadCounts, noun: str = "examples") -> str:
    """Say in one line what was understood: "9 examples: prompt from `a`, answer from `b`; ..."."""
    if noun != "examples":  # what answers recur says nothing about pairs and prompts
        line = f"{len(examples):,} {noun}: {', '.join(list(counts.layouts)[:3])}"
        return "; ".join([line, *said_notes(counts)])
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
