"""The lock of a run directory: one process at a time, and its name to all others."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.support import lock
from minigpt.support.errors import ConfigError, LockedError
from minigpt.support.lock import RunLock

ROOT = Path(__file__).resolve().parents[1]


def test_the_lock_may_be_taken_again_by_its_own_process(tmp_path):
    with RunLock(tmp_path / "new" / "run") as run, RunLock(tmp_path / "new" / "run"):
        assert f"process {os.getpid()} on" in run.path.read_text(encoding="utf-8")
    assert RunLock.held == {}
    assert run.path.read_bytes() == b""


def test_a_file_in_place_of_the_directory_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot use the run directory.*choose another"):
        RunLock(tmp_path / "run").__enter__()


def test_a_heartbeat_stands_in_where_the_drive_has_no_locks(tmp_path, monkeypatch):
    def no_locks(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "lock_file", no_locks)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    with pytest.raises(LockedError, match=f"process {os.getpid()} on .*wait until it ends"):
        second.acquire()
    first.heart.stop()  # as if it had died
    second.acquire()
    second.release()


# ---- several processes

LOCKER = """
import sys, time
from pathlib import Path
from minigpt.support.errors import LockedError
from minigpt.support.lock import RunLock
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunLock(Path(sys.argv[1])):
        print("got it", flush=True)
        sys.stdin.readline()
except LockedError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
assert "torch" not in sys.modules
"""


def start_locker(run_dir: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(run_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def say(process: subprocess.Popen) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))
def test_of_eight_processes_exactly_one_gets_the_run(tmp_path, round_):
    lockers = [start_locker(tmp_path) for _ in range(8)]
    assert {locker.stdout.readline() for locker in lockers} == {"ready\n"}
    for locker in lockers:
        say(locker)
    answers = [locker.stdout.readline().strip() for locker in lockers]
    winners = [
        locker for locker, answer in zip(lockers, answers, strict=True) if answer == "got it"
    ]
    assert len(winners) == 1, answers
    holder = f"process {winners[0].pid} on "
    assert all(
        holder in answer and "wait until it ends" in answer
        for answer in answers
        if answer != "got it"
    ), answers
    winners[0].communicate("\n", timeout=30)
    assert sorted(locker.wait(timeout=30) for locker in lockers) == [0] + [4] * 7


@pytest.mark.slow
def test_a_dead_holder_frees_the_lock(tmp_path):
    first, second = start_locker(tmp_path), start_locker(tmp_path)
    for locker in (first, second):
        locker.stdout.readline()
    say(first)
    assert first.stdout.readline() == "got it\n"
    first.kill()
    first.wait(timeout=30)
    say(second)
    assert second.stdout.readline() == "got it\n"
    second.communicate("\n", timeout=30)
