"""What can be asked about a story: questions of nine kinds, with answers.

All of it follows from the derivation, so every answer is certain. A question knows the answers
that its story offers; `measure.py` uses them to test that no baseline finds the right one.
Summary, title, topic and mood are in `labels.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from minigpt.storyworld import lexicon
from minigpt.storyworld.forms import own_roles, resolve
from minigpt.storyworld.plot import (
    CHILDREN,
    OTHER,
    OWNER,
    PLACES,
    THINGS,
    Plot,
    feeling,
    mood,
)
from minigpt.storyworld.spelling import Slots, spell
from minigpt.storyworld.tables import Step

Pair = tuple[str, str]  # English, Chinese

QUESTIONS = {
    "where thing": ("Where is {what} at the end?", "最后{what}在哪儿？"),
    "where person": ("Where is {who} at the end?", "最后{who}在哪儿？"),
    "who has": ("Who has {what} at the end?", "最后谁拿着{what}？"),
    "feeling": ("How does {who} feel at the end?", "最后{who}的心情怎么样？"),
    "why": ("Why is {who} MOOD at the end?", "最后{who}为什么MOOD？"),
    "before": ("Where was {who} right before {where}?", "{who}去{where}之前在哪儿？"),
    "after": ("Where was {who} right after {where}?", "{who}离开{where}后先在哪儿？"),
    "count": ("How many {food} were there at first?", "一开始有几{food.unit}{food}？"),
    "eaten": ("How many {food} did they eat?", "{they}吃了几{food.unit}{food}？"),
    "left": ("How many {food} did they not eat?", "{they}没吃的{food}有几{food.unit}？"),
}

COLOUR_QUESTIONS = {
    "coat": ("What colour is {hero.names} coat?", "{hero.names}外套是什么颜色的？"),
    "colour": ("What colour is {toy}?", "{toy}是什么颜色的？"),
    "tint": ("What colour is {other}?", "{other}是什么颜色的？"),
}
CAUSES = {  # for each mood, the most common cause first
    "happy": {
        "is back": ("because {what} is back", "因为{what}回来了"),
        "found together": ("because they found {what}", "因为{they}找到了{what}"),
        "elder has it": ("because {elder} has {what}", "因为{what}在{elder}那儿"),
        "took it": ("because {who} kept {what}", "因为{who}留下了{what}"),
    },
    "proud": {
        "set it right": ("because {who} saved {what}", "因为{who}救了{what}"),
        "let keep": ("because {who} let {whom} keep {what}", "因为{who}让{whom}留着{what}"),
        "gave away": ("because {who} gave {that} away", "因为{who}把{that}送了出去"),
    },
    "grateful": {
        "was helped": ("because {helper} saved {what}", "因为{helper}救了{what}"),
        "elder has it": ("because {elder} has {what}", "因为{what}在{elder}那儿"),
        "may keep": ("because {whom} let {who} keep {what}", "因为{whom}让{who}留着{what}"),
        "was comforted": ("because {whom} gave {that} away", "因为{whom}把{that}送了出去"),
    },
    "sad": {
        "is gone": ("because {what} is lost", "因为{what}丢了"),
        "is torn": ("because {what} is torn", "因为{what}破了"),
    },
    "angry": {"was robbed": ("because {whom} kept {what}", "因为{whom}拿走了{what}")},
    "sorry": {
        "lost it": ("because {who} lost {what}", "因为{who}弄丢了{what}"),
        "had taken it": ("because {who} took {what}", "因为{who}拿走过{what}"),
        "tore it": ("because {who} tore {what}", "因为{who}弄破了{what}"),
    },
}
HAPPENED = {  # kind of event: (role of the place, question); "" is where the child is then
    "treasure": [("far", ("Where does {elder} live?", "{elder}住在哪儿？"))],
    "meeting": [
        ("start", ("Where did {hero} and {friend} meet?", "{hero}和{friend}是在哪儿见面的？"))
    ],
    "meal": [("second", ("Where did they eat the {food}?", "{they}是在哪儿吃{food}的？"))],
    "lend": [("second", ("Where did {whom} get {what}?", "{whom}是在哪儿拿到{what}的？"))],
    "stolen": [
        ("second", ("Where was {what} stolen?", "{what}是在哪儿被偷走的？")),
        ("third", ("Where did {animal.the} take {what}?", "{animal.the}把{what}带到哪儿去了？")),
    ],
    "blown": [
        ("second", ("Where did the wind seize {what}?", "风是在哪儿刮走{what}的？")),
        ("third", ("Where did the wind blow {what}?", "风把{what}刮到哪儿去了？")),
    ],
    "taken": [("third", ("Where did {who} run with {what}?", "{who}带着{what}跑到哪儿去了？"))],
    "torn": [("second", ("Where was {what} torn?", "{what}是在哪儿弄破的？"))],
    "slipped": [("second", ("Where was {what} torn?", "{what}是在哪儿弄破的？"))],
    "found together": [("", ("Where did they find {what}?", "{they}是在哪儿找到{what}的？"))],
    "fetch stolen": [("", ("Where did {who} find {what}?", "{who}是在哪儿找到{what}的？"))],
    "fetch blown": [("", ("Where did {who} find {what}?", "{who}是在哪儿找到{what}的？"))],
    "fetch forgotten": [("", ("Where did {who} find {what}?", "{who}是在哪儿找到{what}的？"))],
}
NOBODY = ("nobody", "没有人")
MOODS = {mood.en: (mood.en, mood.zh) for mood in lexicon.MOODS}
COLORS = {colour.en: (colour.en, colour.zh) for colour in lexicon.COLORS}


class Question(NamedTuple):
    """One question; `offers` are the answers of its kind that the story contains, by role."""

    kind: str
    text: Pair
    answer: Pair
    offers: dict[str, Pair]
    changes: int  # how often the fact in question changed


class Facts:
    """What a told story leaves behind: who plays which role, and the plot after each sentence."""

    def __init__(self, steps: list[Step]):
        self.steps = steps
        self.cast: dict[str, str] = {}
        self.slots: tuple[Slots, Slots] = ({}, {})
        for step in steps:
            for role, word in step.words:
                self.cast[role] = word
                for slots, more in zip(self.slots, spell(role, word, self.cast), strict=True):
                    slots.update(more)
        self.plots = [step.event.after for step in steps]
        self.end = self.plots[-1]

    def say(self, texts: Pair, who: str = "", what: str = "", where: str = "", **more: str) -> Pair:
        """Return a text in both languages with its slots filled."""
        (en, zh), (slots_en, slots_zh) = (
            resolved(texts, who, what, where, *more.items()),
            self.slots,
        )
        return en % slots_en, zh % slots_zh

    def spoken(self, key: str) -> Pair:
        """Return one slot in both languages: "start.at" -> ("in the park", "在公园里")."""
        return self.slots[0][key], self.slots[1][key]

    def about_the_loss(self, texts: Pair) -> Pair:
        """Say something about the thing in trouble, its owner and whoever had to do with it."""
        end, owner = self.end, OWNER[self.end.lost]
        more = {"mate": OTHER[owner], "carrier": end.carrier, "helper": end.helper}
        return self.say(texts, "", end.lost, getattr(end, end.lost), **more)


@cache
def resolved(texts: Pair, who: str, what: str, where: str, *more: tuple[str, str]) -> Pair:
    """Return a text whose slots name the roles of the story."""
    roles = own_roles(who, what, where) | dict(more)
    return resolve(texts[0], roles), resolve(texts[1], roles)


def place_of(role: str, plot: Plot) -> str:
    """Return where a child or a thing is: a held thing is where its holder is."""
    place = getattr(plot, role)
    if role in THINGS and place in CHILDREN:
        place = getattr(plot, place)
    return "far" if place == "elder" else place


def choose(asked: list[Question], random: Callable[[], float]) -> list[Question]:
    """Return one question of each kind; every answer that the kind has here is equally likely."""
    chosen = []
    for kind in dict.fromkeys(question.kind for question in asked):
        of_kind = [question for question in asked if question.kind == kind]
        answer = pick(list(dict.fromkeys(question.answer for question in of_kind)), random)
        chosen.append(pick([q for q in of_kind if q.answer == answer], random))
    return chosen


def pick(items: Sequence, random: Callable[[], float]):
    """Return one of the items, all equally likely."""
    return items[int(random() * len(items))]


def questions(steps: list[Step]) -> Iterator[Question]:
    """Yield everything that can be asked about a story."""
    facts = Facts(steps)
    yield from where_questions(facts)
    yield from who_questions(facts)
    yield from feeling_questions(facts)
    yield from number_questions(facts)
    yield from past_questions(facts)


def early_questions(steps: list[Step]) -> Iterator[Question]:
    """Yield what can be asked about the first sentences of a story."""
    facts = Facts(steps)
    yield from where_questions(facts)
    yield from who_questions(facts)
    yield from past_questions(facts)


def changes(values: list[str]) -> int:
    """Return how often a value became another one, from its first mention on."""
    known = [value for value in values if value]
    return sum(old != new for old, new in pairwise(known))


def where_questions(facts: Facts) -> Iterator[Question]:
    offers = {place: facts.spoken(place + ".at") for place in PLACES if place in facts.cast}
    for role in (*THINGS, *CHILDREN):
        kind = "where thing" if role in THINGS else "where person"
        if place := place_of(role, facts.end):
            text = facts.say(QUESTIONS[kind], who=role, what=role)
            history = changes([place_of(role, plot) for plot in facts.plots])
            yield Question(kind, text, offers[place], offers, history)


def who_questions(facts: Facts) -> Iterator[Question]:
    known = [role for role in (*CHILDREN, "elder") if role in facts.cast]
    offers = {role: facts.spoken(role) for role in known} | {"nobody": NOBODY}
    for thing in (thing for thing in THINGS if thing in facts.cast):
        holder = getattr(facts.end, thing)
        answer = offers[holder if holder in offers else "nobody"]
        history = changes([getattr(plot, thing) for plot in facts.plots])
        text = facts.say(QUESTIONS["who has"], what=thing)
        yield Question("who has", text, answer, offers, history)
    painted = [role for role in ("coat", "colour", "tint") if role in facts.cast]
    colours = {role: COLORS[facts.cast[role]] for role in painted}
    for role, answer in colours.items():
        yield Question("colour", facts.say(COLOUR_QUESTIONS[role]), answer, colours, 0)


def feeling_questions(facts: Facts) -> Iterator[Question]:
    for child in CHILDREN:
        felt, cause = feeling(child, facts.end)
        history = changes([mood(child, plot) for plot in facts.plots if plot.lost])
        text = facts.say(QUESTIONS["feeling"], who=child)
        yield Question("feeling", text, MOODS[felt], MOODS, history)
        en, zh = facts.say(QUESTIONS["why"], who=child)
        text = en.replace("MOOD", MOODS[felt][0]), zh.replace("MOOD", MOODS[felt][1])
        offers = {
            f"{other_cause} {thing}": reason(child, other_cause, thing, facts)
            for other_cause in CAUSES[felt]
            if "elder" in facts.cast or "{elder}" not in CAUSES[felt][other_cause][0]
            for thing in THINGS
        }
        yield Question("why", text, offers[f"{cause} {facts.end.lost}"], offers, history)


def reason(child: str, cause: str, thing: str, facts: Facts) -> Pair:
    """Return the sentence that gives a cause of the child's mood."""
    texts = next(causes[cause] for causes in CAUSES.values() if cause in causes)
    return facts.say(texts, child, thing, helper=facts.end.helper or OTHER[child])


def number_questions(facts: Facts) -> Iterator[Question]:
    if "eaten" in facts.cast:
        offers = {role: facts.spoken(role) for role in ("count", "eaten", "left")}
        said = any(step.event.kind == "share" for step in facts.steps)
        for role in offers:  # what is left must be reckoned, unless the story says it
            text, reckoned = facts.say(QUESTIONS[role]), role == "left" and not said
            yield Question("how many", text, offers[role], offers, int(reckoned))


def past_questions(facts: Facts) -> Iterator[Question]:
    """Ask where something happened, and what came before or after a place."""
    offers = {place: facts.spoken(place + ".at") for place in PLACES if place in facts.cast}
    for step in facts.steps:
        event = step.event
        for place, text in HAPPENED.get(event.kind, []):
            place = place or getattr(event.after, event.who)
            text = facts.say(text, event.who, event.what)
            yield Question("where happened", text, offers[place], offers, 0)
    for child in CHILDREN:
        path = [getattr(plot, child) for plot in facts.plots if getattr(plot, child)]
        stops = [place for i, place in enumerate(path) if i == 0 or path[i - 1] != place]
        for before, after in pairwise(stops):
            if stops.count(after) == 1 + (after == "start"):
                text = facts.say(QUESTIONS["before"], child, where=after)
                yield Question("in what order", text, offers[before], offers, len(stops) - 1)
            if stops.count(before) == 1:
                text = facts.say(QUESTIONS["after"], child, where=before)
                yield Question("in what order", text, offers[after], offers, len(stops) - 1)
