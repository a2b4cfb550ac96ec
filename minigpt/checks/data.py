"""Checks of the data exercises, each with an oracle of its own."""

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import regex
from torch import Generator

from minigpt.checks import exercise
from minigpt.checks.compare import call, integers, require, same_number
from minigpt.data.dedup import MinHash, shingles, similarity

BY_HAND = {"jaccard": 4 / 6, "pairs_of_words": 5 / 7, "error": 0.025, "hashes": 2500}
WORDS = ("the", "old", "red", "kite", "flew", "over")


@exercise("data.by_hand", "write the shingles of both in two columns, and mark the common ones.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect two similarities, an error and a number of hashes."""
    names = set(BY_HAND)
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    slips = {
        (
            "jaccard",
            4 / 5,
        ): "That divides by one text's shingles; divide by those of both together.",
        ("jaccard", 4 / 10): "The common ones were counted twice below the line.",
        ("jaccard", 5 / 7): "Those are words, or runs of two; take runs of three words.",
        ("pairs_of_words", 4 / 6): "That is for runs of three; now take runs of two.",
        ("pairs_of_words", 5 / 6): "That divides by one text's shingles; divide by all of both.",
        ("error", 0.000625): "That is the variance; the error is its root.",
        ("error", 0.5): "That is the error of one hash; 400 of them share it.",
        ("hashes", 50): "The error falls with the ROOT of the number of hashes.",
        ("hashes", 250): "The error falls with the ROOT of the number of hashes.",
    }
    for name, right in BY_HAND.items():
        got = answer[name]
        is_number = isinstance(got, int | float)
        near = (
            s for (n, x), s in slips.items() if n == name and is_number and abs(got - x) < 0.003
        )
        hint = next(near, "Count once more, or put s = 0.5 into the formula of the error.")
        same_number(got, right, name, hint, 0.006 if name != "error" else 0.0006)


# Questions among the lessons


def words_of(text: str, pattern: str = r"\p{L}+", fold: Callable = str.casefold) -> list[str]:
    """Return the words of a text, without case and punctuation."""
    return regex.findall(pattern, fold(text))


def leaked(
    lessons: list[str],
    questions: list[str],
    n: int,
    words: Callable[[str], list[str]] = words_of,
    short: bool = True,
    every: bool = False,
    across: bool = False,
    inside: bool = False,
) -> list[int]:
    """Return which questions share a run of n words with a lesson; options plant a slip each."""
    read = [words(lesson) for lesson in lessons]
    read = [[word for lesson in read for word in lesson]] if across else read
    found = []
    for number, question in enumerate(questions):
        asked = words(question)
        width = min(n, len(asked)) if short else n
        starts = range(len(asked) - width + 1) if width else ()
        runs = {tuple(asked[i : i + width]) for i in starts}
        seen = {tuple(r[i : i + width]) for r in read for i in range(len(r) - width + 1)}
        if inside:
            seen = {run for run in runs if any(" ".join(run) in " ".join(r) for r in read)}
        if runs and (runs <= seen if every else runs & seen):
            found.append(number)
    return found


LEAK_SLIPS: dict[str, dict[str, Any]] = {
    "Case does not count: use casefold.": {"words": lambda t: words_of(t, fold=str)},
    "lower() leaves ß as it is, and ß is SS in capitals: use casefold.": {
        "words": lambda t: words_of(t, fold=str.lower)
    },
    "é and 中 are letters too: words are runs of \\p{L}.": {
        "words": lambda t: words_of(t, r"[a-z]+")
    },
    "Digits are no letters: words are runs of \\p{L}.": {"words": lambda t: words_of(t, r"\w+")},
    "A question of fewer than n words counts if all of it stands in a row.": {"short": False},
    "One common run is enough.": {"every": True},
    "A run must stand in ONE lesson, not across the end of one and the next.": {"across": True},
    "Compare whole words: 'he cat sat' is no run of 'the cat sat down'.": {"inside": True},
}


@exercise("data.leaks", "a set of tuples for the lessons, then one question after the other.")
def leaks(answer: Callable, generator: Generator) -> None:
    """Expect the numbers of the questions that share a run of n words with one lesson."""
    story = "The red kite flew over the old mill. And then it sang!"
    cases = [
        (
            [story],
            ["THE RED KITE FLEW", "the red kite sang", "old mill and", "over the old mill"],
            4,
        ),
        ([story, "to its moon"], ["then it sang to", "sang to its", "Sang.", "moon!", "", "!?"], 3),
        (["a b c d e", "c d e f"], ["b c d e f", "d e f g", "x y", "c d"], 4),
        (["the cat sat down"], ["he cat sat", "the cat sa", "cat", "at", "cat sat do"], 3),
        (["Où est l'été ? Là-bas."], ["ou est l", "OÙ EST L'ÉTÉ", "o est l", "la bas"], 3),
        (
            ["Die Straße ist lang.", "雨果拿着手偶。"],
            ["DIE STRASSE IST", "雨果拿着手偶", "雨果"],
            3,
        ),
        (["it flew 2 miles away"], ["it flew miles away", "flew 3 miles", "2 miles away"], 4),
        (["x_y z"], ["x y z", "x_y"], 3),
    ]
    for _ in range(12):
        texts = [
            " ".join(WORDS[i] for i in integers(generator, 0, 5, size))
            for size in integers(generator, 1, 9, 9)
        ]
        cases.append((texts[:4], [text.capitalize() + "." for text in texts[4:]], 3))
    same_lists(answer, cases, leaked, LEAK_SLIPS, "Take one question and write its runs on paper.")


def same_lists(
    answer: Callable, cases: list[tuple], oracle: Callable, slips: dict[str, dict], otherwise: str
) -> None:
    """Require the oracle's list in each case; name the slip that explains all answers, if any."""
    answers = []
    for inputs in cases:
        got = call(answer, *inputs, case=f"inputs {inputs}")
        require(isinstance(got, list | tuple), f"expected a list, got {type(got).__name__}")
        answers.append(list(got))
    explained = (
        sentence
        for sentence, options in slips.items()
        if answers == [oracle(*inputs, **options) for inputs in cases]
    )
    hint = next(explained, otherwise)
    for inputs, got in zip(cases, answers, strict=True):
        right = oracle(*inputs)
        require(got == right, f"got {got}, expected {right}. {hint} (inputs {inputs})")


# Families


def by_family(
    documents: list[tuple[str, str]],
    fraction: float,
    key: int = 0,
    swap: bool = False,
    whole: bool = False,
    tidy: Callable[[str], str] = str,
    once: bool = False,
) -> tuple[list, list]:
    """Split by the hash of the family; the options plant a slip each."""
    sides: tuple[list, list] = ([], [])
    for document in dict.fromkeys(documents) if once else documents:
        digest = hashlib.sha256(tidy(document[key]).encode("utf-8")).digest()[:8]
        validates = int.from_bytes(digest, "big") / 2**64 < fraction
        sides[validates != swap].append(document if whole else document[1])
    return sides


FAMILY_SLIPS: dict[str, dict[str, Any]] = {
    "That is the hash of the text; the whole family has to go one way.": {"key": 1},
    "The two sides are exchanged: training comes first.": {"swap": True},
    "Return the texts alone.": {"whole": True},
    "'Site' and 'site' are two families: hash the name as it is.": {"tidy": str.casefold},
    "'site' and ' site' are two families: hash the name as it is.": {"tidy": str.strip},
    "Two names that differ in case or spaces are two families: hash the name as it is.": {
        "tidy": lambda name: name.strip().lower()
    },
}


@exercise("data.families", "the chapter's in_validation, but which text is hashed?")
def families(answer: Callable, generator: Generator) -> None:
    """Expect (training texts, validation texts) such that no family stands on both sides."""
    for fraction in (0.1, 0.3, 0.5, 0.0, 1.0):
        numbers = integers(generator, 0, 40, 190)
        names = ["page {}", "Page {}", " page {}", "Été {}", "第{}页"]
        documents = [
            (names[n % 5].format(n // 5), f"text {i % 60} of family {n}")
            for i, n in enumerate(numbers)
        ]
        documents += [*documents[:9], ("", "of no family")]  # some texts come again
        case = f"200 documents of some 40 families, fraction {fraction}"
        got = call(answer, list(documents), fraction, case=case)
        require(isinstance(got, tuple | list) and len(got) == 2, "expected a pair of lists")
        require(all(isinstance(side, list) for side in got), "expected a pair of lists")
        got = tuple(map(list, got))
        if got == by_family(documents, fraction, once=True):
            require(False, f"a text that comes twice was dropped ({case}); keep every document")
        require(sum(map(len, got)) == 200, f"{sum(map(len, got))} documents, expected 200 ({case})")
        right = by_family(documents, fraction)
        wrong = (s for s, o in FAMILY_SLIPS.items() if got == by_family(documents, fraction, **o))
        hint = next(wrong, "First 8 bytes of SHA-256, big-endian, over 2**64; in the given order.")
        require(got == right, f"the sides are not right ({case}). {hint}")


# A repair


def staying(
    texts: list[str],
    threshold: float,
    width: int,
    sets: bool = True,
    union: bool = True,
    chain: bool = False,
    last: bool = True,
) -> list[int]:
    """Return which texts stay when near copies go; the options plant one of the faults each."""

    def runs(text: str) -> list:
        words = words_of(text)
        count = max(1, len(words) - width + 1) if last else len(words) - width
        found = [" ".join(words[i : i + width]) for i in range(count)]
        return sorted(set(found)) if sets else found

    cut = [runs(text) for text in texts]
    kept: list[int] = []
    for number, own in enumerate(cut):
        for other in range(number) if chain else kept:
            common = sum(run in cut[other] for run in own)
            total = len(own) + len(cut[other]) - (common if union else 0)
            if total and common / total >= threshold:
                break
        else:
            kept.append(number)
    return kept


@exercise("data.repair", "try it on two equal texts, and on three in a chain of small changes.")
def repair(answer: Callable, generator: Generator) -> None:
    """Expect the numbers of the texts that stay."""
    chain = ["a b c d e f g h", "a b c d e f g x", "a b c d e f y x", "a b c d e z y x"]
    cases = [
        (chain, 0.5, 2),
        (["a b", "a b", "b c"], 0.9, 2),
        (["row row row boat", "row boat"], 0.6, 1),
        (["a b c", "A, b c!", "b c"], 0.5, 2),
        (["x", "x", "y"], 0.8, 3),
        (["", "!?", "x"], 0.5, 2),  # two without any word: one shingle of no words each
    ]
    for _ in range(20):
        size = integers(generator, 4, 8)[0]
        texts = [" ".join("abc"[i] for i in integers(generator, 0, 2, size)) for _ in range(6)]
        cases.append((texts, 0.5, integers(generator, 1, 3)[0]))
    slips = {
        "A run that stands twice in a text counts once: compare sets.": {"sets": False},
        "What both have was counted twice below the line.": {"union": False},
        "Compare only with texts that stay, or a chain of changes is cut to its first.": {
            "chain": True
        },
        "The last run is missing: there are len - width + 1, and at least one.": {"last": False},
    }
    otherwise = "More than one fault may be left; follow two texts by hand."
    same_lists(answer, cases, staying, slips, otherwise)


# How many hashes

PAIR = (" ".join(f"w{i}" for i in range(122)), " ".join(f"w{i}" for i in range(40, 162)))


@functools.cache
def measured_spread(count: int) -> float:
    """Return the standard deviation of 200 estimates of PAIR's similarity."""
    one, two = map(shingles, PAIR)
    makers = (MinHash(count, seed) for seed in range(200))
    return float(np.std([similarity(m.signature(one), m.signature(two)) for m in makers]))


@exercise("data.hashes", "MinHash(n, seed=...) for 200 seeds; np.std of the estimates.")
def hashes(answer: Any, generator: Generator) -> None:
    """Expect the spread of estimates from 16, 64 and 256 hashes, a factor, and why."""
    names = {"spread_16", "spread_64", "spread_256", "times", "why"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    s = 0.5  # of PAIR: 80 runs of three words in common, 160 together
    for count in (16, 64, 256):
        right, formula = measured_spread(count), math.sqrt(s * (1 - s) / count)
        got = answer[f"spread_{count}"]
        hint = "It is np.std of 200 estimates of the same pair, from the seeds 0 to 199."
        if isinstance(got, int | float):
            if abs(got - formula) < 0.0002:
                hint = "That is what the formula says; measure what 200 seeds give."
            elif abs(got / right**2 - 1) < 0.3:
                hint = "That is the variance; the spread is its root."
            elif abs(got - s) < 0.1:
                hint = "That is the mean of the estimates; how far do they scatter?"
        # 200 seeds give the same numbers to everybody: three decimals, or n - 1 below the line.
        same_number(got, right, f"spread_{count}", hint, 0.008 * right)
    hint = "Half the error: which number has the root 2?"
    same_number(answer["times"], 4, "times", hint, 1e-9)
    require(
        answer["why"] == "c",
        "the explanation does not fit: each hash function shows 'same' or 'different' by itself. "
        "How does the mean of many such coins scatter?",
    )


# A sieve

SIEVE = {"rows", "bands", "found", "for_nothing"}


@exercise("data.sieve", "print 1 - (1 - s**rows)**bands for both similarities, and search.")
def sieve(answer: Any, generator: Generator) -> None:
    """Expect rows and bands of a sieve that is fine enough, and what it lets through."""
    require(isinstance(answer, dict) and set(answer) == SIEVE, f"expected a dict of {SIEVE}")
    rows, bands = answer["rows"], answer["bands"]
    whole = type(rows) is int and type(bands) is int and rows > 0 and bands > 0
    require(whole, f"rows and bands should be whole numbers from 1 on, got {rows!r}, {bands!r}")
    require(
        rows * bands <= 400, f"{bands} bands of {rows} rows are {rows * bands} hashes, over 400"
    )
    found, for_nothing = (1 - (1 - s**rows) ** bands for s in (0.7, 0.3))
    hint = "Put s = 0.7 into 1 - (1 - s^r)^b; s^r is the chance of one band."
    same_number(answer["found"], found, "found", hint, 0.0006)  # three decimals
    hint = "Put s = 0.3 into 1 - (1 - s^r)^b."
    same_number(answer["for_nothing"], for_nothing, "for_nothing", hint, 0.0006)
    require(
        found >= 0.95,
        f"it finds {found:.1%} of the pairs of 0.7, not 95 %: more bands, or shorter ones",
    )
    require(
        for_nothing <= 0.02,
        f"it lets {for_nothing:.1%} of the pairs of 0.3 through, over 2 %: longer bands",
    )
