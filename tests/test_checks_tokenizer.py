"""Wrong answers about tokenizer fail, each with a word on what to look at."""

import unicodedata

import pytest
import regex
from solved import answer_of, fails, solution

from minigpt.checks import judge
from minigpt.checks.tokenizer import (
    DISEASE,
    EURO,
    MERGES,
    learn,
    longest_first,
    longest_last,
    seen_characters,
)

pytestmark = pytest.mark.usefixtures("student")

BY_HAND = {"merges": MERGES, "disease": DISEASE, "euro": EURO}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merges": ["se", "sea", "seal"]}, "equally frequent"),
        ({"merges": ["ea", "se", "seal"]}, "the neighbor is ea"),
        ({"merges": ["ea", "sea", "ls"]}, "merges, number 3"),
        ({"merges": ["ea", "sea"]}, "the length of merges"),
        ({"merges": [("e", "a"), ("s", "ea"), ("sea", "l")]}, "like 'ab'"),
        ({"merges": "ea sea seal"}, "should be a list"),
        ({"disease": ["d", "i", "s", "ea", "s", "e"]}, "joins s and ea"),
        ({"disease": ["dis", "ease"]}, "three merges"),
        ({"disease": ["sea"]}, "spell the word"),
        ({"euro": [32, 172]}, "three bytes"),
        ({"euro": [226, 2, 44]}, "adds 128"),
        ({"euro": [2, 130, 172]}, "adds 224"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_merges_by_hand(change, words):
    assert judge("tokenizer.by_hand", BY_HAND) == ("passed", "passed")
    fails("tokenizer.by_hand", BY_HAND | change, words)


def test_the_euro_is_what_python_makes_of_it():
    assert list("€".encode()) == EURO


def shortest_first(data, tokens):
    return [bytes([byte]) for byte in data]


def the_better_of_both(data, tokens):
    return min(longest_first(data, tokens), longest_last(data, tokens), key=len)


def backwards(data, tokens):
    return answer_of("tokenizer.fewest")(data, tokens)[::-1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda data, tokens: longest_first(data, tokens), "longest piece now"),
        (the_better_of_both, "Neither longest first nor longest last"),
        (shortest_first, "best way to each place"),
        (lambda data, tokens: len(longest_first(data, tokens)), "expected a list"),
        (lambda data, tokens: [data], "not in the vocabulary"),
        (lambda data, tokens: longest_first(data, tokens)[:-1], "not the data"),
        (backwards, "wrong order"),
        (lambda data, tokens: [p.decode() for p in longest_first(data, tokens)], "list of bytes"),
    ],
)
def test_wrong_fewest(answer, words):
    fails("tokenizer.fewest", answer, words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda t: seen_characters(t, lambda c: unicodedata.combining(c) != 0), "combining class"),
        (lambda t: seen_characters(t, lambda c: unicodedata.category(c) == "Mn"), "Mn, Mc and Me"),
        (lambda t: seen_characters(t, lambda c: unicodedata.category(c) in ("Mn", "Mc")), "Me"),
        (lambda t: seen_characters(t, joiner=""), "follows a joiner"),
        (list, "the character before it"),
        (lambda t: seen_characters(unicodedata.normalize("NFC", t)), "not the text"),
        (lambda t: len(seen_characters(t)), "expected a list"),
        (lambda t: regex.findall(r"\P{M}\p{M}*", t), ""),
    ],
)
def test_wrong_screen(answer, words):
    assert judge("tokenizer.screen", lambda text: seen_characters(text)) == ("passed", "passed")
    fails("tokenizer.screen", answer, words)


def spoil_counts(counts, n_merges):
    merges = learn(counts, n_merges)
    counts.clear()
    return merges


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda c, n: learn(c, n, weighted=False), "counts 5 times"),
        (lambda c, n: learn(c, n, smaller=False), "the smaller one wins"),
        (lambda c, n: learn(c, n, by_text=True), "'ba n' holds 'a n'"),
        (lambda c, n: learn(c, n, recount=False), "count again"),
        (lambda c, n: learn(c, n, weighted=False, smaller=False), "More than one fault"),
        (lambda c, n: learn(c, n - 1), "the number of merges"),
        (spoil_counts, "counts were changed"),
    ],
)
def test_each_fault_left_in_the_trainer_is_named(answer, words):
    assert judge("tokenizer.repair", lambda c, n: learn(c, n)) == ("passed", "passed")
    fails("tokenizer.repair", answer, words)


def test_the_planted_trainer_fails_as_it_is():
    fails("tokenizer.repair", solution("tokenizer.repair").names["broken"], "More than one fault")


@pytest.fixture(scope="module")
def measured():
    names: dict = {}
    own = solution("tokenizer.languages")
    names.update(own.names)
    exec(own.source, names)
    return names["measured"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {"english_only": m["english_only"] / 3}, "per byte"),
        (lambda m: {"both": 1 / m["both"]}, "the other way round"),
        (lambda m: {"times": 1 / m["times"]}, "the other way round"),
        (lambda m: {"both": 1.5}, "both is 1.5"),
        (lambda m: {"why": "a"}, "explanation"),
        (lambda m: {"why": "c"}, "explanation"),
        (lambda m: {"why": "d"}, "explanation"),
        (lambda m: {"more": 1}, "expected a dict"),
    ],
)
def test_wrong_languages(measured, change, words):
    fails("tokenizer.languages", measured | change(measured), words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda t: regex.findall(r" ?\p{L}+|[^\p{L}]", t), "allow longer chunks"),
        (lambda t: list(t), "the aim is"),
        (lambda t: [t], "cut more often"),
        (lambda t: t.split(" "), "not the text"),
        (lambda t: t, "expected a list"),
    ],
)
def test_wrong_scissors(answer, words):
    fails("tokenizer.cut", answer, words)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fewest", "screen", "repair"])
def test_200_right_answers_pass(name, monkeypatch):
    answer = answer_of(f"tokenizer.{name}")
    for student in range(200):
        monkeypatch.setenv("MINIGPT_STUDENT", f"student {student}")
        assert judge(f"tokenizer.{name}", answer) == ("passed", "passed"), student


def test_fewest_refuses_the_better_of_both_on_every_draw(monkeypatch):
    for student in range(50):
        monkeypatch.setenv("MINIGPT_STUDENT", f"student {student}")
        assert judge("tokenizer.fewest", the_better_of_both)[0] == "failed", student
