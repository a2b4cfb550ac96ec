"""Read tensors from safetensors files of strangers: one file, or several with an index.

A file is the length of its header (8 bytes, little-endian), the header (JSON: type, shape and place
of each tensor) and raw numbers. Unlike a pickle it cannot run anything, but it can lie. So names,
types, shapes and places are checked before a number is read, and an index may name nothing outside
of its own folder. Knows no models.

Source: github.com/huggingface/safetensors, section "Format".
"""

import contextlib
import itertools
import json
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minigpt.support.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_TYPES = ("F32", "F16", "BF16")
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "BOOL": 1, "U8": 1, "I8": 1, "I32": 4, "I64": 8}
LARGEST_HEADER = 16 << 20  # bytes; a model of 400 billion parameters needs a tenth of it
LARGEST_JSON = 64 << 20
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Entry(NamedTuple):
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # of its numbers, in bytes after the header
    end: int


def unusable(path: Path, reason: str, remedy: str = "download it again") -> CheckpointError:
    """Return the error for a file that must not be used."""
    return CheckpointError(reason, str(path), remedy)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of the pairs of a JSON object; ValueError names a key that stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of moderate size; CheckpointError if it is anything else."""
    try:
        if regular_size(path) > LARGEST_JSON:
            raise unusable(path, f"longer than {LARGEST_JSON:,} bytes")
        return as_object(path.read_bytes(), path)
    except OSError as error:
        raise unusable(path, f"cannot be read: {error.strerror}") from None


def as_object(data: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object that some bytes are; no key may stand twice in it."""
    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise unusable(path, f"not sound JSON: {error}") from None
    if not isinstance(content, dict):
        raise unusable(path, "not a JSON object")
    return content


def regular_size(path: Path) -> int:
    """Return a file's bytes; a pipe or a device, which may have no end, is refused."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise unusable(path, "not a file", "give a folder with real files")
    return found.st_size


def read_header(path: Path) -> dict[str, Entry]:
    """Return what a safetensors file says of its tensors, by name; every claim is checked."""
    try:
        size = regular_size(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(LARGEST_HEADER, size - 8):
                most = f"of {size:,} bytes" if length > size - 8 else f"over {LARGEST_HEADER:,}"
                raise unusable(path, f"its header claims {length:,} bytes, {most}")
            content = as_object(file.read(length), path)
    except OSError as error:
        raise unusable(path, f"cannot be read: {error.strerror}") from None
    content.pop("__metadata__", None)
    header = {name: entry_of(name, value, path) for name, value in content.items()}
    places = sorted((entry.start, entry.end) for entry in header.values())
    gaps = [b for (_, a), (b, _) in itertools.pairwise([(0, 0), *places]) if a != b]
    end = places[-1][1] if places else 0
    if gaps or end != size - 8 - length:
        raise unusable(path, "its tensors overlap, or do not fill the file")
    return header


def entry_of(name: str, value: Any, path: Path) -> Entry:
    """Read what a header says of one tensor."""
    try:
        dtype, shape, (start, end) = value["dtype"], value["shape"], value["data_offsets"]
        sound = all(type(n) is int and 0 <= n < 1 << 48 for n in (*shape, start, end))
        # Only after the types are known to be numbers can they be counted with.
        known = dtype in BYTES
        sound = sound and end - start == math.prod(shape) * BYTES.get(dtype, 0)
    except (LookupError, TypeError, ValueError):
        raise unusable(path, f"its header says nothing sound of {name[:60]!r}") from None
    if not known:
        raise wrong_type(path, name, dtype)
    if not sound:
        raise unusable(path, f"{name[:60]} has a shape that is not its size")
    return Entry(dtype, tuple(shape), start, end)


def wrong_type(path: Path, name: str, dtype: str) -> CheckpointError:
    """Return the error for weights of a type that no model is computed with here."""
    remedy = f"use weights of the types {', '.join(WEIGHT_TYPES)}; quantized ones are not supported"
    return unusable(path, f"{name[:60]} has the type {str(dtype)[:20]!r}", remedy)


class TensorFiles:
    """The tensors of a folder by name; `entries` says what there is, before a number is read."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.entries: dict[str, Entry] = {}
        for path in weight_files(folder):
            for name, entry in read_header(path).items():
                if name in self.files:
                    raise unusable(path, f"{name} is also in {self.files[name].name}")
                self.files[name], self.entries[name] = path, entry
        if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
            self.check_index(indexed(folder / INDEX))

    def check_index(self, index: dict[str, str]) -> None:
        """Refuse an index that does not say which file really holds each tensor."""
        found = {name: path.name for name, path in self.files.items()}
        for name in sorted(index.keys() | found.keys()):
            if index.get(name) != found.get(name):
                said, is_in = index.get(name, "no file"), found.get(name, "no file")
                what = f"{name} is said to be in {said}, and is in {is_in}"
                raise unusable(self.folder / INDEX, what)

    @contextlib.contextmanager
    def reading(self) -> Iterator["OpenTensors"]:
        """Open the files for a while; they are mapped, so only what is asked for is read."""
        with contextlib.ExitStack() as stack:
            handles = {}
            for path in {*self.files.values()}:
                try:
                    handles[path] = stack.enter_context(safe_open(path, framework="pt"))
                except (SafetensorError, OSError) as error:
                    raise unusable(path, f"not a safetensors file: {error}") from None
            yield OpenTensors(self.files, handles)


class OpenTensors:
    """Give tensors by name from open files."""

    def __init__(self, files: dict[str, Path], handles: dict[Path, Any]):
        self.files, self.handles = files, handles

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor in float32, which holds every number of the other types exactly."""
        return self.handles[self.files[name]].get_tensor(name).to(torch.float32)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model's folder: the one, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted({*indexed(folder / INDEX).values()})]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        what = f"{pickles[0]} is a pickle, which can run any program when it is opened"
        raise unusable(folder, what, f"get the model as {WEIGHTS}")
    raise unusable(folder, f"no {WEIGHTS}", "give a folder with a whole model")


def indexed(path: Path) -> dict[str, str]:
    """Return the name of the file of each tensor, as an index says it.

    A name must be that of a file in the same folder: an index of a stranger may say "../x".
    """
    files = read_object(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise unusable(path, "no weight_map")
    for name in files.values():
        is_plain = isinstance(name, str) and name.endswith(".safetensors")
        if not is_plain or set(name) & set("/\\:\0") or name.startswith("."):
            what = f"it names {str(name)[:60]!r}, which is no file of its folder"
            raise unusable(path, what, "do not use this model")
    return files
