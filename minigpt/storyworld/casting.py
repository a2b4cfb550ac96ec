"""Who fills a role: `words(role, cast, plot, lists, pairs)`, with integer weights.

Here lies the second held-out set of the full world: its training stories never bring certain
children and things together, its held-out stories always do.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from minigpt.storyworld import lexicon
from minigpt.storyworld.plot import Plot

Pairs = Literal["train", "held_out", "all"]
Lists = Mapping[str, Sequence[Any]]  # role -> entries of the lexicon that may fill it


def words(
    role: str, cast: Mapping[str, str], plot: Plot, lists: Lists, pairs: Pairs
) -> list[tuple[int, str]]:
    """Return which words may fill `role`, given those in `cast`, as (integer weight, word).

    `plot` is the plot after the event that names the role. With pairs="train" a child and a thing
    of a `kept_apart` pair never meet and no color occurs twice; with "held_out" hero and toy are
    such a pair; with "all" nothing is kept apart. Only the roles that `depends_on` returns are
    looked up, so that the options can be kept in tables.
    """
    known = [cast[other] for other in depends_on(role, pairs) if other in cast]
    entries = [entry for entry in lists[role] if entry.en not in known]
    match role:
        case "day":
            entries = [day for day in entries if day.sky == plot.sky]
        case "friend":
            girl = lexicon.BY_NAME["hero"][cast["hero"]].girl
            entries = [child for child in entries if (child.girl == girl) == plot.alike]
        case "count":
            entries = entries[4:]
        case "eaten":
            entries = entries[: NUMBERS.index(known[0]) - 1]
    if pairs != "all":
        entries = [entry for entry in entries if may_meet(role, entry.en, known, pairs)]
    return [(1, entry.en) for entry in entries]


def may_meet(role: str, word: str, known: Sequence[str], pairs: Pairs) -> bool:
    """Tell whether a word may fill a role beside those known, where some pairs are kept apart."""
    match role:
        case "toy":
            return kept_apart(known[0], word) == (pairs == "held_out")
        case "friend":
            return not kept_apart(word, known[1])
        case "other":
            return not any(kept_apart(child, word) for child in known[:2])
    return True


def depends_on(role: str, pairs: Pairs) -> tuple[str, ...]:
    """Return the roles, named before, that decide which words may fill a role."""
    return (DEPENDS_ON if pairs == "all" else DEPENDS_ON | APART).get(role, ())


DEPENDS_ON = {
    "friend": ("hero",),
    "other": ("toy",),
    "far": ("start",),
    "second": ("start", "far"),
    "third": ("start", "far", "second"),
    "eaten": ("count",),
}
APART = {  # and where pairs are kept apart
    "toy": ("hero",),
    "friend": ("hero", "toy"),
    "other": ("hero", "friend", "toy"),
    "colour": ("coat",),
    "tint": ("coat", "colour"),
}
NUMBERS = [number.en for number in lexicon.NUMBERS]
CHILD_NUMBER = {child.en: number for number, child in enumerate(lexicon.PEOPLE)}
THING_NUMBER = {thing.en: number for number, thing in enumerate(lexicon.THINGS)}


def kept_apart(child: str, thing: str) -> bool:
    """Tell whether training stories never bring this child and this thing together (1 in 8).

    >>> kept_apart("Mia", "kite"), kept_apart("Mia", "hat")
    (True, False)
    """
    return (3 * CHILD_NUMBER[child] + THING_NUMBER[thing]) % 8 == 0
