"""Take one step of training, one validation, one save: what `train.py` does over and over.

The batch of step s is a pure function of (seed, s), and so is every random number drawn in that
step. Weights, optimizer state and the step are therefore all there is to save.

Shapes: B batch, T time.

Source: Micikevicius et al. 2018, "Mixed Precision Training" (loss scaling).
"""

import dataclasses
import hashlib
import json
import math
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt.batching.windows import IGNORE, Batch, fill_rows, shard, shard_validation
from minigpt.gpt import GPT, GPTConfig
from minigpt.machine.device import (
    autocast,
    choose_device,
    choose_dtype,
    make_scaler,
    memory_advice,
    require_compiler,
)
from minigpt.machine.distributed import (
    all_reduce,
    no_sync,
    rank_zero_first,
    whole,
    world,
    wrap_model,
)
from minigpt.recipe import CHANGEABLE, TrainConfig, learning_rate_factor, make_optimizers
from minigpt.runs.checkpoint import (
    Checkpoint,
    checkpoint_paths,
    latest_checkpoint,
    safetensors_pieces,
    save_checkpoint,
)
from minigpt.runs.resume import (
    check_unchanged,
    collect_tensors,
    environment,
    fingerprint,
    restore_tensors,
    warn_if_inexact,
)
from minigpt.support.errors import CheckpointError, ConfigError, DataError, TrainingError, require
from minigpt.support.files import atomic_write
from minigpt.support.signals import uninterrupted
from minigpt.validation import Objective, mean_loss, next_token_loss, sum_losses

MAX_SKIPPED = 50  # float16 steps that may overflow one after the other


@dataclass
class Progress:
    """Count what has been done; all of it goes into the checkpoint."""

    step: int = 0
    tokens: int = 0  # targets predicted
    seconds: float = 0.0
    loss: float | None = None  # of the last step's batch, before its update
    grad_norm: float | None = None
    learning_rate: float = 0.0
    val_loss: float | None = None
    skipped: int = 0  # float16 steps that overflowed since the last one that did not

    def row(self) -> dict:
        """Return the step's row of metrics.jsonl."""
        if self.skipped:
            return {"step": self.step, "skipped": self.skipped}
        names = ("step", "loss", "learning_rate", "grad_norm", "tokens", "seconds")
        return {name: getattr(self, name) for name in names}


class Trainer:
    """Hold a model and its optimizers; take one step, one validation or one save at a time."""

    def __init__(
        self,
        model: GPT,
        config: TrainConfig,
        run_dir: Path,
        facts: dict,
        objective: Objective = next_token_loss,
    ):
        self.world = world()
        self.device = choose_device(config.device)
        self.dtype = choose_dtype(self.device, config.dtype)
        check_processes(config, self.world.size, self.dtype)
        self.model = model.to(self.device).train()
        self.model.zero_grad(set_to_none=True)
        # Before the optimizers: sharding replaces the parameters that they hold.
        self.forward: Any = wrap_model(model, self.device, config.shard)
        if config.compile:
            require_compiler(self.device)
            self.forward = torch.compile(self.forward)
        self.optimizers = make_optimizers(model, config)
        self.scaler = make_scaler(self.device, self.dtype)
        self.config, self.run_dir, self.objective = config, run_dir, objective
        self.facts = {"model": dataclasses.asdict(model.config)} | facts
        self.environment = environment(self.device, self.dtype, self.optimizers) | {
            "micro_batch_size": config.micro_batch_size,
            "compile": config.compile,
            "deterministic": config.deterministic,
            "processes": self.world.size,
            "shard": config.shard and self.world.size > 1,
            "max_steps": None if config.schedule == "constant" else config.max_steps,
        }
        self.progress, self.saved_step = Progress(), 0
        self.clock = time.perf_counter()

    def train_step(self, batch: Batch) -> None:
        """Compute the gradient of one batch (B, T), clip it, and update the weights."""
        progress, config = self.progress, self.config
        with memory_advice(progress.step, self.micro_rows(len(batch[0])), batch[0].shape[1]):
            loss, tokens = self.accumulate(batch)
            for optimizer in self.optimizers:
                self.scaler.unscale_(optimizer)
            parameters, limit = self.model.parameters(), config.grad_clip or math.inf
            # Clipped after unscaling: the limit is meant for the true gradient.
            norm = whole(torch.nn.utils.clip_grad_norm_(parameters, limit))
            loss, norm = torch.stack([loss, norm]).tolist()  # the step's only wait for the device
            finite = math.isfinite(loss) and math.isfinite(norm)
            if not finite:
                self.refuse_update(loss, norm, batch)
            factor = learning_rate_factor(progress.step, config)
            with uninterrupted():  # weights and progress change together or not at all
                self.update(factor, finite)
                if finite:
                    progress.loss, progress.grad_norm = loss, norm
                progress.skipped = 0 if finite else progress.skipped + 1
                progress.learning_rate = config.learning_rate * factor
                progress.tokens += tokens
                progress.seconds += self.lap()
                progress.step += 1

    def accumulate(self, batch: Batch) -> tuple[Tensor, int]:
        """Add up the gradients of the batch's pieces; return its mean loss and number of targets.

        A piece weighs as much as its share of the targets, so the sum is the gradient of the whole
        batch's mean loss, however the rows are cut, also among processes (which average gradients,
        hence the factor), and wherever targets are ignored.
        """
        step, rank, size = self.progress.step, self.world.rank, self.world.size
        # Of the whole batch, over all processes: each piece weighs by its share of it.
        total = int((batch[1] != IGNORE).sum())
        if total == 0:
            raise DataError(
                f"all targets of rows 0 to {len(batch[1]) - 1} are {IGNORE} (ignored)",
                f"batch of step {step}",
                "give every batch at least one target to predict",
            )
        self.model.zero_grad(set_to_none=True)
        batch = fill_rows(batch, size)
        mine = shard(batch, rank, size)  # (B / size, T) each
        loss_sum, rows = torch.zeros((), device=self.device), self.micro_rows(len(batch[0]))
        for micro_step, start in enumerate(range(0, len(mine[0]), rows)):
            idx, targets, *more = (part[start : start + rows] for part in mine)
            share = int((targets != IGNORE).sum()) / total
            if share == 0:  # other processes may wait for this piece: any targets, weighed with 0
                targets = torch.zeros_like(targets)
            piece = [part.to(self.device) for part in (idx, targets, *more)]
            # The rank too: processes with one seed would drop the same numbers of different rows.
            seed_step(self.config.seed, step, micro_step, rank)
            with no_sync(self.forward, is_last=start + rows >= len(mine[0])):
                with autocast(self.device, self.dtype):
                    loss = self.objective(self.forward, piece)
                # `size` undoes the mean that the processes form of their gradients.
                self.scaler.scale(loss * (share * size)).backward()
            loss_sum += loss.detach() * share
        return all_reduce(loss_sum), total

    def micro_rows(self, rows: int) -> int:
        """Return how many of a batch's rows go through the model at once in one process."""
        mine = rows // self.world.size
        return min(self.config.micro_batch_size or mine, mine)

    def update(self, factor: float, finite: bool) -> None:
        """Let the optimizers take their step with `factor` times their highest learning rates."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            if finite:
                optimizer.step()
        # After a step that overflowed as well: this is how the scale finds its size.
        self.scaler.update()

    def refuse_update(self, loss: float, norm: float, batch: Batch) -> None:
        """End the run before weights take up NaN; float16 may overflow while it finds its scale."""
        step, config, scaled = self.progress.step, self.config, self.scaler.is_enabled()
        if scaled and self.progress.skipped < MAX_SKIPPED:
            return
        kept = self.run_dir / "bad_batch.safetensors"
        numbers = {"step": torch.tensor(step), "seed": torch.tensor(config.seed)}
        named = dict(zip(("idx", "targets", "documents"), batch, strict=False))
        pieces = safetensors_pieces(named | numbers)
        if self.world.is_first:
            atomic_write(kept, b"".join(pieces))
        dtype = str(self.dtype).removeprefix("torch.")
        raise TrainingError(
            f"loss {loss:.4g}, gradient norm {norm:.4g}"
            + (f" after {MAX_SKIPPED} skipped steps" if scaled else ""),
            f"step {step}, its batch is kept in {kept}",
            f"resume from the last checkpoint with a lower learning rate: {self.lower_rates()}"
            + ("" if dtype == "float32" else f", or with --dtype float32 (now {dtype})"),
        )

    def validate(self, validation: Iterable[Batch]) -> None:
        """Measure the validation loss; one that is not finite ends the run before it is saved."""
        rank, size = self.world.rank, self.world.size
        mine = (shard_validation(batch, rank, size) for batch in validation)
        sums = sum_losses(self.model, mine, self.device, self.dtype, self.objective)
        # Sums travel, not means: the processes may have different numbers of targets.
        loss_sum, count = all_reduce(torch.tensor(sums, dtype=torch.float64)).tolist()
        loss = mean_loss(loss_sum, count)
        if not math.isfinite(loss):
            raise TrainingError(
                f"validation loss {loss}",
                f"step {self.progress.step}",
                f"resume from the last checkpoint with a lower learning rate: {self.lower_rates()}",
            )
        self.progress.val_loss = loss

    def lower_rates(self) -> str:
        """Return the flags that go on with a third of the learning rates."""
        config = self.config
        return (
            f"--resume --learning-rate {config.learning_rate / 3:.2g} "
            f"--muon-learning-rate {config.muon_learning_rate / 3:.2g}"
        )

    def lap(self) -> float:
        """Return the seconds since the last call."""
        before, self.clock = self.clock, time.perf_counter()
        return self.clock - before

    def save(self, must_succeed: bool) -> None:
        """Save a checkpoint of this step, unless it is saved already."""
        if self.progress.step == self.saved_step:
            return
        tensors = collect_tensors(self.model, self.optimizers)
        if rank_zero_first(lambda: self.write(*tensors, must_succeed)):
            self.saved_step = self.progress.step

    def write(self, model: dict, optimizer: dict, must_succeed: bool) -> bool:
        """Write a checkpoint of these tensors; return whether that went well."""
        state = {
            "progress": dataclasses.asdict(self.progress),
            "scaler": self.scaler.state_dict(),
            "config": dataclasses.asdict(self.config),
            "facts": self.facts,
        }
        about = {name: fact for name, fact in self.facts.items() if isinstance(fact, str)}
        about |= {"config_sha256": fingerprint(state["config"]), "environment": self.environment}
        try:
            save_checkpoint(
                self.run_dir,
                self.progress.step,
                model,
                optimizer,
                state,
                self.config.keep_checkpoints,
                about,
            )
        except CheckpointError as error:
            if must_succeed or self.config.stop_on_failed_save:
                raise
            warnings.warn(f"going on without a new checkpoint: {error}", stacklevel=3)
            return False
        return True

    def restore(self, resume: bool) -> None:
        """Take up the newest good checkpoint, or make sure that a new run overwrites none.

        Rank 0 reads it and sends it to the others.
        """
        found: list[Checkpoint] = []

        def find() -> dict | None:
            checkpoint = find_checkpoint(self.run_dir, resume)
            if checkpoint is not None:
                self.check(checkpoint)
                found.append(checkpoint)
            return checkpoint and checkpoint.state

        state = rank_zero_first(find)
        if state is None:
            return
        restore_tensors(found[0] if found else None, self.model, self.optimizers)
        # No generator is restored: each step seeds its own random numbers.
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.saved_step = self.progress.step

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint of a run with other settings, and say what may cost the last bits."""
        now = dataclasses.asdict(self.config) | json.loads(json.dumps(self.facts))
        before = checkpoint.state["config"] | checkpoint.state["facts"]
        usual = dataclasses.asdict(TrainConfig())
        usual["model"] = dataclasses.asdict(GPTConfig(vocab_size=1))
        check_unchanged(before, now, CHANGEABLE, str(checkpoint.path), usual)
        rates = ("learning_rate", "muon_learning_rate")
        old, new = ({name: values[name] for name in rates} for values in (before, now))
        environment = checkpoint.manifest.get("environment", {})
        warn_if_inexact(environment | old, self.environment | new)


def find_checkpoint(run_dir: Path, resume: bool) -> Checkpoint | None:
    """Return the newest good checkpoint, or None where there is none and a new run may begin."""
    there = checkpoint_paths(run_dir)
    if there and not resume:
        raise ConfigError(
            f"the run directory already has a checkpoint ({there[-1].name})",
            str(run_dir),
            "resume it, or choose another directory",
        )
    checkpoint = latest_checkpoint(run_dir, on_skip=warnings.warn, with_optimizer=True)
    if checkpoint is None and there:
        raise CheckpointError(
            f"none of {len(there)} checkpoints verifies",
            str(run_dir),
            "copy one of them again, or start anew in another directory",
        )
    return checkpoint


def check_processes(config: TrainConfig, size: int, dtype: torch.dtype) -> None:
    """Refuse what several processes cannot do together."""
    require(
        config.batch_size % size == 0,
        "batch_size",
        config.batch_size,
        f"a multiple of {size}, the number of processes",
    )
    if config.shard and size > 1 and dtype == torch.float16:
        raise ConfigError(
            "float16 cannot be combined with --shard", "--dtype", "choose bfloat16 or float32"
        )


def seed_step(seed: int, step: int, micro_step: int, rank: int = 0) -> None:
    """Seed torch as a pure function of where in training we are, so that no state need be saved."""
    digest = hashlib.sha256(f"{seed} {step} {micro_step} {rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
