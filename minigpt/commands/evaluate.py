"""Evaluate trained models: `evaluate --checkpoint RUN [RUN ...] [--task FILE] [--text FILE]`."""

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigpt.batching.examples import ExampleConfig, load_examples, recognized
from minigpt.commands.arguments import parse
from minigpt.commands.bars import Bar, Bars
from minigpt.commands.card import described, model_card
from minigpt.commands.inputs import make_data
from minigpt.commands.pipeline import plain_warnings
from minigpt.counts import count_parameters
from minigpt.data.corpus import Errors, read_documents
from minigpt.data.decoding import ReadCounts
from minigpt.data.discovery import find_files
from minigpt.evaluate import as_items, score_examples, text_score
from minigpt.finetune import answer_limit
from minigpt.runs.report import is_report, report_text, write_report
from minigpt.runs.run import REPORT_FILES, Run, is_run, open_run, read_metrics
from minigpt.scoring import METRICS, about_metrics
from minigpt.support.errors import ConfigError, require
from minigpt.support.files import check_writable, refuse_existing
from minigpt.tasks import (
    ABOUT_TASKS,
    Form,
    Result,
    Task,
    contamination_facts,
    read_task,
    run_task,
    seen_shares,
    side_by_side,
    task_report,
)


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a trained model on its own task, on any text or task; or several side by side."""

    checkpoint: tuple[Path, ...]
    """A run directory, one checkpoint directory in it, little or little-base, the folder of a
    published model (GPT-2, Llama 3, Qwen3), or its name: hf:Qwen/Qwen3-0.6B. Several are compared
    on the same items, each with the first."""
    out: Path | None = None
    """Directory of the report (by default "evaluation" in the run; little and several models: only
    printed)."""
    task: tuple[str, ...] = ()
    """Files or names of data sets (arc-easy hellaswag mmlu lambada): choices are asked by
    likelihood, texts for their last word, prompts for an answer."""
    form: Form = "text"
    """How choices are asked: their text, or the letter under which they are listed."""
    limit: int | None = None
    """How many items of each --task are asked (None: all)."""
    seen: str | None = None
    """Training texts in which the items of --task are looked for (contamination)."""
    text: Path | None = None
    """A file or folder of plain text: perplexity and bits per byte."""
    field: str = "text"
    """Name of the field or column that holds the text (.json, .jsonl, .csv, .tsv)."""
    separator: str = ""
    """What parts the documents of a plain text, such as '\\n\\n' (empty: <|endoftext|> lines)."""
    stride: int | None = None
    """How far apart the windows of a long text begin (None: half of the context)."""
    data: str | None = None
    """Examples with right answers: a file, folder, pattern, archive or data set's name."""
    learn_from: str | None = None
    """Training examples for the baselines that the scores are compared with."""
    metric: str = "auto"
    """How answers are graded: auto, accuracy, f1, precision, recall, exact, exact_match, token_f1,
    cmrc_match, cmrc_f1, rouge_l, bleu."""
    max_answer_tokens: int | None = None
    """Most tokens of an answer (None: as finetune gave it, which is the longest answer in training;
    other runs: a quarter of the context)."""
    per_task: int = 200
    """How many items of each storyworld task are asked."""
    stories: int = 1000
    """How many stories a storyworld model tells."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    examples: ExampleConfig = dataclasses.field(default_factory=ExampleConfig)


def main(words: list[str]) -> int:
    """Run the command: write the report and print it."""
    command = parse(EvaluateCommand, "evaluate", words)
    check(command)
    if command.out:
        check_out(command.out)
    tasks, seen = read_tasks(command)
    if len(command.checkpoint) > 1:
        return compare(command, tasks, seen)
    run = opened(next(iter(command.checkpoint)), command.device)
    out = command.out or (run.folder / "evaluation" if run.folder else None)
    if out and not command.out:
        check_out(out)
    with plain_warnings():
        report = evaluated(command, run, tasks, seen)
    asks_own = not asked_for(command)
    return show(out, report, read_metrics(run.folder) if run.folder and asks_own else [])


def opened(checkpoint: Path, device: str) -> Run:
    """Open a run, and say what is odd about it."""
    run = open_run(checkpoint, device)
    for note in run.notes:
        print(note, file=sys.stderr)
    return run


def show(out: Path | None, report: dict, records: Sequence[dict] = ()) -> int:
    """Print a report and, where a directory is known, write it."""
    if not out:
        print(report_text(report))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    print(write_report(out, report, records))
    print(f"written to {out}; open {out / 'report.html'}")
    return 0


def asked_for(command: EvaluateCommand) -> str:
    """Name what the command evaluates on; "" where it is the run's own text."""
    return " and ".join(str(word) for word in (command.text, command.data, *command.task) if word)


def check_out(out: Path) -> None:
    """Make sure that the report can be written, and replaces an earlier evaluation at most."""
    check_writable(out)
    if is_run(out):
        remedy = "leave --out out, or name a directory of its own"
        raise ConfigError("--out is a run, which has a report already", str(out), remedy)
    if not is_report(out / "report.json"):
        refuse_existing((out / name for name in REPORT_FILES), "choose another --out")


def check(command: EvaluateCommand) -> None:
    """Refuse numbers and metrics that make no sense, before anything is loaded."""
    require(command.per_task >= 1, "per_task", command.per_task, "1 or more")
    require(command.stories >= 1, "stories", command.stories, "1 or more")
    tokens = command.max_answer_tokens
    require(tokens is None or tokens >= 1, "max_answer_tokens", tokens, "1 or more")
    known = ("auto", *(name for name in METRICS if name != "accepted"))
    require(command.metric in known, "metric", command.metric, f"one of {', '.join(known)}")
    require(command.limit is None or command.limit >= 1, "limit", command.limit, "1 or more")
    if not command.checkpoint:
        raise ConfigError("no model", "--checkpoint", "name a run: --checkpoint little")
    if len({str(path) for path in command.checkpoint}) < len(command.checkpoint):
        raise ConfigError("a model is named twice", "--checkpoint", "name each once")
    if len(command.checkpoint) > 1 and not asked_for(command):
        what = f"{len(command.checkpoint)} models, and nothing to compare them on"
        raise ConfigError(what, "--checkpoint", "add --task FILE, --data FILE or --text FILE")
    if command.seen and not command.task:
        raise ConfigError("--seen without --task", "--seen", "add --task FILE")
    if command.learn_from and not command.data:
        raise ConfigError("--learn-from without --data", "--learn-from", "add --data")


def read_tasks(command: EvaluateCommand) -> tuple[list[Task], list[np.ndarray | None]]:
    """Return the tasks and, with --seen, how much of each item stands in the training texts."""
    tasks = [
        read_task(word, command.form, command.limit, command.examples) for word in command.task
    ]
    if not command.seen:
        return tasks, [None] * len(tasks)
    files = find_files(command.seen, encoding=command.examples.encoding)
    training = list(read_documents(files, command.field, command.examples.errors))
    return tasks, [seen_shares(task, training) for task in tasks]


def compare(command: EvaluateCommand, tasks: list[Task], seen: Sequence[np.ndarray | None]) -> int:
    """Ask several models the same items, one model after the other, and report them together."""
    if command.data:
        config = command.examples
        tasks = [
            *tasks,
            read_task(command.data, limit=command.limit, config=config, kind="answers"),
        ]
        seen = [*seen, None]
    models, results, scores = [], [], []
    for checkpoint in command.checkpoint:
        run = opened(checkpoint, command.device)
        with plain_warnings():
            results.append(ask_tasks(command, run, tasks))
            if command.text:
                documents = texts(command, command.text)
                scores.append(
                    text_score(run.model, run.tokenizer, documents, command.stride)._asdict()
                )
        parameters = count_parameters(run.config.model)
        models.append({"name": str(checkpoint), "parameters": parameters, "steps": run.step})
    report = {"data": asked_for(command), "models": models}
    if scores:
        report["texts"] = scores
    if tasks:
        report |= side_by_side(tasks, results, seen)
    return show(command.out, report)


def ask_tasks(command: EvaluateCommand, run: Run, tasks: Sequence[Task]) -> list[Result]:
    """Ask a model all tasks, with a progress bar."""
    usual = answer_limit(run.folder) if run.folder else None
    limit = command.max_answer_tokens or usual
    with Bar(tasks, desc="asking", unit=" tasks", leave=False) as bar:
        return [run_task(run.model, run.tokenizer, task, limit, command.metric) for task in bar]


def evaluated(
    command: EvaluateCommand,
    run: Run,
    tasks: Sequence[Task] = (),
    seen: Sequence[np.ndarray | None] = (),
) -> dict:
    """Return what the command asks for, as a report; where it names nothing, the run's own."""
    asked = asked_for(command)
    report = {
        "data": asked or described(run.config),
        "parameters": count_parameters(run.config.model),
        "steps": run.step,
    }
    if command.text:
        documents = texts(command, command.text)
        score = text_score(run.model, run.tokenizer, documents, command.stride)
        report["text"] = score._asdict()
    if command.data:
        usual = answer_limit(run.folder) if run.folder else None
        limit = command.max_answer_tokens or usual
        scores = example_scores(command, command.data, run, limit)
        report |= {
            "tasks": scores,
            "about_tasks": f"{ABOUT_EXAMPLES} {about_metrics(scores)}".strip(),
        }
    if tasks:
        about = " ".join([report.get("about_tasks", ""), ABOUT_TASKS]).strip()
        results = ask_tasks(command, run, tasks)
        entries = {
            task.name: task_report(result, share)
            for task, result, share in zip(tasks, results, seen, strict=True)
        }
        report |= {"tasks": report.get("tasks", {}) | entries, "about_tasks": about}
        report |= contamination_facts(tasks, seen)
    return report if asked else report | own_card(command, run)


ABOUT_EXAMPLES = (
    "Each score is that of the model's answers to the examples. The baseline is the best of: a "
    "copy of the text, its first sentence and, where training examples are given, the most common "
    "answer, a bag of the words and logistic regression on them (TF-IDF); measured on the same "
    "items."
)


def texts(command: EvaluateCommand, path: Path) -> Iterator[str]:
    """Yield the documents of --text with a progress bar."""
    config, counts = command.examples, ReadCounts()
    files = find_files(
        path, "test", encoding=config.encoding, separator=command.separator, counts=counts
    )
    errors: Errors = config.errors
    with Bar(desc="evaluating", unit=" documents", leave=False) as bar:
        for document in read_documents(files, command.field, errors):
            yield document
            bar.update()


def example_scores(
    command: EvaluateCommand, data: str, run: Run, max_answer_tokens: int | None
) -> dict[str, dict]:
    """Return the scores of the examples in --data."""
    config = command.examples
    counts = ReadCounts()
    found, _ = load_examples(data, config, "test", counts)
    print(recognized(found, counts), file=sys.stderr)
    taught = load_examples(command.learn_from, config)[0] if command.learn_from else []
    with Bars() as bars:
        tasks, _ = score_examples(
            run.model,
            run.tokenizer,
            as_items(found),
            as_items(taught),
            command.metric,
            max_answer_tokens,
            lambda done, total: bars("answering", done, total),
        )
    return tasks


def own_card(command: EvaluateCommand, run: Run) -> dict:
    """Return the scores of a run on its own validation text and, of storyworld, on its tasks.

    A model of the package comes without its texts: they are told again, as it has read them.
    """
    if run.is_published:
        raise ConfigError(
            "a published model comes without a validation text",
            str(command.checkpoint[0]),
            "give --data FILE with examples, or --text FILE",
        )
    training = dataclasses.replace(run.config.training, device=command.device)
    config = dataclasses.replace(run.config, training=training)
    with text_folder(run) as folder:
        data = make_data(folder, config, run.tokenizer, resume=True)
        return model_card(run.model, run.tokenizer, data, config, command.per_task, command.stories)


@contextlib.contextmanager
def text_folder(run: Run) -> Iterator[Path]:
    """Give the folder where the token files of a run are, or may be made for a while."""
    if run.folder is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # mapped on Windows
            yield Path(folder)
    elif (run.folder / "val.bin").is_file():
        yield run.folder
    else:
        raise ConfigError(
            "the run has no validation text of its own (val.bin)",
            str(run.folder),
            "give --data FILE with examples, or --text FILE",
        )
