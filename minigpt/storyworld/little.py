"""The little world: what `World.little()` is made of, its words, its scenes and its sentences.

The same kind of story as in the full world (`lexicon.py`, `world.py`, `forms.py`), told shortly: a
child with a toy meets a friend, they go somewhere, something goes wrong, and it is set right or
not. Every role has words of its own, so that a name alone tells who is who, and no pair of words
is kept apart. A model of less than a million parameters learns all of it on a laptop.
"""

from minigpt.storyworld import lexicon
from minigpt.storyworld.forms import Told
from minigpt.storyworld.plot import (
    CHILDREN,
    GOOD_MOODS,
    OTHER,
    OWNER,
    Options,
    Plot,
    carried,
    mix,
    mood,
    option,
)
from minigpt.storyworld.world import (
    Scenes,
    mishaps,
    pardon,
    repair,
    robbery,
)


def named(entries: list, *names: str) -> list:
    """Return the entries of the lexicon with these English names, in this order."""
    return [next(entry for entry in entries if entry.en == name) for name in names]


LISTS = {
    "hero": named(lexicon.PEOPLE, "Mia", "Tom", "Lily", "Leo", "Emma", "Jack"),
    "friend": named(lexicon.PEOPLE, "Nora", "Max", "Anna", "Sam", "Lucy", "Oscar"),
    "elder": named(lexicon.ELDERS, "grandma", "grandpa", "aunt"),
    "toy": named(lexicon.THINGS, "kite", "doll", "mask", "hat", "puppet", "boat"),
    "other": named(lexicon.THINGS, "umbrella", "lantern", "scarf", "basket", "flag", "book"),
    "start": named(lexicon.PLACES, "park", "market", "farm", "garden"),
    "second": named(lexicon.PLACES, "river", "forest", "beach", "hill"),
    "third": named(lexicon.PLACES, "old mill", "bridge", "castle", "lake"),
    "colour": named(lexicon.COLORS, "red", "blue", "green"),
    "tint": named(lexicon.COLORS, "yellow", "white", "purple"),
    "animal": named(lexicon.ANIMALS, "fox", "goat", "puppy"),
    "day": named(lexicon.DAYS, "sunny morning", "windy morning", "rainy morning"),
}


# What may happen, scene by scene.


def opening(plot: Plot) -> Options:
    """Somebody is somewhere with a toy, on some kind of day; the sky matters later."""
    new = ("day", "hero", "start", "colour", "toy")
    return [
        option(
            plot,
            weight,
            "opening",
            "meeting",
            "hero",
            "toy",
            new=new,
            sky=sky,
            hero="start",
            toy="hero",
        )
        for weight, sky in [(3, "sun"), (3, "wind"), (2, "rain")]
    ]


def meeting(plot: Plot) -> Options:
    """A friend comes with a thing of their own."""
    meet = {"new": ("friend", "tint", "other"), "friend": "start", "other": "friend", "focus": ""}
    return [
        option(plot, 1, "meeting", "journey", "friend", "other", alike=alike, **meet)
        for alike in (True, False)
    ]


def journey(plot: Plot) -> Options:
    """Both go to a second place; one of the things may stay behind."""
    trip = {"where": "second", "new": "second", "hero": "second", "friend": "second", "focus": ""}
    return [
        option(plot, 4, "journey with both", "favour", "hero", "toy", **trip),
        option(plot, 1, "journey with one", "favour", "friend", "other", toy="start", **trip),
        option(plot, 1, "journey with one", "favour", "hero", "toy", other="start", **trip),
    ]


def favour(plot: Plot) -> Options:
    """Perhaps one asks for the other's thing, or they swap."""
    asked = []
    for thing, child in carried(plot):
        asker = {"who": child, "what": thing, "focus": ""}
        asked += [
            option(plot, 1, "lend", "trouble", **asker, **{thing: OTHER[child]}),
            option(plot, 2, "refuse", "trouble", **asker, refused=OTHER[child]),
        ]
    if len(carried(plot)) == 2:
        swapped = {"toy": "friend", "other": "hero", "focus": ""}
        asked.append(option(plot, 2, "swap", "trouble", "hero", "toy", **swapped))
    return mix((1, asked), (1, trouble(plot)))


def trouble(plot: Plot) -> Options:
    """A mishap, a thing left behind, or what a refusal may lead to."""
    calm = plot._replace(sky="", refused="")  # both have played their part now
    options = []
    for thing, child in carried(plot):
        options += mishaps(calm, thing, child, plot.sky)
        options.append(forgetting(calm, thing, child))
        if child == OWNER[thing] and plot.refused == OTHER[child]:
            options.append(robbery(calm, thing, plot.refused))
    return options


def forgetting(plot: Plot, thing: str, child: str):
    """Both walk on to a third place, and one of the things is left where they were."""
    bad = {"trouble": "forgotten", "lost": thing, "carrier": child, thing: "second"}
    gone = {"hero": "third", "friend": "third", "focus": ""}
    return option(plot, 3, "forgotten", "grief", child, thing, "second", new="third", **bad, **gone)


def rescue(plot: Plot) -> Options:
    """Somebody tries to set it right, or nobody does."""
    if plot.trouble == "torn":
        return [(weight, event) for weight, event in repair(plot) if event.kind != "elder mends"]
    return pardon(plot) if plot.trouble == "taken" else search(plot)


def search(plot: Plot) -> Options:
    """The thing lies at one place and both children stand at another."""
    thing, owner = plot.lost, OWNER[plot.lost]
    there = {"what": thing, "where": getattr(plot, thing)}
    place, back = there["where"], {thing: owner, "focus": ""}
    both = {"hero": place, "friend": place, "helper": "both"}
    fetch = "fetch " + plot.trouble
    return [
        option(plot, 3, "found together", "parting", "hero", **there, **both, **back),
        option(
            plot, 2, "elder brings", "parting", owner, **there, new="elder", helper="elder", **back
        ),
        option(plot, 4, "given up", "parting", "hero", **there, focus=""),
        option(
            plot, 3, fetch, "parting", owner, **there, helper=owner, **{owner: place, thing: owner}
        ),
        option(
            plot,
            4,
            fetch,
            "return",
            OTHER[owner],
            **there,
            **{OTHER[owner]: place, thing: OTHER[owner]},
        ),
    ]


def bringing_back(plot: Plot) -> Options:
    """The other child has the thing; its owner is waiting at another place."""
    thing, owner = plot.lost, OWNER[plot.lost]
    child = OTHER[owner]
    back = {"where": getattr(plot, owner), child: getattr(plot, owner), "helper": child}
    return [
        option(plot, 3, "bring", "parting", child, thing, focus="", **{thing: owner}, **back),
        option(plot, 1, "keep", "parting", child, thing, focus=""),
    ]


def parting(plot: Plot) -> Options:
    """Perhaps both go back to where they met; then the end."""
    home = {"where": "start", "hero": "start", "friend": "start", "focus": ""}
    together = plot.hero == plot.friend
    back = [option(plot, 1, "go home together", "last", "hero", **home)] if together else []
    return mix((1, back), (2, last(plot)))


def last(plot: Plot) -> Options:
    """The last sentence: a feeling, a dream, what kind of day it was, or the next day."""
    moods = [mood(child, plot) for child in CHILDREN]
    good = sum(felt in GOOD_MOODS for felt in moods)
    today = [
        option(plot, 3, "feel " + moods[0], "end", "hero", plot.lost),
        option(plot, 3, "feel " + moods[1], "end", "friend", plot.lost),
        option(plot, 2, "dream", "end", "hero", "toy"),
        option(plot, 2, ("bad end", "mixed end", "good end")[good], "end", "hero"),
    ]
    places = ("start", "second") if plot.trouble == "torn" else ("start", "second", "third")
    tomorrow = [
        option(plot, 1, "tomorrow", "end", child, where=place)
        for child in CHILDREN
        for place in places
    ]
    return mix((3, today), (1, tomorrow))


SCENES: Scenes = {
    "opening": opening,
    "meeting": meeting,
    "journey": journey,
    "favour": favour,
    "trouble": trouble,
    "grief": rescue,  # the sentence that tells the trouble tells who cries, too
    "return": bringing_back,
    "thanks": parting,  # where the full world's `repair` and `pardon` lead
    "parting": parting,
    "last": last,
}

FORMS: Told = {
    "opening": [
        (
            2,
            "One {day}, {hero} was {start.at} with {toy.a_coloured}.",
            "一个{day}，{hero}带着{toy.a_coloured}{start.at}玩。",
        ),
        (
            1,
            "It was {day.a}, and {hero} took {toy.a_coloured} to {start}.",
            "那是一个{day}，{hero}带着{toy.a_coloured}来到了{start}。",
        ),
    ],
    "meeting": [
        (
            2,
            "Then {friend} came with {other.a_coloured}.",
            "这时，{friend}带着{other.a_coloured}来了。",
        ),
        (
            1,
            "There {hero.she} met {friend}, who had {other.a_coloured}.",
            "在那儿，{hero.she}遇见了{friend}，{friend.she}有{other.a_coloured}。",
        ),
    ],
    "journey with both": [
        (
            2,
            "They went to {where} with {toy} and {other}.",
            "{they}带着{toy}和{other}去了{where}。",
        ),
        (
            1,
            "They took {toy} and {other} and ran to {where}.",
            "{they}拿着{toy}和{other}跑到了{where}。",
        ),
    ],
    "journey with one": [
        (
            1,
            "They went to {where} with {what}, but {that} stayed {start.at}.",
            "{they}带着{what}去了{where}，{that}留{start.at}了。",
        ),
    ],
    "lend": [
        (1, "{Who} gave {what} to {whom} to carry.", "{who}把{what}给了{whom}拿着。"),
        (1, "{Whom} asked for {what}, and {who} said yes.", "{whom}想要{what}，{who}说好。"),
    ],
    "refuse": [
        (1, "{Whom} asked for {what}, but {who} said no.", "{whom}想要{what}，{who}却说不行。"),
        (1, '"{What} is mine," {who} told {whom}.', "“{what}是我的，”{who}对{whom}说。"),
    ],
    "swap": [
        (
            1,
            "Then {hero} took {other} and {friend} took {toy}.",
            "后来，{hero}拿了{other}，{friend}拿了{toy}。",
        ),
        (
            1,
            "They swapped, so {friend} had {toy} and {hero} had {other}.",
            "{they}交换了，{friend}有了{toy}，{hero}有了{other}。",
        ),
    ],
    "stolen": [
        (
            2,
            "Suddenly {animal} took {what} and ran to {where}.",
            "突然，{animal}叼起{what}，跑到{where}去了。",
        ),
        (
            1,
            "Then {animal} ran to {where} with {what}, and {owner} cried.",
            "后来，{animal}带着{what}跑到{where}去了，{owner}哭了。",
        ),
    ],
    "torn": [
        (2, "Then {who} fell and tore {what}.", "后来，{who}摔倒了，弄破了{what}。"),
        (
            1,
            "{Who} climbed over a fence and tore {what}, and {owner} cried.",
            "{who}翻过篱笆，弄破了{what}，{owner}哭了。",
        ),
    ],
    "slipped": [
        (1, "{Who} slipped in the mud and tore {what}.", "{who}在泥地里滑倒，弄破了{what}。"),
    ],
    "blown": [
        (
            2,
            "The wind took {what} from {who} and blew it to {where}.",
            "风从{who}手里卷走了{what}，把它吹到了{where}。",
        ),
        (
            1,
            "{Who} let go, the wind blew {what} to {where}, and {owner} cried.",
            "{who}手一松，风把{what}吹到了{where}，{owner}哭了。",
        ),
    ],
    "forgotten": [
        (
            2,
            "They went on to {third}, but {who} left {what} {where.at}.",
            "{they}又去了{third}，可是{who}把{what}忘{where.at}了。",
        ),
        (
            1,
            "Later they were {third.at}, and {what} was still {where.at}: {who} had forgotten it.",
            "后来{they}到了{third}，{what}却还{where.at}：{who}把它忘了。",
        ),
    ],
    "taken": [
        (1, "So {who} took {what} and ran to {where}.", "于是，{who}抢过{what}，跑到{where}去了。"),
        (
            1,
            "{Who} got cross and ran to {where} with {what}, and {owner} cried.",
            "{who}生气了，抢了{what}跑到{where}去了，{owner}哭了。",
        ),
    ],
    "found together": [
        (
            1,
            "They ran to {where} together, and there was {what}.",
            "{they}一起跑到{where}，{what}就在那儿。",
        ),
        (
            1,
            "Together they went to {where}, and {owner} picked up {what}.",
            "{they}一起去了{where}，{owner}捡起了{what}。",
        ),
    ],
    "elder brings": [
        (
            1,
            "But {elder} found {what} {where.at} and gave it to {owner}.",
            "不过，{elder}{where.at}找到了{what}，给了{owner}。",
        ),
    ],
    "given up": [
        (
            1,
            "{Where} was too far away, so {what} stayed there.",
            "{where}太远了，{what}只好留在那儿。",
        ),
        (
            1,
            "It was late, and nobody went to {where} for {what}.",
            "天晚了，没有人去{where}找{what}。",
        ),
    ],
    "fetch stolen": [
        (
            2,
            "{Who} ran to {where} and took {what} from {animal.the}.",
            "{who}跑到{where}，从{animal.the}那儿拿走了{what}。",
        ),
        (
            1,
            "{Who} went to {where} and gave {animal.the} bread for {what}.",
            "{who}去了{where}，用面包从{animal.the}那儿换回了{what}。",
        ),
    ],
    "fetch blown": [
        (
            2,
            "{Who} ran to {where} and found {what} in a tree.",
            "{who}跑到{where}，在树上找到了{what}。",
        ),
        (
            1,
            "{Who} went to {where} and pulled {what} out of the water.",
            "{who}去了{where}，从水里捞出了{what}。",
        ),
    ],
    "fetch forgotten": [
        (
            2,
            "{Who} ran back to {where} and found {what} under a bench.",
            "{who}跑回{where}，在长椅下面找到了{what}。",
        ),
        (1, "{Who} went back to {where} and picked up {what}.", "{who}回到{where}，捡起了{what}。"),
    ],
    "bring": [
        (2, "{Who} came back and gave {what} to {whom}.", "{who}回来了，把{what}还给了{whom}。"),
        (
            1,
            '"Here is your {what.noun}," said {who.name} and gave it to {whom}.',
            "“给你{what}，”{who}回来说，把它还给了{whom}。",
        ),
    ],
    "keep": [
        (
            1,
            "But {who} liked {what} so much that {who.she} kept it.",
            "可是{who}太喜欢{what}了，就自己留下了。",
        ),
    ],
    "mend": [
        (1, "{Who} sat down and mended {what}.", "{who}坐下来，补好了{what}。"),
    ],
    "mend for": [
        (2, "{Who} mended {what} and gave it to {whom}.", "{who}补好了{what}，给了{whom}。"),
        (
            1,
            '"I can sew," said {who.name} and mended {what} for {whom}.',
            "“我会缝，”{who}说着给{whom}补好了{what}。",
        ),
    ],
    "spoiled": [
        (1, "Nobody could mend {what}.", "谁也补不好{what}。"),
    ],
    "sorry": [
        (
            2,
            "But {who} came back to {where} and gave {what} to {whom}.",
            "可是{who}回到了{where}，把{what}还给了{whom}。",
        ),
        (
            1,
            '"Forgive me," said {who.name} back {where.at}, and {whom} got {what} again.',
            "“原谅我吧，”{who}回到{where}说，{whom}又拿到了{what}。",
        ),
    ],
    "ask back": [
        (
            1,
            "{Who} went to {where}, too, and took {what} back.",
            "{who}也去了{where}，拿回了{what}。",
        ),
    ],
    "forgive": [
        (
            1,
            "{Who} went to {where}, too, and gave {what} to {whom}.",
            "{who}也去了{where}，把{what}送给了{whom}。",
        ),
        (
            1,
            '"You can have {what}," {who} told {whom} {where.at}.',
            "“{what}送给你吧，”{who}来到{where}对{whom}说。",
        ),
    ],
    "stay away": [
        (1, "{Who} did not come back and hid with {what}.", "{who}没有回来，带着{what}躲了起来。"),
    ],
    "go home together": [
        (1, "Then they went back to {where}.", "然后{they}回到了{where}。"),
        (1, "Arm in arm they walked back to {where}.", "{they}手挽手走回了{where}。"),
    ],
    "feel happy": [
        (1, "{Who} was happy and slept well.", "{who}很开心，睡得很香。"),
        (1, "{Who} was happy and laughed.", "{who}很开心，笑了起来。"),
    ],
    "feel proud": [
        (1, "{Who} was proud and stood a little taller.", "{who}很自豪，觉得自己长高了一点儿。"),
    ],
    "feel grateful": [
        (1, "{Who} was grateful and said thank you.", "{who}很感激，说了谢谢。"),
    ],
    "feel sad": [
        (1, "{Who} was sad and went to bed.", "{who}很难过，上床睡了。"),
        (1, "{Who} was sad for a long time.", "{who}难过了很久。"),
    ],
    "feel angry": [
        (1, "{Who} was angry and slammed the door.", "{who}很生气，摔上了门。"),
    ],
    "feel sorry": [
        (1, "{Who} was sorry and wrote {whom} a letter.", "{who}很内疚，给{whom}写了一封信。"),
    ],
    "dream": [
        (
            1,
            "That night {who} dreamed of {toy.a_coloured}.",
            "那天夜里，{who}梦见了{toy.a_coloured}。",
        ),
    ],
    "tomorrow": [
        (
            1,
            '"Tomorrow I will play {where.at}," said {who.name}.',
            "“明天我要{where.at}玩，”{who}说。",
        ),
    ],
    "good end": [
        (1, "It had been a good day.", "这真是美好的一天。"),
        (1, "{Hero} and {friend} were good friends.", "{hero}和{friend}是好朋友。"),
    ],
    "mixed end": [(1, "It had been a strange day.", "这真是奇怪的一天。")],
    "bad end": [(1, "It had not been a good day.", "这可不是美好的一天。")],
}
