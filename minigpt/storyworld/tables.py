"""The options of the process, kept in tables that a sampler, a parser and an enumerator share.

A story is a chain of steps. Each step makes three kinds of choices with integer weights: what
happens (`world.events`), who fills the roles it names (`casting.words`), and how it is told
(`forms.forms`). The tables add nothing to that definition; they only remember what it said.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from minigpt.storyworld.casting import DEPENDS_ON, words
from minigpt.storyworld.forms import Form, forms
from minigpt.storyworld.plot import Event, Plot
from minigpt.storyworld.world import events


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
        self.choice_tables: dict[Plot, Table] = {}
        self.form_tables: dict[tuple, Table] = {}
        self.word_tables: dict[tuple, Table] = {}

    def choices(self, plot: Plot) -> Table | None:
        """Return the table of what may happen next, or None where the story is over."""
        if plot.scene == "end":
            return None
        if plot not in self.choice_tables:
            options = events(plot)
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
