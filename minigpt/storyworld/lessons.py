"""What storyworld teaches: tasks with one right answer, and conversations made of them.

All answers follow from the derivation of a story (`tasks.py`): translations of the whole story or
of its beginning (a sentence alone, as in an excerpt, may have two: "they" is 他们 or 她们),
questions, a summary, a title, the mood of the ending, the topic; and stories told under a
constraint, which `obeys` verifies. A seed gives the same lessons everywhere: only
`random.Random(seed).random()` is drawn.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import NamedTuple

from minigpt.storyworld import labels, lexicon, measure, tasks
from minigpt.storyworld.plot import CHILDREN, GOOD_MOODS, THINGS, mood
from minigpt.storyworld.stories import Story
from minigpt.storyworld.tables import Step, World
from minigpt.storyworld.tell import LANGUAGES, Language, join, render, sample
from minigpt.storyworld.verify import verify
from minigpt.storyworld.wording import ASKED, WANTED

SHARES = {  # what a dialogue consists of, by weight
    "dialogue": {"conversation": 63, "translation": 27, "story": 10},
    "translation": {"whole": 60, "passage": 40},
    "turns": {1: 10, 2: 12, 3: 16, 4: 20, 5: 22, 6: 20},  # of a conversation
    "asked": {  # in one turn; nothing is asked twice
        "where thing": 14,
        "where person": 14,
        "who has": 16,
        "where happened": 8,
        "in what order": 10,
        "feeling": 8,
        "why": 8,
        "how many": 8,
        "colour": 6,
        "summary": 10,
        "title": 6,
        "sentiment": 12,
        "topic": 4,
    },
    "story": {"free": 10, "words": 20, "ends": 20, "about": 15, "title": 15, "named": 20},
}

BEGINNINGS = SHARES | {  # short ones, to learn from first what to look back for
    "dialogue": {"beginning": 1, "translation": 2},
    "translation": {"excerpt": 1},
}
EARLY = 4  # sentences of a beginning, at most
EXCERPT = 3  # sentences of an excerpt, at most

LABELS = {
    "summary": labels.summary,
    "title": labels.title,
    "sentiment": labels.sentiment,
    "topic": labels.topic,
}
ENDS = {"good": "ends well", "bad": "ends badly", "mixed": "ends mixed"}
NOUNS = ("elder", "start", "far", "second", "third", "toy", "other", "animal", "food")
Draw = Callable[[], float]  # returns a float in [0, 1)
Message = dict[str, str]


class Lesson(NamedTuple):
    """One task with its right answer."""

    task: str  # translation_en_zh, translation_zh_en, question, story, or one of LABELS
    kind: str  # finer: the kind of question, "whole" or "passage", the constraint on a story
    language: Language  # of the answer
    prompt: str  # the complete user message: the story, where there is one, and the instruction
    answer: str  # for task "story" one good answer of many: graded by `obeys`
    story: str = ""  # the text that the prompt is about
    changes: int = 0  # questions: how often the fact in question changed; 0 is one fact
    said: bool = False  # sentiment: a sentence names a feeling of the end, or says how it ended
    baselines: Mapping[str, str] = {}  # answers of those who do not understand the story
    wanted: tuple[str, ...] = ()  # what the constraint on a story names


def lessons(seed: int, language: Language, world: World | None = None) -> list[Lesson]:
    """Return everything that the story of a seed teaches; story and instructions in `language`.

    Only translations are answered in the other language. There is one question of each kind,
    chosen so that all answers that its kind has in the story are equally likely.
    """
    random = Random(seed).random
    told, side = Story(sample(world or World.full(), random)), LANGUAGES.index(language)
    return [
        *[translation(told.derivation, side, kind, random) for kind in SHARES["translation"]],
        *[
            question_lesson(question, told, side, random)
            for question in tasks.choose(told.questions(), random)
        ],
        *[label_lesson(task, told, side, random) for task in LABELS],
        *[telling(told.derivation, side, kind, random) for kind in SHARES["story"]],
    ]


def translation(steps: list[Step], side: int, kind: str, random: Draw) -> Lesson:
    """Return the translation of a story, of a passage from its start, or of a short excerpt."""
    first, last = 0, len(steps)
    if kind == "passage":
        last = 1 + int(random() * (len(steps) - 1))
    elif kind == "excerpt":
        length = 1 + int(random() * EXCERPT)
        first = int(random() * (len(steps) - length + 1))
        last = first + length
    texts = [join(render(steps[:last], language)[first:], language) for language in LANGUAGES]
    task = f"translation_{LANGUAGES[side]}_{LANGUAGES[1 - side]}"
    source, prompt = texts[side], asked("translation", texts[side], side, random)
    return Lesson(
        task,
        kind,
        LANGUAGES[1 - side],
        prompt,
        texts[1 - side],
        source,
        baselines={"copy": source},
    )


def question_lesson(question: tasks.Question, told: Story, side: int, random: Draw) -> Lesson:
    """Return one question with the answers of those who take what is mentioned first or last."""
    text = (told.english, told.chinese)[side]
    prompt = asked("question", text, side, random, question.text[side])
    places = measure.mentions(question, told, side)
    common = next(iter(question.offers.values()))
    blind = {
        "first_mention": min(places, key=lambda answer: places[answer][0], default=common)[side],
        "last_mention": max(places, key=lambda answer: places[answer][1], default=common)[side],
    }
    return Lesson(
        "question",
        question.kind,
        LANGUAGES[side],
        prompt,
        question.answer[side],
        text,
        question.changes,
        baselines=blind,
    )


def label_lesson(task: str, told: Story, side: int, random: Draw) -> Lesson:
    """Return the summary, title, sentiment or topic of a story."""
    text, answer = (told.english, told.chinese)[side], LABELS[task](told.derivation)[side]
    return Lesson(
        task,
        task,
        LANGUAGES[side],
        asked(task, text, side, random),
        answer,
        text,
        said=task == "sentiment" and ending_said(told),
        baselines=blind_labels(task, told, side),
    )


def telling(steps: list[Step], side: int, constraint: str, random: Draw) -> Lesson:
    """Return an instruction to tell a story; the story itself is one that obeys it."""
    cast = dict(pair for step in steps for pair in step.words)
    kind, wanted = constraint, ()
    match constraint:
        case "words":
            wanted = words_for(some([role for role in NOUNS if role in cast], 3, random), cast)
        case "named":
            wanted = words_for([tasks.pick(CHILDREN, random), tasks.pick(THINGS, random)], cast)
        case "about":
            wanted = (labels.topic(steps),)
        case "title":
            wanted = (labels.title(steps),)
        case "ends":
            kind = ENDS[labels.sentiment(steps)[0]]
    wanted, language = tuple(pair[side] for pair in wanted), LANGUAGES[side]
    prompt = tasks.pick(WANTED[kind], random)[side].format(*wanted)
    return Lesson(
        "story", kind, language, prompt, join(render(steps, language), language), wanted=wanted
    )


def asked(task: str, text: str, side: int, random: Draw, question: str = "") -> str:
    """Return a user message: the text, where there is one, and an instruction below it."""
    instruction = tasks.pick(ASKED[task], random)[side].format(question)
    return f"{text}\n{instruction}" if text else instruction


def words_for(roles: list[str], cast: Mapping[str, str]) -> list[tasks.Pair]:
    """Return the words that fill some roles, in both languages."""
    entries = [lexicon.BY_NAME[role][cast[role]] for role in roles]
    return [(entry.en, entry.zh) for entry in entries]


def some(items: Iterable, count: int, random: Draw) -> list:
    """Return `count` different items in random order."""
    rest = list(items)
    return [rest.pop(int(random() * len(rest))) for _ in range(count)]


# What those would answer who do not understand the story.


def blind_labels(task: str, told: Story, side: int) -> dict[str, str]:
    """Return the titles about either thing, the sentence of the trouble, the last feeling named."""
    match task:
        case "title":
            titles = labels.titles(told.derivation)
            return {"first_mention": titles["toy"][side], "last_mention": titles["other"][side]}
        case "summary":
            return {"copy": told.sentences[labels.trouble_at(told.derivation)][side]}
        case "sentiment":
            return {"last_mention": last_feeling((told.english, told.chinese)[side], side)}
    return {}


def last_feeling(text: str, side: int) -> str:
    """Return the ending that the last feeling named in the text suggests: good without any."""
    where, felt = max((text.rfind(words[side]), felt) for felt, words in tasks.MOODS.items())
    return (labels.GOOD if where < 0 or felt in GOOD_MOODS else labels.BAD)[side]


def ending_said(told: Story) -> bool:
    """Tell whether a sentence names what a child feels at the end, or says how it all ended."""
    end = told.derivation[-1].event
    felt = {mood(child, end.after) for child in CHILDREN}
    return end.kind.endswith(" end") or any(contains(told.english, name, 0) for name in felt)


# Grading.


def obeys(lesson: Lesson, text: str, world: World | None = None) -> bool:
    """Tell whether a text is a consistent story that keeps to the lesson's constraint.

    For all other tasks: whether it is the right answer.
    """
    if lesson.task != "story":
        return text.strip() == lesson.answer
    verdict = verify(text, lesson.language, world)
    return verdict.ok and keeps_to(lesson, verdict.steps, text)


def keeps_to(lesson: Lesson, steps: list[Step], text: str) -> bool:
    """Tell whether a story keeps to the lesson's constraint."""
    side = LANGUAGES.index(lesson.language)
    match lesson.kind:
        case "free":
            return True
        case "words" | "named":
            return all(contains(text, word, side) for word in lesson.wanted)
        case "about":
            return lesson.wanted == (labels.topic(steps)[side],)
        case "title":
            return lesson.wanted == (labels.title(steps)[side],)
    return lesson.kind == ENDS[labels.sentiment(steps)[0]]


def contains(text: str, word: str, side: int) -> bool:
    """Tell whether a word stands in a text: in English (side 0) as a whole word."""
    return word in text if side else re.search(rf"\b{re.escape(word)}\b", text) is not None


# Conversations.


def dialogue(
    seed: int, world: World | None = None, shares: Mapping[str, Mapping] = SHARES
) -> list[Message]:
    """Return one conversation drawn from what the story of a seed teaches, as chat messages.

    Either the story once, in the first message, and 1 to 6 turns about it; or a translation; or
    an instruction to tell a story, and the story. In English or Chinese with probability 1/2 each.
    With BEGINNINGS as shares all is short: the first sentences, and every question about them.
    """
    random = Random(seed).random
    steps = sample(world or World.full(), random)
    side, form = int(random() >= 0.5), draw(shares["dialogue"], random)
    if form == "conversation":
        return conversation(steps, side, shares, random)
    if form == "beginning":
        return beginning(steps[: 1 + int(random() * EARLY)], side, random)
    make = {"translation": translation, "story": telling}[form]
    lesson = make(steps, side, draw(shares[form], random), random)
    return exchange(lesson.prompt, lesson.answer)


def conversation(
    steps: list[Step], side: int, shares: Mapping[str, Mapping], random: Draw
) -> list[Message]:
    """Return a story and some questions and other tasks about it, in random order."""
    text = join(render(steps, LANGUAGES[side]), LANGUAGES[side])
    chosen = tasks.choose(list(tasks.questions(steps)), random)
    by_kind = {question.kind: question for question in chosen}
    weights = {k: w for k, w in shares["asked"].items() if k in by_kind or k in LABELS}
    messages = []
    for _ in range(draw(shares["turns"], random)):
        kind = draw(weights, random)
        del weights[kind]
        if question := by_kind.get(kind):
            prompt = asked("question", text, side, random, question.text[side])
            messages += exchange(prompt, question.answer[side])
        else:
            prompt = asked(kind, text, side, random)
            messages += exchange(prompt, LABELS[kind](steps)[side])
        text = ""
    return messages


def beginning(steps: list[Step], side: int, random: Draw) -> list[Message]:
    """Return the first sentences of a story and a question of each kind, in random order."""
    text, messages = join(render(steps, LANGUAGES[side]), LANGUAGES[side]), []
    chosen = tasks.choose(list(tasks.early_questions(steps)), random)
    for question in some(chosen, len(chosen), random):
        prompt = asked("question", text, side, random, question.text[side])
        messages += exchange(prompt, question.answer[side])
        text = ""
    return messages


def exchange(prompt: str, answer: str) -> list[Message]:
    """Return a question and its answer as chat messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def draw(weights: Mapping, random: Draw):
    """Return one key, drawn by its integer weight."""
    rest = int(random() * sum(weights.values()))
    for key, weight in weights.items():
        rest -= weight
        if rest < 0:
            return key
    raise AssertionError(f"no weight in {weights}")
