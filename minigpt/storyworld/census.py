"""The enumerator: every story of a small world with its exact probability, and exact entropies."""

import math
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

from minigpt.storyworld import lexicon
from minigpt.storyworld.casting import Pairs, depends_on
from minigpt.storyworld.plot import Event, Plot
from minigpt.storyworld.tables import Step, Table, World

Casting = tuple[tuple[str, str], ...]


def small_world(pairs: Pairs = "train") -> World:
    """Return a world of some thousand stories: the same process with fewer words and forms."""
    words = dict.fromkeys(lexicon.LISTS, 1) | {"hero": 2, "eaten": 2}
    rare = {
        "bond",
        "plan",
        "sight",
        "play",
        "snack",
        "lend",
        "swap",
        "stolen",
        "torn",
        "slipped",
        "journey with one",
        "comfort",
        "comfort with the coat",
        "regret",
        "elder keeps",
        "found together",
        "tell",
        "rejoin",
        "go home together",
        "it lies",
        "it is held",
        "it is kept",
        "tomorrow",
        "dream",
        "feel happy",
        "feel sad",
        "elder brings",
        "forgive",
        "go home with both",
        "lend in thanks",
        "keep",
        "appointment",
    }
    return World(pairs=pairs, first_words=words, first_forms=1, without=rare)


def enumerate_stories(world: World) -> Iterator[tuple[list[Step], Fraction]]:
    """Yield each story of the world as (steps, exact probability)."""

    def go_on(table: Table | None, cast: dict, steps: list, p: Fraction):
        if table is None:
            yield steps, p
            return
        for choice, p_choice in table.fractions():
            for named, p_words in castings(world, choice.event, cast):
                for form, p_form in choice.forms.fractions():
                    q = p_choice * p_words * p_form
                    step = Step(choice.event, named, form, math.log(q))
                    yield from go_on(choice.next, cast | dict(named), [*steps, step], p * q)

    yield from go_on(world.choices(Plot()), {}, [], Fraction(1))


def castings(
    world: World, event: Event, cast: dict, named: Casting = (), p: Fraction = Fraction(1)
) -> Iterator[tuple[Casting, Fraction]]:
    """Yield every way to fill the roles that an event names."""
    if len(named) == len(event.new):
        yield named, p
        return
    role = event.new[len(named)]
    for word, p_word in world.words(role, cast, event.after).fractions():
        yield from castings(world, event, cast | {role: word}, (*named, (role, word)), p * p_word)


def entropy(world: World) -> float:
    """Return the entropy of the whole process in nats per story, without drawing any.

    What happens next never depends on names, so the chances of all plots are carried forward
    sentence by sentence, and each choice adds its mean entropy (the chain rule).
    """
    now, terms = {Plot(): 1.0}, []
    while now:
        later: defaultdict[Plot, float] = defaultdict(float)
        for plot, p in now.items():
            table = world.choices(plot)
            if table is None:
                continue
            terms.append(p * table.entropy())
            for choice, log_p in table.options():
                event, q = choice.event, p * math.exp(log_p)
                naming = sum(word_entropy(world, role, event.after) for role in event.new)
                terms.append(q * (choice.forms.entropy() + naming))
                later[event.after] += q
        now = later
    return math.fsum(terms)


def word_entropy(world: World, role: str, plot: Plot) -> float:
    """Return the entropy of filling a role, averaged over the words that it depends on."""
    return mean_word_entropy(world, role, plot.sky if role == "day" else "", plot.alike)


@cache
def mean_word_entropy(world: World, role: str, sky: str, alike: bool) -> float:
    plot = Plot(sky=sky, alike=alike)
    before = [other for other in ORDER if other in all_needed(role, world)]

    def mean(cast: dict[str, str], todo: list[str]) -> float:
        if not todo:
            return world.words(role, cast, plot).entropy()
        options = world.words(todo[0], cast, plot).options()
        return math.fsum(
            math.exp(log_p) * mean(cast | {todo[0]: word}, todo[1:]) for word, log_p in options
        )

    return mean({}, before)


ORDER = ("hero", "coat", "start", "colour", "toy", "far", "friend", "second", "count")


def all_needed(role: str, world: World) -> set[str]:
    """Return the roles that the options for a role depend on, directly or through others."""
    direct = {other for other in depends_on(role, world.pairs) if other in world.lists}
    return direct.union(*(all_needed(other, world) for other in direct))
