"""The registry of public data, and where its files are looked for."""

import dataclasses
import hashlib
import json
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from minigpt.data import sources
from minigpt.data.sources import (
    DataSet,
    SourceFile,
    cache_folder,
    fetch,
    fetch_file,
    find_file,
    find_source,
    is_here,
    load_sources,
    local_files,
)
from minigpt.support.errors import ConfigError, DataError

ALL = load_sources()
FILES = [file for source in ALL.values() for file in source.files]
DATA = b"some data\n"


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A data folder and a cache, both empty."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    monkeypatch.setenv("MINIGPT_DATA", str(data))
    monkeypatch.setenv("MINIGPT_CACHE", str(cache))
    return data, cache


@pytest.fixture
def file() -> SourceFile:
    sha256 = hashlib.sha256(DATA).hexdigest()
    return SourceFile("set/data.txt", "https://data.invalid/x", len(DATA), sha256, 1, "")


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# --- the registry ---


def test_every_address_is_pinned():
    for file in FILES:
        address = urlsplit(file.url)
        assert address.scheme == "https"
        assert re.search("/[0-9a-f]{40}/", address.path), file.url
        assert unquote(address.path) != "" and " " not in file.url  # noqa: PT018
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.bytes > 0
        assert file.split in ("", "train", "validation", "test", "few-shot", "about")


def test_every_path_stays_inside_and_is_unique():
    paths = [file.path for file in FILES]
    assert len(set(paths)) == len(paths)
    assert len({path.casefold() for path in paths}) == len(paths)
    assert all(re.fullmatch(r"[\w.-]+(/[\w.-]+)+", path) and ".." not in path for path in paths)


def test_every_set_has_a_clear_license():
    for source in ALL.values():
        assert source.license
        assert source.license_stated
        assert source.citation
        wrong = r"unclear|non-?commercial|\bNC\b|research use|not for redistribution"
        assert not re.search(wrong, source.license, re.IGNORECASE), source.name


def test_sets_without_a_clear_license_are_left_out():
    assert not {"rt-polarity", "sst2", "ag-news", "chnsenticorp", "multi30k", "triviaqa"} & set(ALL)


def test_every_task_of_the_course_has_a_set():
    tasks = {source.task for source in ALL.values()}
    assert tasks >= {
        "language-modeling",
        "classification",
        "translation",
        "question-answering",
        "summarization",
        "instruction",
        "preference",
        "benchmark",
        "vision",
    }
    assert {source.language for source in ALL.values()} >= {"en", "zh", "en-zh"}


def test_text_fields_are_fields():
    for source in ALL.values():
        assert set(source.text_fields) <= set(source.fields) | {"text"}, source.name


def test_the_registry_agrees_with_the_list_it_was_made_from(data_dir):
    """Same address, size, SHA-256 and license, for every file that both have."""
    path = data_dir / "sources.json"
    if not path.is_file():
        pytest.skip("the data folder has no list of its own")
    listed = json.loads(path.read_text("utf-8"))
    facts = {entry["path"]: entry for entry in listed["files"]}
    facts |= {entry["url"]: entry for entry in listed["not_stored"]}
    for source in ALL.values():
        for file in source.files:
            fact = facts.get(file.path) or facts[file.url]
            assert (file.url, file.bytes, file.sha256) == (
                fact["url"],
                fact["bytes"],
                fact["sha256"],
            )
            stated = fact["licence"].replace("licence", "license")  # the list is British
            assert source.license == stated
            assert file.records == fact["records"]


def test_files_here_are_the_registered_ones(data_dir):
    """The bytes on the disk have the registered SHA-256 (a sample of one file a set)."""
    checked = 0
    for source in ALL.values():
        file = min(source.files, key=lambda file: file.bytes)
        path = data_dir / file.path
        if path.is_file():
            checked += 1
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256, path
    assert checked >= 5


def test_unknown_name_proposes_the_nearest():
    with pytest.raises(ConfigError, match=r"'smsspam'.*did you mean sms-spam\?"):
        find_source("smsspam")
    with pytest.raises(ConfigError, match="data list"):
        find_source("???")


def test_training_files_are_never_those_of_a_test():
    assert [file.path for file in ALL["gsm8k"].training_files()] == ["gsm8k/train.jsonl"]
    assert [file.split for file in ALL["wikitext2"].training_files()] == ["validation"]
    assert [file.path for file in ALL["sms-spam"].training_files()] == ["sms-spam/sms.tsv"]
    assert all(file.split == "train" for file in ALL["babi"].training_files())
    assert ALL["mmlu"].training_files() == ALL["arc-easy"].training_files() == ()
    for source in ALL.values():
        assert not {"test", "few-shot", "about"} & {f.split for f in source.training_files()}


# --- where files are ---


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x/cache"}, "/x/cache/minigpt"),
        ("linux", {}, "HOME/.cache/minigpt"),
        ("darwin", {}, "HOME/Library/Caches/minigpt"),
        ("win32", {"LOCALAPPDATA": "/x/local"}, "/x/local/minigpt"),
        ("linux", {"MINIGPT_CACHE": "/y"}, "/y"),
        ("win32", {"MINIGPT_CACHE": "~/y"}, "HOME/y"),
    ],
)
def test_the_cache_is_where_the_system_keeps_such_things(
    platform, variables, expected, monkeypatch
):
    for name in ("MINIGPT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sources.sys, "platform", platform)
    assert cache_folder().as_posix() == expected.replace("HOME", Path.home().as_posix())


@pytest.mark.parametrize("variable", ["MINIGPT_CACHE", "MINIGPT_DATA"])
def test_the_folder_of_nobody_is_named(variable, monkeypatch):
    monkeypatch.setenv(variable, "~nosuchuser/data")
    with pytest.raises(ConfigError, match=rf"no such user: ~nosuchuser/data — {variable} — give"):
        sources.folders()


def test_a_user_without_a_home_has_a_cache(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("MINIGPT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sources.Path, "home", homeless)
    assert cache_folder().is_relative_to(tempfile.gettempdir())


def test_the_data_folder_comes_first_but_only_if_right(folders, file):
    data, cache = folders
    assert find_file(file) is None
    in_cache = put(cache / file.path, DATA)
    assert find_file(file) == in_cache
    in_data = put(data / file.path, b"damaged !!")
    assert find_file(file) == in_cache
    in_data.write_bytes(DATA)
    assert find_file(file) == in_data


def test_good_file_works_offline(folders, file, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("the network was used")

    put(folders[1] / file.path, DATA)
    monkeypatch.setattr(sources, "download", no_network)
    assert fetch_file(file) == folders[1] / file.path


def test_file_put_by_hand_is_taken(folders, file, monkeypatch):
    """The message of a failed download says where to put the file; from there it works."""

    def fail(url, target, size, sha256, progress):
        raise DataError("no connection", url, f"put it at {target}")

    monkeypatch.setattr(sources, "download", fail)
    with pytest.raises(DataError) as caught:
        fetch_file(file)
    place = Path(str(caught.value).split("put it at ")[1])
    put(place, DATA)
    assert fetch_file(file) == place


def test_damaged_files_are_fetched_again_into_the_cache(folders, file, monkeypatch):
    put(folders[0] / file.path, b"damaged !!")
    put(folders[1] / file.path, b"damaged too")
    asked = []
    monkeypatch.setattr(sources, "download", lambda *words: asked.append(words) or words[1])
    assert fetch_file(file, None) == folders[1] / file.path
    assert asked == [(file.url, folders[1] / file.path, len(DATA), file.sha256, None)]


def test_fetch_a_whole_set(folders, file, monkeypatch):
    source = dataclasses.replace(ALL["names"], files=(file,))
    monkeypatch.setattr(sources, "load_sources", lambda: {"names": source})
    put(folders[1] / file.path, DATA)
    assert fetch("names") == [(file, folders[1] / file.path)]
    assert is_here(source)
    assert local_files("names") == [folders[1] / file.path]


def test_local_files_say_what_is_missing(folders):
    with pytest.raises(DataError, match=r"sms\.tsv is not here.*data download sms-spam"):
        local_files("sms-spam")
    with pytest.raises(DataError, match="benchmark"):
        local_files("mmlu")
    assert not is_here(ALL["sms-spam"])


def test_sources_are_plain_values():
    assert isinstance(ALL["names"], DataSet)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ALL["names"].name = "other"
