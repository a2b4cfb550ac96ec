"""Read records from files of the user's own: what `examples` makes conversations of.

Records are the objects of a .json or .jsonl file, the rows of a .csv or .tsv, the lines of a plain
text, or the questions of a bAbI file (Weston et al. 2015, arXiv:1502.05698).

A folder, a pattern, an archive or a data set's name stands for all its files. Where each label has
a file of its own, the column `label` is what the files' names tell apart. A value is never opened
as a path.
"""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from minigpt.data import archives
from minigpt.data.corpus import (
    Errors,
    ReadCounts,
    decode,
    open_bytes,
    read_array,
    read_lines,
    refuse_other_encodings,
)
from minigpt.data.sources import (
    cache_folder,
    find_file,
    find_source,
    folders,
    load_sources,
    local_files,
    open_files,
)
from minigpt.data.tables import read_rows, to_record
from minigpt.support.errors import DataError
from minigpt.support.files import sha256_file

PASSED_OVER = re.compile(r"[._]|readme|licen[cs]e", re.IGNORECASE)  # names in a folder

Row = tuple[str, object]  # a record's place, and the record or, if it is bad, its DataError


class DataFile(NamedTuple):
    """A file of records, with what is known of it besides its content."""

    path: Path
    label: str
    columns: tuple[str, ...]


# --- files ---


def find_files(word: str, split: str = "train") -> list[DataFile]:
    """Return the files that a path, a pattern, a folder, an archive or a data set's name means.

    Of a data set that is given by its name, split="test" means its test files alone.
    """
    path, columns = Path(word), ()
    if not path.exists() and glob.has_magic(word):
        paths = sorted(Path(match) for match in glob.glob(word, recursive=True))  # noqa: PTH207
        if not paths:
            raise DataError("no file matches the pattern", word, "check it, and put it in quotes")
    elif is_set(word):
        source = find_source(word)
        columns = source.fields if source.format == "tsv" else ()
        paths = set_files(word, split)
    else:
        kept = [path, *(folder / word for folder in folders())]
        paths = [next((place for place in kept if place.exists()), path)]
    files = [inside for path in paths for inside in files_inside(path)]
    same_stem = len(files) > 1 and len({file.stem for file in files}) == 1
    labels = [file.suffix[1:] if same_stem else file.stem for file in files]
    return [DataFile(*pair, tuple(columns)) for pair in zip(files, labels, strict=True)]


def is_set(word: str) -> bool:
    """Tell whether a word is the name of a public data set, and not a path."""
    return not Path(word).exists() and word in load_sources()


def set_files(name: str, split: str) -> list[Path]:
    """Return the local files of a public data set: to train on, or its test files, if any."""
    if split == "train":
        return local_files(name)
    tests = [(file, find_file(file)) for file in find_source(name).files if file.split == split]
    missing = [file.path for file, path in tests if path is None]
    if missing:
        raise DataError(f"{missing[0]} is not here", name, f"get it first: data download {name}")
    return [inside for file, path in tests for inside in open_files(file, path)]


def files_inside(path: Path) -> list[Path]:
    """Return a file itself, the files of an archive, or those of a folder and its folders."""
    if not path.exists():
        remedy = "check --data: a file, a folder, a pattern in quotes, or a name of: data list"
        raise DataError("no such file, folder or data set", str(path), remedy)
    if path.is_file() and path.name.lower().endswith(archives.SUFFIXES):
        return files_inside(unpacked(path))
    if path.is_file():
        if path.stat().st_size == 0:
            raise DataError("0 bytes", str(path), "give a file with examples in it")
        return [path]
    found = sorted(file for file in path.rglob("*") if file.is_file() and file.stat().st_size)
    for file in found:
        if not file.resolve().is_relative_to(path.resolve()):
            remedy = "copy the file into the folder, or give it as data by itself"
            raise DataError("a link that leads out of the data folder", str(file), remedy)
    found = [file for file in found if not PASSED_OVER.match(file.name)]
    if not found:
        raise DataError("no files", str(path), "give a folder with files that are not empty")
    packed = [file for file in found if file.name.lower().endswith(archives.SUFFIXES)]
    plain = [file for file in found if file not in packed]
    return plain + [inside for archive in packed for inside in files_inside(unpacked(archive))]


def unpacked(archive: Path) -> Path:
    """Return the folder with an archive's files, unpacked in the cache once."""
    folder = cache_folder() / "unpacked" / sha256_file(archive)[:16]
    if not folder.is_dir():
        archives.unpack(archive, folder)
    return folder


# --- records ---


def records(file: DataFile, columns: Sequence[str] | None, errors: Errors) -> Iterator[Row]:
    """Yield place and record of everything in a file, by its suffix or, of a text, by its look.

    `columns` are the names of a table's columns: () takes those of the first line, None numbers
    them, "0", "1", ..., and takes the first line as a record.
    """
    path, suffix = file.path, file.path.suffix.lower()
    if columns == ():
        columns = file.columns
    if suffix == ".jsonl":
        yield from read_lines(path, errors, ReadCounts())
    elif suffix == ".json":
        yield from read_array(path, errors, ReadCounts())
    elif suffix in (".csv", ".tsv"):
        yield from table_records(path, suffix[1:], columns, errors)
    else:
        lines = list(text_lines(path, errors))
        kind = text_kind([line for _, line in lines[:50]])
        if kind == "table":
            yield from table_records(path, "tsv", columns, errors)
        elif kind == "babi":
            yield from babi_records(lines)
        else:
            yield from ((where, {"text": line, "label": file.label}) for where, line in lines)


def table_records(
    path: Path, kind: str, columns: Sequence[str] | None, errors: Errors
) -> Iterator[Row]:
    """Yield the rows of a table as records; see `records` for the columns' names."""
    found = read_rows(path, kind, errors, ReadCounts())
    names = list(columns or ())
    for where, row in found:
        if columns is None and not names:
            names = [str(number) for number in range(len(row))]
        if names:
            yield where, to_record(row, names, where)
        else:
            names = row


def text_lines(path: Path, errors: Errors) -> Iterator[tuple[str, str]]:
    """Yield place and text of each line that is not blank."""
    with open_bytes(path) as stream:
        raw = stream.read()
    refuse_other_encodings(raw, path)
    text = decode(raw, errors, ReadCounts(), str(path)).removeprefix("\ufeff")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.strip("\r\n")


def text_kind(lines: list[str]) -> str:
    """Tell by its first lines what a text is: "babi", "table" (tabs) or "lines"."""
    if not lines:
        return "lines"
    if lines[0].startswith("1 ") and any(re.match(r"\d+ .*\t.*\t[\d ]+$", line) for line in lines):
        return "babi"
    return "table" if lines[0].count("\t") else "lines"


def babi_records(lines: list[tuple[str, str]]) -> Iterator[Row]:
    """Yield each question with the story so far: "1 Mary left." and "2 Who left?\\tMary\\t1".

    Line numbers begin anew with each story. `opening`, its first sentence, keeps all questions on
    one story on one side of a split.
    """
    story: list[str] = []
    for where, line in lines:
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
