"""One grader for all: verify, find_fault and obeys call the same stories consistent.

No contradiction, no fact that was not told, no broken sentence: that is what is asked. Pairs that
are kept apart only to hold stories out are no fault, but such a story has no probability.
"""

from collections import Counter
from random import Random

import pytest

from minigpt.storyworld import Lesson, Story, lexicon, obeys, story, verify
from minigpt.storyworld.casting import kept_apart
from minigpt.storyworld.plot import CHILDREN, THINGS
from minigpt.storyworld.preferences import pairs
from minigpt.storyworld.tables import World
from minigpt.storyworld.tell import LANGUAGES, Language, join
from minigpt.storyworld.told import Found, find_fault

FULL, LITTLE, ALL = World.full(), World.little(), World.full("all")
WORLDS = {"full": FULL, "little": LITTLE}


def cast_of(told: Story) -> dict[str, str]:
    return dict(pair for step in told.derivation for pair in step.words)


def text_of(told: Story, side: int) -> str:
    return (told.english, told.chinese)[side]


def free(language: Language) -> Lesson:
    """Return the instruction to tell any story."""
    return Lesson("story", "free", language, "Tell me a story.", "")


def graded(text: str, language: Language, world: World) -> bool:
    """Return whether a text is consistent; assert that all who grade say the same."""
    verdict, found = verify(text, language, world), find_fault(text, world)
    assert verdict.ok == (found.fault is None) == obeys(free(language), text, world), text
    assert found.log_prob == verdict.log_prob
    assert verdict.log_prob is None or verdict.ok
    assert bool(verdict.fault) != verdict.ok
    return verdict.ok


def meets(told: Story) -> bool:
    """Tell whether a child and a thing meet that training keeps apart."""
    cast = cast_of(told)
    return any(kept_apart(cast[child], cast[thing]) for child in CHILDREN for thing in THINGS)


def has_equal_colors(told: Story) -> bool:
    cast = cast_of(told)
    return len({cast[role] for role in ("coat", "colour", "tint")}) < 3


def test_pairs_that_hold_stories_out_are_no_fault_but_have_no_probability():
    seen = Counter()
    for seed in range(300):
        told = story(seed, ALL)
        kind = meets(told), has_equal_colors(told)
        seen[kind] += 1
        for side, language in enumerate(LANGUAGES):
            text = text_of(told, side)
            assert graded(text, language, FULL), text
            verdict = verify(text, language, FULL)
            assert (verdict.log_prob is None) == any(kind), kind
            assert find_fault(text, FULL) == Found(None, len(told.derivation), verdict.log_prob)
            if not any(kind):
                assert verdict.log_prob > told.log_prob, "fewer words share the probability"
            assert verify(text, language, ALL).log_prob == pytest.approx(told.log_prob)
            assert verdict.steps[-1].event == told.derivation[-1].event
    assert min(seen.values()) > 10
    assert len(seen) == 4
    assert seen[False, False] < 0.75 * 300, "by the old grade many faultless stories failed"


def test_held_out_stories_are_consistent_and_only_their_own_world_knows_how_likely():
    held_out = World.full("held_out")
    for seed in range(40):
        told = story(seed, held_out)
        for side, language in enumerate(LANGUAGES):
            text = text_of(told, side)
            assert graded(text, language, FULL)
            assert graded(text, language, held_out)
            assert verify(text, language, FULL).log_prob is None
            assert verify(text, language, held_out).log_prob == pytest.approx(told.log_prob)


def test_the_worlds_do_not_accept_each_others_stories():
    for seed in range(40):
        for side, language in enumerate(LANGUAGES):
            assert not graded(text_of(story(seed, LITTLE), side), language, FULL)
            assert not graded(text_of(story(seed, FULL), side), language, LITTLE)


# What is still a fault.


@pytest.mark.parametrize("world", [ALL, LITTLE], ids=["full", "little"])
def test_a_contradiction_is_a_fault_and_so_is_a_missing_end(world):
    """Also in stories with pairs that are kept apart: these excuse nothing else."""
    judge, reasons = World.full() if world is ALL else world, Counter()
    for seed in range(60):
        for lesson, chosen, rejected, reason, wrong_at in pairs(seed, world):
            assert graded(chosen, lesson.language, judge)
            consistent = graded(rejected, lesson.language, judge)
            assert consistent == (reason == "ignored instruction"), (reason, rejected)
            if not consistent:
                assert find_fault(rejected, judge).read == wrong_at
            reasons[reason] += 1
    assert len(reasons) == 6
    assert min(reasons.values()) > 30


@pytest.mark.parametrize("world", [ALL, LITTLE], ids=["full", "little"])
def test_a_fact_that_was_not_told_is_a_fault(world):
    """Somebody who never came, and a thing without the sentence that brought it."""
    judge, names = World.full() if world is ALL else world, Counter()
    for seed in range(60):
        told = story(seed, world)
        cast, sentences = cast_of(told), [english for english, _ in told.sentences]
        strangers = [p.en for p in world.lists["hero"] if p.en not in cast.values()]
        brought = next(i for i, step in enumerate(told.derivation) if "friend" in dict(step.words))
        without = [*sentences[:brought], *sentences[brought + 1 :]]
        assert not graded(join(without, "en"), "en", judge)
        for i, step in enumerate(told.derivation):
            words = sentences[i].split(" ")
            if not step.words and cast["friend"] in words:
                changed = [strangers[0] if word == cast["friend"] else word for word in words]
                text = join([*sentences[:i], " ".join(changed), *sentences[i + 1 :]], "en")
                assert not graded(text, "en", judge)
                found = find_fault(text, judge)
                assert found.read == i
                names[found.fault] += 1
    assert names["wrong detail"] > 0.9 * names.total() > 30


@pytest.mark.parametrize("world", [ALL, LITTLE], ids=["full", "little"])
def test_a_broken_sentence_is_a_fault(world):
    judge, names = World.full() if world is ALL else world, Counter()
    for seed in range(60):
        told, side = story(seed, world), seed % 2
        language, sentences = LANGUAGES[side], [pair[side] for pair in story(seed, world).sentences]
        i = seed % (len(told.sentences) - 1)
        broken = sentences[i][:4] + sentences[i][7:]
        text = join([*sentences[:i], broken, *sentences[i + 1 :]], language)
        assert not graded(text, language, judge), text
        found = find_fault(text, judge)
        assert found.read == i
        names[found.fault] += 1
    assert set(names) <= {"no sentence", "wrong detail", "unfinished"}
    assert names["no sentence"] > 30


# One grader.


def spoiled(sentences: list[str], language: Language, random: Random) -> str:
    """Return a text with something done to it, which need not be a fault."""
    kind, i = random.randrange(6), random.randrange(len(sentences))
    match kind:
        case 0:
            sentences = sentences[:i]
        case 1:
            sentences = [*sentences[:i], *sentences[i + 1 :]]
        case 2:
            sentences = random.sample(sentences, len(sentences))
        case 3:
            sentences = [*sentences, sentences[i]]
    text = join(sentences, language)
    if kind == 4:
        place = random.randrange(len(text))
        return text[:place] + text[place + 1 :]
    if kind == 5:
        names = [person.en if language == "en" else person.zh for person in lexicon.PEOPLE]
        one, other = random.sample([name for name in names if name in text], 2)
        return text.replace(one, "\0").replace(other, one, 1).replace("\0", one)
    return text


@pytest.mark.parametrize("name", WORLDS)
def test_all_who_grade_agree_on_right_and_spoiled_texts(name):
    world, random, seen = WORLDS[name], Random(0), Counter()
    for seed in range(125):
        told = story(seed, world.readable)
        for side, language in enumerate(LANGUAGES):
            sentences = [pair[side] for pair in told.sentences]
            assert graded(join(sentences, language), language, world)
            seen[graded(spoiled(sentences, language, random), language, world)] += 1
    assert seen.total() == 250
    assert seen[False] > 200
