"""Know public data sets with a clear license: where they are, how long, and their SHA-256.

The facts stand in sources.json beside this file. A data file is looked for, in this order, in the
folder that MINIGPT_DATA names, in the cache, and at its address; it counts only when its SHA-256 is
right, wherever it was found.

Every address is pinned to a commit. None of the data is part of this package: each set has its own
license, which `data list` shows.
"""

import difflib
import functools
import importlib.resources
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minigpt.data.download import Progress, download, is_right
from minigpt.support.errors import ConfigError, DataError


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set; `path` is its place below the data folder or the cache."""

    path: str
    url: str
    bytes: int
    sha256: str
    records: int | None  # lines, objects or questions, where they were counted
    split: str  # train, validation, test, few-shot, about, or "" where the set is not split


@dataclass(frozen=True)
class DataSet:
    """One public data set."""

    name: str
    title: str
    task: str
    language: str
    license: str
    license_stated: str  # where the license is stated
    citation: str
    format: str  # of the files, unpacked: text, json, jsonl, csv, tsv, or a form of its own
    fields: tuple[str, ...]  # of a record; for tsv the columns, which have no header line
    text_fields: tuple[str, ...]  # those that make up the document, where there is one
    separator: str  # between the documents of a text
    files: tuple[SourceFile, ...]
    example: tuple[str, ...] = ()  # templates of prompt and answer, where the fields do not say

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.bytes for file in self.files)

    def training_files(self) -> tuple[SourceFile, ...]:
        """Return the files to learn from: never those of a test or a benchmark."""
        if self.task == "benchmark":
            return ()
        train = tuple(file for file in self.files if file.split == "train")
        return train or tuple(file for file in self.files if file.split in ("", "validation"))


@functools.cache
def load_sources() -> dict[str, DataSet]:
    """Return all known data sets by name."""
    text = importlib.resources.files("minigpt.data").joinpath("sources.json").read_text("utf-8")
    return {entry["name"]: read_source(entry) for entry in json.loads(text)}


def read_source(entry: dict) -> DataSet:
    """Turn one object of sources.json into a DataSet."""
    files = tuple(SourceFile(**file) for file in entry["files"])
    lists = {name: tuple(entry.get(name, ())) for name in ("fields", "text_fields", "example")}
    return DataSet(**{**entry, "files": files, **lists})


def find_source(name: str) -> DataSet:
    """Return a data set by its name, or raise ConfigError proposing the nearest one."""
    sources = load_sources()
    if name in sources:
        return sources[name]
    near = difflib.get_close_matches(name, sources, n=1)
    hint = f"did you mean {near[0]}?" if near else "see the names with: data list"
    raise ConfigError(f"no data set is called {name!r}", "command line", hint)


# --- where files are ---


def cache_folder() -> Path:
    """Return the folder for downloads: MINIGPT_CACHE, or where this system keeps such things."""
    if given := named_folder("MINIGPT_CACHE"):
        return given
    try:
        home = Path.home()
    except RuntimeError:  # a container may give its user none
        home = Path(tempfile.gettempdir())
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "minigpt"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "minigpt"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "minigpt"


def folders() -> list[Path]:
    """Return the folders in which data files are looked for."""
    given = named_folder("MINIGPT_DATA")
    return [*([given] if given else []), cache_folder()]


def named_folder(variable: str) -> Path | None:
    """Return the folder that an environment variable names, if any; ConfigError at ~nobody."""
    given = os.environ.get(variable)
    try:
        return Path(given).expanduser() if given else None
    except RuntimeError:
        raise ConfigError(f"no such user: {given}", variable, "give a path without ~") from None


def places(file: SourceFile) -> list[Path]:
    """Return where a file may be: it is there only if its SHA-256 is right."""
    return [folder.joinpath(*file.path.split("/")) for folder in folders()]


def find_file(file: SourceFile) -> Path | None:
    """Return the first place that holds the right file, or None."""
    return next((path for path in places(file) if is_right(path, file.bytes, file.sha256)), None)


def is_here(source: DataSet) -> bool:
    """Return whether files of the right sizes are there; `find_file` looks at their bytes too."""
    return all(
        any(path.is_file() and path.stat().st_size == file.bytes for path in places(file))
        for file in source.files
    )


# --- getting them ---


def fetch_file(file: SourceFile, progress: Progress | None = None) -> Path:
    """Return a verified local copy of a file; use the network only where there is none."""
    found = find_file(file)
    return found or download(file.url, places(file)[-1], file.bytes, file.sha256, progress)


def fetch(
    name: str, progress: Callable[[SourceFile], Progress] | None = None
) -> list[tuple[SourceFile, Path]]:
    """Return verified local copies of all files of a data set."""
    return [
        (file, fetch_file(file, progress(file) if progress else None))
        for file in find_source(name).files
    ]


def is_set(word: str) -> bool:
    """Tell whether a word is the name of a public data set, and not a path."""
    return word in load_sources() and not Path(word).exists()


def local_files(name: str, split: str = "train") -> list[Path]:
    """Return the files of a data set, which must be here already, archives as they are.

    split="train" means all files to learn from, any other split its own files: there may be none.
    """
    source = find_source(name)
    if split == "train":
        files = source.training_files()
    else:
        sides = ("", "validation", "test") if source.task == "benchmark" else (split,)
        files = tuple(file for file in source.files if file.split in sides)
    if not files and split == "train":
        raise DataError(
            "a benchmark: it is there to test models, not to train them",
            name,
            f"evaluate takes it: evaluate --checkpoint RUN --data {name}",
        )
    found = [(file, find_file(file)) for file in files]
    missing = [file.path for file, path in found if path is None]
    if missing:
        raise DataError(f"{missing[0]} is not here", name, f"get it first: data download {name}")
    return [path for _, path in found if path]
