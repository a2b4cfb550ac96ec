"""Finding files: what a path, folder, pattern, archive or data set stands for, once for all."""

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from minigpt.data import archives, discovery
from minigpt.data.discovery import find_files
from minigpt.support.errors import DataError

PICTURE = b"\x89PNG\r\n\x1a\n\x00\x00"


def write(path: Path, data: bytes | str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return path


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this system does not let us make links")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("MINIGPT_DATA", raising=False)
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def names(folder: Path, *words: str) -> list[str]:
    files = find_files([str(folder / word) for word in words])
    return [file.path.relative_to(folder).as_posix() for file in files]


def test_folders_patterns_and_files(tmp_path):
    for name in ("a.txt", "b.csv", "c.tsv", "d.jsonl", "in/e.md", "in/f.TXT"):
        write(tmp_path / name)
    write(tmp_path / "g.png", PICTURE)
    write(tmp_path / "in" / "empty.csv", "")
    whole = ["a.txt", "b.csv", "c.tsv", "d.jsonl", "in/e.md", "in/f.TXT"]
    assert names(tmp_path, ".") == whole
    assert names(tmp_path, "*.[ct]s*") == ["b.csv", "c.tsv"]
    assert names(tmp_path, "**/*.md", "a.txt", "a.txt", "in") == ["in/e.md", "a.txt", "in/f.TXT"]
    assert names(tmp_path, "g.png") == ["g.png"]
    assert names(tmp_path, "**/*.csv") == ["b.csv"], "an empty file that matches is passed over"
    assert sorted(names(tmp_path, "*")) == sorted([*whole, "g.png"])


def test_files_that_were_found_are_taken_as_they_are(tmp_path):
    (file,) = find_files(write(tmp_path / "a.txt"))
    film = find_files([write(tmp_path / f"film.{label}") for label in ("pos", "neg")])
    assert find_files(film[0]) == [film[0]], "its label is kept"
    assert find_files(file) == find_files([file]) == find_files([file, file.path]) == [file]


def test_hidden_files_and_files_about_the_data_are_passed_over(tmp_path):
    for name in ("a.txt", ".b.txt", ".git/c.txt", "__MACOSX/d.txt", "_about.txt", "README.md"):
        write(tmp_path / name)
    write(tmp_path / "LICENSE.txt")
    assert names(tmp_path, ".") == ["a.txt"]
    assert names(tmp_path, "README.md", ".b.txt") == ["README.md", ".b.txt"], "given by name"
    (tmp_path / "a.txt").unlink()
    assert names(tmp_path, "R*") == ["README.md"]
    assert "README.md" in names(tmp_path, "."), "there is nothing else"


def test_texts_with_other_suffixes_count_where_nothing_is_known(tmp_path):
    write(tmp_path / "film.pos")
    write(tmp_path / "film.neg")
    write(tmp_path / "film.png", PICTURE)
    assert [(f.path.name, f.label) for f in find_files(tmp_path)] == [
        ("film.neg", "neg"),
        ("film.pos", "pos"),
    ]
    write(tmp_path / "film.csv")
    assert names(tmp_path, ".") == ["film.csv"]


def test_a_file_that_cannot_be_read_is_not_left_out(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    write(tmp_path / "film.pos")
    monkeypatch.setattr(Path, "open", refuse)
    assert names(tmp_path, ".") == ["film.pos"]


def test_a_name_with_brackets_is_not_a_pattern(tmp_path):
    path = write(tmp_path / "[1].txt")
    assert [file.path for file in find_files(str(path))] == [path]


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("none.txt", "no such file.*check the path given as data.*data list"),
        ("*.none", "no file matches the pattern.*quotes"),
        ("in", r"no data files among 1 files \(found .png\).*\.txt.*\.csv"),
        ("empty.csv", "0 bytes.*give a file with text"),
    ],
)
def test_nothing_found(word, cause, tmp_path):
    write(tmp_path / "in" / "x.png", PICTURE)
    write(tmp_path / "empty.csv", "")
    with pytest.raises(DataError, match=cause):
        find_files(str(tmp_path / word))


def test_a_name_that_is_nearly_right_is_proposed(cache):
    with pytest.raises(DataError, match=r"no such file.*sms_spam.*did you mean sms-spam\?"):
        find_files("sms_spam")


@pytest.mark.skipif(os.name == "nt", reason="there are no such files on Windows")
def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"not a file or folder.*pipe\.txt"):
        find_files(tmp_path / "pipe.txt")


# --- links ---


@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.other"])
def test_a_link_out_of_the_folder_is_refused(name, tmp_path):
    secret = write(tmp_path / name, "secret")
    write(tmp_path / "in" / "a.csv")
    link(tmp_path / "in" / name, secret)
    for word in ("in", "i*"):
        with pytest.raises(DataError, match=rf"leads out of the data folder.*{name}.*copy the fi"):
            find_files(str(tmp_path / word))


def test_links_to_folders_and_inside_are_not_followed(tmp_path):
    write(tmp_path / "other" / "secret.txt", "secret")
    write(tmp_path / "data" / "a.txt")
    link(tmp_path / "data" / "again.txt", tmp_path / "data" / "a.txt")
    link(tmp_path / "data" / "loop", tmp_path / "data")
    link(tmp_path / "data" / "out", tmp_path / "other")
    assert names(tmp_path / "data", ".") == ["a.txt"]


# --- archives and data sets ---


def test_an_archive_is_a_folder_and_is_unpacked_once(tmp_path, cache, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("x/train.tsv", "x/_about.txt", "x/README.md", "__MACOSX/train.tsv"):
            archive.writestr(name, "text")
    (first,) = find_files(tmp_path / "a.zip")
    assert first.path.is_relative_to(cache)
    assert first.place == f"{tmp_path / 'a.zip'}/x/train.tsv", "errors name the user's file"
    monkeypatch.setattr(archives, "unpack", None)
    assert find_files(tmp_path / "a.zip") == [first]
    write(tmp_path / "b.txt")
    assert [file.path.name for file in find_files(tmp_path / "*.*")] == ["train.tsv", "b.txt"]


def test_archives_that_hold_each_other_come_to_an_end(tmp_path, cache, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.zip", "")

    def again(archive: Path, folder: Path, max_bytes: int) -> None:
        write(folder / "a.zip", hashlib.sha256(str(folder).encode()).hexdigest())

    monkeypatch.setattr(discovery.archives, "unpack", again)
    with pytest.raises(DataError, match=r"more than 3 archives inside each other.*a\.zip/a\.zip"):
        find_files(tmp_path / "a.zip")


def test_archives_inside_an_archive_share_one_budget(tmp_path, cache):
    """Each of these is harmless by itself; all together they have no end."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "abcdefgh\n" * 1500)
    middle = io.BytesIO()
    with zipfile.ZipFile(middle, "w") as archive:  # not packed, so that it can be packed well
        for number in range(100):
            archive.writestr(f"{number}.zip", inner.getvalue())
    with zipfile.ZipFile(tmp_path / "outer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("middle.zip", middle.getvalue())
    with pytest.raises(DataError, match=r"unpacked it would have more than"):
        find_files(tmp_path / "outer.zip")
    with zipfile.ZipFile(tmp_path / "few.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"{number}/t.txt", f"text {number}")
    assert len(find_files(tmp_path / "few.zip")) == 3


def test_a_data_set_brings_what_is_known_of_it(data_dir):
    (file,) = find_files("sms-spam")
    assert file.path.name == "sms.tsv"
    assert (file.format, file.columns, file.fields) == ("tsv", ("label", "text"), ("text",))
    assert len(find_files("babi", "test")) >= 5
    assert find_files("sms-spam", "test") == []


def test_the_archive_of_a_data_set_is_unpacked_without_its_notes(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path))
    (file,) = find_files("tatoeba-fra")
    assert file.path.name == "fra.txt"
    assert file.path.is_relative_to(tmp_path)
    assert (file.format, file.columns) == ("tsv", ("english", "french"))


def test_a_path_goes_before_the_name_of_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "names" / "my.txt")
    assert [file.path for file in find_files("names")] == [Path("names/my.txt")]
