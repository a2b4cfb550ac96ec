"""From a file of examples to a model that answers, and a report: `finetune --data F --out DIR`."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from minigpt.commands.arguments import parse, stored_settings
from minigpt.commands.bars import Bar, Bars, training_bar
from minigpt.commands.card import training_facts
from minigpt.commands.pipeline import (
    FINISHING,
    GO_ON,
    announce,
    check_fits,
    check_out,
    newest_step,
    plain_warnings,
    stage,
)
from minigpt.commands.timing import estimate
from minigpt.evaluate import as_items, score_examples
from minigpt.finetune import (
    PRETRAINING_RATES,
    SETTINGS,
    FinetuneConfig,
    Phase,
    Sides,
    load_settings,
    phases,
    read_sides,
    save_settings,
    start,
    with_answer_limit,
)
from minigpt.runs.checkpoint import RunLock
from minigpt.runs.report import quoted, write_report
from minigpt.runs.run import read_metrics
from minigpt.scoring import about_metrics
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.support.files import check_writable
from minigpt.support.signals import end_on_signals, stop_on_signals
from minigpt.train import TrainResult

SHOWN, SHOWN_CHARACTERS = 5, 300  # answers in the report, and the end of their prompts
ABOUT_TASKS = (
    "Each score is that of the model's answers to examples that training never showed. The "
    "baseline is the best of: the most common answer, a bag of the words, logistic regression on "
    "them (TF-IDF), a copy of the text, its first sentence; learned from the same training "
    "examples, measured on the same items."
)


@dataclass(frozen=True)
class FinetuneCommand:
    """Teach a model to answer from your own examples: a file in, a report out.

    With --checkpoint a trained model learns on. Without, tokenizer and model are made from nothing:
    the model first learns all of the examples' text, then the answers alone. In the end it answers
    examples that training never showed, and is scored beside simple baselines. Ctrl-C leaves a
    checkpoint; --out DIR --resume goes on from it.
    """

    out: Path
    """Directory of the run; it is made if it is not there."""
    resume: bool = False
    """Go on from the run's newest checkpoint, with its settings."""
    config: Path | None = None
    """A finetune.json, or a run that has one: its settings are the defaults; flags still count."""
    settings: FinetuneConfig = field(default_factory=FinetuneConfig)


def main(words: list[str]) -> int:
    """Run the command; exit 0, or 130 / 143 after Ctrl-C / a request to end."""
    stored = stored_settings(words)
    settings = load_settings(stored) if stored else FinetuneConfig()
    default = FinetuneCommand(tyro.MISSING, settings=settings)
    command = parse(FinetuneCommand, "finetune", words, default)
    config = with_given_rates(command.settings, words)
    if config.checkpoint and not command.resume:
        check_model_flags(config)
    if not config.data:
        raise ConfigError("no examples given", "--data", "name a file, a folder or a data set")
    return run_finetune(command.out, config, command.resume)


def with_given_rates(config: FinetuneConfig, words: Sequence[str]) -> FinetuneConfig:
    """Let a learning rate that the user gave count in pre-training too, unless that has its own."""
    flags = {word.split("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    rates = {
        f"pretrain_{name}": getattr(config.training, name)
        for name in PRETRAINING_RATES
        if flag(name) in flags and flag(f"pretrain_{name}") not in flags
    }
    return dataclasses.replace(config, **rates)


def flag(name: str) -> str:
    """Return the flag of a setting: n_layer -> --n-layer."""
    return "--" + name.replace("_", "-")


def check_model_flags(config: FinetuneConfig) -> None:
    """Refuse settings that a checkpoint's model has already, and cannot change."""
    usual = dataclasses.asdict(FinetuneConfig().model) | {"dropout": config.model.dropout}
    for name, value in dataclasses.asdict(config.model).items():
        if value != usual[name]:
            raise ConfigError(
                f"{flag(name)} cannot be changed with --checkpoint",
                f"{name} = {value!r}",
                "leave it out: the model is that of the checkpoint",
            )


def run_finetune(out: Path, config: FinetuneConfig, resume: bool) -> int:
    """Read, train, answer, report; return the exit code."""
    seconds: dict[str, float] = {}
    check_out(out, resume, is_finetuning)
    with RunLock(out), end_on_signals(GO_ON), plain_warnings():
        check_writable(out)
        if resume:
            check_vocabulary(load_settings(out), config, out)
        with stage("examples", seconds):
            sides = read_sides(config)
            describe(sides)
        if not resume:
            save_settings(out, config)  # from now on the directory is one of this command
        with stage("tokenizer", seconds):
            with Bar(desc="learning a vocabulary", unit=" texts", leave=False) as bar:
                model, tokenizer = start(out, config, sides.train, resume, bar.update)
            config = with_answer_limit(config, tokenizer, sides.train)
            to_learn = phases(out, config, model, tokenizer, sides)
        for phase in to_learn if resume else ():
            phase.check_resumable()
        save_settings(out, config)
        results = []
        for phase in to_learn:
            with stage(phase.name, seconds), stop_on_signals(FINISHING) as stop:
                results.append(learn(phase, resume, stop))
            if results[-1].stopped:
                print(f"stopped at step {results[-1].step}; go on with --resume", file=sys.stderr)
                return stop.exit_code
        with stage("report", seconds):
            report = make_report(to_learn[-1], sides, results[-1], config)
    report["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    report["seconds"]["total"] = round(sum(seconds.values()), 1)
    print("\n" + write_report(out, report, read_metrics(out)))
    print(f"written to {out}; {how_to_use(out, config)}")
    return 0


def how_to_use(out: Path, config: FinetuneConfig) -> str:
    """Say what can be done with a fine-tuned model."""
    if config.task == "classify":
        return f'from Python: minigpt.load("{out.as_posix()}").classify([text, ...])'
    return f"talk to it: python -m minigpt chat --checkpoint {quoted(out)}"


def is_finetuning(out: Path) -> bool:
    """Tell whether a directory is one that this command has begun to fill."""
    try:
        load_settings(out / SETTINGS)
    except (CheckpointError, OSError):
        return False
    return True


def check_vocabulary(stored: FinetuneConfig, config: FinetuneConfig, out: Path) -> None:
    """Refuse another size of the vocabulary than the run began with: it is learned already."""
    before, now = stored.model.vocab_size, config.model.vocab_size
    if before != now:
        raise ConfigError(
            f"changed since the run began: model.vocab_size {before} -> {now}",
            str(out),
            "leave --vocab-size out, or start a new run in another --out",
        )


def describe(sides: Sides) -> None:
    """Print what was found in the examples."""
    print(sides.about, file=sys.stderr)
    print(
        "{train:,} examples to train on, {held_out:,} held out; {repeated:,} repeat a prompt, "
        "{skipped:,} bad ones skipped".format(**sides.facts),
        file=sys.stderr,
    )


def learn(phase: Phase, resume: bool, stop: Callable[[], bool]) -> TrainResult:
    """Train one phase with a progress bar that shows the loss, and that of what was held out."""
    print(phase.describe(), file=sys.stderr)
    check_fits(phase.config)
    training = phase.config.training
    first_step = newest_step(phase.run_dir) if resume else 0
    if not training.compile:
        announce(estimate(phase.model, phase.source, phase.validation, training, first_step))
    with training_bar(phase.name, training.max_steps, first_step=first_step) as show:
        return phase.run(resume, show, stop)


# --- report ---


def make_report(phase: Phase, sides: Sides, result: TrainResult, config: FinetuneConfig) -> dict:
    """Let the model answer what was held out, and return what report.json holds."""
    val_loss = phase.val_loss()
    items, train_items = as_items(sides.held_out), as_items(sides.train)
    with Bars() as bars:
        tasks, found = score_examples(
            phase.model,
            phase.tokenizer,
            items,
            train_items,
            max_new_tokens=config.max_answer_tokens,
            on_progress=lambda done, total: bars("answering", done, total),
        )
    samples = [
        f"{item.prompt[-SHOWN_CHARACTERS:]}\n→ {text}\n(right: {' or '.join(item.right)})"
        for item, text in list(zip(items, found, strict=True))[:SHOWN]
    ]
    return training_facts(phase.config, result) | {
        "val_loss": val_loss,
        "examples": sides.facts,
        "tasks": tasks,
        "about_tasks": f"{ABOUT_TASKS} {about_metrics(tasks)}".strip(),
        "samples": samples,
    }
