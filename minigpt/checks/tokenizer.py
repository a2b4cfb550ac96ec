"""Checks of the tokenizer exercises, each with an oracle of its own."""

import functools
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from torch import Generator

from minigpt.bpe import learn_merges, merge_chunk, split_chunks
from minigpt.checks import exercise
from minigpt.checks.compare import call, integers, require, same_number
from minigpt.storyworld import story
from minigpt.tokenizer import BPETokenizer

MERGES, DISEASE, EURO = ["ea", "sea", "seal"], ["d", "i", "sea", "s", "e"], [226, 130, 172]


@exercise("tokenizer.by_hand", "a table: the words, cut; count each pair; join the best; again.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect three merges, the pieces of a new word, and the three bytes of a character."""
    names = {"merges", "disease", "euro"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    for name, right in (("merges", MERGES), ("disease", DISEASE), ("euro", EURO)):
        require(isinstance(answer[name], list | tuple), f"{name} should be a list")
        got = list(answer[name])
        if got == right:
            continue
        hint = _merge_hint(got) if name == "merges" else ""
        if name == "disease":
            hint = "Use your three merges, in the order in which they were learned."
            if "".join(map(str, got)) != "disease":
                hint = "The pieces, side by side, should spell the word."
            elif "ea" in got:
                hint = "The second merge joins s and ea."
        elif name == "euro":
            hint = "8364 has 14 digits in base 2; write 16, and cut them into 4, 6 and 6."
            if len(got) != 3:
                hint = "A code point from 2,048 to 65,535 takes three bytes."
            elif got == [226, 2, 44]:
                hint = "The further bytes begin with 10: that adds 128 to each."
            elif got[1:] == EURO[1:]:
                hint = "The first byte begins with 1110: that adds 224."
        place = next((i for i, (a, b) in enumerate(zip(got, right, strict=False)) if a != b), -1)
        where = f"{name}, number {place + 1}" if place >= 0 else f"the length of {name}"
        require(False, f"{where} is not right. {hint}")


def _merge_hint(got: list) -> str:
    """Say what is wrong with three merges."""
    if not all(isinstance(merge, str) for merge in got):
        return "Write each merge as the text of the new piece, like 'ab'."
    if got[:1] == ["se"]:
        return "(s, e) and (e, a) are equally frequent; the rule takes the smaller ids, and e < s."
    if got[:2] == ["ea", "se"]:
        return "After the first merge, no e stands behind the s of sea: the neighbor is ea."
    return "Count again after each merge: some pairs are gone, others are new."


# As few pieces as possible


def fewest_pieces(data: bytes, tokens: list[bytes]) -> int:
    """Return the least number of tokens that spell the data."""
    least = [0] + [len(data) + 1] * len(data)
    for end in range(1, len(data) + 1):
        fitting = [t for t in tokens if t and data[:end].endswith(t)]
        least[end] = 1 + min((least[end - len(t)] for t in fitting), default=len(data))
    return least[-1]


def longest_first(data: bytes, tokens: list[bytes]) -> list[bytes]:
    """Take the longest token that fits, again and again: not always the fewest."""
    found, start = [], 0
    while start < len(data):
        found.append(max((t for t in tokens if t and data.startswith(t, start)), key=len))
        start += len(found[-1])
    return found


def longest_last(data: bytes, tokens: list[bytes]) -> list[bytes]:
    """Take the longest token that fits at the end, again and again: not always the fewest."""
    turned = longest_first(data[::-1], [token[::-1] for token in tokens])
    return [token[::-1] for token in reversed(turned)]


@exercise("tokenizer.fewest", "the best way to the first byte, the first two, the first three ...")
def fewest(answer: Callable, generator: Generator) -> None:
    """Expect a list of tokens that spells the data, as short as possible."""
    cases = [
        (b"anana", [b"a", b"n", b"an", b"ana"]),
        (b"abcd", [b"a", b"b", b"c", b"d", b"bcd", b"abc", b"ab"]),
        (b"", [b"a"]),
        (b"aaaaaaa", [b"a", b"aaa", b"aaaaa"]),
        # Longest first needs five, from the left and from the right; four are enough.
        (b"ananabcbcb", [b"a", b"n", b"an", b"ana", b"b", b"c", b"cb", b"bcb"]),
        ("中é".encode(), [bytes([byte]) for byte in set("中é".encode())] + ["中".encode()]),
    ]
    for _ in range(12):
        letters = [bytes([97 + n]) for n in range(3)]
        lengths = integers(generator, 2, 5, 6)
        longer = [bytes(97 + n for n in integers(generator, 0, 2, length)) for length in lengths]
        data = bytes(97 + n for n in integers(generator, 0, 2, 24))
        cases.append((data, letters + longer))
    for data, tokens in cases:
        case = f"data {data!r}, tokens {tokens}"
        got = call(answer, data, list(tokens), case=case)
        require(isinstance(got, list | tuple), f"expected a list, got {type(got).__name__}")
        require(all(isinstance(each, bytes) for each in got), f"expected a list of bytes ({case})")
        odd = next((each for each in got if each not in tokens), None)
        require(odd is None, f"{odd!r} is not in the vocabulary ({case})")
        spelled = b"".join(got)
        hint = "not the data"
        if b"".join(reversed(got)) == data:
            hint = "they are in the wrong order, collected from the end"
        require(spelled == data, f"the pieces spell {spelled!r}: {hint} ({case})")
        least = fewest_pieces(data, tokens)
        hint = "Every piece may be chosen; keep the best way to each place."
        greedy = longest_first(data, tokens), longest_last(data, tokens)
        if len(got) == len(greedy[0]) == len(greedy[1]):
            hint = "Neither longest first nor longest last is best everywhere."
        elif list(got) in greedy:
            hint = "The longest piece now can cost more later."
        require(len(got) == least, f"{len(got)} pieces; {least} are enough ({case}). {hint}")


# What a reader calls a character


def seen_characters(
    text: str, marks: Callable = lambda c: unicodedata.category(c)[0] == "M", joiner: str = "\u200d"
) -> list[str]:
    """Cut a text before every character that is no mark and that no joiner ties to the last."""
    found: list[str] = []
    for character in text:
        tied = marks(character) or character == joiner or (found and found[-1][-1] == joiner)
        if found and tied:
            found[-1] += character
        else:
            found.append(character)
    return found


SCREENS = [
    "cafe\u0301",
    "नमस्ते",
    "สวัสดี",
    "👩\u200d👩\u200d👧!",
    "❤\ufe0f.",
    "\u0301a",
    "",
    "中文",
    "x\u0301\u0323y",
    "a\u200db",
    "कि की कु",
    "1\u20e32\u20e3",  # keycaps: the frame is a mark that encloses, Me
    "a\u20dd\u0301b",
]


@exercise("tokenizer.screen", "go through the text; does this character belong to the last piece?")
def screen(answer: Callable, generator: Generator) -> None:
    """Expect the list of what a reader sees as one character each."""
    pool = "abé中e\u0301\u0323का\u093fन\u200d👩👧\ufe0f ว\u0e31\u20dd"
    texts = SCREENS + [
        "".join(pool[n] for n in integers(generator, 0, len(pool) - 1, 14)) for _ in range(30)
    ]
    for text in texts:
        case = f"text {text!r}"
        got = call(answer, text, case=case)
        require(isinstance(got, list | tuple), f"expected a list, got {type(got).__name__}")
        require(all(isinstance(each, str) for each in got), f"expected a list of texts ({case})")
        require("".join(got) == text, f"side by side the pieces are not the text ({case})")
        right = seen_characters(text)
        slips = {
            "Marks that enclose are marks too: Me, beside Mn and Mc.": (
                seen_characters(text, lambda c: unicodedata.category(c) in ("Mn", "Mc"))
            ),
            "Not every mark has a combining class; look at the category: M is for mark.": (
                seen_characters(text, lambda c: unicodedata.combining(c) != 0)
            ),
            "Categories of marks are Mn, Mc and Me: look at the first letter.": (
                seen_characters(text, lambda c: unicodedata.category(c) == "Mn")
            ),
            "What follows a joiner (U+200D) belongs to the same piece.": seen_characters(
                text, joiner=""
            ),
            "A mark belongs to the character before it.": list(text),
        }
        hint = next((s for s, wrong in slips.items() if list(got) == wrong), "")
        first = next((i for i, (a, b) in enumerate(zip(got, right, strict=False)) if a != b), 0)
        hint = hint or "A mark, a joiner, and what follows a joiner continue the last piece."
        require(list(got) == right, f"piece {first} is not right ({case}). {hint}")


# A repair


def learn(
    counts: dict[str, int],
    n_merges: int,
    weighted: bool = True,
    smaller: bool = True,
    by_text: bool = False,
    recount: bool = True,
) -> list[tuple[str, str]]:
    """Learn merges on letters; the options plant one of the faults each."""
    cut = {word: tuple(word) for word in counts}
    merges, pairs = [], Counter()
    for number in range(n_merges):
        if recount or number == 0:
            pairs = Counter()
            for word, times in counts.items():
                for pair in pairwise(cut[word]):
                    pairs[pair] += times if weighted else 1
        if not pairs:
            break
        order = sorted(pairs, reverse=not smaller)
        best = max(order, key=lambda pair: pairs[pair])
        merges.append(best)
        del pairs[best]
        for word, pieces in cut.items():
            if by_text:
                cut[word] = tuple(" ".join(pieces).replace(" ".join(best), "".join(best)).split())
            else:
                cut[word] = joined(pieces, best)
    return merges


def joined(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of the pair, from left to right."""
    found: list[str] = []
    i = 0
    while i < len(pieces):
        width = 2 if pieces[i : i + 2] == pair else 1
        found.append("".join(pieces[i : i + width]))
        i += width
    return tuple(found)


WORD_COUNTS = [
    ({"banana": 1, "bandana": 1, "ban": 1}, 3),
    ({"ab": 3, "cd": 1, "cde": 1}, 2),  # counts matter
    ({"yz": 2, "ab": 2, "mn": 2}, 3),  # ties
    ({"xax": 5, "bax": 4, "ba": 4, "ax": 1}, 4),
    ({"ban": 5, "an": 1, "bat": 4, "nab": 2}, 4),
    ({"aaaa": 2, "aaa": 1, "aab": 3}, 5),
]


@exercise("tokenizer.repair", "train the broken one on {'banana': 1, 'bandana': 1, 'ban': 1}.")
def repair(answer: Callable, generator: Generator) -> None:
    """Expect the merges, as pairs of texts, in the order learned."""
    cases = list(WORD_COUNTS)
    for _ in range(10):
        words = ["".join("abc"[n] for n in integers(generator, 0, 2, 6)) for _ in range(5)]
        cases.append((dict(zip(words, integers(generator, 1, 6, 5), strict=True)), 6))
    for counts, n_merges in cases:
        case = f"{counts}, {n_merges} merges"
        copy = dict(counts)
        got = call(answer, copy, n_merges, case=case)
        require(copy == counts, f"the counts were changed ({case}); work on a copy")
        require(isinstance(got, list | tuple), f"expected a list, got {type(got).__name__}")
        got = [tuple(pair) if isinstance(pair, list | tuple) else pair for pair in got]
        right = learn(counts, n_merges)
        slips = {
            "A word that stands 5 times counts 5 times.": {"weighted": False},
            "Between equally frequent pairs the smaller one wins.": {"smaller": False},
            "Replacing in a text also joins the end of a longer piece: 'ba n' holds 'a n'.": {
                "by_text": True
            },
            "After a merge some pairs are gone and others are new: count again.": {
                "recount": False
            },
        }
        wrong = (s for s, fault in slips.items() if got == learn(counts, n_merges, **fault))
        hint = next(wrong, "More than one fault may be left; follow one word through the rounds.")
        place = next((i for i, (a, b) in enumerate(zip(got, right, strict=False)) if a != b), -1)
        where = f"merge {place + 1}" if place >= 0 else f"the number of merges ({len(got)})"
        require(got == right, f"{where} is not right ({case}). {hint}")


# Two languages


def tokens_per_character(trained_on: list[str], vocab_size: int = 1024) -> float:
    """Return tokens per Chinese character of the exercise's new stories."""
    tokenizer = BPETokenizer.train(trained_on, vocab_size)
    texts = [story(seed).chinese for seed in range(20_000, 20_040)]
    return sum(len(tokenizer.encode(text)) for text in texts) / sum(map(len, texts))


@functools.cache
def both_costs() -> tuple[float, float]:
    """Return the cost of Chinese to a tokenizer of English alone, and to one of both."""
    told = [story(seed) for seed in range(200)]
    english, chinese = [s.english for s in told], [s.chinese for s in told]
    return tokens_per_character(english), tokens_per_character(english + chinese)


@exercise("tokenizer.languages", "BPETokenizer.train, then tokens over characters of new stories.")
def languages(answer: Any, generator: Generator) -> None:
    """Expect tokens per Chinese character for two tokenizers, their ratio, and why."""
    names = {"english_only", "both", "times", "why"}
    require(isinstance(answer, dict) and set(answer) == names, f"expected a dict of {names}")
    alone, together = both_costs()
    for name, right in (("english_only", alone), ("both", together), ("times", alone / together)):
        got = answer[name]
        hint = "Train on the 200 stories, vocabulary 1,024; count on the 40 new Chinese ones."
        if isinstance(got, int | float) and got:
            if abs(got / right - 1 / 3) < 0.02:
                hint = "That is per byte; a character has three."
            elif abs(got * right - 1) < 0.02:
                hint = "That is the other way round."
        same_number(got, right, name, hint, 0.01 * right)
    require(
        answer["why"] == "b",
        "the explanation does not fit: print the tokens of one Chinese sentence, as bytes, for "
        "the tokenizer that has read English only",
    )


# Scissors of one's own

CUT_SIZE, CUT_GOAL = 1500, 0.88


def tokens_with(cut: Callable, training: list[str], new: list[str]) -> int:
    """Train CUT_SIZE tokens on chunks of one's own, and count the tokens of new texts."""
    counts: Counter[str] = Counter()
    for text in training:
        counts.update(cut(text))
    words = [list(chunk.encode("utf-8")) for chunk in counts]
    merges = learn_merges(words, list(counts.values()), range(256, CUT_SIZE))
    chunks = Counter(chunk for text in new for chunk in cut(text))
    encoded = ((list(chunk.encode("utf-8")), times) for chunk, times in chunks.items())
    return sum(len(merge_chunk(ids, merges)) * times for ids, times in encoded)


@exercise("tokenizer.cut", "what if a chunk could hold two words, or end at the comma?")
def cut_check(answer: Callable, generator: Generator) -> None:
    """Expect scissors: text -> chunks, such that new stories take an eighth fewer tokens."""
    first = integers(generator, 30_000, 900_000)[0]
    training = [story(seed).english for seed in range(120)]
    new = [story(seed).english for seed in range(first, first + 30)]

    def cut(text: str) -> list[str]:
        chunks = call(answer, text, case=f"a story that begins {text[:30]!r}")
        require(isinstance(chunks, list | tuple), "expected a list of texts")
        require(all(isinstance(chunk, str) for chunk in chunks), "expected a list of texts")
        require("".join(chunks) == text, "side by side the chunks are not the text")
        return list(chunks)

    longest = max(len(chunk) for text in new for chunk in cut(text))
    require(longest <= 60, f"a chunk of {longest} characters; 60 is the limit: cut more often")
    yours, published = tokens_with(cut, training, new), tokens_with(split_chunks, training, new)
    share = yours / published
    require(
        share <= CUT_GOAL,
        f"new stories take {share:.0%} of the tokens that the published pattern takes; the aim is "
        f"{CUT_GOAL:.0%}. Once a chunk is one token no merge can go on: allow longer chunks",
    )
