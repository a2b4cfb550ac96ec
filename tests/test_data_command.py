"""`data list | download | verify | prepare`, as a user meets them."""

import dataclasses
import hashlib
import json
from pathlib import Path

import helpers
import pytest
from local_server import Server, send, status

from minigpt.commands import data
from minigpt.data import discovery, sources
from minigpt.data.sources import DataSet, SourceFile, load_sources
from minigpt.support.errors import ConfigError, DataError

SENTENCES = [f"Sentence {n} speaks of {n * 7} apples and {n * n} pears." for n in range(300)]
TABLE = "".join(f"{'ham' if n % 3 else 'spam'}\t{text}\n" for n, text in enumerate(SENTENCES))
RAW = TABLE.encode("utf-8")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no data folder."""
    monkeypatch.delenv("MINIGPT_DATA", raising=False)
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(server: Server, cache: Path, monkeypatch) -> DataSet:
    """A data set like sms-spam, at the local server, as the only one that is known."""
    sha256 = hashlib.sha256(RAW).hexdigest()
    file = SourceFile("toy/toy.tsv", server.url, len(RAW), sha256, 300, "")
    source = dataclasses.replace(load_sources()["sms-spam"], name="toy", files=(file,))
    for module in (sources, discovery, data):
        monkeypatch.setattr(module, "load_sources", lambda: {"toy": source})
    return source


def serve_table(handler) -> None:
    send(handler, RAW)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# --- public data ---


def test_list_shows_every_set_with_its_license(cache, capsys):
    assert data.main(["list"]) == 0
    out = capsys.readouterr().out
    for source in load_sources().values():
        assert source.name in out
        assert source.license in out


def test_list_one_task_and_one_set(cache, capsys):
    assert data.main(["list", "--task", "translation"]) == 0
    out = capsys.readouterr().out
    assert "tatoeba-cmn" in out
    assert "sms-spam" not in out
    assert data.main(["list", "sms-spam"]) == 0
    out = capsys.readouterr().out
    (file,) = load_sources()["sms-spam"].files
    assert file.url in out
    assert file.sha256 in out
    assert "Almeida" in out
    with pytest.raises(ConfigError, match=r"'cooking'.*choose from.*translation"):
        data.main(["list", "--task", "cooking"])


def test_download_verify_prepare(toy, server, cache, tmp_path, capsys):
    server.script = [serve_table]
    assert data.main(["download", "toy"]) == 0
    out = capsys.readouterr().out
    assert str(cache / "toy" / "toy.tsv") in out
    assert toy.license in out
    assert data.main(["download", "toy"]) == 0
    assert len(server.requests) == 1
    assert data.main(["verify"]) == 0
    assert data.main(["prepare", "toy", "--out", str(tmp_path / "out")]) == 0
    rows = read(tmp_path / "out" / "train.jsonl") + read(tmp_path / "out" / "validation.jsonl")
    assert sorted(row["text"] for row in rows) == sorted(SENTENCES)
    assert {row["label"] for row in rows} == {"ham", "spam"}


def test_failed_download_helps_and_others_go_on(toy, server, cache, capsys):
    server.script = [status(404), serve_table]
    assert data.main(["download", "toy", "toy"]) == 1
    out, err = capsys.readouterr()
    assert "404" in err
    assert f"put it at {cache / 'toy' / 'toy.tsv'}" in err
    assert "1 files could not be downloaded" in err
    assert str(cache / "toy" / "toy.tsv") in out


def test_verify_finds_damage(toy, cache, capsys):
    path = cache / "toy" / "toy.tsv"
    assert data.main(["verify"]) == 0
    assert "nothing is here yet: data download" in capsys.readouterr().out
    assert data.main(["verify", "toy"]) == 1
    assert f"missing  {path}" in capsys.readouterr().out
    path.parent.mkdir(parents=True)
    path.write_bytes(RAW.replace(b"apples", b"APPLES", 1))
    assert data.main(["verify"]) == 1
    out, err = capsys.readouterr()
    assert f"DAMAGED  {path}" in out
    assert "data download" in err
    path.write_bytes(RAW)
    assert data.main(["verify", "toy"]) == 0
    assert f"ok       {path}" in capsys.readouterr().out


def test_prepare_says_how_to_get_a_set(toy, cache, tmp_path):
    with pytest.raises(DataError, match=r"toy\.tsv is not here.*data download toy"):
        data.main(["prepare", "toy", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["prepare", "mmlu"], ["prepare", "xquad"]])
def test_prepare_refuses_what_is_not_for_training(words, data_dir, tmp_path):
    with pytest.raises(DataError, match=r"benchmark.*evaluate takes it|form.*finetune"):
        data.main([*words, "--out", str(tmp_path / "out")])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "sms-spam",
        pytest.param("tang-poems", marks=pytest.mark.slow),
        "instruction-1100",
        "the-verdict",
    ],
)
def test_prepare_real_sets(name, data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    assert data.main(["prepare", name, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    if name == "sms-spam":
        (row,) = (line for line in out.splitlines() if "without exact repeats" in line)
        assert row.split()[-1] == "403"
    rows = [read(tmp_path / "out" / f"{side}.jsonl") for side in ("train", "validation")]
    assert all(rows)
    source = load_sources()[name]
    sheet = (tmp_path / "out" / "datasheet.md").read_text("utf-8")
    assert source.license in sheet
    assert source.citation in sheet
    assert source.files[0].sha256 in sheet
    assert set(rows[0][0]) >= set(source.text_fields or ["text"])


# --- one's own text ---


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own" / "my.txt"
    path.parent.mkdir()
    path.write_text("\n".join([*SENTENCES, *SENTENCES[:7]]), "utf-8", newline="\n")
    return path


def test_prepare_prints_what_each_step_removed(own, tmp_path, capsys):
    out = tmp_path / "out"
    assert data.main(["prepare", str(own), "--separator", "\\n", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    (row,) = (line for line in printed if line.startswith("without exact repeats"))
    assert row.split()[-3:][0] == "300"
    assert row.split()[-1] == "7"
    sheet = (out / "datasheet.md").read_text("utf-8")
    assert all(line in sheet for line in printed if "without" in line)
    for name in ("train.jsonl", "validation.jsonl"):
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() in sheet
    assert hashlib.sha256(own.read_bytes()).hexdigest() in sheet
    assert str(tmp_path) not in sheet


def test_prepare_patterns_and_several_files(own, tmp_path, capsys):
    (own.parent / "b.csv").write_text("text\n" + "\n".join(SENTENCES[:5]), "utf-8")
    words = [str(own.parent / "*.txt"), str(own.parent / "b.csv"), "--separator", "\\n"]
    assert data.main(["prepare", *words, "--out", str(tmp_path / "out")]) == 0
    assert "312" in capsys.readouterr().out.splitlines()[1]


def test_prepared_files_are_kept_unless_told(own, tmp_path):
    words = ["prepare", str(own), "--out", str(tmp_path / "out")]
    assert data.main(words) == 0
    (tmp_path / "out" / "train.jsonl").write_text("mine", "utf-8")
    with pytest.raises(ConfigError, match=r"train\.jsonl is already there.*--overwrite"):
        data.main(words)
    assert (tmp_path / "out" / "train.jsonl").read_text("utf-8") == "mine"
    assert data.main([*words, "--overwrite"]) == 0
    assert (tmp_path / "out" / "train.jsonl").read_text("utf-8") != "mine"


def test_out_that_cannot_be(own, tmp_path):
    for out, cause in ((own, "is a file"), (own.parent / "out", "in a folder that is read")):
        with pytest.raises(ConfigError, match=cause):
            data.main(["prepare", str(own.parent), "--out", str(out)])
    prepared = tmp_path / "out"
    data.main(["prepare", str(own), "--out", str(prepared)])
    words = ["prepare", str(prepared / "train.jsonl"), "--out", str(prepared), "--overwrite"]
    with pytest.raises(ConfigError, match="read and written"):
        data.main(words)


def test_prepared_text_can_be_read_again(own, tmp_path):
    from minigpt.data.corpus import read_documents

    data.main(["prepare", str(own), "--separator", "\\n", "--out", str(tmp_path / "out")])
    documents = [*read_documents(tmp_path / "out" / "train.jsonl")]
    documents += read_documents(tmp_path / "out" / "validation.jsonl")
    assert sorted(documents) == sorted(SENTENCES)


def test_a_bad_file_leaves_no_output(own, tmp_path):
    own.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DataError):
        data.main(["prepare", str(own), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# --- words ---


@pytest.mark.parametrize("words", [[], ["downlod"], ["--out", "x"]])
def test_no_such_action(words):
    with pytest.raises(ConfigError, match=r"no action.*write data list\|download\|verify\|prepare"):
        data.main(words)


def test_no_names(tmp_path):
    with pytest.raises(ConfigError, match=r"no data set named.*data list"):
        data.main(["download"])
    with pytest.raises(ConfigError, match=r"no files given.*give files"):
        data.main(["prepare", "--out", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match=r"did you mean sms-spam"):
        data.main(["download", "sms_spam"])


@pytest.mark.parametrize("action", data.ACTIONS)
def test_every_action_explains_itself(action, capsys):
    with pytest.raises(SystemExit) as ended:
        data.main([action, "--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out
    assert data.main(["--help"]) == 0


def test_a_field_of_a_plain_text_is_named(capsys, tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("One text.\nAnother one.\n" * 20, encoding="utf-8")
    line = helpers.refused(
        capsys, "data", "prepare", path, "--field", "body", "--out", tmp_path / "out"
    )
    assert "no field 'body'" in line
    assert "--field — leave it out" in line
    assert not (tmp_path / "out").exists()
