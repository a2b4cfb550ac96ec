"""What storyworld teaches: tasks with one right answer, and conversations made of them.

All answers follow from the derivation of a story (`tasks.py`): translations of the whole story or
of its beginning (isolated sentences can be ambiguous), questions, a summary, a title, the mood of
the ending, the topic; and stories told under a constraint, which `obeys` verifies. A seed gives
the same lessons on every platform: only `random.Random(seed).random()` is drawn from.
"""

import re
from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from minigpt.storyworld import lexicon, measure, tasks
from minigpt.storyworld.read import Reader, split_sentences
from minigpt.storyworld.stories import Split, Story
from minigpt.storyworld.tables import WORLDS, Step
from minigpt.storyworld.tell import LANGUAGES, Language, join, render, sample
from minigpt.storyworld.wording import ASKED, WANTED

# The shares of everything in a dialogue, as weights.
DIALOGUES = {"conversation": 63, "translation": 27, "story": 10}
TRANSLATED = {"whole": 60, "passage": 40}
TURNS = {1: 10, 2: 12, 3: 16, 4: 20, 5: 22, 6: 20}  # how many turns a conversation has
ASKING = {  # what a turn asks for; drawn without repeating the same
    "where thing": 14, "where person": 14, "who has": 16, "where happened": 8, "in what order": 10,
    "feeling": 8, "why": 8, "how many": 8, "colour": 6,
    "summary": 10, "title": 6, "sentiment": 12, "topic": 4,
}  # fmt: skip
CONSTRAINTS = {"free": 10, "words": 20, "ends": 20, "about": 15, "title": 15, "named": 20}

ENDS = {"good": "ends well", "bad": "ends badly", "mixed": "ends mixed"}
NOUNS = ("elder", "start", "far", "second", "third", "toy", "other", "animal", "food")
Random01 = Callable[[], float]  # returns a float in [0, 1)


class Lesson(NamedTuple):
    """One task with its right answer."""

    task: str  # translation_en_zh, translation_zh_en, question, summary, ... or story
    kind: str  # finer: the kind of question, "whole" or "passage", the constraint on a story
    language: Language  # of the answer
    prompt: str  # the complete user message: the story, where there is one, and the instruction
    answer: str  # for task "story" one good answer of many: graded by `obeys`
    story: str  # the text that the prompt is about, "" where there is none
    changes: int  # questions: how often the fact in question changed; 0 is one fact
    said: bool  # sentiment: the story's last sentence tells the feelings, no need to infer
    shortcuts: dict[str, str]  # answers of those who do not understand the story
    wanted: tuple[str, ...] = ()  # what the constraint on a story names


class Turn(NamedTuple):
    """One instruction with its answer."""

    task: str
    kind: str
    ask: str
    answer: str


def lessons(seed: int, language: Language, split: Split = "train") -> list[Lesson]:
    """Return everything that the story of a seed teaches; story and instructions in `language`.

    The answer is in `language` too, except for translations. There is one question of each kind,
    chosen so that all answers that its kind has in the story are equally likely.
    """
    random = Random(seed).random
    told, side = Story(sample(WORLDS[split], random)), LANGUAGES.index(language)
    return [
        *translations(told, side, random),
        *questions(told, side, random),
        *labels(told, side, random),
        *tellings(told, side, random),
    ]


def translations(told: Story, side: int, random: Random01) -> list[Lesson]:
    """Return the translation of the whole story, and of its beginning."""
    made = []
    for kind in TRANSLATED:
        turn, source = translate(told.derivation, side, kind, random)
        prompt, target = f"{source}\n{turn.ask}", LANGUAGES[1 - side]
        made.append(
            Lesson(turn.task, kind, target, prompt, turn.answer, source, 0, False, {"copy": source})
        )
    return made


def questions(told: Story, side: int, random: Random01) -> list[Lesson]:
    """Return one question of each kind, with the answers of two simple shortcuts."""
    text, made = story_text(told, side), []
    for question in tasks.choose(told.questions(), random):
        ask = worded(ASKED["question"], side, random).format(question.text[side])
        places = measure.mentions(question, told, side)
        first = min(places, key=lambda answer: places[answer][0], default=question.answer)
        last = max(places, key=lambda answer: places[answer][1], default=question.answer)
        blind = {"first_mention": first[side], "last_mention": last[side]} if places else {}
        made.append(
            Lesson("question", question.kind, LANGUAGES[side], f"{text}\n{ask}",
                   question.answer[side], text, question.changes, False, blind)
        )  # fmt: skip
    return made


def labels(told: Story, side: int, random: Random01) -> list[Lesson]:
    """Return summary, title, sentiment and topic of a story."""
    text, said, made = story_text(told, side), feelings_said(told.derivation), []
    for task in ("summary", "title", "sentiment", "topic"):
        ask = worded(ASKED[task], side, random)
        answer = getattr(told, task)[side]
        made.append(
            Lesson(task, task, LANGUAGES[side], f"{text}\n{ask}", answer, text, 0,
                   said and task == "sentiment", blind_label(task, told, side))
        )  # fmt: skip
    return made


def blind_label(task: str, told: Story, side: int) -> dict[str, str]:
    """Return what shortcuts would answer: a title about the first child, a sentence copied."""
    if task == "title":
        names = tasks.titles(told.derivation)
        return {"first_mention": names["toy"][side], "last_mention": names["other"][side]}
    if task == "summary":
        return {"copy": told.sentences[tasks.trouble_at(told.derivation)][side]}
    if task == "sentiment":
        return {"last_mention": last_feeling(told, side)}
    return {}


def last_feeling(told: Story, side: int) -> str:
    """Return the ending that the last feeling named in the text suggests; good without any."""
    text = story_text(told, side)
    found = [(text.rfind(felt[side]), name) for name, felt in tasks.MOODS.items()]
    where, name = max(found)
    good = where < 0 or name in tasks.GOOD_MOODS
    return (tasks.GOOD if good else tasks.BAD)[side]


def feelings_said(steps: list[Step]) -> bool:
    """Tell whether the last sentence names a feeling, or says how it all ended."""
    kind = steps[-1].event.kind
    return kind.startswith("feel ") or kind.endswith(" end")


def tellings(told: Story, side: int, random: Random01) -> list[Lesson]:
    """Return one instruction for each constraint; the story itself is one that obeys."""
    text, made = story_text(told, side), []
    for constraint in CONSTRAINTS:
        turn, wanted = tell(told.derivation, side, constraint, random)
        made.append(
            Lesson("story", turn.kind, LANGUAGES[side], turn.ask, text, "", 0, False, {}, wanted)
        )
    return made


def tell(
    steps: list[Step], side: int, constraint: str, random: Random01
) -> tuple[Turn, tuple[str, ...]]:
    """Return an instruction that this story obeys, and what the constraint names."""
    cast = dict(pair for step in steps for pair in step.words)
    kind, wanted = constraint, ()
    match constraint:
        case "words":
            wanted = spoken(cast, some([role for role in NOUNS if role in cast], 3, random), side)
        case "ends":
            kind = ENDS[tasks.sentiment(steps)[0]]
        case "about":
            wanted = (tasks.topic(steps)[side],)
        case "title":
            wanted = (tasks.title(steps)[side],)
        case "named":
            roles = [tasks.pick(tasks.CHILDREN, random), tasks.pick(tasks.THINGS, random)]
            wanted = spoken(cast, roles, side)
    ask = worded(WANTED[kind], side, random).format(*wanted)
    return Turn("story", kind, ask, join(render(steps, LANGUAGES[side]), LANGUAGES[side])), wanted


def translate(steps: list[Step], side: int, kind: str, random: Random01) -> tuple[Turn, str]:
    """Return the translation of a story, or of its first sentences, and the text to translate."""
    length = len(steps) if kind == "whole" else 1 + int(random() * (len(steps) - 1))
    texts = [join(render(steps[:length], language), language) for language in LANGUAGES]
    task = f"translation_{LANGUAGES[side]}_{LANGUAGES[1 - side]}"
    ask = worded(ASKED["translation"], side, random)
    return Turn(task, kind, ask, texts[1 - side]), texts[side]


def story_text(told: Story, side: int) -> str:
    return (told.english, told.chinese)[side] if side else told.english


def worded(wordings: list[tasks.Pair], side: int, random: Random01) -> str:
    """Return one of the wordings of an instruction."""
    return tasks.pick(wordings, random)[side]


def spoken(cast: Mapping[str, str], roles: list[str], side: int) -> tuple[str, ...]:
    """Return the words that fill some roles, in one language."""
    entries = [lexicon.BY_NAME[role][cast[role]] for role in roles]
    return tuple((entry.en, entry.zh)[side] for entry in entries)


def some(items: list, count: int, random: Random01) -> list:
    """Return `count` different items, in random order."""
    items = list(items)
    return [items.pop(int(random() * len(items))) for _ in range(count)]


def draw(weights: Mapping, random: Random01):
    """Return one key, drawn by its weight."""
    rest = random() * sum(weights.values())
    for key, weight in weights.items():
        rest -= weight
        if rest < 0:
            return key
    return key


# Grading.


def obeys(lesson: Lesson, text: str) -> bool:
    """Tell whether a text is a consistent story that keeps to the lesson's constraint.

    For all other tasks: whether it is the right answer.
    """
    if lesson.task != "story":
        return text.strip() == lesson.answer
    steps = story_steps(text, lesson.language)
    return steps is not None and keeps_to(lesson, steps, text)


def keeps_to(lesson: Lesson, steps: list[Step], text: str) -> bool:
    """Tell whether a story keeps to the lesson's constraint."""
    side = LANGUAGES.index(lesson.language)
    match lesson.kind:
        case "words" | "named":
            return all(contains(text, word, side) for word in lesson.wanted)
        case "about":
            return lesson.wanted == (tasks.topic(steps)[side],)
        case "title":
            return lesson.wanted == (tasks.title(steps)[side],)
        case "free":
            return True
    return lesson.kind == ENDS[tasks.sentiment(steps)[0]]


def contains(text: str, word: str, side: int) -> bool:
    """Tell whether a word stands in a text: in English as a whole word."""
    return word in text if side else re.search(rf"\b{re.escape(word)}\b", text) is not None


def story_steps(text: str, language: Language) -> list[Step] | None:
    """Return the derivation of a whole story, of training or held out, or None."""
    sentences = split_sentences(text.strip(), language)
    for world in WORLDS.values():
        reader = Reader(world, language)
        if all(map(reader.read, sentences)) and reader.table is None:
            return reader.steps
    return None


# Conversations.


def dialogue(seed: int, split: Split = "train") -> list[dict[str, str]]:
    """Return one conversation drawn from the lessons of the story of a seed, as chat messages.

    Either the story once, in the first message, and 1 to 6 turns about it; or a translation; or
    an instruction to tell a story, and the story. The tables on top hold the shares.
    """
    random = Random(seed).random
    steps = sample(WORLDS[split], random)
    side, form = int(random() >= 0.5), draw(DIALOGUES, random)
    if form == "translation":
        turn, text = translate(steps, side, draw(TRANSLATED, random), random)
        return messages([turn], text)
    if form == "story":
        return messages([tell(steps, side, draw(CONSTRAINTS, random), random)[0]])
    return messages(
        turns(steps, side, random), join(render(steps, LANGUAGES[side]), LANGUAGES[side])
    )


def turns(steps: list[Step], side: int, random: Random01) -> list[Turn]:
    """Return some questions and other tasks about a story, in random order."""
    asked = {
        question.kind: question for question in tasks.choose(list(tasks.questions(steps)), random)
    }
    weights = {kind: weight for kind, weight in ASKING.items() if kind in asked or kind in ASKED}
    made = []
    for _ in range(draw(TURNS, random)):
        kind = draw(weights, random)
        del weights[kind]
        if kind in asked:
            ask = worded(ASKED["question"], side, random).format(asked[kind].text[side])
            made.append(Turn("question", kind, ask, asked[kind].answer[side]))
        else:
            answer = LABELS[kind](steps)[side]
            made.append(Turn(kind, kind, worded(ASKED[kind], side, random), answer))
    return made


LABELS = {
    "summary": tasks.summary, "title": tasks.title,
    "sentiment": tasks.sentiment, "topic": tasks.topic,
}  # fmt: skip


def messages(turns: list[Turn], text: str = "") -> list[dict[str, str]]:
    """Return turns as chat messages; the text stands in front of the first instruction."""
    said = []
    for turn in turns:
        ask = f"{text}\n{turn.ask}" if text and not said else turn.ask
        said += [{"role": "user", "content": ask}, {"role": "assistant", "content": turn.answer}]
    return said
