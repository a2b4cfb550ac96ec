"""Unpack archives that may be hostile: everything is checked before the first byte is written.

Refused are members whose names lead out of the folder, links, devices, encrypted members, and
archives that would grow beyond a limit. Zip, tar (plain or packed) and single packed files.
"""

import bz2
import errno
import gzip
import lzma
import os
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from minigpt.support.errors import DataError

MAX_RATIO = 100  # text rarely shrinks to less than a fiftieth; bombs to a thousandth
MAX_BYTES = 4 << 30
MAX_MEMBERS = 10_000
PACKED = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SUFFIXES = (".zip", ".tar", *PACKED)
DEVICES = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10))}  # file names on Windows
DEVICES |= {f"lpt{n}" for n in range(10)}
# What the standard library raises at bad archives.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)
DAMAGED += (RuntimeError, NotImplementedError, ValueError)


class Member(NamedTuple):
    """One regular file inside an archive."""

    name: str
    size: int
    file: Any  # a binary stream; None while only looking


def unpack(archive: Path, folder: Path, max_bytes: int | None = None) -> list[Path]:
    """Unpack an archive into a folder of its own and return the files, sorted.

    The folder appears when everything is unpacked. Raises DataError, and writes nothing, where a
    member is unsafe or all of them have more than `max_bytes` (default: 100 times the archive).
    """
    archive, folder = Path(archive), Path(folder)
    limit = limit_of(archive) if max_bytes is None else max_bytes
    temporary = folder.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}-{folder.name}")
    try:
        check_members(archive, limit)
        temporary.mkdir(parents=True)
        for member in members(archive, limit, opened=True):
            write_member(member, temporary)
        move_into_place(temporary, folder)
    except DataError:
        raise
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the file system, such as a full disk; EINVAL is a seek before the start
        raise refuse(archive, f"a damaged archive ({error})", "download it again") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def limit_of(archive: Path) -> int:
    """Return how many bytes may come out of an archive, those of archives in it included."""
    return min(MAX_BYTES, MAX_RATIO * archive.stat().st_size)


def check_members(archive: Path, limit: int) -> None:
    """Raise DataError at an unsafe name, a repeated name, or more than `limit` bytes in all."""
    names: set[str] = set()
    total = 0
    for member in members(archive, limit, opened=False):
        check_name(archive, member.name)
        if member.name.casefold() in names:
            raise refuse(archive, f"two members are called {member.name!r}")
        names.add(member.name.casefold())
        total += member.size
        if total > limit or len(names) > MAX_MEMBERS:
            raise too_large(archive, limit)


def check_name(archive: Path, name: str) -> None:
    """Raise DataError at a name that, on any system, leads out of its folder or is not a file's."""
    path = PurePosixPath(name)
    unusual = any(ord(character) < 32 or character in '\\:*?"<>|' for character in name)
    device = any(part.split(".")[0].lower() in DEVICES for part in path.parts)
    if unusual or device or path.is_absolute() or ".." in path.parts:
        raise refuse(archive, f"the member {name!r} leads out of its folder")


def members(archive: Path, limit: int, opened: bool) -> Iterator[Member]:
    """Yield the regular files of an archive; raise DataError at links, devices and the like."""
    name = archive.name.lower()
    if name.endswith(".zip"):
        yield from zip_members(archive, opened)
    elif name.endswith((".tar", ".tgz")) or name.removesuffix(archive.suffix.lower()).endswith(
        ".tar"
    ):
        yield from tar_members(archive, limit, opened)
    elif archive.suffix.lower() in PACKED:
        yield from packed_member(archive, limit, opened)
    else:
        raise refuse(archive, "not an archive that is known", f"give one of {', '.join(SUFFIXES)}")


def zip_members(archive: Path, opened: bool) -> Iterator[Member]:
    """Yield the files of a zip; their declared sizes cannot be exceeded in reading."""
    with zipfile.ZipFile(archive) as source:
        for info in source.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refuse(archive, f"the member {info.filename!r} is a link or a device")
            if info.flag_bits & 1:
                raise refuse(archive, f"the member {info.filename!r} is encrypted")
            if info.is_dir():
                check_name(archive, info.filename)
            elif opened:
                with source.open(info) as file:
                    yield Member(info.filename, info.file_size, file)
            else:
                yield Member(info.filename, info.file_size, None)


def tar_members(archive: Path, limit: int, opened: bool) -> Iterator[Member]:
    """Yield the files of a tar, read as a stream that ends at the limit."""
    with open_packed(archive) as raw:
        stream: Any = Limited(raw, limit, archive, extra=1 << 20)  # a tar has headers, too
        with tarfile.open(fileobj=stream, mode="r|") as source:
            for info in source:
                if not (info.isreg() or info.isdir()):
                    raise refuse(archive, f"the member {info.name!r} is a link or a device")
                if info.isdir():
                    check_name(archive, info.name)
                else:
                    yield Member(info.name, info.size, source.extractfile(info) if opened else None)


def packed_member(archive: Path, limit: int, opened: bool) -> Iterator[Member]:
    """Yield the one file of a .gz, .bz2 or .xz; its size is counted, since none is declared."""
    with open_packed(archive) as raw:
        stream = Limited(raw, limit, archive)
        if opened:
            yield Member(archive.stem, 0, stream)
        else:
            while stream.read(1 << 16):
                pass
            yield Member(archive.stem, stream.count, None)


def open_packed(archive: Path) -> BinaryIO:
    """Open a file and unpack it while reading, where its name says that it is packed."""
    return PACKED.get(archive.suffix.lower(), open)(archive, "rb")


class Limited:
    """Read a stream, up to a number of bytes (and `extra` ones that nobody need know of)."""

    def __init__(self, file: BinaryIO, limit: int, archive: Path, extra: int = 0):
        self.file, self.limit, self.extra, self.archive, self.count = file, limit, extra, archive, 0

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.limit + self.extra + 1 - self.count))
        self.count += len(data)
        if self.count > self.limit + self.extra:
            raise too_large(self.archive, self.limit)
        return data


def write_member(member: Member, folder: Path) -> None:
    """Write one member below the folder, as a plain file with the usual rights."""
    path = folder.joinpath(*PurePosixPath(member.name).parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        shutil.copyfileobj(member.file, file)


def move_into_place(temporary: Path, folder: Path) -> None:
    """Give the unpacked folder its name, in place of an older one."""
    if folder.exists():
        older = folder.with_name(f"{temporary.name}-older")
        folder.replace(older)
        temporary.replace(folder)
        shutil.rmtree(older, ignore_errors=True)
    else:
        temporary.replace(folder)


def refuse(archive: Path, what: str, remedy: str = "") -> DataError:
    """Return the error for an archive that is not unpacked."""
    return DataError(
        what, str(archive), remedy or "do not use this archive; get it from its official source"
    )


def too_large(archive: Path, limit: int) -> DataError:
    """Return the error for an archive that grows too much."""
    return refuse(
        archive,
        f"unpacked it would have more than {limit} bytes, or more than {MAX_MEMBERS} files",
        "if you trust it, unpack it yourself and give the files",
    )
