"""What is true at one moment of a story, and how its people feel about it.

A plot knows roles, not names: there is a hero, a friend, the hero's toy, the friend's other thing
and up to four places. Everything that a later sentence depends on stands in `Plot`.
"""

from math import lcm
from typing import NamedTuple

CHILDREN, THINGS = ("hero", "friend"), ("toy", "other")
OTHER = {"hero": "friend", "friend": "hero", "toy": "other", "other": "toy"}
GOOD_MOODS = ("happy", "proud", "grateful")
PLACES = ("start", "second", "third", "far")
OWNER = {"toy": "hero", "other": "friend"}


class Plot(NamedTuple):
    """What is true at one moment of a story, and what kind of sentence is due."""

    scene: str = "opening"
    sky: str = ""  # sun, wind or rain, until the trouble has come
    alike: bool = False  # hero and friend share a pronoun
    focus: str = ""  # whom a pronoun would mean now
    hero: str = ""  # the place where the hero is: start, second, third or far
    friend: str = ""
    toy: str = ""  # who holds the toy (hero, friend, elder), or the place where it lies
    other: str = ""
    snack: str = ""  # who has some food left
    refused: str = ""  # who asked for a thing in vain
    trouble: str = ""  # what went wrong: stolen, blown, torn, forgotten or taken
    lost: str = ""  # with which thing,
    carrier: str = ""  # and who was carrying it then (who ran off with it, where taken)
    torn: bool = False
    helper: str = ""  # who set it right: hero, friend, both or elder
    gift: str = ""  # comfort: the owner got the other thing; thanks, pardon: the other keeps it


class Event(NamedTuple):
    """One thing that may happen: its kind, its roles, the roles it names, the plot after it."""

    kind: str
    who: str
    what: str
    where: str
    there: str  # a second place: where the other child stays
    new: tuple[str, ...]
    after: Plot


Options = list[tuple[int, Event]]


def option(
    plot: Plot,
    weight: int,
    kind: str,
    scene: str,
    who: str = "",
    what: str = "",
    where: str = "",
    there: str = "",
    new: str | tuple[str, ...] = (),
    **changes: str | bool,
) -> tuple[int, Event]:
    """Return one weighted event that leads on to `scene` and changes the plot.

    new: the role that is named for the first time, or several.
    """
    named = (new,) if isinstance(new, str) else new
    after = plot._replace(**{"scene": scene, "focus": who} | changes)
    return weight, Event(kind, who, what, where, there, named, after)


def mix(*parts: tuple[int, Options]) -> Options:
    """Join lists of options so that each list as a whole has the weight in front of it."""
    filled = [(share, options) for share, options in parts if options]
    totals = [sum(weight for weight, _ in options) for _, options in filled]
    scale = lcm(*totals)
    return [
        (weight * share * scale // total, event)
        for (share, options), total in zip(filled, totals, strict=True)
        for weight, event in options
    ]


def carried(plot: Plot) -> list[tuple[str, str]]:
    """Return (thing, child) for each thing that a child is holding."""
    pairs = [("toy", plot.toy), ("other", plot.other)]
    return [(thing, child) for thing, child in pairs if child in CHILDREN]


def side_by_side(plot: Plot, who: str) -> str:
    """Return the focus after a sentence about both children: nobody, where "she" might be both."""
    return "" if plot.alike else who


def is_gone(plot: Plot) -> bool:
    """Tell whether the lost thing lies somewhere or is still torn."""
    return plot.torn or getattr(plot, plot.lost) in ("second", "third")


def mood(child: str, plot: Plot) -> str:
    """Return how a child feels at the end."""
    return feeling(child, plot)[0]


def feeling(child: str, plot: Plot) -> tuple[str, str]:
    """Return (mood, cause) of a child at the end: it follows from what happened, said or unsaid."""
    thing, owner = plot.lost, OWNER[plot.lost]
    mine, holder = child == owner, getattr(plot, thing)
    if plot.gift == "comfort":
        return ("grateful", "was comforted") if mine else ("proud", "gave away")
    if plot.gift:
        return ("proud", "let keep") if mine else ("grateful", "may keep")
    if is_gone(plot) and child == plot.carrier and not mine:
        return "sorry", "tore it" if plot.torn else "lost it"
    if is_gone(plot):
        return "sad", "is torn" if plot.torn else "is gone"
    if holder == "elder":
        return ("grateful" if mine else "happy"), "elder has it"
    if holder != owner:
        return ("angry", "was robbed") if mine else ("happy", "took it")
    if plot.trouble == "taken" and not mine:
        return "sorry", "had taken it"
    if plot.helper == child:
        return "proud", "set it right"
    if plot.helper == "both":
        return "happy", "found together"
    if mine and plot.helper:
        return "grateful", "was helped"
    return "happy", "is back"
