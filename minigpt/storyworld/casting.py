"""Who fills a role: `words(role, cast, plot, held_out)`, with integer weights.

Here lies the second held-out set: training stories never bring certain children and things
together, held-out stories always do.
"""

from collections.abc import Mapping

from minigpt.storyworld import lexicon
from minigpt.storyworld.plot import Plot


def words(role: str, cast: Mapping[str, str], plot: Plot, held_out: bool) -> list[tuple[int, str]]:
    """Return which words may fill `role`, given those in `cast`, as (integer weight, word).

    `plot` is the plot after the event that names the role. Training stories never bring a child
    and a thing of a `kept_apart` pair together; in held-out ones hero and toy are such a pair.
    Only the roles in `DEPENDS_ON` are looked up, so that the options can be kept in tables.
    """
    known = [cast[other] for other in DEPENDS_ON.get(role, ())]
    entries = [entry for entry in lexicon.LISTS[role] if entry.en not in known]
    match role:
        case "day":
            entries = [day for day in entries if day.sky == plot.sky]
        case "toy":
            entries = [thing for thing in entries if kept_apart(known[0], thing.en) == held_out]
        case "friend":
            hero, toy = lexicon.BY_NAME["hero"][known[0]], known[1]
            entries = [
                child
                for child in entries
                if (child.girl == hero.girl) == plot.alike and not kept_apart(child.en, toy)
            ]
        case "other":
            entries = [
                thing
                for thing in entries
                if not any(kept_apart(child, thing.en) for child in known[:2])
            ]
        case "count":
            entries = entries[4:]
        case "eaten":
            entries = entries[: NUMBERS.index(known[0]) - 1]
    return [(1, entry.en) for entry in entries]


DEPENDS_ON = {
    "toy": ("hero",),
    "friend": ("hero", "toy"),
    "other": ("hero", "friend", "toy"),
    "far": ("start",),
    "second": ("start", "far"),
    "third": ("start", "far", "second"),
    "colour": ("coat",),
    "tint": ("coat", "colour"),
    "eaten": ("count",),
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
