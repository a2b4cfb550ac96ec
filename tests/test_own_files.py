"""Files that this package did not write are never replaced, whatever command writes beside them.

And a place that cannot be written to is noticed before the work begins.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers import refused, run, write

from minigpt.commands import data as data_command
from minigpt.commands import evaluate as evaluate_command
from minigpt.commands import finetune as finetune_command
from minigpt.commands import grade as grade_command
from minigpt.commands import pipeline
from minigpt.commands import tokenizer as tokenizer_command
from minigpt.runs.run import REPORT_FILES, RUN_FILES, save_config, tiny
from minigpt.support.errors import ConfigError
from minigpt.support.files import check_writable

SMALL = ["--block-size", 32, "--n-layer", 1, "--n-head", 2, "--n-embd", 8, "--vocab-size", 270]
CHAPTERS = Path(__file__).resolve().parents[1] / "chapters"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write(tmp_path / "my.txt", "".join(f"Line {n} of my own text.\n" for n in range(60)))


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    rows = "".join(f"{n} apples,{n % 2}\n" for n in range(40))
    return write(tmp_path / "my.csv", f"prompt,answer\n{rows}")


@pytest.fixture
def submissions(tmp_path: Path) -> Path:
    return write(tmp_path / "class" / "ada" / "nothing.txt", "").parents[1]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def words_of(command: str, out: Path, text: Path, examples: Path, submissions: Path) -> list:
    """Return a command that writes to `out`, with little to do."""
    grade = ["--submissions", submissions, "--exercises", CHAPTERS / "exercises"]
    return {
        "train": ["train", "--data", text, "--out", out, "--max-steps", 1, *SMALL],
        "quickstart": ["quickstart", "--out", out, "--max-steps", 1],
        "finetune": ["finetune", "--data", examples, "--out", out, "--max-steps", 1, *SMALL],
        "evaluate": ["evaluate", "--checkpoint", "little", "--text", text, "--out", out],
        "bench": ["bench", "--quick", "--out", out],
        "data": ["data", "prepare", text, "--out", out],
        "tokenizer": ["tokenizer", "train", "--data", text, "--out", out / "tokenizer.json"],
        "grade": ["grade", *grade, "--out", out / "gradebook.csv"],
    }[command]


WRITES = {
    "train": RUN_FILES,
    "quickstart": ("report.md",),
    "finetune": ("tokenizer.json", "report.md"),
    "evaluate": REPORT_FILES,
    "bench": ("bench.json", "bench.md"),
    "data": data_command.OUTPUTS,
    "tokenizer": ("tokenizer.json",),
    "grade": ("gradebook.csv", "gradebook_feedback/ada.md"),
}
CASES = [(command, name) for command, names in WRITES.items() for name in names]


@pytest.mark.parametrize(("command", "name"), CASES)
def test_a_users_own_file_stays(capsys, tmp_path, text, examples, submissions, command, name):
    out = tmp_path / "mine"
    own = b'{"mine": 1}\n' if name.endswith("json") else b"# mine\n"
    write(out / name, own)
    write(out / "probe", "mine, too")
    before = contents(out)
    line = refused(capsys, *words_of(command, out, text, examples, submissions))
    assert f"{Path(name).name} is already there" in line
    assert "choose another --out" in line
    assert contents(out) == before


def test_other_files_in_the_directory_stay_and_do_not_matter(capsys, tmp_path, text):
    own = {"probe": "mine", "notes.md": "mine", "model.safetensors": "mine"}
    for name, content in own.items():
        write(tmp_path / "run" / name, content)
    code, _, _ = run(capsys, *words_of("train", tmp_path / "run", text, text, text))
    assert code == 0
    assert {name: (tmp_path / "run" / name).read_text("utf-8") for name in own} == own


def test_every_file_that_training_writes_is_looked_for(capsys, tmp_path, text, examples):
    for command in ("train", "finetune"):
        out = tmp_path / command
        assert run(capsys, *words_of(command, out, text, examples, text))[0] == 0
        assert {path.name for path in out.iterdir()} - {".lock"} <= set(RUN_FILES)


def test_a_start_that_failed_can_be_made_again(capsys, tmp_path, text, examples):
    """The directory is the command's own, so that nothing else must be cleared away."""
    bad, out = write(tmp_path / "bad.txt", b"text \xff"), tmp_path / "run"
    assert "UTF-8" in refused(capsys, *words_of("train", out, bad, text, text))
    assert run(capsys, *words_of("train", out, text, text, text))[0] == 0
    rows = "".join(f"{'abc ' * 99} {n},{n % 2}\n" for n in range(40))
    long, out = write(tmp_path / "long.csv", f"prompt,answer\n{rows}"), tmp_path / "answers"
    assert "--over-long" in refused(capsys, *words_of("finetune", out, text, long, text))
    assert (out / "tokenizer.json").exists()
    assert run(capsys, *words_of("finetune", out, text, examples, text))[0] == 0


def test_an_evaluation_replaces_an_older_one_and_never_a_runs_report(capsys, tmp_path, text):
    out = tmp_path / "run"
    assert run(capsys, *words_of("train", out, text, text, text))[0] == 0
    before = contents(out)
    words = ["evaluate", "--checkpoint", out, "--text", text]
    assert "is a run" in refused(capsys, *words, "--out", out)
    assert contents(out) == before
    for _ in range(2):
        assert run(capsys, *words)[0] == 0
    assert {name: data for name, data in contents(out).items() if name in before} == before


def test_a_runs_tokenizer_is_never_replaced_and_another_when_asked(capsys, tmp_path, text):
    save_config(write(tmp_path / "run" / "tokenizer.json", "{}").parent, tiny())
    words = words_of("tokenizer", tmp_path / "run", text, text, text)
    assert "tokenizer of a run" in refused(capsys, *words, "--overwrite")
    assert (tmp_path / "run" / "tokenizer.json").read_text() == "{}"
    path = write(tmp_path / "tokenizer.json", "{}")
    words = words_of("tokenizer", tmp_path, text, text, text)
    assert "--overwrite" in refused(capsys, *words)
    assert path.read_text() == "{}"
    assert run(capsys, *words, "--overwrite")[0] == 0
    assert "merges" in json.loads(path.read_text("utf-8"))["model"]


def test_a_class_is_graded_again_into_the_same_book(capsys, tmp_path, submissions, text):
    for _ in range(2):
        assert run(capsys, *words_of("grade", tmp_path / "out", text, text, submissions))[0] == 0


# --- a place that cannot be written to ---


WORK = {  # what a command must not have begun when it finds that it cannot write
    "train": (pipeline, "make_tokenizer"),
    "quickstart": (pipeline, "make_tokenizer"),
    "finetune": (finetune_command, "read_sides"),
    "evaluate": (evaluate_command, "evaluated"),
    "data": (data_command, "clean_files"),
    "tokenizer": (tokenizer_command, "open_corpus"),
    "grade": (grade_command, "grade_class"),
}


@pytest.mark.parametrize("command", WORK)
def test_an_unwritable_place_is_noticed_before_the_work(
    capsys, tmp_path, text, examples, submissions, monkeypatch, command
):
    def full(*_):
        raise OSError(28, "No space left on device")

    def work(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr("minigpt.support.files.fsync", full)
    monkeypatch.setattr(*WORK[command], work)
    line = refused(capsys, *words_of(command, tmp_path / "out", text, examples, submissions))
    assert "cannot be written to (No space left on device)" in line
    assert "choose another --out" in line


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_rights_and_files_in_the_way_are_noticed(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="cannot be written to"):
        check_writable(tmp_path / "locked" / "new")


def test_a_probe_leaves_nothing_and_makes_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"Not a directory|is a file"):
        check_writable(write(tmp_path / "file", "x") / "below")
    shutil.rmtree(tmp_path)
