"""Train a GPT: one loop for pre-training and fine-tuning, exact, restartable, honest in failure.

Each step is a pure function of the weights, the optimizer state and the step (see `trainer.py`), so
a run that was killed any number of times ends with the same bits as one that was not (same machine,
versions and number of threads). Knows nothing of text or token files: it asks a source for batches.

Inside `distributed.connected()` several processes train together: each takes its rows of every
batch, and rank 0 alone writes files. The result is that of one process, up to rounding.

Shapes: B batch, T time.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Protocol

import torch

from minigpt.batching.windows import Batch
from minigpt.gpt import GPT
from minigpt.machine.device import choose_device
from minigpt.machine.distributed import any_rank, world
from minigpt.recipe import TrainConfig
from minigpt.runs.checkpoint import RunLock, remove_leftovers
from minigpt.runs.resume import Metrics
from minigpt.trainer import Trainer
from minigpt.validation import Objective, next_token_loss


class Source(Protocol):
    """Give the batch of each step: inputs and targets (B, T), int64, on the CPU.

    A source with a true `on_policy` asks the model for its batches, so each is made after the
    update before it and not meanwhile.
    """

    def batch(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class TrainResult:
    """Say how far training came and how well."""

    step: int
    loss: float | None  # of the last step's batch, nats per token
    val_loss: float | None  # of the last validation
    seconds: float
    tokens: int
    stopped: bool  # whether it was asked to stop before max_steps


def train(
    model: GPT,
    source: Source,
    config: TrainConfig,
    run_dir: Path,
    *,
    validation: Iterable[Batch] | None = None,
    resume: bool = False,
    on_log: Callable[[dict], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    manifest: dict | None = None,
    objective: Objective = next_token_loss,
) -> TrainResult:
    """Train the model in place up to `max_steps`; write metrics.jsonl and checkpoints to run_dir.

    resume: go on from the newest checkpoint that verifies, or from the start where there is none.
    on_log: is given each row of metrics.jsonl. should_stop: asked after each step; on true the step
    is saved and training ends. manifest: facts that a resumed run must share, such as the hashes of
    data and tokenizer. objective: how a batch becomes a loss, where it is not the next token's.
    After a KeyboardInterrupt the last whole step is saved.
    """
    run_dir = Path(run_dir)
    with writing(run_dir), reproducible(config):
        trainer = Trainer(model, config, run_dir, manifest or {}, objective)
        trainer.restore(resume)
        path = run_dir / "metrics.jsonl" if world().is_first else None
        with Metrics(path, trainer.progress.step, on_log) as metrics:
            try:
                stopped = take_steps(trainer, source, metrics, validation, should_stop)
            except KeyboardInterrupt:
                if world().size == 1:  # several may have been interrupted at several steps
                    metrics.to_disk()
                    trainer.save(must_succeed=True)
                raise
            finally:
                model.zero_grad(set_to_none=True)
    p = trainer.progress
    return TrainResult(p.step, p.loss, p.val_loss, p.seconds, p.tokens, stopped)


def take_steps(
    trainer: Trainer,
    source: Source,
    metrics: Metrics,
    validation: Iterable[Batch] | None,
    should_stop: Callable[[], bool] | None,
) -> bool:
    """Take the steps that are left, and do what is due after each; return whether asked to stop."""
    progress, config = trainer.progress, trainer.config
    steps = range(progress.step, config.max_steps)
    on_policy = getattr(source, "on_policy", False)
    batches = map(source.batch, steps) if on_policy else prefetch(source, steps, trainer.device)
    for batch in batches:
        trainer.train_step(batch)
        step, last, stopped = progress.step, progress.step == config.max_steps, False
        if last or step % config.log_interval == 0:
            metrics.write(progress.row())
        if validation is not None and (last or step % config.eval_interval == 0):
            trainer.validate(validation)  # before the save: a loss that is not finite is not saved
            metrics.write({"step": step, "val_loss": progress.val_loss})
        if should_stop is not None and not last:
            stopped = any_rank(should_stop())  # all ranks stop after the same step
        if last or stopped or step % config.save_interval == 0:
            metrics.to_disk()
            trainer.save(must_succeed=last or stopped)
        if stopped:
            return True
    return False


def prefetch(source: Source, steps: range, device: torch.device) -> Iterator[Batch]:
    """Yield the batch of each step; a thread makes the next one meanwhile.

    For a CUDA GPU they lie in pinned memory, from which copies are faster.
    """

    def make(step: int, made: Future) -> None:
        try:
            batch = source.batch(step)
            is_cuda = device.type == "cuda"
            made.set_result(tuple(part.pin_memory() for part in batch) if is_cuda else batch)
        except BaseException as error:
            made.set_exception(error)  # is raised where the batch is wanted

    def begin(step: int) -> Future:
        made = Future()
        Thread(target=make, args=(step, made), daemon=True).start()  # nobody waits for it at exit
        return made

    futures = map(begin, steps)
    coming = next(futures, None)
    while coming is not None:
        batch, coming = coming.result(), next(futures, None)
        yield batch


@contextlib.contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """Hold the run directory while rank 0, or the only process, writes to it."""
    if not world().is_first:
        yield
        return
    with RunLock(run_dir) as lock:
        remove_leftovers(lock)
        yield


@contextlib.contextmanager
def reproducible(config: TrainConfig) -> Iterator[None]:
    """Leave torch's random numbers and its choice of kernels as they were found."""
    device, before = choose_device(config.device), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if before or not config.deterministic:  # the switch itself costs seconds of imports
            yield
            return
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for this
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
