"""From a file of examples to a model that answers, and a report: `finetune --data F --out DIR`."""

import dataclasses
import hashlib
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from minigpt.chat import SPECIAL, Encoded, encode_chats, special_ids
from minigpt.checkpoint import RunLock
from minigpt.commands.arguments import parse
from minigpt.commands.card import Bars
from minigpt.commands.pipeline import check_fits, check_out, plain_warnings, stage
from minigpt.commands.settings import (
    FinetuneCommand,
    check_model_flags,
    load_command,
    save_command,
    tuned,
)
from minigpt.device import choose_device, choose_dtype
from minigpt.errors import ConfigError, DataError
from minigpt.evaluate import answers
from minigpt.examples import (
    Example,
    compared,
    load_examples,
    overlap,
    own_tests,
    split_examples,
)
from minigpt.finetune import EvalPacked, Packed, Stages
from minigpt.gpt import GPT, GPTConfig, count_parameters
from minigpt.report import write_report
from minigpt.runs import (
    Run,
    RunConfig,
    check_resumable,
    load_config,
    open_run,
    read_metrics,
    save_config,
)
from minigpt.scoring import Item, example_items, fitting_metrics, score_task
from minigpt.signals import stop_on_signals
from minigpt.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from minigpt.train import TrainResult, evaluate_loss, train

VALIDATION_EXAMPLES = 1000  # for the loss that is shown while training; all are answered at the end
SHOWN, SHOWN_CHARACTERS = 5, 300  # answers in the report, and the end of their prompts
CONTEXT_STEP = 64  # block_size is a multiple of it
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
            plan = make_plan(command, sides)
        with stage("training", seconds):
            result = train_with_bar(command, plan, stop)
        if result.stopped:
            print(f"stopped at step {result.step}; go on with --resume", file=sys.stderr)
            return stop.exit_code
        with stage("report", seconds):
            report = make_report(plan, sides, result)
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
            f"{len(train)} examples to train on and {len(held_out)} held out", command.data,
            "give more examples, another --validation-fraction, or a file with --held-out",
        )  # fmt: skip
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
        "{skipped:,} bad ones skipped".format(**facts), file=sys.stderr,
    )  # fmt: skip
    if facts["overlap"] > 0:
        warnings.warn(
            f"the prompts of {facts['overlap']:.1%} of the held-out examples also stand in "
            "training, so the scores look better than they are", stacklevel=2,
        )  # fmt: skip
    return Sides(train, held_out, facts)


# --- model, batches, training ---


@dataclass(frozen=True)
class Plan:
    """All that training needs."""

    config: RunConfig
    tokenizer: Tokenizer
    model: GPT
    source: Stages
    validation: EvalPacked
    facts: dict
    """What a resumed run must share."""


def make_plan(command: FinetuneCommand, sides: Sides) -> Plan:
    """Make or open tokenizer and model, encode the examples, and store the settings."""
    training = command.training
    base = open_run(command.checkpoint, training.device) if command.checkpoint else None
    tokenizer = make_tokenizer(command, sides, base)
    conversations = [example.messages for example in sides.train]
    encoded = encode_chats(conversations, tokenizer)
    if base:
        model_config = dataclasses.replace(base.config.model, dropout=command.model.dropout)
    else:
        model_config = fitting_model(command.model, tokenizer, encoded)
    rows = training.batch_size, model_config.block_size
    places = [example.where for example in sides.train]

    def packed(pairs: Sequence[Encoded], seed: int) -> Packed:
        return Packed(pairs, *rows, seed, command.over_long, tokenizer.eot_id, places)

    answers_only = packed(encoded, training.seed)
    everything = packed(encode_chats(conversations, tokenizer, "all"), training.seed + 1)
    first, steps = count_steps(command, answers_only.n_rows)
    config = RunConfig(
        command.data, str(command.checkpoint or "bpe"), model=model_config,
        training=dataclasses.replace(training, max_steps=steps),
    )  # fmt: skip
    describe(answers_only, first, steps)
    check_fits(config)
    store(command, config)
    shown = [example.messages for example in sides.held_out[:VALIDATION_EXAMPLES]]
    facts = {
        "tokenizer_sha256": tokenizer.fingerprint,
        "train_sha256": hashlib.sha256(answers_only.flat.ids).hexdigest(),
    }
    torch.manual_seed(training.seed)
    model = GPT(model_config)
    if base:
        model.load_state_dict(base.model.state_dict())
    return Plan(
        config, tokenizer, model, Stages(everything, first, answers_only),
        EvalPacked(encode_chats(shown, tokenizer), *rows, "cut", tokenizer.eot_id), facts,
    )  # fmt: skip


def make_tokenizer(command: FinetuneCommand, sides: Sides, base: Run | None) -> Tokenizer:
    """Take the tokenizer of the run or of the checkpoint, or train one on the training examples."""
    path = command.out / "tokenizer.json"
    if command.resume and path.exists():
        return load_tokenizer(path)
    if base:
        tokenizer = base.tokenizer
        special_ids(tokenizer)  # or else it cannot chat
    else:
        texts = (message["content"] for example in sides.train for message in example.messages)
        with tqdm(texts, desc="learning a vocabulary", unit=" texts", leave=False) as bar:
            tokenizer = BPETokenizer.train(bar, command.model.vocab_size, SPECIAL)
    tokenizer.save(path)
    return tokenizer


def fitting_model(model: GPTConfig, tokenizer: Tokenizer, encoded: Sequence[Encoded]) -> GPTConfig:
    """Return the model's settings with the tokenizer's vocabulary, and no more context than needed.

    Short rows are cheaper, so block_size shrinks to what the longest example needs.
    """
    needed = -(-max(len(ids) for ids, _ in encoded) // CONTEXT_STEP) * CONTEXT_STEP
    block_size = min(model.block_size, needed)
    return dataclasses.replace(model, vocab_size=tokenizer.vocab_size, block_size=block_size)


def count_steps(command: FinetuneCommand, n_rows: int) -> tuple[int, int]:
    """Return the steps in which everything is learned, and the steps in all."""
    a_pass = n_rows / command.training.batch_size
    wanted = (command.pretrain_epochs + command.epochs) * a_pass
    steps = max(1, min(command.training.max_steps, math.ceil(wanted)))
    return round(steps * command.pretrain_epochs * a_pass / wanted), steps


def describe(packed: Packed, first: int, steps: int) -> None:
    """Print what will be learned."""
    flat = packed.flat
    long = f"; {flat.n_over_long:,} were too long" if flat.n_over_long else ""
    print(
        f"{len(flat):,} examples in {packed.n_rows:,} rows of {packed.block_size} tokens, "
        f"{packed.fill:.0%} full{long}\n{steps:,} steps, the first {first:,} on all of the text",
        file=sys.stderr,
    )


def store(command: FinetuneCommand, config: RunConfig) -> None:
    """Write the run's settings, unless they are not those of the run that goes on."""
    if command.resume and (command.out / "config.json").exists():
        check_resumable(load_config(command.out), config, command.out)
    save_config(command.out, config)
    save_command(command)


def train_with_bar(command: FinetuneCommand, plan: Plan, stop) -> TrainResult:
    """Train with a progress bar that shows the loss, and that of the answers held out."""
    training, shown = plan.config.training, {}
    with tqdm(total=training.max_steps, desc="training", unit="step") as bar:

        def show(row: dict) -> None:
            shown.update({k: f"{row[k]:.3f}" for k in ("loss", "val_loss") if k in row})
            bar.set_postfix(shown, refresh=False)
            bar.update(row["step"] - bar.n)

        return train(
            plan.model, plan.source, training, command.out, validation=plan.validation,
            resume=command.resume, on_log=show, should_stop=stop, manifest=plan.facts,
        )  # fmt: skip


# --- report ---


def make_report(plan: Plan, sides: Sides, result: TrainResult) -> dict:
    """Let the model answer what was held out, and return what report.json holds."""
    config = plan.config
    device = choose_device(config.training.device)
    dtype = choose_dtype(device, config.training.dtype)
    tasks, samples = scores(plan.model, plan.tokenizer, sides)
    return {
        "data": config.data,
        "parameters": count_parameters(config.model),
        "steps": result.step,
        "tokens": result.tokens,
        "tokens_per_second": round(result.tokens / result.seconds),
        "val_loss": evaluate_loss(plan.model, plan.validation, device, dtype),
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
    longest = max(map(len, tokenizer.encode_batch([item.answer for item in train_items])))
    bars = Bars()
    try:
        found = answers(
            model, tokenizer, [item.messages for item in items], longest + 1,
            on_progress=lambda done, total: bars("answering", done, total),
        )  # fmt: skip
    finally:
        bars.close()
    metrics = fitting_metrics([*items, *train_items])
    rows = [(name, name, items, found, train_items) for name in metrics]
    parts = sorted({item.group for item in items})
    for part in parts if len(parts) > 1 else []:
        places = [place for place, item in enumerate(items) if item.group == part]
        rows.append((
            part, metrics[0], [items[n] for n in places], [found[n] for n in places],
            [item for item in train_items if item.group == part],
        ))  # fmt: skip
    tasks = {
        name: score_task(name, metric, predictions, asked, taught).as_dict()
        for name, metric, asked, predictions, taught in rows
    }
    samples = [
        f"{item.prompt[-SHOWN_CHARACTERS:]}\n→ {text}\n(right: {item.answer})"
        for item, text in list(zip(items, found, strict=True))[:SHOWN]
    ]
    return tasks, samples


def to_items(examples: Sequence[Example]) -> list[Item]:
    """Return the examples as items to be asked; parts of the data set as groups."""
    items = example_items([example.messages for example in examples])
    return [
        dataclasses.replace(item, group=example.group)
        for item, example in zip(items, examples, strict=True)
    ]
