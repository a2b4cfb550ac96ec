"""From a file of examples to a model that answers, and a report: `finetune --data F --out DIR`."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import tyro

from minigpt.alignment.dpo import DPOPhase
from minigpt.alignment.grpo import GRPOPhase
from minigpt.alignment.rewards import Reward, exact_answer, own_reward
from minigpt.commands.arguments import flag_value, parse, stored_settings
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
from minigpt.data.corpora import GENERATED
from minigpt.evaluate import as_items, score_examples
from minigpt.finetune import (
    PRETRAINING_RATES,
    SETTINGS,
    ExamplePhase,
    FinetuneConfig,
    Phase,
    Sides,
    Task,
    check_task,
    load_settings,
    phases,
    read_sides,
    save_settings,
    start,
    usual_settings,
    with_answer_limit,
)
from minigpt.gpt import GPT
from minigpt.runs.checkpoint import RunLock
from minigpt.runs.report import quoted, write_report
from minigpt.runs.run import read_metrics
from minigpt.scoring import about_metrics
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.support.files import check_writable
from minigpt.support.signals import end_on_signals, stop_on_signals
from minigpt.tokenizer import Tokenizer
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
    examples that training never showed, and is scored beside simple baselines. --task dpo learns
    from pairs of answers, --task grpo from a reward for the model's own; both need --checkpoint,
    and report what changed. Ctrl-C leaves a checkpoint; --out DIR --resume goes on from it.
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
    settings = load_settings(stored) if stored else usual_settings(asked_task(words))
    default = FinetuneCommand(tyro.MISSING, settings=settings)
    command = parse(FinetuneCommand, "finetune", words, default)
    config = with_given_rates(command.settings, words)
    check_task(config)
    if config.checkpoint and not command.resume:
        check_model_flags(config)
    if not config.data:
        raise ConfigError("no examples given", "--data", "name a file, a folder or a data set")
    return run_finetune(command.out, config, command.resume)


def asked_task(words: Sequence[str]) -> Task:
    """Return the task that the words name, whose usual settings are the defaults of the others."""
    word = flag_value(list(words), "task")
    return next((task for task in get_args(Task) if task == word), "instruct")


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
    reward = own_reward(config.rewards.reward) if config.rewards.reward else None
    with RunLock(out), end_on_signals(GO_ON), plain_warnings():
        check_writable(out)
        if resume:
            check_vocabulary(load_settings(out), config, out)
        with stage("examples", seconds):
            sides = find_sides(config)
            describe(sides)
            if config.task == "grpo" and reward is None:
                reward = usual_reward(config, sides)
        if not resume:
            save_settings(out, config)  # from now on the directory is one of this command
        with stage("tokenizer", seconds):
            with Bar(desc="learning a vocabulary", unit=" texts", leave=False) as bar:
                model, tokenizer = start(out, config, sides.train, resume, bar.update)
            config = with_answer_limit(config, tokenizer, sides.train)
            to_learn = task_phases(out, config, model, tokenizer, sides, reward)
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
    # A curve shows nats a token; a loss of pairs or of rewards has other units.
    records = read_metrics(out) if isinstance(to_learn[-1], ExamplePhase) else ()
    print("\n" + write_report(out, report, records))
    print(f"written to {out}; {how_to_use(out, config)}")
    return 0


def find_sides(config: FinetuneConfig) -> Sides:
    """Read the examples, or let storyworld make those of a task that it has a judge for."""
    if config.data in GENERATED and config.task in ("dpo", "grpo"):
        from minigpt.alignment.stories import story_sides  # the world is loaded where it is named

        return story_sides(config)
    return read_sides(config)


def usual_reward(config: FinetuneConfig, sides: Sides) -> Reward:
    """Return what grades answers where no --reward does."""
    if config.data in GENERATED:
        from minigpt.alignment.stories import story_reward

        return story_reward(config.rewards.world)
    return exact_answer([*sides.train, *sides.held_out])


def task_phases(
    out: Path,
    config: FinetuneConfig,
    model: GPT,
    tokenizer: Tokenizer,
    sides: Sides,
    reward: Reward | None,
) -> Sequence[Phase]:
    """Return what a task has to learn, one phase after the other."""
    if config.task == "dpo":
        return [DPOPhase(out, config, model, tokenizer, sides)]
    if config.task == "grpo":
        assert reward is not None, "a reward is named, or the usual one"
        return [GRPOPhase(out, config, model, tokenizer, sides, reward)]
    return phases(out, config, model, tokenizer, sides)


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
    if phase.validation is not None and not training.compile:  # answers cannot be timed beforehand
        settings = training, first_step, None, phase.objective
        announce(estimate(phase.model, phase.source, phase.validation, *settings))
    with training_bar(phase.name, training.max_steps, first_step=first_step) as show:
        if not isinstance(phase, GRPOPhase):
            return phase.run(resume, show, stop)
        told = phase.told
        with contextlib.closing(told):
            return phase.run(resume, lambda row: show(row | told.last()), stop)


# --- report ---


def make_report(phase: Phase, sides: Sides, result: TrainResult, config: FinetuneConfig) -> dict:
    """Let the model answer what was held out, and return what report.json holds."""
    facts = training_facts(phase.config, result) | {"examples": sides.facts}
    if isinstance(phase, ExamplePhase):
        return facts | {"val_loss": phase.val_loss()} | graded_answers(phase, sides, config)
    assert isinstance(phase, DPOPhase | GRPOPhase), "all other phases"
    with Bars() as bars:
        found = phase.report(lambda done, total: bars("answering", done, total))
    texts = found.pop("own_answers")[:SHOWN]
    asked = [example.messages[-2]["content"] for example in phase.asked()[:SHOWN]]
    return (
        facts
        | found
        | {
            "samples": [
                f"{prompt[-SHOWN_CHARACTERS:]}\n→ {text}"
                for prompt, text in zip(asked, texts, strict=True)
            ]
        }
    )


def graded_answers(phase: Phase, sides: Sides, config: FinetuneConfig) -> dict:
    """Return the scores of the answers to what was held out, and the first answers."""
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
    about = f"{ABOUT_TASKS} {about_metrics(tasks)}".strip()
    return {"tasks": tasks, "about_tasks": about, "samples": samples}
