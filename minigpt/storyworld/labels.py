"""What a whole story comes to: its summary, title, topic, and whether it ends well."""

from minigpt.storyworld.plot import CHILDREN, GOOD_MOODS, OWNER, THINGS, feeling, mood
from minigpt.storyworld.tables import Step
from minigpt.storyworld.tasks import Facts, Pair

TROUBLES = {
    "stolen": ("{Animal} stole {owner.names} {what.noun}", "{animal}偷走了{owner.names}{what}"),
    "blown": ("The wind took {owner.names} {what.noun}", "风刮走了{owner.names}{what}"),
    "torn": ("{Carrier} tore {owner.names} {what.noun}", "{carrier}弄破了{owner.names}{what}"),
    "forgotten": (
        "{Carrier} left {owner.names} {what.noun} behind",
        "{carrier}忘了拿{owner.names}{what}",
    ),
    "taken": (
        "{Carrier} ran off with {owner.names} {what.noun}",
        "{carrier}抢走了{owner.names}{what}",
    ),
    "torn own": ("{Owner} tore {owner.her} {what.noun}", "{owner}弄破了自己的{what}"),
    "forgotten own": ("{Owner} left {owner.her} {what.noun} behind", "{owner}忘了拿自己的{what}"),
}
OUTCOMES = {
    "was comforted": ("but {mate} gave {owner} {that}.", "不过{mate}把{that}送给了{owner}。"),
    "let keep": ("but in the end {owner} let {mate} keep it.", "不过最后{owner}让{mate}留着了。"),
    "is torn": ("and nobody could mend it.", "谁也修不好。"),
    "is gone": ("and it stayed {where.at}.", "它留{where.at}了。"),
    "elder has it": ("but {elder} has it now.", "不过现在在{elder}那儿。"),
    "was robbed": ("and {mate} kept it.", "{mate}把它留下了。"),
    "set it right": ("but {owner} saved it.", "不过{owner}救了它。"),
    "found together": ("but they found it together.", "不过{they}一起找到了。"),
    "was helped": ("but {helper} saved it.", "不过{helper}救了它。"),
    "is back": ("but soon gave it back.", "不过很快还了回去。"),
}
TOPICS = {
    "stolen": ("theft", "偷窃"),
    "blown": ("weather", "天气"),
    "torn": ("accident", "意外"),
    "forgotten": ("forgetting", "遗忘"),
    "taken": ("quarrel", "争吵"),
}
GOOD, BAD, MIXED = ("good", "好"), ("bad", "坏"), ("mixed", "有好有坏")


def title(steps: list[Step]) -> Pair:
    """Return the title: it names the child whose thing was in trouble, and the thing."""
    return titles(steps)[steps[-1].event.after.lost]


def titles(steps: list[Step]) -> dict[str, Pair]:
    """Return the title that the story would have if the toy, or the other thing, was in trouble."""
    facts, texts = Facts(steps), ("{owner} and {what.coloured}", "{owner}和{what.coloured}")
    pairs = {thing: facts.say(texts, what=thing) for thing in THINGS}
    return {thing: (capitals(en), zh) for thing, (en, zh) in pairs.items()}


def capitals(text: str) -> str:
    """Return a text spelled like a title: "Mia and the Green Kite"."""
    return " ".join(
        word if word in ("and", "the") else word[0].upper() + word[1:] for word in text.split()
    )


def trouble_at(steps: list[Step]) -> int:
    """Return the index of the sentence in which something goes wrong."""
    return next(i for i, step in enumerate(steps) if step.event.after.trouble)


def summary(steps: list[Step]) -> Pair:
    """Return the story in one sentence: what went wrong, and how it ended."""
    facts = Facts(steps)
    _, cause = feeling(OWNER[facts.end.lost], facts.end)
    own = " own" if facts.end.carrier == OWNER[facts.end.lost] else ""
    trouble = TROUBLES.get(facts.end.trouble + own, TROUBLES[facts.end.trouble])
    start = facts.about_the_loss(trouble)
    end = facts.about_the_loss(OUTCOMES[cause])
    return f"{start[0]}, {end[0]}", f"{start[1]}，{end[1]}"


def topic(steps: list[Step]) -> Pair:
    """Return what kind of trouble the story is about."""
    return TOPICS[steps[-1].event.after.trouble]


def sentiment(steps: list[Step]) -> Pair:
    """Return whether the story ends well: for both children, for neither, or for one of them."""
    end = steps[-1].event.after
    well = [mood(child, end) in GOOD_MOODS for child in CHILDREN]
    return GOOD if all(well) else MIXED if any(well) else BAD
