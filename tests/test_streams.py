"""Odd surroundings: closed streams, names that are not UTF-8, no home, narrow consoles, Ctrl-C.

Each command is a process of its own here, as a shell would start it.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import refused, run, write

from minigpt import commands
from minigpt.commands import finetune
from minigpt.commands.arguments import gathered
from minigpt.commands.chat import ChatCommand
from minigpt.commands.data import Prepare
from minigpt.commands.train import TrainCommand
from minigpt.support import console, signals

ROOT = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a line of shell in which `minigpt` is the command line; binary output."""
    called = line.replace("minigpt ", f'"{sys.executable}" -m minigpt ')
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        called, shell=True, cwd=cwd, env=variables, capture_output=True, timeout=120, check=False
    )


@POSIX
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "words", ["--help", "data list", "nonsense", "tokenizer show --tokenizer no.json --text x"]
)
def test_closed_streams_neither_break_a_command_nor_reach_its_files(tmp_path, words, closed):
    found = shell(f"minigpt {words} {closed}", tmp_path)
    assert found.returncode in (0, 1, 2)
    assert found.returncode == shell(f"minigpt {words}", tmp_path).returncode
    assert b"Traceback" not in found.stderr
    assert b"Exception ignored" not in found.stderr
    assert not list(tmp_path.iterdir())


@POSIX
def test_what_is_printed_with_a_closed_stdout_does_not_end_in_a_file(tmp_path):
    text = write(tmp_path / "t.txt", "One line.\nAnother line.\n" * 20)
    words = f"minigpt tokenizer train --data {text} --vocab-size 260 --out t.json >&- 2>&- <&-"
    assert shell(words, tmp_path).returncode == 0
    assert (tmp_path / "t.json").read_bytes().startswith(b"{")


@POSIX
def test_a_full_stdout_is_one_line(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    found = shell("minigpt data list > /dev/full", tmp_path)
    assert found.returncode == 1
    assert found.stderr.count(b"\n") == 1
    assert found.stderr.startswith(b"error: No space left on device")


@POSIX
def test_chat_without_stdin_ends_like_at_the_end_of_a_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    console.prepare_streams()
    with pytest.raises(EOFError):
        input()


@POSIX
@pytest.mark.parametrize("command", sorted(commands.COMMANDS))
def test_a_name_that_is_not_utf8_is_refused_before_the_work(capsys, command):
    line = refused(capsys, command, "--data", os.fsdecode(b"caf\xe9.txt"))
    assert "not UTF-8" in line
    assert "caf\\\\udce9.txt" in ascii(line) or "caf\\udce9.txt" in line
    assert "rename it" in line


@POSIX
def test_a_language_that_is_not_utf8_names_the_setting_that_helps(tmp_path):
    write(tmp_path / "数据.json", "{}")
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    found = shell("minigpt tokenizer show --tokenizer 数据.json --text x", tmp_path, **plain)
    assert found.returncode == 2
    assert b"set PYTHONUTF8=1" in found.stderr
    found = shell(
        "minigpt tokenizer show --tokenizer 数据.json --text x",
        tmp_path,
        **plain | {"PYTHONUTF8": "1"},
    )
    assert found.returncode == 1
    assert "数据.json".encode() in found.stderr


@pytest.mark.parametrize("width", [0, 1, 3, 5])
def test_help_ends_on_a_narrow_console(tmp_path, width):
    found = shell("minigpt tokenizer train --help", tmp_path, COLUMNS=str(width))
    assert found.returncode == 0
    assert b"--vocab-size" in found.stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "memory is full"),
        (RecursionError(), "nested too deeply"),
        (OSError(28, "No space left on device", "x"), "No space left on device"),
    ],
)
def test_what_a_command_may_raise_is_one_line(capsys, monkeypatch, error, said):
    def fail(_):
        raise error

    monkeypatch.setattr("minigpt.commands.data.main", fail)
    monkeypatch.setattr("minigpt.commands.silence_stdout", lambda silence=True: None)
    assert said in refused(capsys, "data", "list")


# --- flags ---


@pytest.mark.parametrize(
    ("kind", "given", "gathered_words"),
    [
        (ChatCommand, "--message A --message B", "--message A B"),
        (ChatCommand, "--message A --seed 3 --message=B C", "--message A B C --seed 3"),
        (ChatCommand, "--seed 3 --seed 4", "--seed 3 --seed 4"),
        (ChatCommand, "--logit_bias 3 4 --logit-bias 5 6", "--logit-bias 3 4 5 6"),
        (TrainCommand, "tiny --out a", "tiny --out a"),
        (Prepare, "a b --out c", "a b --out c"),
    ],
)
def test_a_flag_that_takes_several_may_be_given_several_times(kind, given, gathered_words):
    assert gathered(given.split(), kind) == gathered_words.split()


# --- Ctrl-C ---


def test_ctrl_c_in_the_report_of_fine_tuning_ends_it_and_resume_makes_it(
    capsys, tmp_path, monkeypatch
):
    rows = "".join(f"{n} apples,{n % 2}\n" for n in range(40))
    data, real = write(tmp_path / "my.csv", f"prompt,answer\n{rows}"), finetune.score_examples

    def interrupted(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return real(*arguments, **options)

    words = ["finetune", "--data", data, "--out", tmp_path / "run", "--max-steps", 1]
    words += ["--n-layer", 1, "--n-head", 2, "--n-embd", 8, "--vocab-size", 270]
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "score_examples", interrupted)
        code, _, _ = run(capsys, *words)
    assert code == 130
    assert not (tmp_path / "run" / "report.md").exists()
    code, _, err = run(capsys, "finetune", "--out", tmp_path / "run", "--resume")
    assert code == 0, err
    assert (tmp_path / "run" / "report.md").exists()


def test_grading_stops_after_the_students_at_work_and_keeps_their_grades(
    capsys, tmp_path, monkeypatch
):
    for name in ("ada", "bob", "eve"):
        write(tmp_path / "class" / name / "nothing.txt", "")

    def graded(student, *_):
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 5
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        return Grade(student)

    from minigpt.classroom import Grade, book
    from minigpt.commands import grade

    real = signals.stop_on_signals
    flags = []

    import contextlib

    @contextlib.contextmanager
    def watched(promise):
        with real(promise) as flag:
            flags.append(flag)
            yield flag

    def stop():
        return flags and flags[0]()

    monkeypatch.setattr(grade, "stop_on_signals", watched)
    monkeypatch.setattr(book, "grade_student", graded)
    words = ["grade", "--submissions", tmp_path / "class", "--out", tmp_path / "book.csv"]
    words += ["--exercises", ROOT / "chapters" / "exercises", "--jobs", 1]
    code, _, err = run(capsys, *words)
    assert code == 130
    assert "1 of 3 students are graded" in err
    lines = (tmp_path / "book.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["student", "ada"]


def test_the_processes_of_a_grading_leave_ctrl_c_to_it():
    before = signal.getsignal(signal.SIGINT)
    try:
        signals.ignore_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    for name in ("student", "judge"):
        source = (ROOT / "minigpt" / "classroom" / f"{name}.py").read_text("utf-8")
        assert "    ignore_ctrl_c()\n" in source
