"""From settings to a report: what `quickstart` and `train` share, stage by stage.

Tokenizer, token files, training, then evaluation, samples, loss plot and report. Each stage is
timed and leaves its result in the run directory, where a resumed run finds it.
"""

import contextlib
import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from minigpt import plots
from minigpt.batches import (
    Documents,
    EvalDocuments,
    EvalWindows,
    Windows,
)
from minigpt.checkpoint import RunLock, checkpoint_paths
from minigpt.commands.inputs import Data, make_data, make_tokenizer
from minigpt.device import check_memory, choose_device, choose_dtype
from minigpt.errors import ConfigError
from minigpt.files import atomic_write
from minigpt.generate import SampleConfig, generate
from minigpt.gpt import GPT, count_parameters
from minigpt.metrics import bits_per_byte
from minigpt.runs import (
    RunConfig,
    check_resumable,
    load_config,
    read_metrics,
    save_config,
)
from minigpt.signals import stop_on_signals
from minigpt.tokenizer import Tokenizer
from minigpt.train import TrainResult, evaluate_loss, train


def run_pipeline(out: Path, config: RunConfig, resume: bool) -> int:
    """Train by `config` in the directory `out` and write its report; return the exit code."""
    check_out(out, resume)
    seconds: dict[str, float] = {}
    with RunLock(out), stop_on_signals() as stop, plain_warnings():
        with stage("tokenizer", seconds):
            tokenizer = make_tokenizer(out, config, resume)
        model_config = dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size)
        config = dataclasses.replace(config, model=model_config)
        if resume:
            check_resumable(load_config(out), config, out)
        check_fits(config)
        save_config(out, config)
        with stage("data", seconds):
            data = make_data(out, config, tokenizer, resume)
        with stage("training", seconds):
            torch.manual_seed(config.training.seed)
            model = GPT(config.model)
            result = train_with_bar(model, data, config, out, tokenizer, resume, stop)
        if result.stopped:
            print(f"stopped at step {result.step}; go on with --resume", file=sys.stderr)
            return stop.exit_code
        with stage("report", seconds):
            report = make_report(model, tokenizer, data, config, result)
    report["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    report["seconds"]["total"] = round(sum(seconds.values()), 1)
    write_report(out, report)
    return 0


@contextlib.contextmanager
def stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Time one stage, and announce it."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings of the package as one line each."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: tqdm.write(f"note: {message}", file=sys.stderr)
        yield


def check_out(out: Path, resume: bool) -> None:
    """Make sure before anything else that the run directory can be used."""
    if out.exists() and not out.is_dir():
        raise ConfigError("--out is a file", str(out), "name a directory")
    if checkpoint_paths(out) and not resume:
        raise ConfigError(
            "the directory already holds a run", str(out), "add --resume, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(out / "probe", bytes(1 << 16))  # a real write: rights alone do not tell
        (out / "probe").unlink()
    except OSError as error:
        raise ConfigError(
            f"the directory cannot be written to ({error.strerror})", str(out),
            "choose another --out, or free some space",
        ) from None  # fmt: skip


def check_fits(config: RunConfig) -> None:
    """Say what will be trained, and refuse what does not fit into memory."""
    training = config.training
    device = choose_device(training.device)
    dtype = choose_dtype(device, training.dtype)
    rows = training.micro_batch_size or training.batch_size
    needed = check_memory(config.model, rows, device, dtype)
    print(
        f"{count_parameters(config.model) / 1e6:.2f} million parameters on {device} in "
        f"{str(dtype).removeprefix('torch.')}, about {needed / 1e9:.2f} GB",
        file=sys.stderr,
    )


# --- training ---


def train_with_bar(
    model: GPT, data: Data, config: RunConfig, out: Path, tokenizer: Tokenizer, resume: bool, stop
) -> TrainResult:
    """Train with a progress bar that shows loss, validation loss and floor."""
    training, block_size = config.training, config.model.block_size
    source_kind = Windows if data.floor_nats is None else Documents
    source = source_kind(data.train, training.batch_size, block_size, training.seed)
    facts = {
        "model": dataclasses.asdict(config.model),
        "tokenizer_sha256": tokenizer.fingerprint,
        "train_sha256": data.train.sha256,
        "val_sha256": data.validation.sha256,
    }
    shown = {} if data.floor_nats is None else {"floor": f"{floor(data, config):.3f}"}
    with tqdm(total=training.max_steps, desc="training", unit="step") as bar:

        def show(row: dict) -> None:
            shown.update({k: f"{row[k]:.3f}" for k in ("loss", "val_loss") if k in row})
            bar.set_postfix(shown, refresh=False)
            bar.update(row["step"] - bar.n)

        return train(
            model, source, training, out, validation=validation_batches(data, config),
            resume=resume, on_log=show, should_stop=stop, manifest=facts,
        )  # fmt: skip


def validation_batches(data: Data, config: RunConfig) -> EvalWindows | EvalDocuments:
    """Return all of the validation text in batches: whole stories, or windows of plain text."""
    rows = config.training.micro_batch_size or config.training.batch_size
    kind = EvalWindows if data.floor_nats is None else EvalDocuments
    return kind(data.validation, rows, config.model.block_size)


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
    device = choose_device(config.training.device)
    batches = validation_batches(data, config)
    dtype = choose_dtype(device, config.training.dtype)
    bar = tqdm(batches, desc="evaluating", unit=" batches", leave=False)
    val_loss = evaluate_loss(model, bar, device, dtype)
    report = {
        "data": config.data,
        "parameters": count_parameters(config.model),
        "steps": result.step,
        "tokens": result.tokens,
        "tokens_per_second": round(result.tokens / result.seconds),
        "val_loss": val_loss,
        "bits_per_byte": bits_per_byte(val_loss * batches.n_targets, data.n_bytes),
    }
    if data.floor_nats is not None:
        report["floor"] = floor(data, config)
        report["excess"] = val_loss / report["floor"] - 1
        gap = (val_loss - report["floor"]) * batches.n_targets
        report["gap_nats_per_story"] = gap / data.n_stories
    sampling = SampleConfig(max_new_tokens=min(config.model.block_size - 1, 200))
    ids = generate(model, [[tokenizer.eot_id]] * 3, sampling, stop_ids=[tokenizer.eot_id])
    report["samples"] = [tokenizer.decode(row) for row in ids]
    return report


def write_report(out: Path, report: dict) -> None:
    """Write report.json, report.md and loss.png, and print the report."""
    atomic_write(out / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    title = f"{report['data']}, {report['parameters'] / 1e6:.2f} million parameters"
    plots.loss_curve(read_metrics(out), report.get("floor"), out / "loss.png", title)
    text = report_text(report)
    atomic_write(out / "report.md", text)
    print(f"\n{text}\nwritten to {out}")


def report_text(report: dict) -> str:
    """Return the report as a page of Markdown."""
    rows = [
        ("data", report["data"]),
        ("parameters", f"{report['parameters']:,}"),
        ("steps, tokens", f"{report['steps']:,}, {report['tokens']:,}"),
        ("tokens a second", f"{report['tokens_per_second']:,}"),
        ("validation loss", f"{report['val_loss']:.4f} nats a token"),
        ("bits per byte", f"{report['bits_per_byte']:.4f}"),
    ]
    if "floor" in report:
        rows += [
            ("floor", f"{report['floor']:.4f} nats a token: no model can do better"),
            ("excess", f"{report['excess']:.1%} over the floor"),
            ("gap", f"{report['gap_nats_per_story']:.2f} nats a story"),
        ]
    seconds = report["seconds"]
    rows += [("seconds", ", ".join(f"{name} {value}" for name, value in seconds.items()))]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    samples = "\n\n".join(
        f"> {sample.strip()}".replace("\n", "\n> ") for sample in report["samples"]
    )
    return f"# Report\n\n| | |\n| --- | --- |\n{table}\n\n## It writes\n\n{samples}\n"
