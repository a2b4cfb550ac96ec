"""Find the files behind a path, a pattern, an archive or a data set's name, for every command.

A folder or an archive means all files in it that have a known format. Hidden files, empty files and
files about the data (README, LICENSE, _about.txt, datasheet.md) are skipped, and no link inside a
folder is followed. A file that is named directly is always read. Where a folder holds files for
training and others for a test, told by their names, each side gets its own.
"""

import difflib
import glob
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from minigpt.data import archives
from minigpt.data.decoding import ReadCounts
from minigpt.data.formats import DataFile, known_suffixes
from minigpt.data.sources import (
    cache_folder,
    find_source,
    folders,
    is_set,
    load_sources,
    local_files,
)
from minigpt.support.errors import DataError
from minigpt.support.files import sha256_file

ABOUT = re.compile(  # beginnings of names
    r"_|readme|licen[cs]e|datasheet\.md$|dataset_infos?\.json$|dataset_dict\.json$|state\.json$",
    re.IGNORECASE,
)
HIDDEN = re.compile(r"\.|__MACOSX$|__pycache__$")  # also of folders
BLOCK = 512  # bytes that a file counts for besides its own, so that empty ones have an end
DEEPEST = 3  # archives inside of archives; some contain themselves
SPLIT = re.compile(  # a part of a file's or a folder's name
    r"(?:^|[_.-])(?:(?P<train>train(?:ing)?)|test|eval|dev|val(?:id(?:ation)?)?)(?=[_.-]|$)",
    re.IGNORECASE,
)
UNLABELED = {"unsup", "unlabeled", "unlabelled"}  # folders of texts beside those of the labels
LANGUAGES = frozenset(  # suffixes of texts that are each other's translation
    "ar cs de el en es fa fi fr he hi hu it ja ko nl pl pt ro ru sv tr uk vi zh".split()  # noqa: SIM905
)

Word = str | Path | DataFile


def find_files(
    words: Word | Iterable[Word],
    split: str = "train",
    *,
    encoding: str = "",
    separator: str = "",
    counts: ReadCounts | None = None,
) -> list[DataFile]:
    """Return the files behind one or several words, each of them once.

    A word is a path, a pattern ("data/**/*.csv") or the name of a public data set; split="test"
    selects the test files of such a set, and it may have none. Files that were found before pass
    through unchanged. A given `encoding` or `separator` of documents counts for all. What is left
    out is noted in `counts`. Raises DataError where a word leads to nothing.
    """
    given = [words] if isinstance(words, str | Path | DataFile) else list(words)
    found: dict[Path, DataFile] = {}
    for word in given:
        known = [word] if isinstance(word, DataFile) else files_of(str(word), split, counts)
        for file in known:
            found.setdefault(file.path, file)
    files = labeled(list(found.values()))
    return [
        file._replace(encoding=encoding or file.encoding, separator=separator or file.separator)
        for file in files
    ]


def labeled(files: list[DataFile]) -> list[DataFile]:
    """Give each new file the label that its name holds: "a.pos", "a.neg" -> "pos", "neg"."""
    same_stem = len(files) > 1 and len({file.path.stem for file in files}) == 1
    return [
        file._replace(label=file.label or (file.path.suffix[1:] if same_stem else file.path.stem))
        for file in files
    ]


# --- parts of a folder ---


def split_of(file: DataFile, root: str) -> str:
    """Return which side a file is for, by its name or a folder's: "train", "test" or ""."""
    inside = file.place.removeprefix(root).lstrip("/\\")
    *above, name = inside.replace("\\", "/").split("/")
    for part in (name.split(".")[0] if "." in name else name, *reversed(above)):
        if found := SPLIT.search(part):
            return "train" if found["train"] else "test"
    return ""


def one_side(
    files: list[DataFile], root: str, split: str, counts: ReadCounts | None
) -> list[DataFile]:
    """Return the files of one side where a folder holds both sides, else all."""
    sides = [split_of(file, root) for file in files]
    if not {"train", "test"} <= set(sides):
        return files
    wanted = ("test",) if split == "test" else ("train", "")
    kept = [file for file, side in zip(files, sides, strict=True) if side in wanted]
    if counts is not None and split != "test":
        names = ", ".join(
            file.path.name for file, side in zip(files, sides, strict=True) if side == "test"
        )
        counts.notes[f"kept for the test: {names[:100]}"] = 1
    return kept


def has_own_tests(word: str) -> bool:
    """Tell whether a word leads to test files beside those to learn from."""
    if is_set(word):
        return bool(find_files(word, "test"))
    path = Path(word)
    if not (path.is_dir() or path.name.lower().endswith(archives.SUFFIXES)):
        return False
    return {f.path for f in find_files(word, "test")} != {f.path for f in find_files(word)}


def with_folder_labels(files: list[DataFile], root: str) -> list[DataFile]:
    """Label whole texts by their folders, where each of several folders holds some.

    So does aclImdb: train/pos/0_9.txt, train/neg/1_1.txt. Texts beside these folders, and those in
    "unsup", have no label and are left out when examples are read.
    """
    texts = [file for file in files if format_of_name(file) == "text"]
    folders = Counter(file.path.parent for file in texts)
    classes = {folder for folder, count in folders.items() if count > 1 and is_below(folder, root)}
    names = {folder.name for folder in classes} - UNLABELED
    if len(names) < 2 or any(SPLIT.search(name) for name in names):
        return files
    return [
        file._replace(label=file.path.parent.name, is_one=True)
        if file.path.parent in classes and file.path.parent.name not in UNLABELED
        else file._replace(label=NO_LABEL)
        for file in files
    ]


NO_LABEL = "\0"  # of a text that stands beside the folders that are labels


def is_below(folder: Path, root: str) -> bool:
    return folder != Path(root)


def format_of_name(file: DataFile) -> str:
    """Return "text" for a file whose suffix is that of a text, else ""."""
    return "text" if file.path.suffix.lower() in (".txt", ".text", "") else ""


def files_of(word: str, split: str, counts: ReadCounts | None = None) -> list[DataFile]:
    """Return the files behind one word."""
    path = Path(word)
    if is_set(word):
        return set_files(word, split)
    if not path.exists() and glob.has_magic(word):
        return matching(word)
    kept = [path, *(folder / word for folder in folders())]
    path = next((place for place in kept if place.exists()), path)
    if path.is_file() and path.stat().st_size == 0:
        raise DataError("0 bytes", str(path), "give a file with text in it")
    if path.is_file() or path.is_dir():
        files = list(expand(path, str(path))) if path.is_file() else folder_files(path, str(path))
        files = one_side(files, str(path), split, counts) if len(files) > 1 else files
        return with_folder_labels(files, str(path))
    if path.exists():
        remedy = "give a file, a folder, a pattern, an archive or a name of: data list"
        raise DataError("not a file or folder", word, remedy)
    near = difflib.get_close_matches(word, load_sources(), n=1)
    remedy = "check the path given as data: a file, a folder, a pattern in quotes, or a name of: "
    remedy = f"did you mean {near[0]}?" if near else remedy + "data list"
    raise DataError("no such file or folder, and no such data set", word, remedy)


def set_files(name: str, split: str) -> list[DataFile]:
    """Return the local files of a public data set, with all that is known of them."""
    source = find_source(name)
    columns = source.fields if source.format == "tsv" else ()  # the others have their names
    return [
        file._replace(
            format=source.format,
            columns=columns,
            fields=source.text_fields,
            separator=source.separator,
            example=source.example,
        )
        for path in local_files(name, split)
        for file in expand(path, str(path))
    ]


def matching(pattern: str) -> list[DataFile]:
    """Return the files that match a pattern, and those inside the folders that match it."""
    found: list[DataFile] = []
    for path in sorted(map(Path, glob.glob(pattern, recursive=True))):  # noqa: PTH207
        if path.is_dir():
            found += (file for each in data_files(path) for file in expand(each, str(each)))
        elif path.is_file() and path.stat().st_size > 0:
            found += expand(path, str(path))
    if not found:
        remedy = "check it, and put it in quotes"
        raise DataError("no file matches the pattern", pattern, remedy)
    return found


# --- folders and archives ---


def folder_files(
    folder: Path, place: str, depth: int = 0, budget: list[int] | None = None
) -> list[DataFile]:
    """Return the files inside a folder and its folders; errors call it `place`."""
    names = {path: f"{place}/{path.relative_to(folder).as_posix()}" for path in data_files(folder)}
    if not names:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        suffixes = ", ".join(sorted({path.suffix or path.name for path in paths})[:8])
        raise DataError(
            f"no data files among {len(paths)} files (found {suffixes or 'nothing'})",
            place,
            f"give files that are not empty and end in {', '.join(known_suffixes())}",
        )
    return [file for path, name in names.items() for file in expand(path, name, depth, budget)]


def data_files(folder: Path) -> list[Path]:
    """Return the files inside a folder that are data, sorted.

    Files of known formats and archives come first. Only where there are none, every text counts:
    so "film.pos" and "film.neg" are found, but a program beside a text is not. Raises DataError at
    a link that leads out of the folder.
    """
    root = folder.resolve()
    shown = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(map(HIDDEN.match, path.relative_to(folder).parts))
    ]
    for path in shown:
        if not path.resolve().is_relative_to(root):
            remedy = "copy the file into the folder, or give it as data by itself"
            raise DataError("a link that leads out of the data folder", str(path), remedy)
    full = [path for path in shown if not path.is_symlink() and path.stat().st_size > 0]
    full = [path for path in full if not ABOUT.match(path.name)] or full
    suffixes = (*known_suffixes(), *archives.SUFFIXES)
    known = [path for path in full if path.name.lower().endswith(suffixes)]
    return known or [path for path in full if is_text(path)]


def is_text(path: Path) -> bool:
    """Tell whether a file whose suffix is unknown is a text: its beginning holds no zero byte."""
    try:
        with path.open("rb") as stream:
            return b"\0" not in stream.read(4096)
    except OSError:
        return True  # so that whoever reads it says why it cannot be read


def expand(
    path: Path, place: str, depth: int = 0, budget: list[int] | None = None
) -> Iterator[DataFile]:
    """Yield a file itself or, of an archive, the files in it; the cache keeps them unpacked.

    budget: the bytes that may still come out of the outermost archive, shared by all inside it.
    """
    if not path.name.lower().endswith(archives.SUFFIXES):
        yield DataFile(path, place)
        return
    if depth == DEEPEST:
        raise DataError(f"more than {DEEPEST} archives inside each other", place, "unpack it")
    left = [archives.limit_of(path)] if budget is None else budget
    folder = cache_folder() / "unpacked" / sha256_file(path)[:16]
    if not folder.is_dir():
        archives.unpack(path, folder, min(left[0], archives.limit_of(path)))
    left[0] -= sum(inside.stat().st_size + BLOCK for inside in folder.rglob("*"))
    if left[0] < 0 and depth:
        raise archives.too_large(Path(place), archives.limit_of(path))
    yield from folder_files(folder, place, depth + 1, left)
