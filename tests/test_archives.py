"""Hostile archives: refused before anything is written, and good ones unpacked whole."""

import bz2
import gzip
import io
import lzma
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from minigpt.data import archives
from minigpt.data.archives import unpack
from minigpt.support.errors import DataError

NOISE = random.Random(0).randbytes(20_000)
SYMLINK = (stat.S_IFLNK | 0o777) << 16
DEVICE = (stat.S_IFCHR | 0o666) << 16


def make_zip(path: Path, *members: tuple[str, bytes], attributes: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes
            file.writestr(info, data)
    return path


def make_tar(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, "/etc/passwd"
            file.addfile(info, io.BytesIO(data))
    return path


MAKERS: dict[str, Callable] = {"zip": make_zip, "tar": make_tar, "tar.gz": make_tar}


def refused(archive: Path) -> str:
    """Unpack over an older folder; return the message, having checked that nothing changed."""
    home = archive.parent / "home"
    folder = home / "out"
    folder.mkdir(parents=True)
    (folder / "previous").write_bytes(b"good")
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(DataError) as caught:
        unpack(archive, folder, max_bytes=1_000_000)
    assert sorted(archive.parent.rglob("*")) == before
    assert (folder / "previous").read_bytes() == b"good"
    assert str(archive) in str(caught.value)
    return str(caught.value)


# --- good ones ---


@pytest.mark.parametrize("kind", MAKERS)
def test_members_are_unpacked_in_place_of_older_ones(kind, tmp_path):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", ("b/two.txt", b"2" * 500), ("one.txt", b"1"))
    for _ in range(2):
        found = unpack(archive, tmp_path / "new" / "out", max_bytes=1000)
        assert [path.relative_to(tmp_path / "new" / "out").as_posix() for path in found] == [
            "b/two.txt",
            "one.txt",
        ]
        assert [path.read_bytes() for path in found] == [b"2" * 500, b"1"]
        found[0].write_bytes(b"changed")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_one_packed_file(suffix, pack, tmp_path):
    archive = tmp_path / f"lines.txt{suffix}"
    archive.write_bytes(pack.compress(b"line\n" * 100))
    (path,) = unpack(archive, tmp_path / "out")
    assert path.name == "lines.txt"
    assert path.read_bytes() == b"line\n" * 100


def test_folders_and_plain_rights(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name in ("./", "./inner"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            file.addfile(info)
        info = tarfile.TarInfo("./inner/run.sh")
        info.size, info.mode = 2, 0o7777
        file.addfile(info, io.BytesIO(b"hi"))
    (path,) = unpack(tmp_path / "a.tar", tmp_path / "out", 100)
    assert path.relative_to(tmp_path / "out").as_posix() == "inner/run.sh"
    assert not path.stat().st_mode & stat.S_ISUID


def test_real_archives(data_dir, tmp_path):
    (about, pairs) = unpack(data_dir / "tatoeba-fra" / "fra-eng.zip", tmp_path / "fra")
    assert (about.name, pairs.name) == ("_about.txt", "fra.txt")
    assert pairs.stat().st_size == 10_009_515
    (images,) = unpack(data_dir / "mnist-t10k" / "t10k-images-idx3-ubyte.gz", tmp_path / "mnist")
    assert images.stat().st_size == 16 + 10_000 * 28 * 28


# --- hostile ones ---

NAMES = [
    "../x",
    "a/../../x",
    "/etc/x",
    "C:x",
    "C:/x",
    "..\\x",
    "\\\\host\\x",
    "a\nb",
    "x:stream",
    "con",
    "a/NUL.txt",
]


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", NAMES)
def test_member_that_leads_out(kind, name, tmp_path):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", ("good.txt", b"x"), (name, b"x"))
    message = refused(archive)
    assert "leads out of its folder" in message
    assert "official source" in message


@pytest.mark.parametrize("attributes", [SYMLINK, DEVICE, (stat.S_IFIFO | 0o666) << 16])
def test_zip_with_link_or_device(attributes, tmp_path):
    archive = make_zip(tmp_path / "a.zip", ("good", b"/etc/passwd"), attributes=attributes)
    assert "'good' is a link or a device" in refused(archive)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_tar_with_link_or_device(kind, tmp_path):
    assert "is a link or a device" in refused(make_tar(tmp_path / "a.tar", ("x", b""), kind=kind))


@pytest.mark.parametrize("kind", MAKERS)
def test_folder_member_that_leads_out(kind, tmp_path):
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        make_zip(archive, ("../out/", b""))
    else:
        make_tar(archive, ("../out", b""), kind=tarfile.DIRTYPE)
    assert "leads out" in refused(archive)


@pytest.mark.parametrize("kind", MAKERS)
def test_same_name_twice(kind, tmp_path):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", ("a.txt", b"1"), ("A.TXT", b"2"))
    assert "two members are called 'A.TXT'" in refused(archive)


@pytest.mark.parametrize("kind", MAKERS)
def test_bomb(kind, tmp_path):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", *[(f"{n}", bytes(400_000)) for n in range(3)])
    message = refused(archive)
    assert "more than 1000000 bytes" in message
    assert "unpack it yourself" in message


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_packed_bomb_is_not_read_to_its_end(suffix, pack, tmp_path, monkeypatch):
    archive = tmp_path / f"a{suffix}"
    archive.write_bytes(pack.compress(bytes(20_000_000)))
    counts = []

    def read(self, size: int, original=archives.Limited.read) -> bytes:
        try:
            return original(self, size)
        finally:
            counts.append(self.count)

    monkeypatch.setattr(archives.Limited, "read", read)
    assert "more than 1000000 bytes" in refused(archive)
    assert max(counts) == 1_000_001


def test_default_limit_is_a_ratio(tmp_path):
    bomb = make_zip(tmp_path / "a.zip", ("zeros", bytes(10_000_000)))
    with pytest.raises(DataError, match="would have more than"):
        unpack(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tar_header_that_announces_a_long_name(tmp_path):
    """A name of a gigabyte must not be read into memory."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 30_000_000
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(30):
            file.write(b"a" * 1_000_000)
    assert "more than 1000000 bytes" in refused(tmp_path / "a.tar.gz")


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 5)
    archive = make_zip(tmp_path / "a.zip", *[(f"{n}", b"") for n in range(6)])
    assert "more than 5 files" in refused(archive)


def test_zip_that_lies_about_sizes(tmp_path):
    archive = make_zip(tmp_path / "a.zip", ("zeros", bytes(5_000_000)))
    raw = archive.read_bytes()
    lie = raw.replace((5_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert lie != raw
    archive.write_bytes(lie)
    assert "damaged archive" in refused(archive)


def test_encrypted(tmp_path):
    archive = make_zip(tmp_path / "a.zip", ("x", b"secret"))
    raw = bytearray(archive.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + at] |= 1
    archive.write_bytes(raw)
    assert "the member 'x' is encrypted" in refused(archive)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.gz", "a.bz2", "a.xz"])
@pytest.mark.parametrize("data", [b"not an archive at all", NOISE[:5000]])
def test_damaged(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    message = refused(tmp_path / name)
    assert "damaged archive" in message
    assert "download it again" in message


@pytest.mark.parametrize("kind", MAKERS)
def test_truncated(kind, tmp_path):
    archive = MAKERS[kind](tmp_path / f"a.{kind}", ("x", NOISE))
    archive.write_bytes(archive.read_bytes()[:9000])
    assert "damaged archive" in refused(archive)


@pytest.mark.parametrize("kind", MAKERS)
def test_changed_bytes_are_refused_or_harmless(kind, tmp_path):
    """Change single bytes of good archives: either an error of ours, or plain files inside."""
    draw = random.Random(kind)
    archive = MAKERS[kind](tmp_path / f"a.{kind}", ("b/two.txt", b"2" * 400), ("one.txt", b"1"))
    good = archive.read_bytes()
    refusals = 0
    for _ in range(100):
        changed = bytearray(good)
        changed[draw.randrange(len(good))] = draw.randrange(256)
        archive.write_bytes(changed)
        try:
            found = unpack(archive, tmp_path / "out", max_bytes=10_000)
            assert all(path.is_relative_to(tmp_path / "out") for path in found)
        except DataError:
            refusals += 1
        assert {path.name for path in tmp_path.iterdir()} <= {archive.name, "out"}
    assert refusals > 0


def test_unknown_kind(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    message = refused(tmp_path / "a.rar")
    assert "not an archive that is known" in message
    assert ".zip" in message
