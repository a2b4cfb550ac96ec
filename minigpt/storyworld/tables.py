"""The options of the process, kept in tables that a sampler, a parser and an enumerator share.

A story is a chain of steps. Each step makes three kinds of choices with integer weights: what
happens (`world.events`), who fills the roles it names (`casting.words`), and how it is told
(`forms.forms`). The tables add nothing to that definition; they only remember what it said.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction
from functools import cache, cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from minigpt.storyworld import lexicon, little
from minigpt.storyworld.casting import Lists, Pairs, depends_on, words
from minigpt.storyworld.forms import FORMS, Form, Told, forms
from minigpt.storyworld.plot import Event, Plot
from minigpt.storyworld.world import SCENES, Scenes, events


class Table:
    """Weighted options: to be drawn from, or to be gone through with their probabilities."""

    def __init__(self, options: list[tuple[int, Any]]):
        assert options, "nothing to choose from"
        self.items = [item for _, item in options]
        self.weights = [weight for weight, _ in options]
        self.total = sum(self.weights)
        self.bounds = list(accumulate(self.weights))[:-1]
        self.log_p = [math.log(weight / self.total) for weight in self.weights]

    def draw(self, random: Callable[[], float]) -> tuple[Any, float]:
        """Return an option, chosen with one random number, and the logarithm of its probability."""
        index = bisect_right(self.bounds, random() * self.total)
        return self.items[index], self.log_p[index]

    def options(self) -> Iterator[tuple[Any, float]]:
        """Yield each option with the logarithm of its probability."""
        return zip(self.items, self.log_p, strict=True)

    def fractions(self) -> Iterator[tuple[Any, Fraction]]:
        """Yield each option with its exact probability."""
        for item, weight in zip(self.items, self.weights, strict=True):
            yield item, Fraction(weight, self.total)

    def entropy(self) -> float:
        """Return the entropy of the choice in nats."""
        pairs = zip(self.weights, self.log_p, strict=True)
        return -math.fsum(weight * log_p for weight, log_p in pairs) / self.total


class Choice:
    """An event with the table of forms that tell it and, once needed, that of what follows it."""

    def __init__(self, event: Event, forms: Table, world: "World"):
        self.event, self.forms, self.world = event, forms, world

    @cached_property
    def next(self) -> Table | None:
        """The table of what may come after this event; None where it is the last one."""
        return self.world.choices(self.event.after)


class Step(NamedTuple):
    """One told event: the choices made, and the natural logarithm of their probability."""

    event: Event
    words: tuple[tuple[str, str], ...]  # (role, word) for each role that the event names
    form: Form
    log_p: float


WorldName = Literal["little", "full"]


class World:
    """The tables of one version of the process: its words by role, its scenes, its sentences.

    `World.little()` and `World.full()` are the two that the course uses. `pairs` says which
    children and things meet (see `casting.words`). `first_words` (role -> count), `first_forms` and
    `without` (kinds of events, left out wherever something else can happen) make a world small
    enough to be listed whole.
    """

    def __init__(
        self,
        lists: Lists = lexicon.LISTS,
        scenes: Scenes = SCENES,
        told: Told = FORMS,
        pairs: Pairs = "train",
        first_words: Mapping[str, int] | None = None,
        first_forms: int | None = None,
        without: Collection[str] = (),
    ):
        self.lists, self.scenes, self.told = lists, scenes, told
        self.pairs: Pairs = pairs
        self.first_words = first_words or {}
        self.first_forms = first_forms
        self.without = frozenset(without)
        self.choice_tables: dict[Plot, Table] = {}
        self.form_tables: dict[tuple, Table] = {}
        self.word_tables: dict[tuple, Table] = {}

    @staticmethod
    def little() -> "World":
        """Return the laptop's world: some 190 English words, stories of 6 to 9 short sentences."""
        return little_world()

    @staticmethod
    def full(pairs: Pairs = "train") -> "World":
        """Return the rich world; `pairs` says which words meet in a story.

        Training stories are those of "train". Those of "held_out" bring a child and a thing
        together that training keeps apart. With "all" nothing is kept apart.
        """
        return full_world(pairs)

    @staticmethod
    def named(name: WorldName) -> "World":
        """Return the world that a run's `--world` names."""
        return World.little() if name == "little" else World.full()

    @cached_property
    def readable(self) -> "World":
        """The world by which a story is judged: this one, but no pair of words is kept apart.

        What exists only to hold stories out is no inconsistency.
        """
        if self.pairs == "all":
            return self
        same = self.first_words, self.first_forms, self.without
        if self is World.full(self.pairs):
            return World.full("all")
        return World(self.lists, self.scenes, self.told, "all", *same)

    def choices(self, plot: Plot) -> Table | None:
        """Return the table of what may happen next, or None where the story is over."""
        if plot.scene == "end":
            return None
        if plot not in self.choice_tables:
            options = events(plot, self.scenes)
            kept = [(weight, event) for weight, event in options if event.kind not in self.without]
            options = [
                (weight, Choice(event, self.forms(event, plot), self))
                for weight, event in kept or options
            ]
            self.choice_tables[plot] = Table(options)
        return self.choice_tables[plot]

    def forms(self, event: Event, plot: Plot) -> Table:
        """Return the table of ways to tell an event; many plots share one."""
        key = (*event[:5], plot.focus)
        if key not in self.form_tables:
            self.form_tables[key] = Table(forms(event, plot, self.told)[: self.first_forms])
        return self.form_tables[key]

    def words(self, role: str, cast: Mapping[str, str], plot: Plot) -> Table:
        """Return the table of words that may fill a role."""
        named = [cast.get(other) for other in depends_on(role, self.pairs)]
        key = (role, plot.sky, plot.alike, *named)
        if key not in self.word_tables:
            options = words(role, cast, plot, self.lists, self.pairs)
            self.word_tables[key] = Table(options[: self.first_words.get(role)])
        return self.word_tables[key]


@cache
def little_world() -> World:
    return World(little.LISTS, little.SCENES, little.FORMS, "all")


@cache
def full_world(pairs: Pairs) -> World:
    return World(pairs=pairs)
