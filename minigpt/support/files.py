"""Write files so that a crash at any moment leaves the old content or the new, never a mixture.

And look before anything is written: files of other people stay as they are.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from minigpt.support.errors import ConfigError


def atomic_write(path: Path, data: bytes | str) -> None:
    """Replace `path` by `data` (text is stored as UTF-8) in one step.

    The data reach the disk under a temporary name first; `replace` then swaps the name.
    On any error the temporary file is removed and the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    data = data.encode("utf-8") if isinstance(data, str) else data
    try:
        with temporary.open("wb") as file:
            file.write(data)
            fsync(file)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, so that a power cut right after does not lose them."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        fsync_directory(folder.parent)


def fsync(file) -> None:
    """Force an open file's data to the disk."""
    file.flush()
    os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Force a directory's entries to the disk; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# ---- before the work begins


def refuse_existing(paths: Iterable[Path], remedy: str) -> None:
    """Raise a ConfigError that names the first of these files or folders that is already there."""
    for path in paths:
        if path.exists() or path.is_symlink():
            what = f"{path.name} is already there, and this command would replace it"
            raise ConfigError(what, str(path.parent), remedy)


def check_writable(out: Path) -> None:
    """Raise a ConfigError unless files can be written to a folder, or to where it will be made.

    A real file is written, as rights alone do not tell; nothing of it is left.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError("--out is a file", str(out), "name a directory")
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".tmp-") as file:
            file.write(bytes(1 << 16))
            fsync(file)
    except OSError as error:
        raise ConfigError(
            f"the directory cannot be written to ({error.strerror})",
            str(out),
            "choose another --out, or free some space",
        ) from None
