"""From settings to a report: what `quickstart` and `train` share, stage by stage.

Tokenizer, token files, training, then evaluation, samples, loss plot and report. Each stage is
timed and leaves its result in the run directory, where a resumed run finds it.
"""

import contextlib
import dataclasses
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from minigpt.batching.conversations import Flat, flatten
from minigpt.batching.mixture import read_then_answer
from minigpt.batching.packing import RowSource
from minigpt.batching.windows import Documents, Windows
from minigpt.commands.bars import Bar, training_bar
from minigpt.commands.card import model_card, training_facts, validation_batches
from minigpt.commands.inputs import Data, make_data, make_tokenizer
from minigpt.commands.timing import Estimate, estimate
from minigpt.counts import count_parameters
from minigpt.gpt import GPT
from minigpt.machine.device import choose_device, choose_dtype
from minigpt.machine.distributed import processes_here, rank_zero_first, world
from minigpt.runs.checkpoint import RunLock, checkpoint_paths
from minigpt.runs.planning import check_memory
from minigpt.runs.quantized import refuse_quantized_run
from minigpt.runs.report import write_report
from minigpt.runs.run import (
    RUN_FILES,
    RunConfig,
    check_resumable,
    fit_to_tokenizer,
    is_run,
    load_config,
    open_run,
    read_metrics,
    save_config,
)
from minigpt.runs.summary import say_seconds, summary
from minigpt.support.errors import ConfigError
from minigpt.support.files import check_writable, refuse_existing
from minigpt.support.signals import end_on_signals, stop_on_signals
from minigpt.tokenizer import Tokenizer
from minigpt.train import TrainResult, train

ABOUT = {
    "tokenizer": "1/4 vocabulary: which pieces of text become tokens, the units that a model reads",
    "data": "2/4 data: text to learn from, and other text that is held out for tests, as tokens",
    "training": "3/4 training: the model guesses the next token, again and again, and is corrected",
    "report": "4/4 report: what it can do with text that it never saw, beside simple baselines",
}
GO_ON = "stopping now; go on with --resume"
FINISHING = "stopping when this step is done and saved (once more: at once)"


def run_pipeline(out: Path, config: RunConfig, resume: bool) -> int:
    """Train by `config` in the directory `out` and write its report; return the exit code.

    Of several processes the first one does all that is not training. A signal ends each stage with
    SystemExit, and training with a checkpoint; either way a resumed run finds what is done.
    """
    if not world().is_first:
        return follow(out)
    check_out(out, resume)
    seconds: dict[str, float] = {}
    with RunLock(out), end_on_signals(GO_ON), plain_warnings():
        check_writable(out)  # under the lock: a run that is going on is named as such
        if not (out / "config.json").exists():
            save_config(out, config)  # for --resume, should this be stopped before training
        with stage("tokenizer", seconds, ABOUT["tokenizer"]):
            tokenizer = make_tokenizer(out, config, resume)
        if resume:
            check_vocabulary(config, tokenizer, out)
        config = fitted(config, tokenizer)
        if resume:
            check_resumable(fitted(load_config(out), tokenizer), config, out)
        check_fits(config)
        save_config(out, config)
        with stage("data", seconds, ABOUT["data"]):
            data = make_data(out, config, tokenizer, resume)
        rank_zero_first(lambda: None)  # all is there: the other processes may begin
        with stage("training", seconds, ABOUT["training"]), stop_on_signals(FINISHING) as stop:
            torch.manual_seed(config.training.seed)
            model = GPT(config.model)
            result = train_with_bar(model, data, config, out, tokenizer, resume, stop)
        if result.stopped:
            print(f"stopped at step {result.step}; go on with --resume", file=sys.stderr)
            return stop.exit_code
        if world().size > 1:  # the model that was trained may be split over all processes
            model = open_run(out, config.training.device).model
        with stage("report", seconds, ABOUT["report"]):
            report = make_report(model, tokenizer, data, config, result)
        seconds["training"] = result.seconds  # those before a resume included
        report["seconds"] = rounded(seconds)
        write_report(out, report, read_metrics(out), out)
    print(f"{summary(report)}\nReport: {out / 'report.html'} (open it), plot: {out / 'loss.png'}")
    return 0


def fitted(config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """Return a run's settings with what its tokenizer decides."""
    return dataclasses.replace(config, model=fit_to_tokenizer(config.model, tokenizer))


def check_vocabulary(config: RunConfig, tokenizer: Tokenizer, out: Path) -> None:
    """Refuse a smaller vocabulary than a resumed run has; say that a larger one does not count.

    A run whose text gave fewer tokens than it was asked for may be resumed with the same flags.
    """
    asked, size = config.model.vocab_size, tokenizer.vocab_size
    if asked < size and config.tokenizer == "bpe":
        raise ConfigError(
            f"changed since the run began: model.vocab_size {size} -> {asked}",
            str(out),
            "leave --vocab-size out, or start a new run in another --out",
        )
    if asked != size:
        warnings.warn(f"the run keeps its vocabulary of {size} tokens", stacklevel=2)


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """Return the time of each stage and of all, for people."""
    return {name: round(s, 1) for name, s in (seconds | {"total": sum(seconds.values())}).items()}


def follow(out: Path) -> int:
    """Train beside rank 0, which makes and checks all files; return the exit code."""
    with stop_on_signals() as stop, contextlib.redirect_stderr(io.StringIO()):  # rank 0 speaks
        rank_zero_first(lambda: None)  # comes back when the files are there
        config = load_config(out)
        tokenizer = make_tokenizer(out, config, resume=True)
        data = make_data(out, config, tokenizer, resume=True)
        torch.manual_seed(config.training.seed)
        result = train_with_bar(GPT(config.model), data, config, out, tokenizer, True, stop)
    return stop.exit_code if result.stopped else 0


@contextlib.contextmanager
def stage(name: str, seconds: dict[str, float], about: str = "") -> Iterator[None]:
    """Time one stage, and say what it is for and, in the end, how long it took."""
    print(about or f"{name} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start
    print(f"    {say_seconds(seconds[name])}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings of the package as one line each."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: Bar.write(f"note: {message}", file=sys.stderr)
        yield


def check_out(out: Path, resume: bool, is_ours: Callable[[Path], bool] = is_run) -> None:
    """Make sure that the run directory is a new one, or one of a run; nothing else is replaced."""
    if out.exists() and not out.is_dir():
        raise ConfigError("--out is a file", str(out), "name a directory")
    if resume:
        refuse_quantized_run(out, "be trained on")
        return
    if checkpoint_paths(out):
        raise ConfigError(
            "the directory already holds a run", str(out), "add --resume, or choose another --out"
        )
    if not is_ours(out):
        refuse_existing((out / name for name in RUN_FILES), "choose another --out")


def check_fits(config: RunConfig) -> None:
    """Say what will be trained, in what memory; refuse what does not fit."""
    training, processes = config.training, world().size
    device = choose_device(training.device)
    dtype = choose_dtype(device, training.dtype)
    rows = training.micro_batch_size or max(training.batch_size // processes, 1)
    shards = processes if training.shard else 1
    needed = check_memory(config.model, rows, device, dtype, shards, processes_here())
    print(
        f"    a model of {count_parameters(config.model) / 1e6:.2f} million parameters on {device} "
        f"in {str(dtype).removeprefix('torch.')}, about {needed / 1e9:.2f} GB"
        + (f" in each of {processes} processes" if processes > 1 else "")
        + f"; {training.max_steps:,} steps of {training.batch_size} x {config.model.block_size} "
        "tokens",
        file=sys.stderr,
    )


def announce(expected: Estimate | None) -> None:
    """Say how long a run will take, by what was measured."""
    if expected is not None:
        after = f", then {say_seconds(expected.report)} for the report" if expected.report else ""
        line = f"    about {say_seconds(expected.training)}{after}: some steps were measured"
        print(line, file=sys.stderr, flush=True)


# --- training ---


def train_with_bar(
    model: GPT, data: Data, config: RunConfig, out: Path, tokenizer: Tokenizer, resume: bool, stop
) -> TrainResult:
    """Train with a progress bar that shows loss, validation loss and floor."""
    training = config.training
    source = make_source(data, config, tokenizer)
    facts = {
        "model": dataclasses.asdict(config.model),
        "tokenizer_sha256": tokenizer.fingerprint,
        "train_sha256": data.train.sha256,
        "val_sha256": data.validation.sha256,
        "dialogues_sha256": data.dialogues.sha256 if data.dialogues else None,
    }
    silent, validation = not world().is_first, validation_batches(data, config)
    first_step = newest_step(out) if resume else 0
    if world().size == 1 and not training.compile:  # each would have to be set up twice
        announce(estimate(model, source, validation, training, first_step, data))
    steps = training.max_steps, floor(data, config), silent, first_step
    with training_bar("training", *steps) as show:
        return train(
            model,
            source,
            training,
            out,
            validation=validation,
            resume=resume,
            on_log=show,
            should_stop=stop,
            manifest=facts,
        )


def newest_step(out: Path) -> int:
    """Return the step of the newest checkpoint, or 0 where there is none."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoint_paths(out)), default=0)


def make_source(data: Data, config: RunConfig, tokenizer: Tokenizer) -> RowSource:
    """Return where the batches come from: windows of plain text, whole stories, or both kinds."""
    training = config.training
    sizes = training.batch_size, config.model.block_size
    if data.floor_nats is None:
        return Windows(data.train, *sizes, training.seed)
    if data.dialogues is None:
        return Documents(data.train, *sizes, training.seed)
    return read_then_answer(
        Flat.of_documents(data.train),
        flatten(data.dialogues.encoded, config.model.block_size, "drop"),
        1 - config.dialogue_share,
        round((1 - config.tuning_fraction) * training.max_steps),
        sizes,
        tokenizer.eot_id,
        training.seed,
    )


def floor(data: Data, config: RunConfig) -> float | None:
    """Return the best reachable loss in nats per predicted token, where it is known."""
    if data.floor_nats is None:
        return None
    return data.floor_nats / validation_batches(data, config).n_targets


# --- report ---


def make_report(
    model: GPT, tokenizer: Tokenizer, data: Data, config: RunConfig, result: TrainResult
) -> dict:
    """Evaluate the trained model and let it write; return what report.json holds."""
    return training_facts(config, result) | model_card(model, tokenizer, data, config)
