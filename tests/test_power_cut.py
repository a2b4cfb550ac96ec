"""The power cut: what is on the disk at any moment is the old state or the new one, and whole.

A disk is imagined that keeps only what was synced to it: of files their content, of folders their
names. It is asked at every sync and at every new name, in two ways. The lazy disk has written
nothing but what it had to; the hasty one has all names already, but no content that was not synced.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import write

from minigpt.batching.token_files import open_tokens, write_tokens
from minigpt.runs.checkpoint import latest_checkpoint, save_checkpoint
from minigpt.support.errors import DataError
from minigpt.support.files import atomic_write

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows does not sync folders")


class Disk:
    """What a folder would hold after a power cut, at each moment of some work."""

    def __init__(self, root: Path):
        self.root = root
        self.names: dict[int, dict[str, int]] = {}  # of a folder, by inode: names and inodes
        self.contents: dict[int, bytes] = {}  # of a file, by inode
        self.folders = {root.stat().st_ino}
        for path in (root, *root.rglob("*")):
            self.sync(path)

    def sync(self, path: Path) -> None:
        """Take a file's content, or a folder's names, as written."""
        inode = path.stat().st_ino
        if path.is_dir():
            self.names[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
            self.folders |= {e.inode() for e in os.scandir(path) if e.is_dir()}
        else:
            self.contents[inode] = path.read_bytes()

    def lazy(self, out: Path, inode: int | None = None) -> None:
        """Write what was synced, and nothing else."""
        out.mkdir()
        for name, held in self.names.get(inode or self.root.stat().st_ino, {}).items():
            if held in self.folders:
                self.lazy(out / name, held)
            else:
                (out / name).write_bytes(self.contents.get(held, b""))

    def hasty(self, out: Path) -> None:
        """Write all names as they are now, and the content that was synced."""
        for path in (self.root, *sorted(self.root.rglob("*"))):
            place = out / path.relative_to(self.root)
            if path.is_dir():
                place.mkdir()
            else:
                place.write_bytes(self.contents.get(path.stat().st_ino, b""))


def cut_at_each_moment(
    monkeypatch, root: Path, work: Callable[[], object], found: Callable[[Path], object]
) -> list[tuple]:
    """Do the work, and return what is found on both disks at each moment and, last, after it."""
    disk, seen = Disk(root), []

    def look() -> None:
        with tempfile.TemporaryDirectory() as folder:
            disk.lazy(Path(folder) / "lazy")
            disk.hasty(Path(folder) / "hasty")
            seen.append((found(Path(folder) / "lazy"), found(Path(folder) / "hasty")))

    def fsync(descriptor: int) -> None:
        number = os.fstat(descriptor).st_ino
        disk.sync(next(p for p in (root, *root.rglob("*")) if p.stat().st_ino == number))
        look()

    def renaming(call):
        def rename(path: Path, target: Path) -> Path:
            new = call(path, target)
            look()
            return new

        return rename

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(Path, "rename", renaming(Path.rename))
        patch.setattr(Path, "replace", renaming(Path.replace))
        work()
    look()
    return seen


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 5), float(step))}


def save(root: Path, step: int) -> None:
    save_checkpoint(root / "run", step, weights(step), weights(step + 1), {"step": step})


def newest(root: Path) -> int:
    """Return the step of the newest whole checkpoint, whose weights must be its own; or 0."""
    found = latest_checkpoint(root / "run", on_skip=lambda line: None)
    if found is None:
        return 0
    assert torch.equal(found.model["w"], weights(found.step)["w"])
    return found.step


def test_a_checkpoint_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    first = cut_at_each_moment(monkeypatch, tmp_path, lambda: save(tmp_path, 1), newest)
    assert {step for pair in first for step in pair} == {0, 1}
    assert first[-1] == (1, 1), "the run's folder is new, too"
    for step in (2, 3):  # the third deletes the first
        seen = cut_at_each_moment(
            monkeypatch, tmp_path, lambda step=step: save(tmp_path, step), newest
        )
        assert {found for pair in seen for found in pair} == {step - 1, step}
        assert seen[-1] == (step, step)
        assert len(seen) >= 8


@pytest.mark.parametrize("forgotten", ["file", "folder"])
def test_a_sync_that_is_left_out_is_noticed(tmp_path, monkeypatch, forgotten):
    def work() -> None:
        sync = os.fsync  # that of the disk

        def forgetful(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == (forgotten == "file"):
                sync(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", forgetful)
            save(tmp_path, 2)

    save(tmp_path, 1)
    lazy, hasty = cut_at_each_moment(monkeypatch, tmp_path, work, newest)[-1]
    assert (lazy, hasty) == ((1, 1) if forgotten == "file" else (1, 2))


def test_a_small_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    write(tmp_path / "a.json", "old")
    seen = cut_at_each_moment(
        monkeypatch,
        tmp_path,
        lambda: atomic_write(tmp_path / "a.json", "new"),
        lambda root: (root / "a.json").read_text("utf-8"),
    )
    assert {text for pair in seen for text in pair} == {"old", "new"}
    assert seen[-1] == ("new", "new")


def test_a_token_file_is_whole_or_refused(tmp_path, monkeypatch):
    def count(root: Path) -> int:
        try:
            return len(open_tokens(root / "t.bin").tokens)
        except DataError:
            return 0

    seen = cut_at_each_moment(
        monkeypatch,
        tmp_path,
        lambda: write_tokens(tmp_path / "t.bin", [[1, 2], [3]], 10, 0),
        count,
    )
    assert {found for pair in seen for found in pair} == {0, 3}
    assert seen[-1] == (3, 3)
