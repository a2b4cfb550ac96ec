"""Storyworld: exact probabilities, two languages from one choice, richness, and no baselines."""

import doctest
import importlib
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storyworld_states import LANGUAGES, check_distinct

from minigpt.storyworld import Story, documents, lexicon, log_prob, measure, story, verify
from minigpt.storyworld.casting import kept_apart
from minigpt.storyworld.census import entropy, enumerate_stories, small_world
from minigpt.storyworld.forms import FORMS, SLOT
from minigpt.storyworld.plot import Plot, mix
from minigpt.storyworld.read import parse
from minigpt.storyworld.spelling import article
from minigpt.storyworld.stories import total
from minigpt.storyworld.tables import Table, World
from minigpt.storyworld.tell import join, render, sample
from minigpt.support.errors import DataError

ROOT = Path(__file__).resolve().parents[1]


HELD_OUT = World.full("held_out")


def stories(count: int, start: int = 0, world: World | None = None) -> list[Story]:
    return [story(seed, world) for seed in range(start, start + count)]


@pytest.fixture(scope="module")
def many() -> list[Story]:
    return stories(2000, 200_000)


def cast_of(told: Story) -> dict[str, str]:
    return dict(pair for step in told.derivation for pair in step.words)


# One definition, three readers.


def test_small_world_is_listed_whole_and_its_probabilities_sum_to_one():
    for world in (small_world(), small_world("held_out")):
        listed = list(enumerate_stories(world))
        assert sum(p for _, p in listed) == 1
        assert len(listed) > 2000
        exact = -math.fsum(float(p) * math.log(p) for _, p in listed)
        assert entropy(world) == pytest.approx(exact, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_parser_agrees_with_every_listed_probability(language):
    world, texts = small_world(), set()
    for steps, p in enumerate_stories(world):
        text = join(render(steps, language), language)
        assert total(parse(world, text, language)) == pytest.approx(math.log(p), abs=1e-9)
        texts.add(text)
    assert len(texts) == sum(1 for _ in enumerate_stories(world)), "two derivations share a text"


def check_round_trip(seeds: range, world: World | None = None) -> None:
    for seed in seeds:
        told = story(seed, world)
        assert abs(log_prob(told.english, "en", world) - told.log_prob) < 1e-9, seed
        assert abs(log_prob(told.chinese, "zh", world) - told.log_prob) < 1e-9, seed


@pytest.mark.slow
def test_text_of_ten_thousand_stories_gives_back_its_probability_in_both_languages():
    check_round_trip(range(10_000))


@pytest.mark.slow
def test_held_out_text_gives_back_its_probability_in_both_languages():
    check_round_trip(range(300), HELD_OUT)


@pytest.mark.soak
def test_text_of_many_stories_gives_back_its_probability_in_both_languages():
    check_round_trip(range(10_000, 110_000))
    check_round_trip(range(20_000), HELD_OUT)


def test_exact_entropy_is_the_mean_of_minus_log_p():
    """The datasheet holds both, computed in two ways; a test below computes the datasheet anew."""
    datasheet = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    exact = float(re.search(r"exact \(chain rule.*\| ([\d.]+) nats", datasheet)[1])
    mean, error = map(float, re.search(r"-log p \| ([\d.]+) ± ([\d.]+)", datasheet).groups())
    assert abs(exact - mean) < 4 * error
    assert 50 < exact < 80
    assert 0 < error < 0.2


def test_one_choice_of_form_fixes_both_languages():
    for told in stories(200, 3000):
        steps = parse(World.full(), told.chinese, "zh")
        assert join(render(steps, "en"), "en") == told.english
        assert len(told.sentences) == len(told.derivation)


@pytest.mark.parametrize("count", [60, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("pairs", ["train", "all"])
def test_in_every_state_all_sentences_are_distinct(pairs, language, count):
    few = World(pairs=pairs, first_words=dict.fromkeys(lexicon.LISTS, 2))
    for seed in range(count):
        plot, cast = Plot(), {}
        for step in sample(few, Random(seed).random):
            check_distinct(few, plot, cast, language)
            cast |= dict(step.words)
            plot = step.event.after


def test_every_kind_of_event_has_forms_and_every_form_is_told(many):
    kinds = {event.kind for told in many for event, *_ in told.derivation}
    assert kinds == set(FORMS)


def test_only_random_numbers_decide():
    told, calls, random = story(11), [], Random(11).random

    def counted() -> float:
        calls.append(random())
        return calls[-1]

    steps = sample(World.full(), counted)
    assert steps == told.derivation
    assert len(calls) == sum(2 + len(step.words) for step in steps)
    assert story(11).english == told.english != story(12).english


def test_draws_follow_the_weights_up_to_the_edges():
    table = Table([(1, "a"), (3, "b")])
    assert [table.draw(lambda u=u: u)[0] for u in (0.0, 0.2499, 0.25, 1 - 2**-53)] == list("aabb")
    assert table.draw(lambda: 0.9)[1] == math.log(3 / 4)


def test_mix_gives_each_list_its_share_in_integers():
    mixed = mix((1, [(1, "a"), (2, "b")]), (2, [(5, "c"), (2, "d")]), (9, []))
    weights = {name: weight for weight, name in mixed}
    assert all(isinstance(weight, int) for weight in weights.values())
    assert 2 * (weights["a"] + weights["b"]) == weights["c"] + weights["d"]
    assert weights["b"] == 2 * weights["a"]


# Documents and the second held-out set.


def test_documents_are_stories_in_either_language_and_cost_one_bit_more():
    pairs = list(documents(400, seed=77))
    english = 0
    for seed, (text, nats) in enumerate(pairs, start=77):
        told = story(seed)
        assert text in (told.english, told.chinese)
        assert nats == pytest.approx(math.log(2) - told.log_prob)
        english += text == told.english
    assert 150 < english < 250
    assert list(documents(3, seed=80)) == pairs[3:6]


def test_training_never_shows_a_pair_that_is_held_out(many):
    for told in many:
        cast = cast_of(told)
        pairs = [
            (cast[child], cast[thing]) for child in ("hero", "friend") for thing in ("toy", "other")
        ]
        assert not any(kept_apart(*pair) for pair in pairs)
    for told in stories(300, world=HELD_OUT):
        cast = cast_of(told)
        assert kept_apart(cast["hero"], cast["toy"])
        with pytest.raises(DataError):
            log_prob(told.english, "en")
        assert verify(told.english, "en").log_prob is None
        assert verify(told.english, "en", HELD_OUT).log_prob == pytest.approx(told.log_prob)
    apart = [kept_apart(child.en, thing.en) for child in lexicon.PEOPLE for thing in lexicon.THINGS]
    assert sum(apart) / len(apart) == 1 / 8


# Rich, correct, and not to be guessed.


def test_the_world_is_rich(many):
    rich = measure.richness(many)
    assert rich.word_types >= 400
    assert rich.forms >= 60
    assert rich.sentences[0] >= 8
    assert rich.sentences[2] <= 20
    assert 11 <= rich.sentences[1] <= 13
    assert rich.recall >= 0.5, "facts should come back after 8 sentences and more"
    assert max(rich.topics.values()) < 0.4
    assert min(rich.sentiments.values()) > 0.1


@pytest.mark.slow
def test_no_baseline_answers_the_questions(many):
    blind = measure.baselines(many)
    assert len(blind) == 9
    for kind, shares in blind.items():
        assert shares.n > 250, kind
        assert shares.majority < 0.4, (kind, shares)
        assert shares.last < 0.4, (kind, shares)


def test_baselines_are_found_where_there_are_some():
    """The measure itself must be able to fail: the coat's colour is always mentioned first."""
    asked = [
        (question, told)
        for told in stories(200)
        for question in told.questions()
        if question.kind == "colour" and question.answer[0] == cast_of(told)["coat"]
    ]
    assert measure.blind_answers(asked).first > 0.9
    assert measure.blind_answers(asked).last < 0.2


def test_english_is_spelled_and_set_correctly(many):
    for told in many[:1000]:
        text = told.english
        assert re.fullmatch(r"[A-Za-z ,.?!;:'\"]+", text), text
        assert not re.search(r"  | [,.;:?!]|\b(\w+) \1\b", text), text
        assert not re.search(r"\ba [aeiou]|\ban (?!hour)[^aeiou]", text), text
        assert not re.search(r"(?:said|asked|cried|thought|of|to|with) (?:he|she)\b(?! \w)", text)
        for english, _ in told.sentences:
            assert english[0].isupper() or english[0] == '"'
            assert english.count('"') in (0, 2)


def test_chinese_is_set_correctly(many):
    for told in many[:1000]:
        assert not re.search(r"[\x00-\x7f]", told.chinese), told.chinese
        for _, chinese in told.sentences:
            assert chinese[-1] in "。！？”"
            assert chinese.count("“") == chinese.count("”")
            assert not re.search(r"的的|在在|了了|，，|她她|他他", chinese), chinese


@pytest.mark.parametrize("path", sorted((ROOT / "minigpt" / "storyworld").glob("*.py")))
def test_examples_in_docstrings_are_true(path):
    module = importlib.import_module(f"minigpt.storyworld.{path.stem}".removesuffix(".__init__"))
    assert doctest.testmod(module).failed == 0


def test_articles():
    assert article("orange kite") == "an orange kite"
    assert article("red kite") == "a red kite"


def test_every_slot_of_every_form_is_written_in_both_languages():
    """A form that forgets a new word in one language would lose information there."""
    for kind, forms in FORMS.items():
        for weight, english, chinese in forms:
            assert weight > 0
            assert SLOT.sub("", chinese).isascii() is False or kind == "sight"
            assert SLOT.search(english) or SLOT.search(chinese) or len(english) > 10


def test_questions_have_answers_in_both_languages(many):
    kinds = Counter()
    for told in many[:400]:
        for question in told.questions():
            kinds[question.kind] += 1
            assert question.answer in question.offers.values()
        pairs = [text for q in told.questions() for text in (q.text, q.answer)]
        pairs += [told.title, told.summary, told.sentiment, told.topic]
        for english, chinese in pairs:
            assert not re.search(r"[%{}]|MOOD|  ", english + chinese)
            assert english.isascii()
            assert not re.search(r"[\x00-\x7f]", chinese), chinese
    assert len(kinds) == 9


def test_answers_about_the_end_follow_from_the_last_sentences():
    """An oracle of its own: the last sentence that puts a child somewhere says where it is."""
    checked = 0
    for told in stories(500, 9000):
        kinds = [step.event.kind for step in told.derivation]
        answers = {q.text[0]: q.answer[0] for q in told.questions()}
        cast = cast_of(told)
        if "go home together" in kinds:
            for child in ("hero", "friend"):
                where = answers[f"Where is {cast[child]} at the end?"]
                assert where.endswith(cast["start"])
                checked += 1
        if "tell" in kinds:
            assert answers[f"Where is {cast['hero']} at the end?"].endswith(cast["far"])
            checked += 1
    assert checked > 50


# The verifier.


def test_verify_accepts_every_story_and_scores_it():
    for told in stories(200, 7000):
        for text, language in ((told.english, "en"), (told.chinese, "zh")):
            verdict = verify(text + "\n", language)
            assert verdict.ok
            assert verdict.log_prob == pytest.approx(told.log_prob)
            assert verdict.sentences_read == len(told.derivation)


def mutants(told: Story) -> dict[str, list[str]]:
    """Return stories that cannot be."""
    sentences, cast = [english for english, _ in told.sentences], cast_of(told)
    stranger = next(p.en for p in lexicon.PEOPLE if p.en not in cast.values())
    elsewhere = next(p.en for p in lexicon.PLACES if p.en not in cast.values())
    colour = next(c.en for c in lexicon.COLORS if c.en not in cast.values())
    made = {
        "cut off": sentences[:-1],
        "gone on": [*sentences, sentences[-1]],
        "backwards": sentences[::-1],
        "empty": [],
        "not of this world": [*sentences[:3], "The dragon ate them all.", *sentences[3:]],
    }
    troubles = [step.event.after.trouble for step in told.derivation]
    for i, (text, step) in enumerate(zip(sentences, told.derivation, strict=True)):
        without = [*sentences[:i], *sentences[i + 1 :]]
        if (step.words and step.event.kind != "plan") or (troubles[i] and not troubles[i - 1]):
            made[f"without {step.event.kind}"] = without
        if step.words:
            continue
        for name, old, new in [
            ("a stranger", cast["friend"], stranger),
            ("elsewhere", f"the {cast['second']}", f"the {elsewhere}"),
            ("another colour", cast["colour"], colour),
        ]:
            if re.search(rf"\b{old}\b", text):
                made[name] = [*sentences[:i], re.sub(rf"\b{old}\b", new, text), *sentences[i + 1 :]]
    return made


@pytest.mark.parametrize("count", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_verify_rejects_stories_that_cannot_be(count):
    seen = Counter()
    for told in stories(count, 8000):
        for name, sentences in mutants(told).items():
            verdict = verify(" ".join(sentences), "en")
            assert not verdict.ok, (name, sentences)
            assert verdict.log_prob is None
            assert verdict.sentences_read <= len(sentences)
            seen[name.split()[0]] += 1
    kinds = ("cut", "gone", "without", "a", "elsewhere", "another")
    assert min(seen[kind] for kind in kinds) > count / 6


def swap(text: str, one: str, other: str) -> str:
    names = {one: other, other: one}
    return re.sub("|".join(names), lambda match: names[match[0]], text)


def test_verify_finds_who_does_what_he_cannot_do():
    """Swapping the children in one sentence is rejected wherever the facts forbid it."""
    rejected = accepted = 0
    for told in stories(300, 8500):
        cast, sentences = cast_of(told), [english for english, _ in told.sentences]
        for i, (text, step) in enumerate(zip(sentences, told.derivation, strict=True)):
            if step.words or not {"fetch", "bring", "come"} & set(step.event.kind.split()):
                continue
            changed = swap(text, cast["hero"], cast["friend"])
            if changed != text:
                ok = verify(" ".join([*sentences[:i], changed, *sentences[i + 1 :]]), "en").ok
                rejected, accepted = rejected + (not ok), accepted + ok
    assert rejected > 5 * accepted


def test_verdict_names_the_first_wrong_sentence_and_what_could_have_stood_there():
    told = story(5)
    wrong = [*[english for english, _ in told.sentences[:4]], "Then everybody flew to the moon."]
    verdict = verify(" ".join(wrong), "en")
    assert verdict.sentences_read == 4
    assert "sentence 5" in verdict.fault
    assert "flew to the moon" in verdict.fault
    assert "\n" not in verdict.fault
    suggestion = verdict.fault.split("possible were: ")[1].split(" | ")[0]
    assert verify(" ".join([*wrong[:4], suggestion]), "en").sentences_read == 5
    assert "was over" in verify(told.chinese + "完。", "zh").fault
    assert verify(told.english, "zh").sentences_read == 0


@settings(max_examples=150, deadline=None)
@given(st.text(), st.sampled_from(LANGUAGES))
def test_any_text_gets_a_verdict(text, language):
    assert not verify(text, language).ok


def test_text_of_another_world_names_sentence_and_remedy():
    with pytest.raises(DataError) as error:
        log_prob("Call me Ishmael. Some years ago I went to sea.", "en")
    assert "sentence 1: 'Call me Ishmael.'" in str(error.value)
    assert "verify()" in str(error.value)
    with pytest.raises(DataError, match="no end"):
        log_prob("".join(chinese for _, chinese in story(3).sentences[:-1]), "zh")
    with pytest.raises(DataError, match="no end"):
        log_prob("", "en")


# The shipped sample.


@pytest.mark.slow
def test_datasets_are_regenerated_byte_for_byte(tmp_path):
    tool = ROOT / "tools" / "make_datasets.py"
    subprocess.run([sys.executable, str(tool), "--out", str(tmp_path)], check=True)
    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (ROOT / "datasets" / path.name).read_bytes(), path.name
        assert b"\r" not in path.read_bytes()
    assert len(list(tmp_path.iterdir())) == len(list((ROOT / "datasets").iterdir())) == 6


@pytest.mark.slow
def test_the_figure_for_tinystories_is_measured(data_dir):
    text = (data_dir / "tinystories" / "tinystories_10k.txt").read_text(encoding="utf-8")
    datasheet = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"TinyStories.*\| ([\d.]+) \|", datasheet)
    assert float(shown[1]) == pytest.approx(measure.compressed_share(text), abs=0.002)


def test_the_package_never_reads_the_datasets():
    for path in (ROOT / "minigpt" / "storyworld").glob("*.py"):
        assert "datasets" not in path.read_text(encoding="utf-8"), path.name
