"""Pairs of stories for one instruction: one that is right, and one that is wrong in a known way.

Every rejected story comes from a right one by exactly one fault, its `reason`, and the verifier
finds it there: a story that ignores the instruction is consistent, all others stop being stories
at the very sentence that was spoiled.
"""

import re
from collections.abc import Iterator
from itertools import combinations
from random import Random
from typing import NamedTuple

from minigpt.storyworld.lessons import SHARES, Draw, Lesson, draw, keeps_to, some, telling
from minigpt.storyworld.plot import CHILDREN, GOOD_MOODS, PLACES
from minigpt.storyworld.spelling import Slots, spell
from minigpt.storyworld.tables import Step, World
from minigpt.storyworld.tasks import MOODS, pick
from minigpt.storyworld.tell import LANGUAGES, join, render, sample
from minigpt.storyworld.verify import verify

HOLDING = {  # kinds of events in which it matters who has the thing
    "journey with both",
    "journey with one",
    "lend",
    "refuse",
    "swap",
    "torn",
    "slipped",
    "stolen",
    "blown",
    "forgotten",
    "give instead",
    "lend in thanks",
    "go home with one",
    "it is held",
    "it is kept",
}
ANYWHERE = re.compile("sight|dream|tomorrow|appointment|lesson .*|.* end")  # no fixed place


class Preference(NamedTuple):
    """A lesson of task "story", a story that obeys it, and one that does not."""

    lesson: Lesson
    chosen: str
    rejected: str
    reason: str  # a key of SPOILERS, or "ignored instruction"
    wrong_at: int  # the first sentence that cannot stand in `rejected`; -1 where it is consistent


class Spoiled(NamedTuple):
    """The sentences of a right and of a wrong story, and the place of the first wrong one."""

    right: list[str]
    wrong: list[str]
    wrong_at: int


def preferences(seed: int, world: World | None = None) -> list[dict[str, str]]:
    """Return pairs made from the story of a seed: prompt, chosen, rejected and reason.

    One pair for each reason that the story gives an opportunity for, in one language.
    """
    return [
        {
            "prompt": pair.lesson.prompt,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "reason": pair.reason,
        }
        for pair in pairs(seed, world)
    ]


def pairs(seed: int, world: World | None = None) -> Iterator[Preference]:
    """Yield the pairs with the lesson that grades them."""
    random, world = Random(seed).random, world or World.full()
    steps = sample(world, random)
    side = int(random() >= 0.5)
    language = LANGUAGES[side]
    for reason, spoil in SPOILERS.items():
        lesson = telling(steps, side, draw(SHARES["story"], random), random)
        for right, wrong, index in spoil(steps, side, world, random):
            text = join(wrong, language)
            verdict = verify(text, language, world)
            if not verdict.ok and verdict.sentences_read == index:
                yield Preference(lesson, join(right, language), text, reason, index)
                break
    yield ignored(steps, side, world, random)


def ignored(steps: list[Step], side: int, world: World, random: Draw) -> Preference:
    """Return another consistent story, one that does not keep to the instruction."""
    constraints = {name: weight for name, weight in SHARES["story"].items() if name != "free"}
    lesson = telling(steps, side, draw(constraints, random), random)
    while True:
        other = sample(world, random)
        text = join(render(other, LANGUAGES[side]), LANGUAGES[side])
        if not keeps_to(lesson, other, text):
            return Preference(lesson, lesson.answer, text, "ignored instruction", -1)


# Each spoiler yields ways to spoil a story, in random order; not all of them need to be faults.


def misplace(steps: list[Step], side: int, world: World, random: Draw) -> Iterator[Spoiled]:
    """Name another place of the story in one sentence."""
    fixed = [i for i, step in enumerate(steps) if not ANYWHERE.fullmatch(step.event.kind)]
    yield from exchanged(steps, side, some(fixed, len(fixed), random), PLACES)


def misattribute(steps: list[Step], side: int, world: World, random: Draw) -> Iterator[Spoiled]:
    """Let one child do what only the one who has the thing can do."""
    held = [i for i, step in enumerate(steps) if step.event.kind in HOLDING]
    yield from exchanged(steps, side, some(held, len(held), random), CHILDREN)


def exchanged(
    steps: list[Step], side: int, indices: list[int], roles: tuple[str, ...]
) -> Iterator[Spoiled]:
    """Exchange two of the roles, known before, in one sentence."""
    right, slots = render(steps, LANGUAGES[side]), slots_after(steps, side)
    for i in indices:
        known = [role for role in roles if i and role in slots[i - 1]]
        for one, other in combinations(known, 2):
            sentence = swap(steps[i].form[side], one, other) % slots[i]
            if sentence != right[i]:
                yield Spoiled(right, [*right[:i], sentence, *right[i + 1 :]], i)


def swap(template: str, one: str, other: str) -> str:
    """Exchange two roles in a template.

    >>> swap("%(Hero)s followed %(friend.him)s to %(start)s.", "hero", "friend")
    '%(Friend)s followed %(hero.him)s to %(start)s.'
    """
    new = {one: other, other: one, one.capitalize(): other.capitalize()}
    new[other.capitalize()] = one.capitalize()
    return re.sub(r"(?<=%\()\w+", lambda match: new.get(match[0], match[0]), template)


def slots_after(steps: list[Step], side: int) -> list[Slots]:
    """Return all slots that are filled after each sentence."""
    cast, slots, after = {}, {}, []
    for step in steps:
        for role, word in step.words:
            cast[role] = word
            slots = slots | spell(role, word, cast)[side]
        after.append(slots)
    return after


def misjudge(steps: list[Step], side: int, world: World, random: Draw) -> Iterator[Spoiled]:
    """End both stories with a feeling: the child's own, and one of the opposite kind."""
    plot, slots = steps[-2].event.after, slots_after(steps, side)[-1]
    table = world.choices(plot)
    assert table is not None, "a story has a last step, so there was a choice before it"
    choices = [c for c in table.items if c.event.kind.startswith("feel ")]
    choice = pick(choices, random)
    good = choice.event.kind.removeprefix("feel ") in GOOD_MOODS
    wrong = pick([felt for felt in MOODS if (felt in GOOD_MOODS) != good], random)
    true_form, _ = choice.forms.draw(random)
    false_form = pick(world.forms(choice.event._replace(kind=f"feel {wrong}"), plot).items, random)
    start = render(steps[:-1], LANGUAGES[side])
    right, spoiled = ([*start, form[side] % slots] for form in (true_form, false_form))
    yield Spoiled(right, spoiled, len(start))


def repeat(steps: list[Step], side: int, world: World, random: Draw) -> Iterator[Spoiled]:
    """Say one sentence twice."""
    right = render(steps, LANGUAGES[side])
    for i in some(range(1, len(right) + 1), len(right), random):
        yield Spoiled(right, [*right[:i], *right[i - 1 :]], i)


def break_off(steps: list[Step], side: int, world: World, random: Draw) -> Iterator[Spoiled]:
    """Stop after some sentence, at the earliest in the middle."""
    right = render(steps, LANGUAGES[side])
    end = pick(range(len(right) // 2, len(right)), random)
    yield Spoiled(right, right[:end], end)


SPOILERS = {
    "inconsistent place": misplace,
    "wrong holder": misattribute,
    "wrong feeling": misjudge,
    "repeated sentence": repeat,
    "broken off": break_off,
}
