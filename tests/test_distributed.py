"""Two processes equal one, in any form, through checkpoints, and when one of them is killed."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from minigpt.gpt import GPT, GPTConfig
from minigpt.machine import distributed
from minigpt.machine.distributed import (
    PeerError,
    World,
    connected,
    rank_zero_first,
    world,
)
from minigpt.recipe import TrainConfig
from minigpt.runs.checkpoint import latest_checkpoint
from minigpt.support.errors import ConfigError, DataError
from minigpt.support.signals import end_on_signals
from minigpt.trainer import Trainer, check_processes

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tests/ranks_worker.py"
CONFIG = {
    "max_steps": 20,
    "batch_size": 8,
    "micro_batch_size": 2,
    "warmup_steps": 2,
    "log_interval": 1,
    "eval_interval": 10,
    "save_interval": 5,
    "device": "cpu",
    "dtype": "float32",
}
SPLIT = CONFIG | {"shard": True}
CPU = torch.device("cpu")
not_on_windows = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL and torchrun")


def environment(**more: str) -> dict:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def launch(orders: list[dict], size: int = 2) -> list[subprocess.CompletedProcess]:
    """Do these runs in `size` processes that find each other as torchrun's do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    command = [sys.executable, str(WORKER), json.dumps(orders)]
    started = [
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), **place),
        )
        for rank in range(size)
    ]
    done = []
    for process in started:
        err = process.communicate(timeout=300)[1]
        done.append(subprocess.CompletedProcess(command, process.returncode, None, err))
    return done


def torchrun(*words: str, **more: str) -> subprocess.CompletedProcess:
    """Run `torchrun` with two processes."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *words,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment(**more),
        timeout=300,
        check=False,
    )


def alone(orders: list[dict]) -> None:
    """Do these runs in one process."""
    command = [sys.executable, str(WORKER), json.dumps(orders)]
    subprocess.run(command, env=environment(), timeout=300, check=True)


def losses(run_dir: Path, rank: int = 0) -> list[float]:
    rows = json.loads((run_dir / f"losses-{rank}.json").read_text(encoding="utf-8"))
    return [row["loss"] if "loss" in row else row["val_loss"] for row in rows]


def hashes(run_dir: Path) -> list[str]:
    """Return the SHA-256 of weights and optimizer state after the last step."""
    checkpoint = latest_checkpoint(run_dir)
    assert checkpoint.step == CONFIG["max_steps"]
    files = checkpoint.manifest["files"]
    return [files[name]["sha256"] for name in ("model.safetensors", "optimizer.safetensors")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Train in one process and in two, whole and in parts, each way of sharing a model."""
    folder = tmp_path_factory.mktemp("ranks")

    def order(name: str, config: dict = CONFIG, **more) -> dict:
        return {"run_dir": str(folder / name), "config": config, **more}

    alone(
        [
            order("one"),
            order("one, documents", documents=True),
            order("one, then split", stop_after=7),
        ]
    )
    both = [
        order("copies"),
        order("split", SPLIT),
        order("copies, adamw", CONFIG | {"optimizer": "adamw"}),
        order("split, adamw", SPLIT | {"optimizer": "adamw"}),
        order("copies, documents", documents=True),
        order("split, documents", SPLIT, documents=True),
        order("copies, then one", stop_after=7),
        order("split, then one", SPLIT, stop_after=7),
        order("one, then split", SPLIT, resume=True),
    ]
    for name, config in (("copies, dropout", CONFIG), ("split, dropout", SPLIT)):
        part = order(name + ", in parts", config, dropout=0.1)
        both += [
            order(name, config, dropout=0.1),
            part | {"stop_after": 8},
            part | {"resume": True},
        ]
    for done in launch(both):
        assert done.returncode == 0, done.stderr
    adamw = order("one, adamw", CONFIG | {"optimizer": "adamw"})
    alone([adamw, *(order(f"{name}, then one", resume=True) for name in ("copies", "split"))])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("change", ["", ", adamw", ", documents"])
@pytest.mark.parametrize("form", ["copies", "split"])
def test_two_processes_equal_one(runs, form, change):
    one, two = losses(runs / f"one{change}"), losses(runs / f"{form}{change}")
    assert len(one) == len(two) == 22
    assert two == pytest.approx(one, rel=1e-6, abs=0)  # float32 has seven digits
    assert losses(runs / f"{form}{change}", rank=1) == two
    assert max(one) - min(one) > 1e-3  # something was learned
    if change == ", documents":
        assert max(abs(a - b) for a, b in zip(one, losses(runs / "one"), strict=True)) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copies, then one", "split, then one", "one, then split"])
def test_resume_goes_on_with_another_number_of_processes(runs, name):
    rest = losses(runs / name)
    assert 10 < len(rest) < 18
    assert rest == pytest.approx(losses(runs / "one")[-len(rest) :], rel=1e-6, abs=0)
    assert latest_checkpoint(runs / name).step == 20


@pytest.mark.slow
@pytest.mark.parametrize("form", ["copies", "split"])
def test_resume_of_two_processes_is_bit_identical(runs, form):
    whole, parts = runs / f"{form}, dropout", runs / f"{form}, dropout, in parts"
    assert hashes(whole) == hashes(parts)
    assert len(losses(parts)) < len(losses(whole))
    assert hashes(whole) != hashes(runs / form)  # dropout did something


@pytest.mark.slow
def test_one_format_for_one_process_and_many(runs):
    one, two = (latest_checkpoint(runs / name) for name in ("one", "split"))
    for before, after in ((one.model, two.model), (one.optimizer, two.optimizer)):
        assert {k: (v.shape, v.dtype) for k, v in before.items()} == {
            k: (v.shape, v.dtype) for k, v in after.items()
        }
    assert one.manifest["environment"]["processes"] == 1
    assert two.manifest["environment"]["processes"] == 2


@pytest.mark.slow
@not_on_windows
@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.soak), 1])
def test_a_killed_process_is_named_and_the_run_resumes_bit_for_bit(runs, tmp_path, killed):
    order = {"run_dir": str(tmp_path / "run"), "config": CONFIG, "dropout": 0.1}
    kill = json.dumps([order | {"kill": [killed, 13]}])
    done = torchrun(str(WORKER), kill, SILENCE="3")
    assert done.returncode != 0
    line = next(line for line in done.stderr.splitlines() if "error: rank" in line)
    assert re.search(rf"error: rank {killed} \(process \d+ on .*\) is gone", line), done.stderr
    assert "start all of them again with --resume" in line
    assert latest_checkpoint(tmp_path / "run").step == 10
    for again in launch([order | {"resume": True}]):
        assert again.returncode == 0, again.stderr
    assert hashes(tmp_path / "run") == hashes(runs / "copies, dropout")


@pytest.mark.slow
@not_on_windows
def test_torchrun_trains_from_text_to_report(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat saw a mouse\n\nthe mouse saw a cat\n\n" * 300, encoding="utf-8")
    words = [
        "-m",
        "minigpt",
        "train",
        "tiny",
        "--data",
        str(text),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--shard",
        "--block-size",
        "32",
        "--vocab-size",
        "300",
    ]
    done = torchrun(*words, "--max-steps", "6")
    assert done.returncode == 0, done.stderr
    assert "in each of 2 processes" in done.stderr
    assert done.stdout.count("Report: ") == 1
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert report["steps"] == 6
    assert report["tokens"] == 6 * 8 * 32


# ---- alone, and what is refused


def test_alone_there_is_one_process_and_nothing_to_agree_on(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with connected(CPU) as place:
        assert place == world() == World(0, 1)
        assert place.is_first
        assert rank_zero_first(lambda: 7) == 7
    with pytest.raises(DataError):
        rank_zero_first(lambda: (_ for _ in ()).throw(DataError("0 bytes", "x", "y")))


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("minigpt.trainer.world", lambda: World(0, 3))
    model = GPT(GPTConfig(vocab_size=5, block_size=4, n_layer=1, n_head=1, n_embd=4))
    with pytest.raises(ConfigError, match=r"batch_size = 8 .* a multiple of 3, the number of"):
        Trainer(model, TrainConfig(batch_size=8, device="cpu"), tmp_path, {})


def test_a_port_in_use_is_named_with_the_remedy(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        with (
            pytest.raises(
                ConfigError, match=rf"port is in use — 127.0.0.1:{port} — choose another"
            ),
            connected(CPU),
        ):
            pass


def watch_two(monkeypatch) -> tuple[distributed.Watch, torch.distributed.Store]:
    """Return rank 0's watch, whose thread does not run yet, and the place of rank 1's words."""

    class Store(torch.distributed.HashStore):
        def clone(self):
            return self

    monkeypatch.setattr(distributed, "BEAT", 0.1)
    monkeypatch.setattr(distributed, "SILENCE", 1.0)
    monkeypatch.setattr(distributed, "FAREWELL", 60.0)
    store = Store()
    store.set("rank 1", "process 7 on host\n5")
    return distributed.Watch(store, World(0, 2)), store


BREAKS = ("connection broke", "wish while it unwinds")
LIVING = {"connection broke": RuntimeError}  # what a block ends with where no peer is gone


def be_judged(watch: distributed.Watch, way: str) -> None:
    """Meet in the watched block what follows when a peer dies."""
    with distributed.judged(watch):
        if way in BREAKS:
            raise RuntimeError("connection closed by peer")
        with end_on_signals() if "command" in way else contextlib.nullcontext():
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(30)


@not_on_windows
@pytest.mark.parametrize("is_gone", [True, False])
@pytest.mark.parametrize("way", ["wish to end", "wish taken by a command", *BREAKS])
def test_whatever_comes_first_a_lost_peer_is_named(monkeypatch, way, is_gone):
    """torchrun asks the others to end as soon as one is gone, while torch's error unwinds."""
    watch, store = watch_two(monkeypatch)
    over = threading.Event()

    def live() -> None:  # as rank 1's thread does
        for beat in range(6, 600):
            if is_gone or over.wait(distributed.BEAT):
                return
            store.set("rank 1", f"process 7 on host\n{beat}")

    def wish_first() -> distributed.TrainingError | None:  # it comes just before it is put off
        monkeypatch.setattr(watch, "wait_for_verdict", wait)
        os.kill(os.getpid(), signal.SIGTERM)
        return wait()

    wait = watch.wait_for_verdict
    if way == "wish while it unwinds":
        monkeypatch.setattr(watch, "wait_for_verdict", wish_first)
    peer = threading.Thread(target=live)
    peer.start()
    watch.thread.start()
    error = distributed.TrainingError if is_gone else LIVING.get(way, SystemExit)
    try:
        with pytest.raises(error) as caught:
            be_judged(watch, way)
    finally:
        over.set()
        peer.join()
        watch.ended.set()
        watch.thread.join()
    assert ("rank 1 (process 7 on host) is gone" in str(caught.value)) == is_gone


def test_an_apple_gpu_is_not_shared(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match=r"cannot share an Apple GPU — --device — choose cpu"),
        connected(torch.device("mps")),
    ):
        pass


@pytest.mark.parametrize(
    ("device", "backend", "chosen"),
    [("cpu", "gloo", []), ("cuda", "cpu:gloo,cuda:nccl", [3])],
)
def test_each_process_takes_the_gpu_of_its_local_rank(monkeypatch, device, backend, chosen):
    """A machine's third process is its GPU 3, whatever its rank among all machines."""
    meeting = sys.modules["torch.distributed.rendezvous"]  # a function hides the module's name

    class Store(torch.distributed.HashStore):
        def clone(self):
            return self

    places, groups = [], []
    monkeypatch.setenv("RANK", "11")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setattr(meeting, "rendezvous", lambda *a, **k: iter([(Store(), 11, 16)]))
    monkeypatch.setattr(torch.cuda, "set_device", places.append)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda name, **more: groups.append((name, more))
    )
    monkeypatch.setattr(distributed.Watch, "run", lambda self: None)
    watch = distributed.connect(torch.device(device))
    assert watch.world == World(11, 16)
    assert places == chosen
    assert groups[0][0] == backend
    assert (groups[0][1]["rank"], groups[0][1]["world_size"]) == (11, 16)


@pytest.mark.parametrize(("device", "ids"), [("cpu", None), ("cuda:1", [torch.device("cuda:1")])])
def test_copies_are_wrapped_for_their_device_and_alone_nothing_is(monkeypatch, device, ids):
    calls = []
    monkeypatch.setattr(
        distributed, "DistributedDataParallel", lambda *args, **options: calls.append(args)
    )
    model = torch.nn.Linear(3, 5)
    assert distributed.wrap_model(model, torch.device(device), False) is model
    assert calls == []
    monkeypatch.setattr(distributed, "world", lambda: World(1, 2))
    distributed.wrap_model(model, torch.device(device), False)
    assert calls == [(model, ids)]


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_float16_is_refused_for_a_split_model_alone(sharded, size, name):
    config = TrainConfig(batch_size=8, shard=sharded, dtype=name)
    dtype = getattr(torch, name)
    if sharded and size == 2 and name == "float16":
        with pytest.raises(ConfigError, match="float16 cannot be combined with --shard — --dtype"):
            check_processes(config, size, dtype)
    else:
        check_processes(config, size, dtype)


def test_gradients_are_exchanged_after_the_last_piece_alone():
    class Split:
        synced: ClassVar = []

        def set_requires_gradient_sync(self, is_last):
            self.synced.append(is_last)

    class Copies:
        quiet: ClassVar = []

        @contextlib.contextmanager
        def no_sync(self):
            self.quiet.append("begins")
            yield
            self.quiet.append("ends")

    for is_last in (False, False, True):
        for forward in (Split(), Copies(), torch.nn.Linear(3, 5)):
            with distributed.no_sync(forward, is_last):
                pass
    assert Split.synced == [False, False, True]
    assert Copies.quiet == ["begins", "ends"] * 2


def test_a_peers_error_keeps_its_exit_code():
    error = PeerError("rank 0 stopped: disk full", 3)
    assert error.exit_code == 3
    assert "rank 0 stopped: disk full — see its own message" in str(error)
