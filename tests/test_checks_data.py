"""Wrong answers about data fail, each with a word on what to look at."""

import pytest
from solved import answer_of, fails, solution

from minigpt.checks import judge
from minigpt.checks.data import BY_HAND as DATA_BY_HAND
from minigpt.checks.data import PAIR, by_family, leaked, measured_spread, staying, words_of

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"jaccard": 0.8}, "both together"),
        ({"jaccard": 0.4}, "counted twice"),
        ({"jaccard": 0.714}, "runs of three"),
        ({"pairs_of_words": 0.667}, "runs of two"),
        ({"pairs_of_words": 0.833}, "all of both"),
        ({"error": 0.000625}, "variance"),
        ({"error": 0.5}, "400 of them"),
        ({"hashes": 50}, "ROOT"),
        ({"hashes": "2500"}, "should be a number"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_likeness_by_hand(change, words):
    assert judge("data.by_hand", DATA_BY_HAND) == ("passed", "passed")
    fails("data.by_hand", DATA_BY_HAND | change, words)


def test_the_pair_of_the_exercise_is_half_alike():
    from minigpt.data.dedup import jaccard, shingles

    assert jaccard(*map(shingles, PAIR)) == 0.5


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: leaked(*a, words=lambda t: words_of(t, fold=str)), "use casefold"),
        (lambda *a: leaked(*a, words=lambda t: words_of(t, fold=str.lower)), "SS in capitals"),
        (lambda *a: leaked(*a, words=lambda t: words_of(t, "[a-z]+")), "letters too"),
        (lambda *a: leaked(*a, words=lambda t: words_of(t, r"\w+")), "Digits"),
        (lambda *a: leaked(*a, inside=True), "whole words"),
        (lambda *a: leaked(*a, short=False), "fewer than n words"),
        (lambda *a: leaked(*a, every=True), "One common run"),
        (lambda *a: leaked(*a, across=True), "ONE lesson"),
        (lambda lessons, questions, n: leaked(lessons, questions, n + 1), "on paper"),
        (lambda *a: len(leaked(*a)), "expected a list"),
        (lambda *a: [bool(leaked(a[0], [question], a[2])) for question in a[1]], "got ["),
    ],
)
def test_wrong_leaks(answer, words):
    assert judge("data.leaks", lambda *a: leaked(*a)) == ("passed", "passed")
    fails("data.leaks", answer, words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda d, f: by_family(d, f, key=1), "whole family"),
        (lambda d, f: by_family(d, f, swap=True), "training comes first"),
        (lambda d, f: by_family(d, f, whole=True), "texts alone"),
        (lambda d, f: by_family(d, 1 - f), "big-endian"),
        (lambda d, f: by_family(d, f, tidy=str.casefold), "'Site' and 'site'"),
        (lambda d, f: by_family(d, f, tidy=str.strip), "' site'"),
        (lambda d, f: by_family(d, f, tidy=lambda name: name.strip().lower()), "case or spaces"),
        (lambda d, f: by_family(d, f, once=True), "comes twice"),
        (lambda d, f: by_family(sorted(set(d))[:90], f), "expected 200"),
        (lambda d, f: by_family(d, f)[0], "pair of lists"),
    ],
)
def test_wrong_families(answer, words):
    assert judge("data.families", lambda d, f: by_family(d, f)) == ("passed", "passed")
    fails("data.families", answer, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sets": False}, "compare sets"),
        ({"union": False}, "counted twice"),
        ({"chain": True}, "texts that stay"),
        ({"last": False}, "len - width + 1"),
        ({"sets": False, "union": False, "chain": True}, "More than one fault"),
    ],
)
def test_each_fault_left_in_the_search_for_copies_is_named(options, words):
    assert judge("data.repair", lambda *a: staying(*a)) == ("passed", "passed")
    fails("data.repair", lambda *a: staying(*a, **options), words)


def test_the_planted_search_fails_as_it_is():
    fails("data.repair", solution("data.repair").names["broken"], "More than one fault")


SPREADS: dict = {f"spread_{n}": measured_spread(n) for n in (16, 64, 256)}
SPREADS |= {"times": 4, "why": "c"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spread_16": 0.0156}, "variance"),
        ({"spread_64": 0.5}, "mean of the estimates"),
        ({"spread_256": 0.0625}, "np.std"),
        ({"spread_16": 0.125}, "measure what 200 seeds give"),
        ({"spread_64": 0.0625}, "measure what 200 seeds give"),
        ({"spread_256": 0.03125}, "measure what 200 seeds give"),
        ({"times": 2}, "root 2"),
        ({"why": "a"}, "explanation"),
        ({"why": "b"}, "explanation"),
        ({"why": "d"}, "explanation"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_spreads(change, words):
    assert judge("data.hashes", SPREADS) == ("passed", "passed")
    fails("data.hashes", SPREADS | change, words)


def sieve_of(rows, bands):
    found, for_nothing = (1 - (1 - s**rows) ** bands for s in (0.7, 0.3))
    return {"rows": rows, "bands": bands, "found": found, "for_nothing": for_nothing}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (sieve_of(5, 20), "over 2 %"),
        (sieve_of(6, 23), "not 95 %"),
        (sieve_of(8, 51), "over 400"),
        (sieve_of(6, 24) | {"found": 0.7**6}, "s = 0.7"),
        (sieve_of(6, 24) | {"for_nothing": 1 - (1 - 0.3**24) ** 6}, "s = 0.3"),
        (sieve_of(6, 24) | {"bands": 25}, "s = 0.7"),
        (sieve_of(6, 24) | {"rows": 6.0}, "whole numbers"),
        (sieve_of(6, 24) | {"hashes": 144}, "expected a dict"),
    ],
)
def test_wrong_sieve(answer, words):
    fails("data.sieve", answer, words)


def test_every_sieve_that_is_fine_enough_is_right_to_three_decimals():
    right = [
        answer
        for rows in range(1, 41)
        for bands in range(1, 400 // rows + 1)
        if (answer := sieve_of(rows, bands))["found"] >= 0.95 and answer["for_nothing"] <= 0.02
    ]
    assert len(right) == 27
    for answer in right:
        rounded = {name: round(value, 3) for name, value in answer.items()}
        for each in (answer, rounded):
            assert judge("data.sieve", each) == ("passed", "passed"), each


def test_spreads_are_right_to_three_decimals_and_with_n_less_1():
    one_less = (200 / 199) ** 0.5
    for change in (lambda x: round(x, 3), lambda x: x * one_less, lambda x: round(x * one_less, 3)):
        answer = {k: change(v) if isinstance(v, float) else v for k, v in SPREADS.items()}
        assert judge("data.hashes", answer) == ("passed", "passed"), answer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["leaks", "families", "repair"])
def test_200_right_answers_pass(name, monkeypatch):
    answer = answer_of(f"data.{name}")
    for student in range(200):
        monkeypatch.setenv("MINIGPT_STUDENT", f"student {student}")
        assert judge(f"data.{name}", answer) == ("passed", "passed"), student
