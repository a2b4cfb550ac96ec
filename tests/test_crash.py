"""Kill real training runs and let file systems fail: nothing may be lost, every bit must agree."""

import contextlib
import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from crash_worker import small_tensors

from minigpt.runs.checkpoint import latest_checkpoint, save_checkpoint
from minigpt.support.errors import CheckpointError

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="needs fork and SIGKILL"),
    pytest.mark.slow,  # all of them together
]

WORKER = Path(__file__).with_name("crash_worker.py")
CONFIG = {
    "max_steps": 40,
    "batch_size": 6,
    "micro_batch_size": 4,
    "warmup_steps": 3,
    "save_interval": 2,
    "log_interval": 1,
    "dtype": "bfloat16",
    "device": "cpu",
}


class Workshop:
    """Talk to the process that forks jobs."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def ask(self, order: dict) -> dict:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, job: str, **order) -> int:
        return self.ask({"job": job, **order})["pid"]

    def wait(self, pid: int) -> int:
        return self.ask({"wait": pid})["code"]

    def run(self, job: str, **order) -> int:
        return self.wait(self.start(job, **order))


def environment() -> dict:
    root = str(WORKER.parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@pytest.fixture(scope="module")
def workshop():
    """Start the forking process once for all tests of this file."""
    shop = Workshop()
    yield shop
    shop.process.stdin.close()
    shop.process.wait(timeout=30)


def fresh_process(**order) -> int:
    """Run a job in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, str(WORKER), json.dumps(order)],
        env=environment(),
        timeout=300,
        check=False,
    ).returncode


def final_hashes(run_dir: Path) -> dict:
    """Return the SHA-256 of the last step's weights and optimizer state."""
    checkpoint = latest_checkpoint(run_dir)
    assert checkpoint.step == CONFIG["max_steps"]
    return {
        name: checkpoint.manifest["files"][name]["sha256"]
        for name in ("model.safetensors", "optimizer.safetensors")
    }


def read_events(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.exists() else ""


def kill_once(
    shop: Workshop,
    run_dir: Path,
    rng: random.Random,
    longest: float,
    in_save: bool,
    in_place: bool = False,
) -> tuple[int, str]:
    """Start or resume a run and SIGKILL it; return its exit code and its events."""
    events = run_dir.parent / f"events-{run_dir.name}-{rng.random()}"
    pid = shop.start(
        "train",
        run_dir=str(run_dir),
        config=CONFIG,
        events=str(events),
        slow=0.0004,
        in_place=in_place,
        output=str(run_dir.parent / "output"),
    )
    calls = rng.randrange(1, 600)
    end = time.monotonic() + (30 if in_save else rng.uniform(0.02, longest))
    while time.monotonic() < end:
        text = read_events(events)
        if in_save and text.count(".") >= calls and text.endswith("."):
            break
        if text.endswith("E"):
            break  # it came to its end first
        time.sleep(0.0005)
    time.sleep(rng.uniform(0, 0.001))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return shop.wait(pid), read_events(events)


def kill_many(shop: Workshop, folder: Path, kills: int, seed: int) -> dict:
    """Kill runs `kills` times, resuming each until it ends; check every state on the way."""
    rng = random.Random(seed)
    assert shop.run("train", run_dir=str(folder / "reference"), config=CONFIG) == 0
    expected = final_hashes(folder / "reference")
    report = {"kills": 0, "inside": 0, "whole runs": 0}
    run_dir, saved = folder / "chain-0", 0
    while report["kills"] < kills:
        code, events = kill_once(shop, run_dir, rng, longest=1.0, in_save=rng.random() < 0.6)
        assert code in (0, -signal.SIGKILL), (folder / "output").read_text(encoding="utf-8")
        saved += events.count(")") * CONFIG["save_interval"]
        newest = latest_checkpoint(run_dir)
        assert (newest.step if newest else 0) >= saved, "a finished checkpoint was lost"
        saved = newest.step if newest else 0
        report["kills"] += code != 0
        report["inside"] += code != 0 and events.count("(") > events.count(")")
        if saved == CONFIG["max_steps"]:
            assert final_hashes(run_dir) == expected
            report["whole runs"] += 1
            run_dir, saved = folder / f"chain-{report['whole runs']}", 0
    order = {"job": "train", "run_dir": str(run_dir), "config": CONFIG}
    assert fresh_process(**order) == 0
    assert final_hashes(run_dir) == expected
    assert not list((run_dir / "checkpoints").glob(".tmp-*"))
    rows = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").open(encoding="utf-8")]
    assert rows == list(range(1, CONFIG["max_steps"] + 1))
    return report


@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_an_uninterrupted_one(workshop, tmp_path):
    report = kill_many(workshop, tmp_path, kills=25, seed=1)
    print(report)
    assert report["inside"] >= 0.4 * report["kills"], report


@pytest.mark.soak
def test_soak_500_kills(workshop, tmp_path):
    report = kill_many(workshop, tmp_path, kills=500, seed=time.time_ns())
    print(report)
    assert report["inside"] >= 200


def lost_in_place(shop: Workshop, folder: Path, kills: int) -> int:
    """Return how many of `kills` in-save kills destroy a checkpoint that is saved in place."""
    rng, lost = random.Random(2), 0
    for trial in range(kills):
        run_dir = folder / f"run-{trial}"
        _, events = kill_once(shop, run_dir, rng, 0.0, in_save=True, in_place=True)
        assert events.count("(") > events.count(")")
        try:
            torch.load(run_dir / "checkpoint.pt", weights_only=True)
        except Exception:
            lost += 1
    return lost


def test_negative_control_saving_in_place_loses_checkpoints(workshop, tmp_path):
    assert lost_in_place(workshop, tmp_path, 5) >= 1


@pytest.mark.soak
def test_soak_saving_in_place(workshop, tmp_path):
    assert lost_in_place(workshop, tmp_path, 50) >= 10


@pytest.mark.parametrize("kind", ["kill", "ENOSPC", "EIO"])
def test_failure_at_every_file_system_call_of_a_save(workshop, tmp_path, kind):
    report = tmp_path / "report"
    messages = set()
    for at in itertools.count():
        run_dir = tmp_path / str(at)
        for step in (1, 2):
            save_checkpoint(run_dir, step, *small_tensors(step), {"step": step})
        report.write_text("null", encoding="utf-8")
        code = workshop.run(
            "save",
            run_dir=str(run_dir),
            step=3,
            at=at,
            kind=kind,
            report=str(report),
            output=str(tmp_path / "output"),
        )
        newest = latest_checkpoint(run_dir)
        assert newest.step in (2, 3)
        assert torch.equal(newest.model["w"], small_tensors(newest.step)[0]["w"])
        save_checkpoint(run_dir, 4, *small_tensors(4), {})  # and the next save works
        assert latest_checkpoint(run_dir).step == 4
        if kind == "kill" and code == -signal.SIGKILL:
            continue
        assert code == 0, (tmp_path / "output").read_text(encoding="utf-8")
        calls, message = json.loads(report.read_text(encoding="utf-8"))
        assert newest.step == 3 or message
        if message:
            messages.add(message.replace(str(run_dir), "RUN"))
        if calls <= at:
            break
    assert at >= 30, f"only {at} calls were counted"
    expected = {"kill": "", "ENOSPC": "disk full: need", "EIO": "Input/output error"}[kind]
    assert all(expected in message and "older checkpoints" in message for message in messages)
    assert messages or kind == "kill"


def test_a_quota_is_reported_with_megabytes_and_leaves_nothing(workshop, tmp_path):
    save_checkpoint(tmp_path, 1, *small_tensors(1), {})
    output = tmp_path / "output"
    code = workshop.run(
        "limited", run_dir=str(tmp_path), step=2, file_bytes=20_000, report="", output=str(output)
    )
    assert code == 1
    message = output.read_text(encoding="utf-8")
    assert "disk full: need 0.0 MB, have" in message
    assert "free some space" in message
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert latest_checkpoint(tmp_path).step == 1


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can make a small disk")
    try:
        save_checkpoint(disk, 1, {"w": torch.ones(250_000)}, {}, {})
        with pytest.raises(CheckpointError, match=r"disk full: need 1\.5 MB, have 1\.\d MB"):
            save_checkpoint(disk, 2, {"w": torch.ones(375_000)}, {}, {})
        assert [p.name for p in (disk / "checkpoints").iterdir()] == ["step-00000001"]
        assert latest_checkpoint(disk).step == 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


CELLS = list(itertools.product(["float32", "bfloat16"], [0.0, 0.1], [None, 2]))


@pytest.mark.parametrize(("dtype", "dropout", "micro"), CELLS)
def test_resume_in_a_new_process_is_bit_identical(workshop, tmp_path, dtype, dropout, micro):
    check_resume(workshop.run, tmp_path, dtype, dropout, micro, stop_at=5, compile=False)


@pytest.mark.soak
@pytest.mark.parametrize("stop_at", [5, 6])
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(("dtype", "dropout", "micro"), CELLS)
def test_soak_resume_in_a_new_interpreter(tmp_path, dtype, dropout, micro, stop_at, compile):
    def run(job, **order):
        return fresh_process(job=job, **order)

    check_resume(run, tmp_path, dtype, dropout, micro, stop_at, compile)


def check_resume(run, folder, dtype, dropout, micro, stop_at, compile):
    """Compare one run of 8 steps with one that stops, in the middle or at the end of an epoch."""
    config = CONFIG | {"max_steps": 8, "save_interval": 100, "dtype": dtype}
    config |= {"micro_batch_size": micro, "compile": compile, "deterministic": compile}
    order = {"config": config, "dropout": dropout, "output": str(folder / "output")}
    hashes = []
    for name, stops in (("whole", [0]), ("parts", [stop_at, 0])):
        for stop in stops:
            code = run("train", run_dir=str(folder / name), stop_at=stop, **order)
            assert code == 0, (folder / "output").read_text(encoding="utf-8")
            assert latest_checkpoint(folder / name).step == (stop or 8)
        files = latest_checkpoint(folder / name).manifest["files"]
        hashes.append({f: files[f]["sha256"] for f in files if f != "state.json"})
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint_within_one_step(workshop, tmp_path, number, code):
    events, config = tmp_path / "events", CONFIG | {"max_steps": 10_000, "save_interval": 10_000}
    pid = workshop.start(
        "train",
        run_dir=str(tmp_path / "run"),
        config=config,
        events=str(events),
        output=str(tmp_path / "output"),
    )
    wait_for(lambda: read_events(events).count("s") >= 3)
    os.kill(pid, number)
    assert workshop.wait(pid) == code, (tmp_path / "output").read_text(encoding="utf-8")
    text = read_events(events)
    assert latest_checkpoint(tmp_path / "run").step == text.count("s")
    assert text.endswith(")E")


def test_a_second_ctrl_c_quits_at_once(workshop, tmp_path):
    events = tmp_path / "events"
    pid = workshop.start(
        "train",
        run_dir=str(tmp_path / "run"),
        config=CONFIG,
        delay=60.0,
        output=str(tmp_path / "output"),
    )
    wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists())
    time.sleep(0.3)
    begin = time.monotonic()
    os.kill(pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(pid, signal.SIGINT)
    assert workshop.wait(pid) == 130
    assert time.monotonic() - begin < 20, "the step of 60 seconds was waited for"
    assert not read_events(events)


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def test_a_checkpoint_cannot_take_more_memory_than_its_manifest_says(workshop, tmp_path):
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux to limit the address space")
    size = 40_000_000
    path = save_checkpoint(tmp_path, 1, {"w": torch.ones(size // 4)}, {}, {})
    order = {"path": str(path), "report": str(tmp_path / "report"), "output": str(tmp_path / "out")}
    assert workshop.run("load", extra_bytes=int(2.2 * size), **order) == 0  # the good one fits
    os.truncate(path / "model.safetensors", 4_000_000_000)  # sparse: takes no disk
    assert workshop.run("load", extra_bytes=size // 4, **order) == 1
    assert "4000000000 bytes instead of" in (tmp_path / "report").read_text(encoding="utf-8")


def test_the_worker_can_tell_a_wrong_run(workshop, tmp_path):
    """Without the same seed the comparison of killed runs must fail: it is able to."""
    config = CONFIG | {"max_steps": 4}
    digests = set()
    for seed in (0, 1):
        run_dir = tmp_path / str(seed)
        assert workshop.run("train", run_dir=str(run_dir), config=config | {"seed": seed}) == 0
        digests.add(latest_checkpoint(run_dir).manifest["files"]["model.safetensors"]["sha256"])
    assert len(digests) == 2


def test_errno_names_are_those_that_a_full_disk_gives():
    from minigpt.runs.checkpoint import DISK_FULL

    assert {errno.ENOSPC, errno.EFBIG} <= DISK_FULL
