"""Lessons: right answers, no baselines, verified constraints, pairs with exactly one fault."""

import re
import sys
from collections import Counter, defaultdict
from functools import cache
from random import Random

import pytest

from minigpt.storyworld import (
    Lesson,
    Story,
    dialogue,
    lessons,
    lexicon,
    obeys,
    preferences,
    story,
    verify,
)
from minigpt.storyworld.lessons import BEGINNINGS, LABELS, SHARES, draw
from minigpt.storyworld.plot import GOOD_MOODS
from minigpt.storyworld.preferences import pairs
from minigpt.storyworld.read import split_sentences
from minigpt.storyworld.tables import World
from minigpt.storyworld.tasks import early_questions
from minigpt.storyworld.wording import ASKED, WANTED

LANGUAGES = ("en", "zh")
HELD_OUT = World.full("held_out")
WORLDS = [World.full(), HELD_OUT, World.little()]
each_world = pytest.mark.parametrize("world", WORLDS, ids=["full", "held_out", "little"])
TASKS = {"translation_en_zh", "translation_zh_en", "question", "story", *LABELS}
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@cache
def taught(language: str, count: int = 400, start: int = 50_000) -> list[Lesson]:
    return [one for seed in range(start, start + count) for one in lessons(seed, language)]


def of_task(task: str, language: str) -> list[Lesson]:
    return [lesson for lesson in taught(language) if lesson.task == task]


def text_of(told: Story, language: str) -> str:
    return told.english if language == "en" else told.chinese


# Right answers.


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_lesson_is_complete_and_in_its_languages(language):
    tasks_seen = set()
    for lesson in taught(language):
        tasks_seen.add(lesson.task)
        instruction = lesson.prompt.removeprefix(lesson.story).strip()
        assert lesson.prompt.startswith(lesson.story)
        assert lesson.answer.strip() == lesson.answer != ""
        assert bool(lesson.story) == (lesson.task != "story")
        assert bool(CHINESE.search(lesson.answer)) == (lesson.language == "zh")
        assert instruction
        if language == "en":
            assert lesson.prompt.isascii()
        else:
            assert not re.search(r"[A-Za-z]", lesson.prompt)
        assert not re.search(r"[%{}]|  ", lesson.prompt + lesson.answer)
        assert obeys(lesson, lesson.answer)
    translation = "translation_en_zh" if language == "en" else "translation_zh_en"
    assert tasks_seen == TASKS - {"translation_en_zh", "translation_zh_en"} | {translation}


@each_world
@pytest.mark.parametrize("language", LANGUAGES)
def test_lessons_are_about_the_story_of_the_seed(language, world):
    for seed in range(40):
        told, other = story(seed, world), LANGUAGES[1 - LANGUAGES.index(language)]
        side = LANGUAGES.index(language)
        answers = {(q.text[side], q.answer[side]) for q in told.questions()}
        for lesson in lessons(seed, language, world):
            if lesson.task.startswith("translation"):
                assert text_of(told, language).startswith(lesson.story)
                assert text_of(told, other).startswith(lesson.answer)
                assert (lesson.kind == "whole") == (lesson.answer == text_of(told, other))
            elif lesson.task == "question":
                asked = [answer for text, answer in answers if text in lesson.prompt]
                assert lesson.answer in asked
            elif lesson.task == "story":
                assert lesson.answer == text_of(told, language)
                assert verify(lesson.answer, language, world).ok
            else:
                assert lesson.answer == getattr(told, lesson.task)[side]


def test_both_languages_teach_the_same():
    for seed in range(30):
        english, chinese = lessons(seed, "en"), lessons(seed, "zh")
        same = [(one.kind, one.changes, one.said) for one in english]
        assert same == [(one.kind, one.changes, one.said) for one in chinese]


@pytest.mark.slow
def test_a_beginning_has_one_translation_and_a_sentence_alone_may_have_two():
    beginnings, alone, read = ({}, {}), (defaultdict(set), defaultdict(set)), 0
    for told in map(story, range(2500)):
        so_far = ["", ""]
        for pair in told.sentences:
            read += 1
            so_far = [before + sentence for before, sentence in zip(so_far, pair, strict=True)]
            for side in (0, 1):
                known = beginnings[side].setdefault(so_far[side], so_far[1 - side])
                assert known == so_far[1 - side]
                alone[side][pair[side]].add(pair[1 - side])
    for side in (0, 1):
        assert len(beginnings[side]) < read, "some beginnings must occur twice"
        assert max(map(len, alone[side].values())) > 1


@pytest.mark.slow
def test_what_is_left_is_what_was_there_less_what_was_eaten():
    """An oracle of its own: reckon with the numbers that stand in the text."""
    numbers = {number.en: value for value, number in enumerate(lexicon.NUMBERS, start=2)}
    number, seen = "|".join(numbers), Counter()
    for lesson in of_task("question", "en"):
        if asked := re.search(r"How many (\w+) did they not eat", lesson.prompt):
            count, *left = re.findall(rf"\b({number}) {asked[1]}\b", lesson.story)
            meal = lesson.story.split(f"{count} {asked[1]}")[1].split(". ")[1]
            eaten = re.search(rf"\b({number})\b", meal, re.I)[1].lower()
            assert numbers[lesson.answer] == numbers[count] - numbers[eaten]
            assert left in ([], [lesson.answer])
            assert lesson.changes == (not left)
            seen["said" if left else "reckoned"] += 1
    assert seen["reckoned"] > 10
    assert seen["said"] > 3


def test_the_order_of_places_is_that_of_the_journey():
    """An oracle of its own: everybody comes from the first place and goes to the second."""
    seen = Counter()
    for told in map(story, range(150)):
        cast = dict(pair for step in told.derivation for pair in step.words)
        answers = {question.text[0]: question.answer[0] for question in told.questions()}
        for child in (cast["hero"], cast["friend"]):
            for relation, other, place in (
                ("before", "second", "start"),
                ("after", "start", "second"),
            ):
                text = f"Where was {child} right {relation} the {cast[other]}?"
                if text in answers:
                    assert answers[text].endswith(f"the {cast[place]}"), told.english
                    seen[relation] += 1
    assert min(seen.values()) > 100


@pytest.mark.slow
def test_changes_tell_one_fact_from_a_fact_that_changed():
    for lesson in of_task("question", "en"):
        if lesson.kind in ("colour", "where happened"):
            assert lesson.changes == 0
        if lesson.kind in ("where person", "in what order"):
            assert lesson.changes >= 1, "everybody walks somewhere"
    kinds = defaultdict(set)
    for lesson in of_task("question", "en"):
        kinds[lesson.kind].add(min(lesson.changes, 2))
    for kind in ("where thing", "who has", "feeling", "why"):
        assert kinds[kind] == {0, 1, 2}, kind
    shares = Counter(lesson.changes > 0 for lesson in of_task("question", "en"))
    assert min(shares.values()) > 0.3 * shares.total()


# Nothing to be guessed.


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_baseline_answers_any_kind_of_question(language):
    asked = defaultdict(list)
    for lesson in of_task("question", language):
        asked[lesson.kind].append(lesson)
    assert len(asked) == 9
    for kind, items in asked.items():
        error = len(items) ** -0.5  # two standard errors; the datasheet holds the figures
        common = Counter(item.answer for item in items).most_common(1)[0][1] / len(items)
        assert common < 0.4 + error, kind
        for name in ("first_mention", "last_mention"):
            right = sum(item.baselines[name] == item.answer for item in items) / len(items)
            assert 0.1 < right < 0.4 + error, (kind, name, right)


def test_baselines_know_where_places_are_mentioned():
    bare = re.compile(r"\bthe (" + "|".join(place.en for place in lexicon.PLACES) + r")\b")
    for lesson in of_task("question", "en"):
        if lesson.kind in ("where thing", "in what order"):
            places = bare.findall(lesson.story)
            assert lesson.baselines["first_mention"].endswith(places[0])
            assert lesson.baselines["last_mention"].endswith(places[-1])


def test_baselines_are_what_they_say():
    colours = "|".join(colour.en for colour in lexicon.COLORS)
    for lesson in of_task("question", "en"):
        if lesson.kind == "colour":
            named = re.findall(rf"\b(?:{colours})\b", lesson.story)
            assert lesson.baselines == {"first_mention": named[0], "last_mention": named[-1]}
    for language in LANGUAGES:
        for lesson in taught(language):
            if lesson.task.startswith("translation"):
                assert lesson.baselines == {"copy": lesson.story}
            if lesson.task == "summary":
                assert lesson.baselines["copy"] in split_sentences(lesson.story, language)
        titles = of_task("title", language)
        first = sum(lesson.baselines["first_mention"] == lesson.answer for lesson in titles)
        last = sum(lesson.baselines["last_mention"] == lesson.answer for lesson in titles)
        assert first + last == len(titles)
        assert 0.4 < first / len(titles) < 0.6


def test_moods_are_said_in_some_stories_and_must_be_inferred_in_more():
    lessons_here = of_task("sentiment", "en")
    said = [lesson for lesson in lessons_here if lesson.said]
    assert 0.2 < len(said) / len(lessons_here) < 0.5
    for lesson in lessons_here:
        last = split_sentences(lesson.story, "en")[-1]
        if re.search(r"day after all|strange day|not been a good day|\b(proud|grateful)\b", last):
            assert lesson.said
        if not lesson.said:
            assert not re.search(r"\b(happy|proud|grateful)\b", lesson.story)
    for group in (said, [lesson for lesson in lessons_here if not lesson.said]):
        answers = Counter(lesson.answer for lesson in group)
        assert set(answers) == {"good", "bad", "mixed"}
        assert max(answers.values()) < 0.7 * answers.total()


# Stories to order.


def keeps_to_by_text(lesson: Lesson, told: Story) -> bool:
    """An oracle of its own, from what a story says of itself."""
    side = LANGUAGES.index(lesson.language)
    text = text_of(told, lesson.language)
    words = re.findall(r"\w+", text)
    if lesson.kind in ("words", "named"):
        return all(
            word in text if side else not set(word.split()) - set(words) for word in lesson.wanted
        )
    labels = {"about": told.topic, "title": told.title}
    if lesson.kind in labels:
        return lesson.wanted == (labels[lesson.kind][side],)
    endings = {"ends well": "good", "ends badly": "bad", "ends mixed": "mixed"}
    return lesson.kind == "free" or endings[lesson.kind] == told.sentiment[0]


@pytest.mark.parametrize("language", [pytest.param("en", marks=pytest.mark.slow), "zh"])
def test_obeys_accepts_exactly_the_stories_that_keep_to_the_constraint(language):
    kept, broken = Counter(), Counter()
    others = [story(seed) for seed in range(60_000, 60_012)]
    for lesson in of_task("story", language)[:240]:
        for other in others[:4] if lesson.kind == "free" else others:
            wanted = keeps_to_by_text(lesson, other)
            assert obeys(lesson, text_of(other, language)) == wanted, lesson
            (kept if wanted else broken)[lesson.kind] += 1
    assert min(broken[kind] for kind in set(WANTED) - {"free"}) > 10
    assert set(kept) >= {"free", "ends well", "ends badly", "about"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_story_that_is_none_is_never_accepted(language):
    for lesson in of_task("story", language)[:60]:
        sentences = split_sentences(lesson.answer, language)
        space = " " if language == "en" else ""
        for bad in (
            "",
            "  \n",
            lesson.prompt,
            space.join(sentences[:-1]),
            lesson.answer[:-1],
            space.join([*sentences, sentences[-1]]),
            space.join(sentences[::-1]),
            lesson.answer + space + lesson.answer,
            "\ud800",
            "x" * 5000,
        ):
            assert not obeys(lesson, bad), bad
        assert obeys(lesson, f" {lesson.answer}\n")
        told_wrong = lesson._replace(language="zh" if language == "en" else "en")
        assert not obeys(told_wrong, lesson.answer)


def test_other_tasks_are_obeyed_by_the_right_answer_only():
    for lesson in taught("en")[:300]:
        if lesson.task != "story":
            assert obeys(lesson, f"{lesson.answer}\n")
            assert not obeys(lesson, "")
            assert not obeys(lesson, lesson.answer + " " + lesson.answer)


def test_held_out_instructions_can_be_obeyed():
    for seed in range(20):
        told = [one for one in lessons(seed, "zh", HELD_OUT) if one.task == "story"]
        assert all(obeys(lesson, lesson.answer) for lesson in told)
        assert verify(told[0].answer, "zh").log_prob is None


# Conversations.


def language_of(messages: list[dict]) -> str:
    return "zh" if CHINESE.search(messages[0]["content"]) else "en"


@pytest.mark.slow
def test_dialogues_follow_the_table_of_shares():
    forms, turns, sides = Counter(), Counter(), Counter()
    for seed in range(2000):
        messages = dialogue(seed)
        language = language_of(messages)
        answer = messages[1]["content"]
        sides[language] += 1
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(set(message) == {"role", "content"} for message in messages)
        if bool(CHINESE.search(answer)) != (language == "zh"):
            form = "translation"
        else:
            form = "conversation" if "\n" in messages[0]["content"] else "story"
        forms[form] += 1
        if form == "conversation":
            turns[len(messages) // 2] += 1
    for counted, shares in [(forms, SHARES["dialogue"]), (turns, SHARES["turns"])]:
        for name, weight in shares.items():
            wanted = weight / sum(shares.values())
            assert counted[name] / counted.total() == pytest.approx(wanted, abs=0.04)
    assert 900 < sides["en"] < 1100


@each_world
def test_dialogues_answer_rightly_and_give_the_story_once(world):
    counted = Counter()
    for seed in range(400):
        messages, told = dialogue(seed, world), story(seed, world)
        side = LANGUAGES.index(language_of(messages))
        text, other = text_of(told, LANGUAGES[side]), text_of(told, LANGUAGES[1 - side])
        right = {q.text[side]: q.answer[side] for q in told.questions()}
        labels = {ask[side]: getattr(told, task)[side] for task in LABELS for ask in ASKED[task]}
        given, _, first = messages[0]["content"].rpartition("\n")
        asks = [first, *[m["content"] for m in messages[2::2]]]
        for ask, answer in zip(asks, [m["content"] for m in messages[1::2]], strict=True):
            question = [text for text in right if text in ask]
            if question:
                assert given == text
                assert answer == right[question[0]]
                counted["question"] += 1
            elif ask in labels:
                assert given == text
                assert answer == labels[ask]
                counted["label"] += 1
            elif given:
                assert text.startswith(given)
                assert other.startswith(answer)
                counted["translation"] += 1
            else:
                assert answer == text
                counted["story"] += 1
        assert len(set(asks)) == len(asks)
        assert not any(text in message["content"] for message in messages[2:])
    assert min(counted.values()) > 20
    assert len(counted) == 4


@pytest.mark.slow
def test_beginnings_are_short_and_their_answers_follow_from_what_was_told():
    """Each is read again from its own text: what holds after these sentences and no others."""
    forms, kinds, starts, lengths = Counter(), Counter(), set(), set()
    for seed in range(400):
        messages, told = dialogue(seed, shares=BEGINNINGS), story(seed)
        side = LANGUAGES.index(language_of(messages))
        given, _, _ = messages[0]["content"].rpartition("\n")

        def joined(first: int, count: int, side: int, told: Story = told) -> str:
            texts = [sentences[side] for sentences in told.sentences[first : first + count]]
            return "".join(texts) if side else " ".join(texts)

        if bool(CHINESE.search(messages[1]["content"])) != (side == 1):
            starting = range(len(told.sentences))
            places = [(first, count) for count in range(1, 4) for first in starting]
            place = next(place for place in places if joined(*place, side) == given)
            assert messages[1]["content"] == joined(*place, 1 - side)
            forms["translation"] += 1
            starts.add(place[0])
            lengths.add(place[1])
            continue
        count = next(n for n in range(1, 5) if joined(0, n, side) == given)
        forms["beginning"] += 1
        facts = list(early_questions(told.derivation[:count]))
        right = {q.text[side]: (q.kind, q.answer[side]) for q in facts}
        found = []
        for ask, answer in zip(messages[::2], messages[1::2], strict=True):
            text = max((t for t in right if t in ask["content"]), key=len)
            assert answer["content"] == right[text][1]
            found.append(right[text][0])
            kinds[found[-1]] += 1
        assert len(set(found)) == len(found)
    assert forms["translation"] > 230
    assert forms["beginning"] > 100
    assert lengths == {1, 2, 3}
    assert max(starts) > 10  # excerpts come from anywhere
    assert set(kinds) == {
        "where thing",
        "where person",
        "who has",
        "colour",
        "where happened",
        "in what order",
    }


def test_a_beginning_is_asked_nothing_about_what_comes_later():
    told = story(0)
    one = {q.text[0] for q in early_questions(told.derivation[:1])}
    whole = {q.text[0] for q in early_questions(told.derivation)}
    assert one
    assert one < whole


@pytest.mark.slow
def test_every_wording_occurs():
    stories_only = SHARES | {"dialogue": {"story": 1}}
    told = [
        dialogue(seed, shares=shares) for seed in range(1000) for shares in (SHARES, stories_only)
    ]
    together = "\n".join(m["content"] for messages in told for m in messages[::2])
    for wordings in (*ASKED.values(), *WANTED.values()):
        assert len(wordings) >= 3
        for wording in (text for pair in wordings for text in pair):
            pattern = ".+".join(map(re.escape, re.split(r"\{\d\}", wording)))
            assert re.search(f"^{pattern}$", together, re.M), wording


def test_shares_can_be_chosen():
    only = SHARES | {
        "dialogue": {"conversation": 1},
        "turns": {2: 1},
        "asked": {"title": 5, "who has": 1},
    }
    for seed in range(50):
        messages = dialogue(seed, shares=only)
        answers = {m["content"] for m in messages[1::2]}
        assert len(messages) == 4
        assert story(seed).title[language_of(messages) == "zh"] in answers


def test_draws_follow_the_weights_up_to_the_edges():
    weights = {"a": 1, "never": 0, "b": 3}
    drawn = [draw(weights, lambda u=u: u) for u in (0.0, 0.2499, 0.25, 1 - 2**-53)]
    assert drawn == ["a", "a", "b", "b"]
    with pytest.raises(AssertionError, match="no weight"):
        draw({}, lambda: 0.5)


def test_seeds_alone_decide(monkeypatch):
    """Of random.Random nothing but .random() is used: its stream is the same everywhere."""
    made = [dialogue(5), dialogue(5, HELD_OUT), preferences(5), lessons(5, "en")]
    assert dialogue(5) != dialogue(6)

    class OnlyRandom:
        def __init__(self, seed: int):
            self.random = Random(seed).random

    for name in ("lessons", "preferences", "stories"):
        monkeypatch.setattr(sys.modules[f"minigpt.storyworld.{name}"], "Random", OnlyRandom)
    assert made == [dialogue(5), dialogue(5, HELD_OUT), preferences(5), lessons(5, "en")]


# Preferences.


@cache
def some_pairs() -> list:
    return [pair for seed in range(250) for pair in pairs(seed, WORLDS[seed % 5 == 0])]


@pytest.mark.slow
def test_preferences_offer_every_reason():
    reasons = Counter(pair.reason for pair in some_pairs())
    assert len(reasons) == 6
    assert min(reasons.values()) > 0.9 * 250
    assert Counter(pair.lesson.language for pair in some_pairs())["en"] > 250


def test_preferences_hold_what_the_pairs_hold():
    for seed in (3, 4):
        public = [tuple(pair.values()) for pair in preferences(seed)]
        assert public == [(p.lesson.prompt, p.chosen, p.rejected, p.reason) for p in pairs(seed)]
        assert set(preferences(seed)[0]) == {"prompt", "chosen", "rejected", "reason"}


@pytest.mark.slow
def test_the_chosen_story_passes_and_the_rejected_one_does_not():
    for pair in some_pairs():
        assert obeys(pair.lesson, pair.chosen), pair
        assert not obeys(pair.lesson, pair.rejected), pair
        assert pair.chosen != pair.rejected


PLACE = {
    "en": "|".join(f"(?:(?:in|on|at|by) )?the {place.en}" for place in lexicon.PLACES),
    "zh": "|".join(f"{place.zh_at}|在?{place.zh}" for place in lexicon.PLACES),
}
CHILD = {
    "en": r"\b(?:"
    + "|".join(p.en for p in lexicon.PEOPLE)
    + r"|[Ss]?[Hh]e|[Hh]im|[Hh]er|[Hh]is)\b",
    "zh": "|".join([*(p.zh for p in lexicon.PEOPLE), "他", "她"]),
}


def without(pattern: str, sentence: str) -> str:
    return re.sub(pattern, "_", sentence).replace("_'s", "_")


@pytest.mark.slow
def test_every_rejected_story_has_the_fault_that_is_named():
    for lesson, chosen, rejected, reason, index in some_pairs():
        language = lesson.language
        right, wrong = split_sentences(chosen, language), split_sentences(rejected, language)
        match reason:
            case "ignored instruction":
                assert verify(rejected, language).ok
                continue
            case "broken off":
                assert right[:index] == wrong
                continue
            case "repeated sentence":
                assert right == wrong[:index] + wrong[index + 1 :]
                assert wrong[index] == wrong[index - 1]
                continue
        assert right[:index] + right[index + 1 :] == wrong[:index] + wrong[index + 1 :]
        if reason == "wrong feeling":
            assert index == len(right) - 1
            said = [
                felt_in(sentence, language) in GOOD_MOODS for sentence in (right[-1], wrong[-1])
            ]
            assert sorted(said) == [False, True]
        else:
            pattern = (PLACE if reason == "inconsistent place" else CHILD)[language]
            assert without(pattern, right[index]) == without(pattern, wrong[index]), reason


def felt_in(sentence: str, language: str) -> str:
    """Return the mood that a sentence names."""
    side = LANGUAGES.index(language)
    return next(mood.en for mood in lexicon.MOODS if (mood.en, mood.zh)[side] in sentence)


@pytest.mark.slow
def test_the_verifier_refuses_exactly_the_spoiled_sentence():
    for pair in some_pairs():
        verdict = verify(pair.rejected, pair.lesson.language)
        if pair.wrong_at >= 0:
            assert verdict.sentences_read == pair.wrong_at
            assert not verdict.ok
            assert ("stops before its end" in verdict.fault) == (pair.reason == "broken off")
