"""Examine a model of the story world: tasks with one right answer, and stories that it tells.

Tasks are drawn from stories that training never showed, one lesson of a story for each task, so
that items are independent. The stories that the model tells are scored by `told.py`.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import count
from random import Random
from typing import NamedTuple

import numpy as np

from minigpt.chat import SPECIAL, longest_answer
from minigpt.evaluate import Progress, answers
from minigpt.gpt import GPT
from minigpt.ngram import NGram
from minigpt.scoring import Item, contamination, score_task, scorer
from minigpt.storyworld.lessons import Lesson, lessons, obeys
from minigpt.storyworld.stories import FIRST_TRAINING_SEED
from minigpt.storyworld.tables import World
from minigpt.storyworld.told import story_scores, story_task
from minigpt.tokenizer import Tokenizer

TAUGHT_STORIES = 1500  # from which the baselines learn; more help the bag of words a little
SHOWN = 2  # answers of each task, one in each language
LANGUAGES = ("en", "zh")


def is_question(lesson: Lesson) -> bool:
    return lesson.task == "question"


def is_about_holder(lesson: Lesson) -> bool:
    return is_question(lesson) and lesson.kind == "who has"


def is_other_question(lesson: Lesson) -> bool:
    return is_question(lesson) and not is_about_holder(lesson)


def of_task(task: str) -> Callable[[Lesson], bool]:
    return lambda lesson: lesson.task == task


def is_translation(language: str) -> Callable[[Lesson], bool]:
    """Return what tells whether a lesson is the translation of a whole story into a language."""
    return lambda lesson: (
        lesson.task.startswith("translation")
        and lesson.language == language
        and lesson.kind == "whole"
    )


class Task(NamedTuple):
    """A row of the report card: which lessons belong to it, and how answers are graded.

    `also`: other metrics of the same answers, written beside the first.
    """

    metric: str
    holds: Callable[[Lesson], bool]
    also: tuple[str, ...] = ()


TASKS = {
    "translation_en_zh": Task("sentences", is_translation("zh"), ("exact", "bleu")),
    "translation_zh_en": Task("sentences", is_translation("en"), ("exact", "bleu")),
    "summary": Task("exact", of_task("summary")),
    "title": Task("exact", of_task("title")),
    "sentiment": Task("accuracy", of_task("sentiment")),
    "sentiment_inferred": Task("accuracy", lambda le: le.task == "sentiment" and not le.said),
    "topic": Task("accuracy", of_task("topic")),
    "question": Task("accuracy", is_question),
    "question_one_fact": Task("accuracy", lambda le: is_other_question(le) and not le.changes),
    "question_changed": Task("accuracy", lambda le: is_other_question(le) and le.changes > 0),
    "question_who_has": Task("accuracy", is_about_holder),
    "story": Task("accepted", of_task("story")),
}


# --- tasks ---


def draw_items(
    per_task: int, first_seed: int, tasks: Collection[str] = (), world: World | None = None
) -> dict[str, list[Item]]:
    """Return `per_task` items of each task (all unless some are named), half in each language.

    A story gives each task at most one item in a language, whose kind is drawn evenly.
    """
    made: dict[str, list[Item]] = {name: [] for name in tasks or TASKS}
    seeds = count(first_seed)
    while any(len(items) < per_task for items in made.values()):
        seed = next(seeds)
        taught = lessons(seed, LANGUAGES[seed % 2], world)
        for name, items in made.items():
            fitting = [lesson for lesson in taught if TASKS[name].holds(lesson)]
            if fitting and len(items) < per_task:
                random = Random(f"{name} {seed}").random
                items.append(item_of(pick_evenly(fitting, random), name, world))
    return made


def taught_items(
    n_stories: int, first_seed: int, world: World | None = None
) -> dict[str, list[Item]]:
    """Return everything that some training stories teach, by task: the baselines learn from it."""
    made: dict[str, list[Item]] = {name: [] for name in TASKS}
    for seed in range(first_seed, first_seed + n_stories):
        for lesson in lessons(seed, LANGUAGES[seed % 2], world):
            for name, task in TASKS.items():
                if task.holds(lesson):
                    made[name].append(item_of(lesson, name, world))
    return made


def pick_evenly(fitting: Sequence[Lesson], random: Callable[[], float]) -> Lesson:
    """Return one lesson: its kind is drawn first, then one of that kind."""
    kinds = sorted({lesson.kind for lesson in fitting})
    kind = kinds[int(random() * len(kinds))]
    of_kind = [lesson for lesson in fitting if lesson.kind == kind]
    return of_kind[int(random() * len(of_kind))]


def item_of(lesson: Lesson, name: str, world: World | None = None) -> Item:
    """Return a lesson as an item to be asked and graded."""
    graded = TASKS[name].metric == "accepted"
    accepts = (lambda text: obeys(lesson, text, world)) if graded else None
    return Item(
        name,
        ({"role": "user", "content": lesson.prompt},),
        lesson.answer,
        lesson.language,
        lesson.kind,
        lesson.baselines,
        lesson.story,
        accepts,
    )


def answer_items(
    model: GPT,
    tokenizer: Tokenizer,
    items: dict[str, list[Item]],
    train_items: dict[str, list[Item]],
    on_progress: Progress | None = None,
) -> dict[str, list[str]]:
    """Return the model's answers task by task, none longer than the task's longest in training."""
    total, before = sum(map(len, items.values())), 0
    found: dict[str, list[str]] = {}
    for name, of_task in items.items():
        asked = [item.messages for item in of_task]
        room = longest_answer([item.answer for item in train_items[name]], tokenizer)
        follow = partial(progress_from, on_progress, before, total) if on_progress else None
        found[name] = answers(model, tokenizer, asked, room, on_progress=follow)
        before += len(asked)
    return found


def progress_from(on_progress: Progress, before: int, total: int, done: int, _: int) -> None:
    """Pass on the progress of one part of several."""
    on_progress(before + done, total)


class Answer(NamedTuple):
    """What a model answered, to be shown to people."""

    task: str
    prompt: str
    answer: str
    right: str
    accepted: bool | None = None  # where many answers are right


def task_scores(
    model: GPT,
    tokenizer: Tokenizer,
    items: dict[str, list[Item]],
    train_items: dict[str, list[Item]],
    on_progress: Progress | None = None,
) -> tuple[dict[str, dict], list[Answer]]:
    """Ask the model everything at once; return {task: {"score", "baseline", ...}}, and examples."""
    found = answer_items(model, tokenizer, items, train_items, on_progress)
    scores, shown = {}, []
    for name, of_task in items.items():
        texts = found[name]
        task = TASKS[name]
        score = score_task(name, task.metric, texts, of_task, train_items[name])
        every = np.arange(len(of_task))
        also = {metric: scorer(metric, texts, of_task)(every) for metric in task.also}
        scores[name] = score.as_dict() | ({"also": also} if also else {})
        shown += [
            Answer(name, item.prompt, text, item.answer, item.accepts and item.accepts(text))
            for text, item in list(zip(texts, of_task, strict=True))[:SHOWN]
        ]
    return scores, shown


# --- all of it ---


def examine(
    model: GPT,
    tokenizer: Tokenizer,
    seen: Collection[bytes] | None = None,
    per_task: int = 200,
    n_stories: int = 1000,
    temperature: float = 1.0,
    ngram: NGram | None = None,
    first_seed: int = 0,
    first_training_seed: int = FIRST_TRAINING_SEED,
    on_progress: Callable[[str, int, int], None] | None = None,
    world: World | None = None,
) -> dict:
    """Return what a storyworld model can do: {"stories", "tasks", "answers", "contamination"}.

    `seen`: hashes of the training texts (`scoring.document_hashes`); without them nothing is said
    of contamination. `ngram`: the model whose stories are the baseline. `first_seed`: the first
    story to ask about; it and the next ones must be held out. `on_progress` gets what is done, how
    many of it are, and of how many. A model whose tokenizer has no chat tokens is asked nothing and
    only tells stories. `world` is the one that it was trained on (None: the full one).
    """
    follow = partial(partial, on_progress) if on_progress else (lambda stage: None)
    stories = story_scores(
        model,
        tokenizer,
        n_stories,
        temperature,
        seen,
        on_progress=follow("telling stories"),
        world=world,
    )
    told = {"consistent_stories": story_task(stories, ngram, tokenizer, world=world)}
    if not per_task or not set(SPECIAL) <= set(tokenizer.special_tokens):
        return {"tasks": told, "stories": stories}
    items = draw_items(per_task, first_seed, world=world)
    taught = taught_items(TAUGHT_STORIES, first_training_seed, world)
    tasks, shown = task_scores(model, tokenizer, items, taught, follow("answering"))
    report = {"tasks": tasks | told, "stories": stories}
    report["answers"] = [answer._asdict() for answer in shown]
    if seen is not None:
        asked = [item for of_task in items.values() for item in of_task if item.source]
        report["contamination"] = contamination(asked, seen)
    return report
