"""Files that survive a crash: the old content or the new, and both names safe on the disk."""

import hashlib
import os
from pathlib import Path

import pytest

from minigpt.support import files
from minigpt.support.files import atomic_write, sha256_file


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Record what reaches the disk and what gets a new name, in order."""
    seen, sync, replace = [], os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        is_folder = os.path.isdir(descriptor)  # noqa: PTH112 - of a descriptor
        seen.append("sync folder" if is_folder else "sync file")
        sync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        seen.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    return seen


def test_text_is_stored_as_utf8_and_bytes_as_they_are(tmp_path):
    atomic_write(tmp_path / "a", "né\n")
    atomic_write(tmp_path / "b", b"\xff\r\n")
    assert (tmp_path / "a").read_bytes() == "né\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\xff\r\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not sync folders")
def test_content_is_on_the_disk_before_the_name_and_the_name_before_we_go_on(tmp_path, calls):
    atomic_write(tmp_path / "a", "new")
    assert calls == ["sync file", "rename", "sync folder"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, fails):
    def fail(*_):
        raise OSError(28, "No space left on device")

    target = tmp_path / "a"
    atomic_write(target, "old")
    monkeypatch.setattr(*((files, "fsync") if fails == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="No space"):
        atomic_write(target, "new")
    assert target.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_hash_of_a_file_longer_than_a_piece(tmp_path):
    data = bytes(range(256)) * (5000)  # 1.28 MB: more than one piece of 1 MiB
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
