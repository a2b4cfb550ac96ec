"""How a story goes on: `events(plot)` returns what may happen next, with integer weights.

One function for each scene, in the order of a story; an optional scene mixes its own events with
those of the scene after it. Nothing is decided before the sentence that reveals it, so all of a
story's past that matters stands in the plot, and every probability is an exact fraction. Who
fills the roles is in `casting.py`, how it is told in `forms.py`.
"""

from collections.abc import Callable, Mapping

from minigpt.storyworld.plot import (
    CHILDREN,
    GOOD_MOODS,
    OTHER,
    OWNER,
    PLACES,
    THINGS,
    Event,
    Options,
    Plot,
    carried,
    is_gone,
    mix,
    mood,
    option,
    side_by_side,
)


def events(plot: Plot, scenes: "Scenes | None" = None) -> Options:
    """Return what may happen next as (integer weight, event); nothing at the story's end.

    `scenes` (None: those of the full world) are functions from a plot to its options.

    >>> [(weight, event.kind, event.after.sky) for weight, event in events(Plot())]
    [(3, 'opening', 'sun'), (3, 'opening', 'wind'), (2, 'opening', 'rain')]
    """
    return (scenes or SCENES)[plot.scene](plot) if plot.scene != "end" else []


# Act one: who, what, where.


def opening(plot: Plot) -> Options:
    """Somebody is somewhere, on some kind of day; the sky matters later."""
    new = ("hero", "coat", "start", "day")
    return [
        option(plot, weight, "opening", "treasure", "hero", new=new, sky=sky, hero="start")
        for weight, sky in [(3, "sun"), (3, "wind"), (2, "rain")]
    ]


def treasure(plot: Plot) -> Options:
    """The hero has a toy, and it comes from somebody in the family who lives elsewhere."""
    new = ("colour", "toy", "elder", "far")
    return [option(plot, 1, "treasure", "bond", "hero", "toy", new=new, toy="hero")]


def bond(plot: Plot) -> Options:
    """Perhaps how dear the toy is; then the friend comes."""
    love = [option(plot, 1, "bond", "meeting", "hero", "toy")]
    return mix((1, love), (3, meeting(plot)))


def meeting(plot: Plot) -> Options:
    """The friend comes with a thing of their own."""
    meet = {"new": ("friend", "tint", "other"), "friend": "start", "other": "friend", "focus": ""}
    return [
        option(plot, 1, "meeting", "plan", "friend", "other", alike=alike, **meet)
        for alike in (True, False)
    ]


def plan(plot: Plot) -> Options:
    """Perhaps somebody says where to go, and for what; then they go."""
    ideas = [
        option(plot, 1, "plan", "journey", who, where="second", new=("second",), focus="")
        for who in CHILDREN
    ]
    return mix((1, ideas), (1, journey(plot)))


def journey(plot: Plot) -> Options:
    """Both go to a second place; one of the things may stay behind."""
    new = () if plot.scene == "journey" else ("second",)
    trip = {"where": "second", "new": new, "hero": "second", "friend": "second", "focus": ""}
    return [
        option(plot, 5, "journey with both", "pause", "hero", "toy", **trip),
        option(plot, 2, "journey with one", "pause", "friend", "other", toy="start", **trip),
        option(plot, 2, "journey with one", "pause", "hero", "toy", other="start", **trip),
    ]


# Act two: a good hour, a favour asked, and something goes wrong.


def pause(plot: Plot) -> Options:
    """Perhaps a good hour: something to see, to play with or to eat."""
    sight = [option(plot, 1, "sight", "favour", where="second")]
    play = [
        option(plot, 1, "play", "favour", child, thing, focus="") for thing, child in carried(plot)
    ]
    food = ("food", "count")
    snack = [
        option(plot, 1, "snack", "meal", child, new=food, focus="", snack=child)
        for child in CHILDREN
    ]
    return mix((2, sight), (2, play), (2, snack), (3, favour(plot)))


def meal(plot: Plot) -> Options:
    """They eat some of the food: how much is left can be reckoned."""
    return [option(plot, 1, "meal", "favour", plot.snack, new=("eaten",), focus="")]


def favour(plot: Plot) -> Options:
    """Perhaps one asks for the other's thing, or they swap."""
    asked = []
    for thing, child in carried(plot):
        if child == OWNER[thing]:
            asker = {"who": child, "what": thing, "focus": ""}
            asked += [
                option(plot, 2, "lend", "trouble", **asker, **{thing: OTHER[child]}),
                option(plot, 3, "refuse", "trouble", **asker, refused=OTHER[child]),
            ]
    if len(carried(plot)) == 2:
        swapped = {"toy": "friend", "other": "hero", "focus": ""}
        asked.append(option(plot, 3, "swap", "trouble", "hero", "toy", **swapped))
    return mix((1, asked), (1, trouble(plot)))


def trouble(plot: Plot) -> Options:
    """Walking on, which ends in forgetting; a mishap; or what a refusal may lead to."""
    calm = plot._replace(sky="", refused="")  # both have played their part now
    options = [
        option(
            calm,
            3,
            "walk on",
            "forgetting",
            where="third",
            new=("third",),
            hero="third",
            friend="third",
        )
    ]
    for thing, child in carried(plot):
        options += mishaps(calm, thing, child, plot.sky)
        if child == OWNER[thing] and plot.refused == OTHER[child]:
            options.append(robbery(calm, thing, plot.refused))
    return options


def mishaps(plot: Plot, thing: str, child: str, sky: str) -> Options:
    """What may befall a thing that a child is carrying."""
    bad = {"scene": "grief", "who": child, "what": thing, "focus": "", "lost": thing}
    bad |= {"carrier": child}
    away = {"where": "third", thing: "third"}
    options = [
        option(plot, 3, "stolen", new=("animal", "third"), trouble="stolen", **bad, **away),
        option(plot, 2, "torn", trouble="torn", torn=True, **bad),
    ]
    if sky == "rain":
        options.append(option(plot, 3, "slipped", trouble="torn", torn=True, **bad))
    if sky == "wind":
        options.append(option(plot, 5, "blown", new=("third",), trouble="blown", **bad, **away))
    return options


def robbery(plot: Plot, thing: str, thief: str) -> tuple[int, Event]:
    """The child who asked in vain takes the thing and runs."""
    return option(
        plot,
        20,
        "taken",
        "grief",
        thief,
        thing,
        "third",
        new=("third",),
        focus=side_by_side(plot, thief),
        trouble="taken",
        lost=thing,
        carrier=thief,
        **{thing: thief, thief: "third"},
    )


def forgetting(plot: Plot) -> Options:
    """One of the things was left where the children come from."""
    return [
        option(
            plot,
            1,
            "forgotten",
            "grief",
            child,
            thing,
            "second",
            trouble="forgotten",
            lost=thing,
            carrier=child,
            focus="",
            **{thing: "second"},
        )
        for thing, child in carried(plot)
    ]


# Act three: feelings, an attempt to set it right, and what came of it.


def grief(plot: Plot) -> Options:
    """The owner is sad or angry; or whoever lost the thing is sorry."""
    owner = OWNER[plot.lost]
    tears = [option(plot, 3, "grief " + plot.trouble, "comfort", owner, plot.lost)]
    if plot.carrier == OTHER[owner] and plot.trouble != "taken":
        tears.append(option(plot, 2, "regret", "comfort", plot.carrier, plot.lost))
    return tears


def comfort(plot: Plot) -> Options:
    """Perhaps a kind word or a coat from the other child."""
    if plot.trouble == "taken":
        return rescue(plot)
    other = OTHER[OWNER[plot.lost]]
    kind_words = [option(plot, 2, "comfort", "rescue", other, plot.lost, focus="")]
    if other == "hero":
        kind_words.append(option(plot, 1, "comfort with the coat", "rescue", other, focus=""))
    return mix((1, kind_words), (3, rescue(plot)))


def rescue(plot: Plot) -> Options:
    """Somebody tries to set it right, or nobody does."""
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
        option(
            plot,
            3,
            "found together",
            "thanks",
            "hero",
            **there,
            focus="",
            hero=place,
            friend=place,
            helper="both",
            **{thing: owner},
        ),
        option(
            plot,
            2,
            "elder brings",
            "thanks",
            owner,
            **there,
            focus="",
            helper="elder",
            **{thing: owner},
        ),
        option(plot, 3, "elder keeps", "thanks", owner, **there, focus="", **{thing: "elder"}),
        option(plot, 4, "given up", "thanks", "hero", **there, focus=""),
    ]
    for child in CHILDREN:
        options += [
            option(
                plot,
                4,
                "fetch " + plot.trouble,
                "return",
                child,
                **there,
                helper=child if child == owner else "",
                **{child: place, thing: child},
            ),
            option(plot, 4, "fail " + plot.trouble, "thanks", child, **there, **{child: place}),
        ]
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
    """The thing is torn: it can be mended, by a child or far away, or it cannot."""
    thing, owner = plot.lost, OWNER[plot.lost]
    mended = {"what": thing, "torn": False}
    options = [
        option(plot, 3, kind, "thanks", child, **mended, helper=child, **{thing: owner})
        for kind, child in [("mend", owner), ("mend for", OTHER[owner])]
    ]
    return [
        *options,
        option(
            plot,
            4,
            "elder mends",
            "thanks",
            owner,
            **mended,
            helper="elder",
            focus="",
            **{thing: "elder"},
        ),
        option(plot, 7, "spoiled", "thanks", owner, thing, focus=""),
    ]


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
        option(
            plot,
            3,
            "ask back",
            "thanks",
            owner,
            focus=both,
            helper=owner,
            **{thing: owner},
            **found,
        ),
        option(plot, 2, "forgive", "thanks", owner, focus=both, gift="pardon", **found),
        option(plot, 2, "stay away", "thanks", thief, thing),
    ]


def thanks(plot: Plot) -> Options:
    """A gift, if there is a reason for one and both are there to give and to take it."""
    lost, spare, owner = plot.lost, OTHER[plot.lost], OWNER[plot.lost]
    other = OTHER[owner]
    together, gifts = plot.hero == plot.friend, []
    later = plot._replace(snack="")  # what is left over plays no further part
    if together and is_gone(plot) and getattr(plot, spare) == other:
        changes = {"focus": "", "gift": "comfort", "helper": other, spare: owner}
        gifts.append(option(later, 3, "give instead", "parting", other, spare, **changes))
    if together and getattr(plot, lost) == owner and plot.helper == other:
        changes = {"focus": "", "gift": "thanks", lost: other}
        gifts.append(option(later, 2, "lend in thanks", "parting", owner, lost, **changes))
    if together and plot.snack:
        gifts.append(option(later, 2, "share", "parting", plot.snack, focus=""))
    return mix((1, gifts), (1, parting(later)))


# Act four: the way home and the end.


def parting(plot: Plot) -> Options:
    """Perhaps one or both leave: home, to the family, or to each other."""
    home = {"where": "start", "scene": "closing"}
    options = [option(plot, 4, "tell", "closing", "hero", "toy", "far", hero="far")]
    for child in CHILDREN:
        hands = [thing for thing, holder in carried(plot) if holder == child]
        kind = "go home with " + ("nothing", "one", "both")[len(hands)]
        what = hands[0] if len(hands) == 1 else ""
        stays = {"there": getattr(plot, OTHER[child]), child: "start"}
        stays["focus"] = side_by_side(plot, child)
        options.append(option(plot, 3, kind, **home, who=child, what=what, **stays))
    if plot.hero == plot.friend:
        both = {"hero": "start", "friend": "start", "focus": ""}
        options.append(option(plot, 2, "go home together", **home, who="hero", **both))
    else:
        options += [
            option(
                plot,
                2,
                "rejoin",
                "closing",
                child,
                where=getattr(plot, OTHER[child]),
                focus=side_by_side(plot, child),
                **{child: getattr(plot, OTHER[child])},
            )
            for child in CHILDREN
        ]
    return mix((2, options), (1, closing(plot)))


def closing(plot: Plot) -> Options:
    """Perhaps a look back at a thing: where it lies, or who has it now."""
    looks_back = []
    for thing in THINGS:
        holder = getattr(plot, thing)
        if holder in PLACES:
            looks_back.append(option(plot, 1, "it lies", "last", what=thing, where=holder))
        elif thing != plot.lost or holder != OWNER[thing]:
            kind = "it is kept" if holder == OWNER[thing] else "it is held"
            looks_back.append(option(plot, 1, kind, "last", holder, thing, focus=""))
    return mix((1, looks_back), (3, last(plot)))


def last(plot: Plot) -> Options:
    """The last sentence: a feeling, a lesson, a dream, the day, or the next one."""
    moods = [mood(child, plot) for child in CHILDREN]
    good = sum(felt in GOOD_MOODS for felt in moods)
    options = [
        option(plot, 2, "feel " + moods[0], "end", "hero", plot.lost),
        option(plot, 2, "feel " + moods[1], "end", "friend", plot.lost),
        option(plot, 2, "lesson " + plot.trouble, "end", plot.carrier, plot.lost),
        option(plot, 2, "dream", "end", "hero", "toy"),
        option(plot, 2, ("bad end", "mixed end", "good end")[good], "end", "hero"),
    ]
    together = plot.hero == plot.friend and "angry" not in moods
    named = [place for place in PLACES if place != "third" or plot.trouble != "torn"]
    tomorrow = [
        option(plot, 1, kind, "end", child, where=place)
        for kind in ("tomorrow", *["appointment"] * together)
        for child in CHILDREN
        for place in named
    ]
    return mix((2, options), (3, tomorrow))


Scenes = Mapping[str, Callable[[Plot], Options]]

SCENES: Scenes = {
    "opening": opening,
    "treasure": treasure,
    "bond": bond,
    "meeting": meeting,
    "plan": plan,
    "journey": journey,
    "pause": pause,
    "meal": meal,
    "favour": favour,
    "trouble": trouble,
    "forgetting": forgetting,
    "grief": grief,
    "comfort": comfort,
    "rescue": rescue,
    "return": bringing_back,
    "thanks": thanks,
    "parting": parting,
    "closing": closing,
    "last": last,
}
