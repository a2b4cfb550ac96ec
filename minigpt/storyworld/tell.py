"""Three readers of the one definition: `sample` tells a story, `parse` recovers its choices from
the text alone, `enumerate_stories` lists every story of a small world with its exact probability.

A story is a chain of steps. Each step makes three kinds of choices with integer weights: what
happens (`world.events`), who fills the roles it names (`world.words`), and how it is told
(`forms.forms`). `World` keeps these options in tables; it adds nothing to the definition.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from minigpt.errors import DataError
from minigpt.storyworld import lexicon
from minigpt.storyworld.casting import DEPENDS_ON, words
from minigpt.storyworld.forms import Form, forms
from minigpt.storyworld.plot import Event, Plot
from minigpt.storyworld.spelling import Slots, spell
from minigpt.storyworld.world import events

Language = Literal["en", "zh"]
LANGUAGES = ("en", "zh")


class Table:
    """Weighted options, ready to be drawn from: `draw(u)` maps u in [0, 1) to an index."""

    def __init__(self, options: list[tuple[int, Any]]):
        assert options, "nothing to choose from"
        self.items = [item for _, item in options]
        self.weights = [weight for weight, _ in options]
        self.total = sum(self.weights)
        self.bounds = list(accumulate(self.weights))[:-1]
        self.log_p = [math.log(weight / self.total) for weight in self.weights]

    def draw(self, u: float) -> int:
        return bisect_right(self.bounds, u * self.total)

    def options(self) -> Iterator[tuple[Any, float]]:
        """Yield each option with the logarithm of its probability."""
        return zip(self.items, self.log_p, strict=True)

    def fractions(self) -> Iterator[tuple[Any, Fraction]]:
        """Yield each option with its exact probability."""
        return ((item, Fraction(weight, self.total))
                for item, weight in zip(self.items, self.weights, strict=True))  # fmt: skip


class Choice:
    """An event with the forms that tell it and, once needed, the table of what follows it."""

    def __init__(self, event: Event, forms: Table, world: "World"):
        self.event, self.forms, self.world = event, forms, world
        self.anchors = [[longest_literal(text) for text in form] for form in forms.items]

    @cached_property
    def next(self) -> Table | None:
        return self.world.choices(self.event.after)


class Step(NamedTuple):
    """One told event: the choices made, and the natural logarithm of their probability."""

    event: Event
    words: tuple[tuple[str, str], ...]
    form: Form
    log_p: float


class World:
    """The tables of one version of the process.

    `held_out`: hero and toy are a pair that training never shows. `first_words` (role -> count),
    `first_forms` and `without` (kinds of events, left out wherever something else can happen)
    make a world small enough to be listed whole.
    """

    def __init__(
        self,
        held_out: bool = False,
        first_words: Mapping[str, int] | None = None,
        first_forms: int | None = None,
        without: Collection[str] = (),
    ):
        self.held_out = held_out
        self.first_words = first_words or {}
        self.first_forms = first_forms
        self.without = frozenset(without)
        self.choice_tables: dict[Plot, Table | None] = {}
        self.form_tables: dict[tuple, Table] = {}
        self.word_tables: dict[tuple, Table] = {}

    def choices(self, plot: Plot) -> Table | None:
        """Return the table of what may happen next, or None where the story is over."""
        if plot not in self.choice_tables:
            options = events(plot)
            kept = [(weight, event) for weight, event in options if event.kind not in self.without]
            options = [
                (weight, Choice(event, self.forms(event, plot), self))
                for weight, event in kept or options
            ]
            self.choice_tables[plot] = Table(options) if options else None
        return self.choice_tables[plot]

    def forms(self, event: Event, plot: Plot) -> Table:
        """Return the table of ways to tell an event; many plots share one."""
        key = (*event[:5], plot.focus)
        if key not in self.form_tables:
            self.form_tables[key] = Table(forms(event, plot)[: self.first_forms])
        return self.form_tables[key]

    def words(self, role: str, cast: Mapping[str, str], plot: Plot) -> Table:
        """Return the table of words that may fill a role."""
        key = (role, plot.sky, plot.alike, *[cast[other] for other in DEPENDS_ON.get(role, ())])
        if key not in self.word_tables:
            options = words(role, cast, plot, self.held_out)[: self.first_words.get(role)]
            self.word_tables[key] = Table(options)
        return self.word_tables[key]


TRAIN, HELD_OUT = World(), World(held_out=True)
WORLDS = {"train": TRAIN, "held_out": HELD_OUT}


def sample(world: World, random: Callable[[], float]) -> list[Step]:
    """Tell one story, drawing every choice with one call of `random`."""
    steps, cast, table = [], {}, world.choices(Plot())
    while table is not None:
        index = table.draw(random())
        choice, log_p = table.items[index], table.log_p[index]
        event = choice.event
        named = []
        for role in event.new:
            options = world.words(role, cast, event.after)
            index = options.draw(random())
            cast[role] = options.items[index]
            named.append((role, cast[role]))
            log_p += options.log_p[index]
        index = choice.forms.draw(random())
        log_p += choice.forms.log_p[index]
        steps.append(Step(event, tuple(named), choice.forms.items[index], log_p))
        table = choice.next
    return steps


def render(steps: list[Step], language: Language) -> list[str]:
    """Return the sentences of a story in one language."""
    side = LANGUAGES.index(language)
    sentences, cast, slots = [], {}, {}
    for step in steps:
        for role, word in step.words:
            cast[role] = word
            slots.update(spell(role, word, cast)[side])
        sentences.append(step.form[side] % slots)
    return sentences


def join(sentences: list[str], language: Language) -> str:
    """Return the sentences as one text: Chinese needs no spaces between them."""
    return (" " if language == "en" else "").join(sentences)


# From the text back to the choices.

SENTENCE = {
    "en": re.compile(
        r'''(?:"[^"]*[^".!?]"|"[^"]*[.!?]"(?=[ ][a-z])|[^".!?])*'''
        r'''(?:[.!?]|"[^"]*[.!?]")(?:[ ]|$)'''
    ),
    "zh": re.compile(r"(?:“[^”]*[^。！？”]”|[^“”。！？])*(?:[。！？]|“[^”]*[。！？]”)"),
}


def split_sentences(text: str, language: Language) -> list[str]:
    """Return the sentences of a text, and last whatever has no sentence's end."""
    sentences, start = [], 0
    while start < len(text):
        match = SENTENCE[language].match(text, start)
        end = match.end() if match else len(text)
        sentences.append(text[start:end].removesuffix(" ") if match else text[start:])
        start = end
    return sentences


def longest_literal(template: str) -> str:
    """Return the longest piece of a template that every rendering of it contains."""
    return max(re.split(r"%\([\w.]+\)s", template), key=len)


class Reader:
    """Reads a story sentence by sentence; knows after each what may come next."""

    def __init__(self, world: World, language: Language):
        self.world, self.side = world, LANGUAGES.index(language)
        self.table = world.choices(Plot())
        self.cast: dict[str, str] = {}
        self.slots: Slots = {}
        self.steps: list[Step] = []

    def read(self, sentence: str) -> bool:
        """Take one sentence; return False, and stay as before, where it cannot stand here."""
        matches = list(self.matches(sentence))
        assert len(matches) <= 1, f"two derivations of {sentence!r}"
        for choice, named, step in matches:
            self.cast |= dict(step.words)
            self.slots |= named
            self.steps.append(step)
            self.table = choice.next
        return bool(matches)

    def matches(self, sentence: str) -> Iterator[tuple[Choice, Slots, Step]]:
        """Yield every way to get this very sentence out of the options."""
        side, lowered = self.side, sentence.lower()
        for choice, log_p in self.table.options() if self.table else ():
            likely = [i for i, anchor in enumerate(choice.anchors) if anchor[side] in sentence]
            if not likely:
                continue
            for named, slots, log_words in self.namings(choice.event, lowered, log_p):
                for i in likely:
                    form = choice.forms.items[i]
                    if form[side] % slots == sentence:
                        step = Step(choice.event, named, form, log_words + choice.forms.log_p[i])
                        yield choice, slots, step

    def namings(
        self, event: Event, lowered: str, log_p: float
    ) -> Iterator[tuple[tuple[tuple[str, str], ...], Slots, float]]:
        """Yield the words for the event's new roles that are spelled out in the sentence."""
        partial = [((), self.slots, log_p)]
        for role in event.new:
            longer = []
            for named, slots, log_before in partial:
                cast = self.cast | dict(named)
                for word, log_word in self.world.words(role, cast, event.after).options():
                    if SPELLED[role, word][self.side] in lowered:
                        more = slots | spell(role, word, cast)[self.side]
                        longer.append(((*named, (role, word)), more, log_before + log_word))
            partial = longer
        yield from partial


SPELLED = {
    (role, word): (entry.en.lower(), entry.zh)
    for role, entries in lexicon.BY_NAME.items()
    for word, entry in entries.items()
}


def parse(world: World, text: str, language: Language) -> list[Step]:
    """Return the choices that yield exactly this text.

    DataError names the first sentence that no choice yields.
    """
    reader = Reader(world, language)
    for number, sentence in enumerate(split_sentences(text.strip(), language), start=1):
        if not reader.read(sentence):
            raise DataError(
                "not a story of this world",
                f"sentence {number}: {sentence!r}",
                "verify() tells what could have stood there",
            )
    if reader.table is not None:
        raise DataError(
            "the story has no end", f"after sentence {len(reader.steps)}", "give the whole story"
        )
    return reader.steps


# Every story of a small world, with exact fractions.


def enumerate_stories(world: World) -> Iterator[tuple[list[Step], Fraction]]:
    """Yield each story of the world as (steps, exact probability)."""

    def go_on(table: Table | None, cast: dict, steps: list, p: Fraction):
        if table is None:
            yield steps, p
            return
        for choice, p_choice in table.fractions():
            for named, p_words in name_all(choice.event, cast):
                for (form, p_form), log_form in zip(choice.forms.fractions(), choice.forms.log_p):
                    step = Step(choice.event, named, form, math.nan)
                    yield from go_on(
                        choice.next, cast | dict(named), [*steps, step], p * p_choice * p_words * p_form
                    )

    def name_all(event: Event, cast: dict, named: tuple = (), p: Fraction = Fraction(1)):
        if len(named) == len(event.new):
            yield named, p
            return
        role = event.new[len(named)]
        for word, p_word in world.words(role, cast, event.after).fractions():
            yield from name_all(event, cast | {role: word}, (*named, (role, word)), p * p_word)

    yield from go_on(world.choices(Plot()), {}, [], Fraction(1))
