"""Examine a model of the story world: tasks with one right answer, and stories that it tells.

Tasks are drawn from stories that training never showed, one lesson of a story for each task, so
that items are independent. Stories told by the model are read by the world's own parser: it says
whether a story is consistent, how probable the world finds it, and what is wrong where it is not.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from itertools import count
from random import Random
from typing import NamedTuple

import numpy as np

from minigpt import metrics
from minigpt.chat import SPECIAL
from minigpt.evaluate import Progress, answers, token_losses, write
from minigpt.generate import SampleConfig
from minigpt.gpt import GPT
from minigpt.ngram import NGram
from minigpt.scoring import Item, contamination, score_task, text_hash
from minigpt.storyworld import documents, lexicon, verify
from minigpt.storyworld.forms import FORMS
from minigpt.storyworld.lessons import Lesson, lessons, obeys
from minigpt.storyworld.read import Reader, split_sentences
from minigpt.storyworld.tables import WORLDS
from minigpt.tokenizer import Tokenizer

FIRST_TRAINING_SEED = 1_000_000  # shortcuts learn from the stories of this seed and the next ones
TAUGHT_STORIES = 1500  # from which the shortcuts learn; more help the bag of words a little
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


class Task(NamedTuple):
    """A row of the report card: which lessons belong to it, and how answers are graded."""

    metric: str
    holds: Callable[[Lesson], bool]


TASKS = {
    "translation_en_zh": Task("exact", of_task("translation_en_zh")),
    "translation_zh_en": Task("exact", of_task("translation_zh_en")),
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
    per_task: int, first_seed: int, tasks: Collection[str] = ()
) -> dict[str, list[Item]]:
    """Return `per_task` items of each task (all unless some are named), half in each language.

    A story gives each task at most one item in a language, whose kind is drawn evenly.
    """
    made: dict[str, list[Item]] = {name: [] for name in tasks or TASKS}
    for seed in count(first_seed):
        told = lessons(seed, LANGUAGES[seed % 2])
        for name, items in made.items():
            if len(items) < per_task and (fitting := [le for le in told if TASKS[name].holds(le)]):
                random = Random(f"{name} {seed}").random
                items.append(item_of(pick_evenly(fitting, random), name))
        if all(len(items) == per_task for items in made.values()):
            return made


def taught_items(n_stories: int, first_seed: int) -> dict[str, list[Item]]:
    """Return everything that some training stories teach, by task: the shortcuts learn from it."""
    made: dict[str, list[Item]] = {name: [] for name in TASKS}
    for seed in range(first_seed, first_seed + n_stories):
        for lesson in lessons(seed, LANGUAGES[seed % 2]):
            for name, task in TASKS.items():
                if task.holds(lesson):
                    made[name].append(item_of(lesson, name))
    return made


def pick_evenly(fitting: Sequence[Lesson], random: Callable[[], float]) -> Lesson:
    """Return one lesson: its kind is drawn first, then one of that kind."""
    kinds = sorted({lesson.kind for lesson in fitting})
    kind = kinds[int(random() * len(kinds))]
    of_kind = [lesson for lesson in fitting if lesson.kind == kind]
    return of_kind[int(random() * len(of_kind))]


def item_of(lesson: Lesson, name: str) -> Item:
    """Return a lesson as an item to be asked and graded."""
    accepts = (lambda text: obeys(lesson, text)) if TASKS[name].metric == "accepted" else None
    return Item(
        name, ({"role": "user", "content": lesson.prompt},), lesson.answer, lesson.language,
        lesson.kind, lesson.shortcuts, lesson.story, accepts,
    )  # fmt: skip


def answer_items(
    model: GPT, tokenizer: Tokenizer, items: dict[str, list[Item]],
    on_progress: Progress | None = None,
) -> dict[str, list[str]]:  # fmt: skip
    """Return the model's answers task by task; tasks with answers of like length share batches.

    So a model that finds no end costs little where answers are short.
    """
    rooms = {name: longest(tokenizer, [item.answer for item in of_task])
             for name, of_task in items.items()}  # fmt: skip
    alike = defaultdict(list)  # powers of two, by their exponent
    for name, room in rooms.items():
        alike[room.bit_length()].append(name)
    total, before = sum(map(len, items.values())), 0
    found: dict[str, list[str]] = {}
    for names in alike.values():
        asked = [item.messages for name in names for item in items[name]]
        room = max(rooms[name] for name in names)
        follow = partial(progress_from, on_progress, before, total) if on_progress else None
        texts = iter(answers(model, tokenizer, asked, room, on_progress=follow))
        found |= {name: [next(texts) for _ in items[name]] for name in names}
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


def task_scores(
    model: GPT, tokenizer: Tokenizer, items: dict[str, list[Item]],
    train_items: dict[str, list[Item]], on_progress: Progress | None = None,
) -> tuple[dict[str, dict], list[Answer]]:  # fmt: skip
    """Ask the model everything at once; return {task: {"score", "baseline", ...}}, and examples."""
    found = answer_items(model, tokenizer, items, on_progress)
    scores, shown = {}, []
    for name, of_task in items.items():
        texts = found[name]
        score = score_task(name, TASKS[name].metric, texts, of_task, train_items[name])
        scores[name] = score.as_dict()
        shown += [Answer(name, item.prompt, text, item.answer)
                  for text, item in list(zip(texts, of_task, strict=True))[:SHOWN]]  # fmt: skip
    return scores, shown


def longest(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """Return how many tokens a model may take for a text like these: a quarter more than any."""
    return 16 + 5 * max(map(len, tokenizer.encode_batch(texts))) // 4


# --- stories that the model tells ---


def story_scores(
    model: GPT, tokenizer: Tokenizer, n: int = 1000, temperature: float = 1.0,
    seen: Collection[bytes] | None = None, seed: int = 0, on_progress: Progress | None = None,
) -> dict:  # fmt: skip
    """Let the model tell stories, and return what the world's own parser says of them.

    `consistent` is the share that is a story of the world from the first word to <|endoftext|>
    (low, high: 95 % interval), `new` the share of these that is not among the `seen` texts, None
    where these are unknown. `mean_log_q_minus_log_p` (nats a story, over the consistent ones) is
    how much more probable the model finds them than the world does; q is that of the sampled
    tokens, so of one way to cut the text into tokens, and a little below that of the text.
    `faults` counts what is wrong with the others, `sentences_before_fault` is how far they come.
    """
    eot = tokenizer.eot_id
    usual = longest(tokenizer, [text for text, _ in documents(200)])
    room = min(usual, model.config.block_size - 1)
    sampling = SampleConfig(room, temperature=temperature, seed=seed)
    rows = write(model, [[eot]] * n, sampling, [eot], on_progress=on_progress)
    texts = [tokenizer.decode(ids) for ids in rows]
    finds = [find_fault(text) for text in texts]
    good = [place for place, found in enumerate(finds) if found.fault is None]
    low, high = metrics.bootstrap_interval([float(found.fault is None) for found in finds])
    log_q = [-losses.sum() for losses in
             token_losses(model, [[eot, *rows[place], eot] for place in good])]  # fmt: skip
    log_p = [finds[place].log_prob - math.log(2) for place in good]  # the language costs ln 2
    new = [text_hash(texts[place]) not in seen for place in good] if seen is not None else []
    bad = [found for found in finds if found.fault is not None]
    return {
        "n": n, "temperature": temperature,
        "consistent": len(good) / n, "low": low, "high": high,
        "new": float(np.mean(new)) if new else None,
        "mean_log_q_minus_log_p": float(np.mean(np.subtract(log_q, log_p))) if good else None,
        "faults": dict(Counter(found.fault for found in bad).most_common()),
        "sentences_before_fault": float(np.mean([found.read for found in bad])) if bad else None,
    }  # fmt: skip


class Found(NamedTuple):
    """What is wrong with a text as a story (None: nothing), after how many right sentences."""

    fault: str | None
    read: int
    log_prob: float | None = None


def find_fault(text: str) -> Found:
    """Name the first fault of a text as a story; its log-probability where it has none.

    "unfinished": all is right, but no end comes. "goes on": something stands after the end.
    "wrong detail": this may happen here, but not with this person, place or thing. "wrong event": a
    sentence of the world that cannot stand here. "no sentence": the world has no such sentence.
    """
    language = metrics.language_of(text)
    verdict = verify(text, language)
    if verdict.ok:
        return Found(None, verdict.sentences_read, verdict.log_prob)
    reader = Reader(WORLDS["train"], language)
    sentences = split_sentences(text.strip(), language)
    for sentence in sentences[: verdict.sentences_read]:
        reader.read(sentence)
    wrong = sentences[verdict.sentences_read] if verdict.sentences_read < len(sentences) else ""
    return Found(kind_of_fault(reader, wrong), verdict.sentences_read)


def kind_of_fault(reader: Reader, wrong: str) -> str:
    """Say what is wrong with the sentence that the reader cannot read; "" is a missing one."""
    if not wrong:
        return "unfinished"
    if reader.table is None:
        return "goes on"
    if not any(shape.fullmatch(wrong) for shape in all_shapes(reader.side)):
        return "no sentence" if wrong[-1] in '.!?"。！？”' else "unfinished"
    here = (form for choice in reader.table.items for form in choice.forms.items)
    if any(sentence_shape(form[reader.side], reader.side).fullmatch(wrong) for form in here):
        return "wrong detail"
    return "wrong event"


SLOT = re.compile(r"%\([\w.]+\)s|\{[\w.]+\}")
FILLED = [r"[^.!?,:;\"]{1,40}?", "[^。！？：；“”]{1,16}?"]  # what slots may hold, by language


@cache
def sentence_shape(template: str, side: int) -> re.Pattern:
    """Return the pattern that a form's sentences fit, whatever its slots hold."""
    pieces = SLOT.split(template)
    if not any(pieces):  # the slot holds a whole sentence: what is to be seen at a place
        sights = (sight[side] for place in lexicon.PLACES for sight in place.sights)
        return re.compile("|".join(map(re.escape, sights)))
    return re.compile(FILLED[side].join(map(re.escape, pieces)), re.IGNORECASE)


@cache
def all_shapes(side: int) -> list[re.Pattern]:
    """Return the patterns of all forms of the world in one language."""
    return [sentence_shape(form[1 + side], side) for forms in FORMS.values() for form in forms]


def story_task(stories: dict, ngram: NGram | None, tokenizer: Tokenizer, n: int = 200) -> dict:
    """Return the consistent share as a task; its shortcut is an n-gram model that tells stories."""
    kept = {key: stories[key] for key in ("n", "low", "high")} | {"score": stories["consistent"]}
    blind = 0.0
    if ngram is not None:
        room = longest(tokenizer, [text for text, _ in documents(200)])
        texts = [tokenizer.decode(ngram.generate((), room, seed)) for seed in range(n)]
        blind = sum(find_fault(text).fault is None for text in texts) / n
    name = "none" if ngram is None else f"{ngram.n}-gram"
    return {"metric": "consistent", **kept, "baseline": blind, "baseline_name": name}


# --- all of it ---


def examine(
    model: GPT, tokenizer: Tokenizer, seen: Collection[bytes] | None = None, per_task: int = 200,
    n_stories: int = 1000, temperature: float = 1.0, ngram: NGram | None = None,
    first_seed: int = 0, first_training_seed: int = FIRST_TRAINING_SEED,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> dict:  # fmt: skip
    """Return what a storyworld model can do: {"stories", "tasks", "answers", "contamination"}.

    `seen`: hashes of the training texts (`scoring.document_hashes`); without them nothing is said
    of contamination. `ngram`: the model whose stories are the baseline. `first_seed`: the first
    story to ask about; it and the next ones must be held out. `on_progress` gets what is done, how
    many of it are, and of how many. A model whose tokenizer has no chat tokens is asked nothing and
    only tells stories.
    """
    follow = partial(partial, on_progress) if on_progress else (lambda stage: None)
    stories = story_scores(
        model, tokenizer, n_stories, temperature, seen, on_progress=follow("telling stories")
    )
    told = {"consistent_stories": story_task(stories, ngram, tokenizer)}
    if not set(SPECIAL) <= set(tokenizer.special_tokens):
        return {"tasks": told, "stories": stories}
    items = draw_items(per_task, first_seed)
    taught = taught_items(TAUGHT_STORIES, first_training_seed)
    tasks, shown = task_scores(model, tokenizer, items, taught, follow("answering"))
    report = {"tasks": tasks | told, "stories": stories}
    report["answers"] = [answer._asdict() for answer in shown]
    if seen is not None:
        asked = [item for of_task in items.values() for item in of_task if item.source]
        report["contamination"] = contamination(asked, seen)
    return report
