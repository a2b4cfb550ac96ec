"""How a story goes on: `events(plot)`, what may happen next, and `words(role, ...)`, to whom.

A plot knows roles, not names: there is a hero, a friend, the hero's toy, the friend's other thing
and up to four places. Everything that a later sentence depends on stands in `Plot`; nothing is
decided before the sentence that reveals it. All weights are integers, so that every probability
is an exact fraction. This file knows nothing of sentences: those are in `forms.py`.
"""

from collections.abc import Iterable, Mapping
from math import lcm, prod
from typing import NamedTuple

from minigpt.storyworld import lexicon

OTHER = {"hero": "friend", "friend": "hero", "toy": "other", "other": "toy"}
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


def events(plot: Plot) -> Options:
    """Return what may happen next as (integer weight, event); nothing at the story's end.

    >>> [(weight, event.kind, event.after.sky) for weight, event in events(Plot())]
    [(3, 'opening', 'sun'), (3, 'opening', 'wind'), (2, 'opening', 'rain')]
    """
    return SCENES[plot.scene](plot) if plot.scene != "end" else []


def option(
    plot: Plot,
    weight: int,
    kind: str,
    scene: str,
    who: str = "",
    what: str = "",
    where: str = "",
    there: str = "",
    new: tuple[str, ...] = (),
    **changes,
) -> tuple[int, Event]:
    """Return one weighted event that leads on to `scene` and changes the plot."""
    after = plot._replace(**{"scene": scene, "focus": who} | changes)
    return weight, Event(kind, who, what, where, there, new, after)


def mix(*parts: tuple[int, Options]) -> Options:
    """Join lists of options so that each list as a whole has the weight in front of it."""
    parts = [(share, options) for share, options in parts if options]
    totals = [sum(weight for weight, _ in options) for _, options in parts]
    scale = lcm(*totals)
    return [
        (weight * share * scale // total, event)
        for (share, options), total in zip(parts, totals, strict=True)
        for weight, event in options
    ]


def carried(plot: Plot) -> list[tuple[str, str]]:
    """Return (thing, child) for each thing that a child is holding."""
    pairs = [("toy", plot.toy), ("other", plot.other)]
    return [(thing, child) for thing, child in pairs if child in ("hero", "friend")]


def side_by_side(plot: Plot, who: str) -> str:
    """Return the focus after a sentence about both children: nobody, where "she" might be both."""
    return "" if plot.alike else who


# Act one: who, what, where.


def opening(plot: Plot) -> Options:
    new = ("hero", "coat", "start", "day")
    return [
        option(plot, weight, "opening", "treasure", "hero", new=new, sky=sky, hero="start")
        for weight, sky in [(3, "sun"), (3, "wind"), (2, "rain")]
    ]


def treasure(plot: Plot) -> Options:
    new = ("colour", "toy", "elder", "far")
    return [option(plot, 1, "treasure", "bond", "hero", "toy", new=new, toy="hero")]


def bond(plot: Plot) -> Options:
    love = [option(plot, 1, "bond", "meeting", "hero", "toy")]
    return mix((1, love), (2, meeting(plot)))


def meeting(plot: Plot) -> Options:
    meet = {"new": ("friend", "tint", "other"), "friend": "start", "other": "friend", "focus": ""}
    return [
        option(plot, 1, "meeting", "plan", "friend", "other", alike=alike, **meet)
        for alike in (True, False)
    ]


def plan(plot: Plot) -> Options:
    ideas = [
        option(plot, 1, "plan", "journey", who, where="second", new=("second",), focus="")
        for who in ("hero", "friend")
    ]
    return mix((1, ideas), (1, journey(plot)))


def journey(plot: Plot) -> Options:
    new = () if plot.scene == "journey" else ("second",)
    trip = {"where": "second", "new": new, "hero": "second", "friend": "second", "focus": ""}
    return [
        option(plot, 5, "journey with both", "pause", "hero", "toy", **trip),
        option(plot, 2, "journey with one", "pause", "friend", "other", toy="start", **trip),
        option(plot, 2, "journey with one", "pause", "hero", "toy", other="start", **trip),
    ]


# Act two: a good hour, a favour asked, and something goes wrong.


def pause(plot: Plot) -> Options:
    sight = [option(plot, 1, "sight", "favour", where="second")]
    play = [option(plot, 1, "play", "favour", child, thing, focus="")
            for thing, child in carried(plot)]  # fmt: skip
    food = ("food", "count")
    snack = [option(plot, 1, "snack", "meal", child, new=food, focus="", snack=child)
             for child in ("hero", "friend")]  # fmt: skip
    return mix((3, sight), (3, play), (2, snack), (2, favour(plot)))


def meal(plot: Plot) -> Options:
    return [option(plot, 1, "meal", "favour", plot.snack, new=("eaten",), focus="")]


def favour(plot: Plot) -> Options:
    asked = []
    for thing, child in carried(plot):
        if child == OWNER[thing]:
            asker = {"who": child, "what": thing, "focus": ""}
            asked += [
                option(plot, 2, "lend", "trouble", **asker, **{thing: OTHER[child]}),
                option(plot, 2, "refuse", "trouble", **asker, refused=OTHER[child]),
            ]
    if len(carried(plot)) == 2:
        swapped = {"toy": "friend", "other": "hero", "focus": ""}
        asked.append(option(plot, 3, "swap", "trouble", "hero", "toy", **swapped))
    return mix((1, asked), (1, trouble(plot)))


def trouble(plot: Plot) -> Options:
    options = [
        option(plot, 3, "walk on", "forgetting", "hero", where="third", new=("third",),
               hero="third", friend="third", focus="", sky="", refused="")
    ]  # fmt: skip
    for thing, child in carried(plot):
        bad = {"scene": "grief", "who": child, "what": thing, "lost": thing, "carrier": child}
        bad |= {"focus": "", "sky": "", "refused": ""}
        away = {"where": "third", "new": ("third",), thing: "third"}
        thief = away | {"new": ("animal", "third")}
        options += [
            option(plot, 3, "stolen", trouble="stolen", **bad, **thief),
            option(plot, 4 if plot.sky == "rain" else 2, "torn", trouble="torn", torn=True, **bad),
        ]
        if plot.sky == "wind":
            options.append(option(plot, 5, "blown", trouble="blown", **bad, **away))
        if plot.refused == OTHER[child] and child == OWNER[thing]:
            thief = OTHER[child]
            taken = bad | {"who": thief, "carrier": thief, "where": "third", "new": ("third",)}
            taken |= {thing: thief, thief: "third", "focus": side_by_side(plot, thief)}
            options.append(option(plot, 12, "taken", trouble="taken", **taken))
    return options


def forgetting(plot: Plot) -> Options:
    return [
        option(plot, 1, "forgotten", "grief", child, thing, "second",
               trouble="forgotten", lost=thing, carrier=child, focus="", **{thing: "second"})
        for thing, child in carried(plot)
    ]  # fmt: skip


# Act three: feelings, an attempt to set it right, and what came of it.


def grief(plot: Plot) -> Options:
    owner = OWNER[plot.lost]
    tears = [option(plot, 3, "grief " + plot.trouble, "comfort", owner, plot.lost)]
    if plot.carrier == OTHER[owner] and plot.trouble != "taken":
        tears.append(option(plot, 2, "regret", "comfort", plot.carrier, plot.lost))
    return tears


def comfort(plot: Plot) -> Options:
    if plot.trouble == "taken":
        return rescue(plot)
    other = OTHER[OWNER[plot.lost]]
    kind_words = [option(plot, 1, "comfort", "rescue", other, plot.lost, focus="")]
    return mix((1, kind_words), (2, rescue(plot)))


def rescue(plot: Plot) -> Options:
    if plot.trouble == "torn":
        return repair(plot)
    if plot.trouble == "taken":
        return pardon(plot)
    return search(plot)


def search(plot: Plot) -> Options:
    """The thing lies at one place and both children stand at another."""
    thing, owner = plot.lost, OWNER[plot.lost]
    place = getattr(plot, thing)
    there = {"what": thing, "where": place}
    options = [
        option(plot, 3, "found together", "thanks", "hero", **there, focus="",
               hero=place, friend=place, helper="both", **{thing: owner}),
        option(plot, 2, "elder brings", "thanks", owner, **there, focus="",
               helper="elder", **{thing: owner}),
        option(plot, 3, "elder keeps", "thanks", owner, **there, focus="", **{thing: "elder"}),
        option(plot, 3, "given up", "thanks", "hero", **there, focus=""),
    ]  # fmt: skip
    for child in ("hero", "friend"):
        options += [
            option(plot, 4, "fetch " + plot.trouble, "return", child, **there,
                   helper=child if child == owner else "", **{child: place, thing: child}),
            option(plot, 3, "fail " + plot.trouble, "thanks", child, **there,
                   **{child: place}),
        ]  # fmt: skip
    return options


def bringing_back(plot: Plot) -> Options:
    """One child has the thing; the other is still waiting at another place."""
    thing, owner = plot.lost, OWNER[plot.lost]
    child = getattr(plot, thing)
    waiting = getattr(plot, OTHER[child])
    back = {"who": child, "what": thing, "where": waiting, "helper": child, child: waiting}
    if child == owner:
        return mix((1, [option(plot, 1, "come back", "thanks", **back)]), (1, thanks(plot)))
    give = {"focus": side_by_side(plot, child), thing: owner}
    return [
        option(plot, 2, "bring", "thanks", **back, **give),
        option(plot, 1, "keep", "thanks", child, thing),
    ]


def repair(plot: Plot) -> Options:
    thing, owner = plot.lost, OWNER[plot.lost]
    mended = {"what": thing, "torn": False}
    options = [
        option(plot, 3, kind, "thanks", child, **mended, helper=child, **{thing: owner})
        for kind, child in [("mend", owner), ("mend for", OTHER[owner])]
    ]
    return [
        *options,
        option(plot, 4, "elder mends", "thanks", owner, **mended, helper="elder", focus="",
               **{thing: "elder"}),
        option(plot, 5, "spoiled", "thanks", owner, thing, focus=""),
    ]  # fmt: skip


def pardon(plot: Plot) -> Options:
    """One child has run off with the other's thing."""
    thing, owner = plot.lost, OWNER[plot.lost]
    thief = OTHER[owner]
    place, waiting = getattr(plot, thief), getattr(plot, owner)
    back = {"what": thing, "where": waiting, thing: owner, thief: waiting}
    found = {"what": thing, "where": place, owner: place}
    both = side_by_side(plot, owner)
    return [
        option(plot, 3, "sorry", "thanks", thief, focus="", **back),
        option(plot, 3, "ask back", "thanks", owner, focus=both, helper=owner,
               **{thing: owner}, **found),
        option(plot, 2, "forgive", "thanks", owner, focus=both, gift="pardon", **found),
        option(plot, 2, "stay away", "thanks", thief, thing),
    ]  # fmt: skip


def thanks(plot: Plot) -> Options:
    """A gift, if there is a reason for one and both are there to give and to take it."""
    lost, spare, owner = plot.lost, OTHER[plot.lost], OWNER[plot.lost]
    other = OTHER[owner]
    together, gifts = plot.hero == plot.friend, []
    if together and is_gone(plot) and getattr(plot, spare) == other:
        changes = {"gift": "comfort", "helper": other, spare: owner}
        gifts.append(option(plot, 3, "give instead", "parting", other, spare, focus="", **changes))
    if together and getattr(plot, lost) == owner and plot.helper == other:
        changes = {"gift": "thanks", lost: other}
        gifts.append(option(plot, 2, "lend in thanks", "parting", owner, lost, focus="", **changes))
    if together and plot.snack:
        gifts.append(option(plot, 2, "share", "parting", plot.snack, snack="", focus=""))
    return mix((1, gifts), (1, parting(plot)))


def is_gone(plot: Plot) -> bool:
    """Tell whether the lost thing lies somewhere or is still torn."""
    return plot.torn or getattr(plot, plot.lost) in ("second", "third")


# Act four: the way home and the end.


def parting(plot: Plot) -> Options:
    home = {"where": "start", "scene": "closing"}
    options = [option(plot, 4, "tell", "closing", "hero", "toy", "far", hero="far")]
    for child in ("hero", "friend"):
        hands = [thing for thing, holder in carried(plot) if holder == child]
        kind = "go home with " + ("nothing", "one", "both")[len(hands)]
        what = hands[0] if len(hands) == 1 else ""
        stays = {"there": getattr(plot, OTHER[child]), child: "start"}
        options.append(option(plot, 3, kind, **home, who=child, what=what, **stays))
    if plot.hero == plot.friend:
        both = {"hero": "start", "friend": "start", "focus": ""}
        options.append(option(plot, 2, "go home together", **home, who="hero", **both))
    else:
        options += [
            option(plot, 2, "rejoin", "closing", child, where=getattr(plot, OTHER[child]),
                   focus=side_by_side(plot, child), **{child: getattr(plot, OTHER[child])})
            for child in ("hero", "friend")
        ]  # fmt: skip
    return mix((3, options), (1, closing(plot)))


def closing(plot: Plot) -> Options:
    looks_back = []
    for thing in ("toy", "other"):
        holder = getattr(plot, thing)
        if holder in PLACES:
            looks_back.append(option(plot, 1, "it lies", "last", what=thing, where=holder))
        elif thing != plot.lost or holder != OWNER[thing]:
            kind = "it is kept" if holder == OWNER[thing] else "it is held"
            looks_back.append(option(plot, 1, kind, "last", holder, thing, focus=""))
    return mix((1, looks_back), (2, last(plot)))


def last(plot: Plot) -> Options:
    good = mood("hero", plot) in ("happy", "proud", "grateful")
    named = [place for place in PLACES if place != "third" or plot.trouble != "torn"]
    options = [
        option(plot, 3, "feel " + mood("hero", plot), "end", "hero", plot.lost),
        option(plot, 3, "feel " + mood("friend", plot), "end", "friend", plot.lost),
        option(plot, 2, "lesson " + plot.trouble, "end", plot.carrier, plot.lost),
        option(plot, 2, "dream", "end", "hero", "toy"),
        option(plot, 2, "good end" if good else "bad end", "end", "hero"),
    ]
    tomorrow = [option(plot, 1, "tomorrow", "end", child, where=place)
                for child in ("hero", "friend") for place in named]  # fmt: skip
    return mix((1, options), (1, tomorrow))


SCENES = {
    "opening": opening, "treasure": treasure, "bond": bond, "meeting": meeting, "plan": plan,
    "journey": journey, "pause": pause, "meal": meal, "favour": favour, "trouble": trouble,
    "forgetting": forgetting, "grief": grief, "comfort": comfort, "rescue": rescue,
    "return": bringing_back, "thanks": thanks, "parting": parting, "closing": closing, "last": last,
}  # fmt: skip


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


# Names for roles.


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
            entries = [child for child in entries if (child.girl == hero.girl) == plot.alike
                       and not kept_apart(child.en, toy)]  # fmt: skip
        case "other":
            entries = [thing for thing in entries
                       if not any(kept_apart(child, thing.en) for child in known[:2])]  # fmt: skip
        case "count":
            entries = entries[4:]
        case "eaten":
            entries = entries[: NUMBERS.index(known[0]) - 1]
    return [(1, entry.en) for entry in entries]


DEPENDS_ON = {
    "toy": ("hero",), "friend": ("hero", "toy"), "other": ("hero", "friend", "toy"),
    "far": ("start",), "second": ("start", "far"), "third": ("start", "far", "second"),
    "colour": ("coat",), "tint": ("coat", "colour"), "eaten": ("count",),
}  # fmt: skip
NUMBERS = [number.en for number in lexicon.NUMBERS]


def kept_apart(child: str, thing: str) -> bool:
    """Tell whether training stories never bring this child and this thing together.

    >>> kept_apart("Mia", "kite"), kept_apart("Mia", "hat")
    (True, False)
    """
    pair = 3 * list(lexicon.BY_NAME["hero"]).index(child)
    return (pair + list(lexicon.BY_NAME["toy"]).index(thing)) % 8 == 0
