"""Run small training jobs in processes that tests can kill, without paying for `import torch` each.

Started once, this program imports everything and then forks a child for each job that it reads
from stdin (one JSON object a line): {"job": name, ...}. It answers with {"pid": ...}; to
{"wait": pid} with {"code": ...}, negative for a signal. `crash_worker.py JSON` runs one job in a
fresh interpreter instead.

A job may count the file-system calls of a save, be slowed down at each, or have one of them fail.
"""

import errno
import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

import minigpt.trainer as trainer_module
from minigpt.gpt import GPT, GPTConfig
from minigpt.recipe import TrainConfig
from minigpt.runs import checkpoint
from minigpt.support.signals import stop_on_signals
from minigpt.train import train

CALLS = ("mkdir", "rename", "unlink", "rmdir", "fsync", "open")


class Source:
    """Give random batches (6, 9): three fresh ones, then the same again, as epochs do."""

    def __init__(self, delay: float = 0.0):
        self.delay = delay

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(self.delay)
        generator = torch.Generator().manual_seed(step % 3)
        ids = torch.randint(0, 13, (6, 10), generator=generator)
        targets = ids[:, 1:].clone()
        targets[step % 6, 4:] = -100
        return ids[:, :-1], targets


class Faults:
    """Stand in front of every file-system call of a save."""

    def __init__(self, events: str | None = None, slow: float = 0.0, at: int = -1, kind: str = ""):
        self.events = events and os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.slow, self.at, self.kind = slow, at, kind
        self.count, self.active = 0, False

    def note(self, mark: bytes) -> None:
        if self.events is not None:
            os.write(self.events, mark)

    def call(self) -> None:
        """Count one call; make it the last, or fail, if its turn has come."""
        if not self.active:
            return
        self.count += 1
        self.note(b".")
        time.sleep(self.slow)
        if self.count - 1 == self.at:
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            code = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}[self.kind]
            raise OSError(code, os.strerror(code))

    def install(self) -> None:
        """Replace the calls in `os` and `io`."""
        for name in CALLS:
            setattr(os, name, self.before(getattr(os, name)))
        true_open = io.open

        def open_watched(file, mode="r", *args, **kwargs):
            if not self.active:
                return true_open(file, mode, *args, **kwargs)
            self.call()
            opened = true_open(file, mode, *args, **kwargs)
            return WatchedFile(opened, self) if "w" in mode else opened

        io.open = open_watched

    def before(self, function):
        def watched(*args, **kwargs):
            self.call()
            return function(*args, **kwargs)

        return watched


class WatchedFile:
    """Pass writes on in two halves, so that a fault leaves half of one."""

    def __init__(self, file, faults: Faults):
        self.file, self.faults = file, faults

    def write(self, data) -> None:
        data = memoryview(data)
        self.file.write(data[: len(data) // 2])
        self.faults.call()
        self.file.write(data[len(data) // 2 :])

    def flush(self) -> None:
        self.faults.call()
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.file.close()


def make_model(dropout: float) -> GPT:
    torch.manual_seed(5)
    return GPT(
        GPTConfig(vocab_size=13, block_size=9, n_layer=2, n_head=2, n_embd=16, dropout=dropout)
    )


def train_job(
    run_dir: str,
    config: dict,
    dropout: float = 0.1,
    resume: bool = True,
    events: str | None = None,
    slow: float = 0.0,
    stop_at: int = 0,
    in_place: bool = False,
    delay: float = 0.0,
) -> int:
    """Train, resuming by default; return the exit code."""
    faults = Faults(events, slow)
    faults.install()
    crash_safe = trainer_module.save_checkpoint

    def watched(run_dir, step, *args):
        faults.note(b"(")
        faults.active = True
        (save_in_place if in_place else crash_safe)(run_dir, step, *args)
        faults.active = False
        faults.note(b")")

    trainer_module.save_checkpoint = watched
    steps = []
    with stop_on_signals() as stop:
        train(
            make_model(dropout),
            Source(delay),
            TrainConfig(**config),
            Path(run_dir),
            resume=resume,
            on_log=lambda row: (steps.append(row["step"]), faults.note(b"s")),
            should_stop=lambda: stop() or (stop_at > 0 and steps[-1] >= stop_at),
        )
    faults.note(b"E")
    return stop.exit_code


def save_in_place(run_dir: Path, step: int, model: dict, optimizer: dict, state: dict, *rest):
    """Save as many programs do: over the old file. The negative control."""
    with io.open(run_dir / "checkpoint.pt", "wb") as file:  # noqa: UP020 - the watched one
        torch.save({"step": step, "model": model, "optimizer": optimizer}, file)


def save_job(run_dir: str, step: int, at: int, kind: str, report: str) -> int:
    """Save one small checkpoint with a fault at call number `at`; report calls and error."""
    model, optimizer = small_tensors(step)
    faults = Faults(at=at, kind=kind)
    faults.install()
    faults.active = True
    message = ""
    try:
        checkpoint.save_checkpoint(Path(run_dir), step, model, optimizer, {"step": step})
    except checkpoint.CheckpointError as error:
        message = str(error)
    faults.active = False
    Path(report).write_text(json.dumps([faults.count, message]), encoding="utf-8")
    return 0


def small_tensors(step: int) -> tuple[dict, dict]:
    """Return the weights and optimizer state that `save_job` saves."""
    return {"w": torch.full((5, 7), float(step))}, {"w.m": torch.full((5, 7), step / 2)}


def limited_job(run_dir: str, step: int, file_bytes: int, report: str) -> int:
    """Save one checkpoint where no file may grow beyond `file_bytes`."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    try:
        checkpoint.save_checkpoint(Path(run_dir), step, {"w": torch.zeros(10_000)}, {}, {})
    except checkpoint.CheckpointError as error:
        sys.stderr.write(str(error))
        return 1
    return 0


def load_job(path: str, report: str, extra_bytes: int) -> int:
    """Load a checkpoint with `extra_bytes` of address space on top of what is in use."""
    import resource

    in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = in_use * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        checkpoint.load_checkpoint(Path(path), with_optimizer=True)
    except checkpoint.CheckpointError as error:
        Path(report).write_text(str(error), encoding="utf-8")
        return 1
    return 0


JOBS = {"train": train_job, "save": save_job, "limited": limited_job, "load": load_job}


def run_job(order: dict) -> int:
    """Run one job with its output in a file of its own; return the exit code."""
    order = dict(order)
    job, output = JOBS[order.pop("job")], order.pop("output", os.devnull)
    with Path(output).open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        return job(**order)
    except SystemExit as error:
        return error.code
    except BaseException:
        import traceback

        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def serve() -> None:
    """Fork a child for each order on stdin."""
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = {"code": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                os._exit(run_job(order))
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run_job(json.loads(sys.argv[1])) if sys.argv[1:] else serve())
