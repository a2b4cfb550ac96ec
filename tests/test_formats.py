"""Every format, in every packing, through every command's reader; and how a format is added."""

import dataclasses
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from minigpt.batching.examples import ExampleConfig, load_examples
from minigpt.batching.prepare import prepare
from minigpt.commands import main
from minigpt.commands.inputs import make_data, make_tokenizer
from minigpt.data import formats
from minigpt.data.cleaning import CleanConfig, clean_files
from minigpt.data.corpora import open_corpus
from minigpt.data.corpus import read_documents
from minigpt.data.decoding import ReadCounts
from minigpt.data.formats import DataFile, Format, ReadConfig, Row, format_of
from minigpt.runs.run import RunConfig
from minigpt.support.errors import DataError
from minigpt.tokenizer import CharTokenizer

ROWS = [{"text": f"Film {n} was {'good' if n % 3 else 'bad'}.", "label": n % 3} for n in range(300)]
TEXTS = [row["text"] for row in ROWS]
TOKENIZER = CharTokenizer.train(TEXTS)


def content(suffix: str, rows: list[dict]) -> str:
    """Return records as a file of a format."""
    if suffix == ".json":
        return json.dumps(rows)
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    if suffix == ".toy":
        return "".join(f"{row['label']}!{row['text']}\n" for row in rows)
    comma = {".csv": ",", ".tsv": "\t"}[suffix]
    lines = [comma.join(map(str, row.values())) for row in rows]
    return "\n".join([comma.join(rows[0]), *lines]) + "\n"


def packed(folder: Path, suffix: str, packing: str) -> str:
    """Write ROWS as one file, or two in a folder or archive; return the word that names them."""
    files = {f"a{suffix}": content(suffix, ROWS)}
    if packing != "file":
        halves = (ROWS[:100], ROWS[100:])
        files = {f"{n}{suffix}": content(suffix, half) for n, half in enumerate(halves)}
    (folder / "data" / "deep").mkdir(parents=True)
    if packing == "archive":
        with zipfile.ZipFile(folder / "data.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(f"deep/{name}", text)
        return str(folder / "data.zip")
    for name, text in files.items():
        (folder / "data" / "deep" / name).write_text(text, "utf-8", newline="\n")
    words = {
        "file": f"data/deep/a{suffix}",
        "folder": "data",
        "pattern": f"data/**/*{suffix}",
    }
    return str(folder / words[packing])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))


def prepared_texts(word: str, out: Path) -> list[str]:
    """Return the documents of both token files."""
    prepared = prepare(word, TOKENIZER, out)
    sides = [TOKENIZER.decode(file.tokens) for file in (prepared.train, prepared.validation)]
    return [text for side in sides for text in side.split("<|endoftext|>")[:-1]]


KINDS = [".csv", ".tsv", ".jsonl", ".json"]
PACKINGS = ["file", "folder", "pattern", "archive"]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("suffix", KINDS)
def test_every_command_reads_the_same(suffix, packing, tmp_path):
    word = packed(tmp_path, suffix, packing)
    assert sorted(prepared_texts(word, tmp_path / "out")) == sorted(TEXTS)
    assert list(open_corpus(word).texts()) == list(read_documents(word)) == TEXTS
    examples, skipped = load_examples(word, ExampleConfig())
    expected = [(row["text"], str(row["label"])) for row in ROWS]
    assert [tuple(m["content"] for m in example.messages) for example in examples] == expected
    assert skipped == 0
    cleaned = clean_files(word, CleanConfig(near=0))
    both = [{**row, "label": int(row["label"])} for row in (*cleaned.train, *cleaned.validation)]
    assert sorted(both, key=str) == sorted(ROWS, key=str)


@pytest.mark.parametrize("packing", PACKINGS)
def test_plain_texts_are_documents_or_labeled_lines(packing, tmp_path):
    (tmp_path / "data").mkdir()
    parts = {"bad.txt": TEXTS[::3], "good.txt": [text for text in TEXTS if "good" in text]}
    word = {"folder": "data", "pattern": "d*/*.txt", "archive": "data.zip"}.get(packing)
    if packing == "file":
        word, parts = "data/all.txt", {"all.txt": TEXTS}
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for name, lines in parts.items():
            text = "".join(line + "\n" for line in lines)
            (tmp_path / "data" / name).write_text(text, "utf-8", newline="\n")
            archive.writestr(name, text)
    path = str(tmp_path / str(word))
    tokenizer = CharTokenizer.train(["\n".join(TEXTS)])
    prepared = prepare(path, tokenizer, tmp_path / "out")
    n_documents = prepared.counts.documents
    assert (n_documents, prepared.counts.characters) == (len(parts), sum(map(len, TEXTS)) + 300)
    if packing == "file":  # its name is no answer
        with pytest.raises(DataError, match=r"lines without answers.*'all'.*train --data all\.txt"):
            load_examples(path, ExampleConfig())
        return
    examples, _ = load_examples(path, ExampleConfig())
    found = {(e.messages[0]["content"], e.messages[1]["content"]) for e in examples}
    assert found == {(line, name[:-4]) for name, lines in parts.items() for line in lines}


def test_the_same_examples_come_out_of_every_format_and_packing(tmp_path):
    found = []
    for suffix in KINDS:
        for packing in PACKINGS:
            folder = tmp_path / f"{suffix[1:]}-{packing}"
            examples, _ = load_examples(packed(folder, suffix, packing), ExampleConfig())
            found.append([(example.messages, example.key) for example in examples])
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("suffix", KINDS)
def test_errors_name_the_file_that_the_user_knows(suffix, tmp_path):
    rows = [*ROWS[:3], {"text": " ", "label": "x"}]
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr(f"in/my{suffix}", content(suffix, rows))
    place = "item 4" if suffix == ".json" else f"line {4 if suffix == '.jsonl' else 5}"
    for read in (
        lambda word: prepare(word, TOKENIZER, tmp_path / "out"),
        lambda word: load_examples(word, ExampleConfig()),
    ):
        with pytest.raises(DataError, match=r"[Ee]mpty") as error:
            read(tmp_path / "data.zip")
        assert error.value.where == f"{tmp_path / 'data.zip'}/in/my{suffix}, {place}"


def test_one_percent_is_one_rule(tmp_path):
    """The same file, with the same bad records, for a text, for examples and for cleaning."""
    bad = {"text": " \n", "label": ""}
    for n_bad, is_refused in ((3, False), (4, True)):
        path = tmp_path / "a.jsonl"
        path.write_text(content(".jsonl", [*ROWS[:297], *[bad] * n_bad]), "utf-8")
        path.write_text(path.read_text("utf-8").replace('" \\n"', '{"no": "text"}'), "utf-8")
        for read in (
            lambda p: prepare(p, TOKENIZER, tmp_path / "out", skip_bad=True).counts.skipped,
            lambda p: load_examples(p, ExampleConfig(skip_bad=True))[1],
            lambda p: clean_files(p, CleanConfig(skip_bad=True)).counts.skipped,
        ):
            if is_refused:
                with pytest.raises(DataError, match=r"4 of 301 records are bad.*line 298"):
                    read(path)
            else:
                assert read(path) == n_bad


# --- a new format ---


def read_toy(file: DataFile, config: ReadConfig, counts: ReadCounts) -> Iterator[Row]:
    """Read lines such as "1!Film 7 was good."."""
    for number, line in enumerate(file.path.read_text("utf-8").splitlines(), start=1):
        label, mark, text = line.partition("!")
        where = f"{file.place}, line {number}"
        yield where, {"text": text, "label": label} if mark else DataError("no !", where, "add it")


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_format_of_the_table_is_read_by_every_command(packing, tmp_path, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "toy", Format(frozenset({".toy"}), read_toy))
    test_every_command_reads_the_same(".toy", packing, tmp_path)
    word = str(tmp_path / ("data.zip" if packing == "archive" else "data"))
    assert clean_files(word, CleanConfig(format="toy")).steps[0].documents == 300


def test_bad_records_of_a_new_format_are_named_and_left_out(tmp_path, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "toy", Format(frozenset({".toy"}), read_toy))
    path = tmp_path / "a.toy"
    path.write_text(content(".toy", ROWS) + "bad\n", "utf-8")
    with pytest.raises(DataError, match=r"no ! — .*a\.toy, line 301 — add it"):
        prepare(path, TOKENIZER, tmp_path / "out")
    assert prepare(path, TOKENIZER, tmp_path / "out", skip_bad=True).counts.skipped == 1
    assert load_examples(path, ExampleConfig(skip_bad=True))[1] == 1


def test_a_format_is_told_by_its_suffix_or_known_before():
    assert format_of(DataFile(Path("a.JSONL"), "")) == "jsonl"
    assert format_of(DataFile(Path("a.other"), "")) == "text"
    assert format_of(DataFile(Path("a.txt"), "", format="tsv")) == "tsv"
    assert format_of(DataFile(Path("a.json"), "", format="squad")) == "json"


# --- commands ---


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_run_learns_from_any_file(packing, tmp_path, capsys):
    word = packed(tmp_path, ".csv", packing)
    config = RunConfig(data=word, tokenizer="char", validation_fraction=0.2)
    tokenizer = make_tokenizer(tmp_path, config, resume=False)
    data = make_data(tmp_path, config, tokenizer, resume=False)
    sides = [tokenizer.decode(file.tokens) for file in (data.train, data.validation)]
    assert sorted("".join(sides).split("<|endoftext|>")[:-1]) == sorted(TEXTS)
    assert "300 documents" in capsys.readouterr().err
    again = make_data(tmp_path, dataclasses.replace(config, data="gone"), tokenizer, resume=True)
    assert again.train.sha256 == data.train.sha256, "a resumed run does not read its text again"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_tokenizer_learns_from_any_file(suffix, tmp_path, capsys):
    word = packed(tmp_path, suffix, "archive")
    out = tmp_path / "tokenizer.json"
    assert main(["tokenizer", "train", "--data", word, "--kind", "char", "--out", str(out)]) == 0
    capsys.readouterr()
    other = str(tmp_path / "other.json")
    code = main(["tokenizer", "train", "--data", word, "--field", "body", "--out", other])
    assert code == 1
    error = capsys.readouterr().err
    assert "body" in error and "label" in error and "--field" in error  # noqa: PT018
    assert f"data.zip/deep/0{suffix}, line 1" in error
