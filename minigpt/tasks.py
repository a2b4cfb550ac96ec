"""Run tasks from files: multiple choice, last words, questions to answer; score by score, by item.

What a file holds, its records say: choices with the right one make a question by likelihood, a text
alone asks for its last word (LAMBADA), a prompt with right answers is asked and its answer graded.
Every result keeps its items, so that two models can be compared on the same ones.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from minigpt.batching.examples import ExampleConfig, load_examples
from minigpt.batching.layouts import lettered_prompt, letters, read_choices
from minigpt.calibration import calibration_error, choice_probabilities
from minigpt.choices import Question, choice_log_likelihoods, continuations, likeliest_choice
from minigpt.comparison import holm, mcnemar, paired_bootstrap, wilson_interval
from minigpt.contamination import LEAKED, overlaps
from minigpt.data.decoding import ReadCounts
from minigpt.data.discovery import find_files
from minigpt.data.formats import DataFile, ReadConfig
from minigpt.data.records import read_records
from minigpt.evaluate import answers, as_items
from minigpt.gpt import GPT
from minigpt.metrics import bootstrap_interval, perplexity
from minigpt.scoring import Item, baseline_answers, fitting_metrics, scorer
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import Tokenizer

Form = Literal["text", "letters"]
Kind = Literal["choices", "words", "answers"]
Scorer = Callable[[np.ndarray], float]  # from the places of some items to their score


class LastWord(NamedTuple):
    """A passage without its last word, and that word."""

    context: str
    word: str

    @property
    def text(self) -> str:
        """The whole passage."""
        return f"{self.context} {self.word}"


@dataclass(frozen=True)
class Task:
    """The items of one file, folder or data set, all of one kind."""

    name: str
    kind: Kind
    items: Sequence[Any]
    """Questions, last words, or items to be answered."""

    def texts(self) -> list[str]:
        """Return what a training text would hold of each item."""
        if self.kind == "answers":
            return [f"{item.source or item.prompt} {item.answer}" for item in self.items]
        return [item.text for item in self.items]


@dataclass(frozen=True)
class Result:
    """How one model did on a task: each metric as a function of the items."""

    scorers: dict[str, Scorer]
    """The first is the one that the task is reported by; all from 0 to 1."""
    n: int
    right: np.ndarray | None = None
    """Which items (N,) were right, where right or wrong is all there is."""
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers that are no share of items: perplexity, calibration error."""
    baseline: tuple[str, float] = ("none", 0.0)

    @property
    def metric(self) -> str:
        """The name of the first metric."""
        return next(iter(self.scorers))

    def score(self, metric: str = "", places: np.ndarray | None = None) -> float:
        """Return a metric's score on all items, or on some."""
        chosen = np.arange(self.n) if places is None else places
        return self.scorers[metric or self.metric](chosen)


# --- reading ---


def read_task(
    word: str | Path,
    form: Form = "text",
    limit: int | None = None,
    config: ExampleConfig | None = None,
    kind: Kind | None = None,
) -> Task:
    """Return the task of a file, folder, pattern or data set's name; at most `limit` items, evenly.

    form: "letters" puts lettered choices under a question and asks for the letter (MMLU's way);
    "text" asks for the choice itself. `config` says how questions to answer are read, `kind` what a
    file is taken for (None: what its first record is). Raises DataError where it is none.
    """
    config = config or ExampleConfig()
    files = find_files(word, "test", encoding=config.encoding)
    kind = kind or task_kind(files, str(word), config)
    if kind == "answers":
        examples, _ = load_examples(word, config, "test")
        items: Sequence[Any] = as_items(examples)
    else:
        make = to_question if kind == "choices" else to_last_word
        items = [made for file in files for made in read_items(file, make, form, config)]
    if not items:
        raise DataError("no items", str(word), "give a file with questions in it")
    if limit is not None and limit < len(items):
        items = [items[place * len(items) // limit] for place in range(limit)]
    return Task(task_name(str(word)), kind, items)


def task_name(word: str) -> str:
    """Return a task's name: that of its data set, or its file's without the suffix."""
    return Path(word).stem if "/" in word or "\\" in word or "." in word else word


def task_kind(files: Sequence[DataFile], word: str, config: ExampleConfig) -> Kind:
    """Tell by the first record what a task asks for."""
    if not files:
        raise DataError("a data set without test files", word, "give a file with questions in it")
    if config.prompt is not None or config.answers is not None:
        return "answers"
    reading = ReadConfig(errors=config.errors)
    for record in read_records(files[0], reading, ReadCounts(), lambda record, where: record):
        if isinstance(record, dict) and read_choices(record, files[0].place):
            return "choices"
        is_text = isinstance(record, dict) and {str(key).lower() for key in record} == {"text"}
        return "words" if is_text else "answers"
    raise DataError("no items", word, "give a file with questions in it")


def read_items(
    file: DataFile, make: Callable[..., Any], form: Form, config: ExampleConfig
) -> list[Any]:
    """Return the items of a file; a bad one ends the reading or, with `skip_bad`, is left out."""
    reading = ReadConfig(errors=config.errors, skip_bad=config.skip_bad)
    return list(
        read_records(file, reading, ReadCounts(), lambda record, where: make(record, where, form))
    )


def to_question(record: Any, where: str, form: Form = "text") -> Question:
    """Return a record's question; a sentence to be ended has no "Answer:" after it."""
    found = read_choices(record, where) if isinstance(record, dict) else None
    if found is None:
        remedy = 'give each a question, its choices and the right one: "answer"'
        raise DataError("a record without choices", where, remedy)
    empty = [text for text in found.texts if not text]
    if empty or len(found.texts) < 2:
        raise DataError("fewer than two choices that have a text", where, "correct them")
    if {"ending0", "endings"} & {name.lower() for name in found.used}:
        ends = tuple(tidy(text) for text in found.texts)
        return Question(tidy(found.question), ends, found.right)
    if form == "letters":
        names = tuple(letters(len(found.texts)))
        prompt = lettered_prompt(found.question, found.texts)
        return Question(f"{prompt}\nAnswer:", names, found.right)
    return Question(f"{found.question}\nAnswer:", found.texts, found.right)


def tidy(text: str) -> str:
    """Take WikiHow's marks out of a HellaSwag text, as lm-evaluation-harness does."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ").strip()


def to_last_word(record: Any, where: str, form: Form = "text") -> LastWord:
    """Return a passage's beginning and its last word."""
    text = record.get("text") if isinstance(record, dict) else None
    context, space, word = text.strip().rpartition(" ") if isinstance(text, str) else ("", "", "")
    if not space or not word:
        raise DataError("no text of two words or more", where, "correct it")
    return LastWord(context, word)


# --- asking ---


def run_task(
    model: GPT,
    tokenizer: Tokenizer,
    task: Task,
    max_new_tokens: int | None = None,
    metric: str = "auto",
) -> Result:
    """Ask a model all items of a task. `max_new_tokens` and `metric` are for answers alone."""
    if task.kind == "choices":
        return ask_choices(model, tokenizer, task.items)
    if task.kind == "words":
        return ask_last_words(model, tokenizer, task.items)
    return ask_answers(model, tokenizer, task.items, max_new_tokens, metric)


def ask_choices(model: GPT, tokenizer: Tokenizer, questions: Sequence[Question]) -> Result:
    """Return accuracy, without and with normalization, and the calibration error.

    The baseline guesses: one in as many as there are choices.
    """
    rows = choice_log_likelihoods(model, tokenizer, questions)
    pairs = list(zip(questions, rows, strict=True))
    by = {
        "accuracy": np.array([likeliest_choice(row, q.choices) == q.right for q, row in pairs]),
        "by characters": np.array(
            [likeliest_choice(row, q.choices, "characters") == q.right for q, row in pairs]
        ),
        "by bytes": np.array(
            [likeliest_choice(row, q.choices, "bytes") == q.right for q, row in pairs]
        ),
    }
    sure = [choice_probabilities(row.tolist()).max() for row in rows]
    return Result(
        {name: mean_of(hits) for name, hits in by.items()},
        len(questions),
        by["accuracy"],
        {"calibration error": calibration_error(sure, by["accuracy"].tolist())},
        ("guessing", float(np.mean([1 / len(q.choices) for q in questions]))),
    )


def ask_last_words(model: GPT, tokenizer: Tokenizer, passages: Sequence[LastWord]) -> Result:
    """Return on how many passages the last word is the likeliest, and the words' perplexity."""
    found = continuations(model, tokenizer, [(p.context, f" {p.word}") for p in passages])
    right = np.array([each.is_greedy for each in found])
    nats = -float(np.mean([each.log_likelihood for each in found]))
    return Result(
        {"accuracy": mean_of(right)}, len(passages), right, {"perplexity": perplexity(nats)}
    )


def ask_answers(
    model: GPT,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    max_new_tokens: int | None = None,
    metric: str = "auto",
) -> Result:
    """Return the scores of what the model answers; of several right answers the nearest counts."""
    found = answers(model, tokenizer, [item.messages for item in items], max_new_tokens)
    names = fitting_metrics(items) if metric == "auto" else (metric,)
    scorers = {name: scorer(name, found, items) for name in names}
    first = scorers[names[0]]
    values = np.array([first(np.array([place])) for place in range(len(items))])
    is_share = names[0] in ("accuracy", "exact", "exact_match", "cmrc_match")
    every = np.arange(len(items))
    blind = {
        name: scorer(names[0], texts, items)(every)
        for name, texts in baseline_answers(items).items()
    }
    best = max(blind.items(), key=lambda pair: pair[1], default=("none", 0.0))
    return Result(scorers, len(items), values == 1 if is_share else None, {}, best)


def mean_of(values: np.ndarray) -> Scorer:
    """Return the scorer that takes the mean of some items' values."""
    numbers = values.astype(np.float64)
    return lambda places: float(numbers[places].mean())


# --- what a report says ---


def task_report(result: Result, seen: np.ndarray | None = None) -> dict:
    """Return a task's entry of report.json; `seen`: each item's share found in training (N,)."""
    if result.right is not None:
        low, high = wilson_interval(int(result.right.sum()), result.n)
    else:
        low, high = bootstrap_interval(result.scorers[result.metric], result.n)
    also = {name: result.score(name) for name in list(result.scorers)[1:]}
    if seen is not None and 0 < (clean := np.flatnonzero(seen < LEAKED)).size < result.n:
        also["unseen items alone"] = result.score(places=clean)
    name, baseline = result.baseline
    return {
        "metric": result.metric,
        "score": result.score(),
        "low": low,
        "high": high,
        "n": result.n,
        "baseline": baseline,
        "baseline_name": name,
        "also": also,
        "facts": result.facts,
    }


def seen_shares(task: Task, training: Sequence[str]) -> np.ndarray:
    """Return how much of each item (N,) stands in the training texts: see `contamination.py`."""
    return overlaps(task.texts(), training)


ABOUT_TASKS = (
    "Choices are asked by likelihood: the sum over a choice's tokens (accuracy), or its mean by "
    "characters or bytes of the choice. Another draw of such items would score within the 95 % "
    "interval, most likely. Guessing is the baseline of choices."
)


def contamination_facts(tasks: Sequence[Task], seen: Sequence[np.ndarray | None]) -> dict:
    """Return the share of all items that were found in the training texts, where they were sought.

    An item counts from half of its n-grams on.
    """
    shares = [share for share in seen if share is not None]
    if not shares:
        return {}
    return {"contamination": float((np.concatenate(shares) >= LEAKED).mean())}


def side_by_side(
    tasks: Sequence[Task],
    results: Sequence[Sequence[Result]],
    seen: Sequence[np.ndarray | None],
) -> dict:
    """Return the tasks of several models as parts of a report, each compared with the first one.

    results: a list for each model. The p-values allow for how many comparisons there are (Holm).
    """
    found, pairs = {}, []
    for place, (task, share) in enumerate(zip(tasks, seen, strict=True)):
        of_task = [of_model[place] for of_model in results]
        found[task.name] = [task_report(result, share) for result in of_task]
        for number, result in enumerate(of_task[1:], start=1):
            pair = {"task": task.name, "model": number, **compared(of_task[0], result)}
            pairs.append(pair)
    tested = [pair for pair in pairs if "p" in pair]
    for pair, p in zip(tested, holm([pair["p"] for pair in tested]), strict=True):
        pair["p_adjusted"] = p
    return {"compared": found, "pairs": pairs, **contamination_facts(tasks, seen)}


def compared(a: Result, b: Result) -> dict:
    """Return how much better b is than a on the same items, with interval and McNemar's test."""
    if a.n != b.n or a.metric != b.metric:
        what = f"{a.n} items by {a.metric}, and {b.n} by {b.metric}"
        raise ConfigError(what, "comparison", "ask both models the same items")
    gain = paired_bootstrap(a.scorers[a.metric], b.scorers[b.metric], a.n)
    found: dict = {"difference": gain.difference, "low": gain.low, "high": gain.high}
    if a.right is not None and b.right is not None:
        found |= mcnemar(a.right.tolist(), b.right.tolist())._asdict()
    return found
