"""From a file of examples to a model that answers, and a report: `finetune --data F --out DIR`."""

import dataclasses
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt.batching.conversations import fit_prompts
from minigpt.batching.examples import (
    Example,
    compared,
    load_examples,
    overlap,
    own_tests,
    split_examples,
)
from minigpt.chat import encode_prompts, end_id
from minigpt.commands.arguments import parse
from minigpt.commands.card import Bars
from minigpt.commands.pipeline import check_out, plain_warnings, stage
from minigpt.commands.settings import (
    FinetuneCommand,
    check_model_flags,
    load_command,
    save_command,
    tuned,
)
from minigpt.commands.teach import Phase, start
from minigpt.counts import count_parameters
from minigpt.evaluate import generate_texts
from minigpt.gpt import GPT
from minigpt.runs.checkpoint import RunLock, checkpoint_paths
from minigpt.runs.report import write_report
from minigpt.runs.run import (
    read_metrics,
)
from minigpt.sampling import SampleConfig
from minigpt.scoring import Item, example_items, fitting_metrics, score_task
from minigpt.support.errors import ConfigError, DataError
from minigpt.support.signals import stop_on_signals
from minigpt.tokenizer import Tokenizer
from minigpt.train import TrainResult

PRETRAINING = {"learning_rate": 3e-3, "muon_learning_rate": 0.02}
SHOWN, SHOWN_CHARACTERS = 5, 300  # answers in the report, and the end of their prompts
ABOUT_TASKS = (
    "Each score is that of the model's answers to examples that training never showed. The "
    "shortcut is the best of: the most common answer, a bag of the words, a copy of the text, its "
    "first sentence; learned from the same training examples, measured on the same items."
)


def main(words: list[str]) -> int:
    """Run the command; exit 0, or 130 / 143 after Ctrl-C / a request to end."""
    command = parse(FinetuneCommand, "finetune", words)
    if command.resume:  # the run's own settings are the defaults; flags still count
        stored = dataclasses.replace(load_command(command.out), resume=True)
        command = parse(FinetuneCommand, "finetune", words, stored)
    elif command.checkpoint:
        command = parse(FinetuneCommand, "finetune", words, tuned())
        check_model_flags(command)
    if not command.data:
        raise ConfigError("no examples given", "--data", "name a file, a folder or a data set")
    return run_finetune(command)


def run_finetune(command: FinetuneCommand) -> int:
    """Read, train, answer, report; return the exit code."""
    out, seconds = command.out, {}
    check_out(out, command.resume)
    with RunLock(out), stop_on_signals() as stop, plain_warnings():
        with stage("examples", seconds):
            sides = read_sides(command)
        with stage("tokenizer", seconds):
            model, tokenizer = start(command, sides.train)
            to_learn = phases(command, model, tokenizer, sides)
        for phase in to_learn.values():
            phase.check()
        save_command(command)
        for name, phase in to_learn.items():
            with stage(name, seconds):
                result = phase.run(name, stop)
            if result.stopped:
                print(f"stopped at step {result.step}; go on with --resume", file=sys.stderr)
                return stop.exit_code
        with stage("report", seconds):
            report = make_report(phase, sides, result)
    report["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    report["seconds"]["total"] = round(sum(seconds.values()), 1)
    print("\n" + write_report(out, report, read_metrics(out)))
    print(f"written to {out}; talk to it: python -m minigpt chat --checkpoint {out}")
    return 0


# --- examples ---


@dataclass(frozen=True)
class Sides:
    """The examples to learn from and those to be tested on."""

    train: list[Example]
    held_out: list[Example]
    facts: dict
    """What was found in the data, for the report."""


def read_sides(command: FinetuneCommand) -> Sides:
    """Read all examples, part them, and say what was found."""
    config = command.examples
    train, skipped = load_examples(command.data, config)
    if command.held_out:
        held_out, more = load_examples(command.held_out, config, "test")
        skipped += more
    elif not (held_out := own_tests(command.data, config)):
        train, held_out = split_examples(train, command.validation_fraction)
    if not train or not held_out:
        raise DataError(
            f"{len(train)} examples to train on and {len(held_out)} held out",
            command.data,
            "give more examples, another --validation-fraction, or a file with --held-out",
        )
    both = [*train, *held_out]
    facts = {
        "train": len(train),
        "held_out": len(held_out),
        "skipped": skipped,
        "repeated": len(both) - len({compared(example.messages) for example in both}),
        "overlap": overlap(train, held_out),
    }
    print(
        "{train:,} examples to train on, {held_out:,} held out; {repeated:,} repeat a prompt, "
        "{skipped:,} bad ones skipped".format(**facts),
        file=sys.stderr,
    )
    if facts["overlap"] > 0:
        warnings.warn(
            f"the prompts of {facts['overlap']:.1%} of the held-out examples also stand in "
            "training, so the scores look better than they are",
            stacklevel=2,
        )
    return Sides(train, held_out, facts)


# --- learning ---


def phases(
    command: FinetuneCommand, model: GPT, tokenizer: Tokenizer, sides: Sides
) -> dict[str, Phase]:
    """Return what is to be learned: all of the text, if that is wanted, then the answers."""
    training, both = command.training, (sides.train, sides.held_out)
    found = {}
    if command.pretrain_epochs != 0 and not checkpoint_paths(command.out):
        found["pre-training"] = Phase(
            command,
            command.out / "pretrained",
            model,
            tokenizer,
            both,
            "all",
            command.pretrain_epochs,
            dataclasses.replace(training, **PRETRAINING),
        )
    found["training"] = Phase(
        command, command.out, model, tokenizer, both, "answers", command.epochs, training
    )
    return found


# --- report ---


def make_report(phase: Phase, sides: Sides, result: TrainResult) -> dict:
    """Let the model answer what was held out, and return what report.json holds."""
    config = phase.config
    tasks, samples = scores(phase.model, phase.tokenizer, sides)
    return {
        "data": config.data,
        "parameters": count_parameters(config.model),
        "steps": result.step,
        "tokens": result.tokens,
        "tokens_per_second": round(result.tokens / result.seconds),
        "val_loss": phase.val_loss(),
        "examples": sides.facts,
        "tasks": tasks,
        "about_tasks": ABOUT_TASKS,
        "samples": samples,
    }


def scores(model: GPT, tokenizer: Tokenizer, sides: Sides) -> tuple[dict[str, dict], list[str]]:
    """Return the tasks' scores, and some of the answers.

    Where the data have several parts, such as one file for each kind of question, the first metric
    is given for each part as well.
    """
    items, train_items = to_items(sides.held_out), to_items(sides.train)
    found = answer(model, tokenizer, items, train_items)
    metrics = fitting_metrics([*items, *train_items])
    rows = [(name, name, items, found, train_items) for name in metrics]
    parts = sorted({item.group for item in items})
    for part in parts if len(parts) > 1 else []:
        places = [place for place, item in enumerate(items) if item.group == part]
        rows.append(
            (
                part,
                metrics[0],
                [items[n] for n in places],
                [found[n] for n in places],
                [item for item in train_items if item.group == part],
            )
        )
    tasks = {
        name: score_task(name, metric, predictions, asked, taught).as_dict()
        for name, metric, asked, predictions, taught in rows
    }
    samples = [
        f"{item.prompt[-SHOWN_CHARACTERS:]}\n→ {text}\n(right: {item.answer})"
        for item, text in list(zip(items, found, strict=True))[:SHOWN]
    ]
    return tasks, samples


def answer(
    model: GPT, tokenizer: Tokenizer, items: Sequence[Item], train_items: Sequence[Item]
) -> list[str]:
    """Return the model's likeliest answers; none is longer than the longest one in training."""
    taught = tokenizer.encode_batch([item.answer for item in train_items])
    block_size = model.config.block_size
    longest = min(1 + max(map(len, taught)), block_size // 2)
    prompts = encode_prompts([item.messages for item in items], tokenizer)
    prompts, n_cut = fit_prompts(prompts, block_size - longest)
    if n_cut:
        warnings.warn(
            f"{n_cut} of {len(items)} held-out prompts are longer than the context of {block_size} "
            "tokens and lost their middle",
            stacklevel=2,
        )
    sampling = SampleConfig(max_new_tokens=longest, temperature=0.0)
    stop_ids = (end_id(tokenizer), tokenizer.eot_id)
    bars = Bars()
    try:
        rows = generate_texts(
            model,
            prompts,
            sampling,
            stop_ids,
            on_progress=lambda done, total: bars("answering", done, total),
        )
    finally:
        bars.close()
    return [tokenizer.decode(ids).strip() for ids in rows]


def to_items(examples: Sequence[Example]) -> list[Item]:
    """Return the examples as items to be asked; parts of the data set as groups."""
    items = example_items([example.messages for example in examples])
    return [
        dataclasses.replace(item, group=example.group)
        for item, example in zip(items, examples, strict=True)
    ]
