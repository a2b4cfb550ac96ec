"""Chunks: every engine cuts as the `tokenizers` library does, by every published pattern."""

import random
import re
import unicodedata

import pytest
import regex
import tokenizers
from tokenizers import pre_tokenizers

from minigpt.bpe import GPT2_PATTERN, GPT4_PATTERN, PATTERN, split_chunks
from minigpt.machine.chunks import PROVEN, ascii_form, library_splitter, splitter

SCALARS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
PATTERNS = {"qwen": PATTERN, "gpt4": GPT4_PATTERN, "gpt2": GPT2_PATTERN}
every_pattern = pytest.mark.parametrize("name", PATTERNS)


@pytest.mark.parametrize("kind", [r"\p{L}", r"\p{N}", r"\s"])
def test_both_engines_agree_on_every_character_of_unicode_3(kind):
    old = [c for c in SCALARS if unicodedata.ucd_3_2_0.category(c) != "Cn"]
    matched = set(regex.findall(kind, "".join(old)))
    rest = pre_tokenizers.Split(tokenizers.Regex(kind), "removed").pre_tokenize_str("".join(old))
    assert matched.isdisjoint(rest := {c for piece, _ in rest for c in piece})
    assert matched | rest == set(old)


def assert_chunks_agree(pattern: str, characters: list[str]) -> None:
    split, library = splitter(pattern), library_splitter(pattern)
    for shape in ("a{}b 1{}2!{}? {} ", "'{}x 'l{}\n{}\n", "{}'s{} 12{}34\n\n{} "):
        for start in range(0, len(characters), 512):
            block = characters[start : start + 512]
            text = "".join(shape.replace("{}", character) for character in block)
            assert split(text) == library(text)
            for character in block[:1]:  # alone, so that the choice of engine is not shared
                alone = shape.replace("{}", character)
                assert split(alone) == library(alone)


def test_every_proven_pattern_is_compared_here():
    assert set(PATTERNS.values()) == PROVEN


@pytest.mark.slow
@every_pattern
def test_chunks_agree_with_the_library_on_20_000_characters(name):
    assert_chunks_agree(PATTERNS[name], random.Random(0).sample(SCALARS, 20_000))
    assert_chunks_agree(PATTERNS[name], [chr(code) for code in range(0x3000)])


@pytest.mark.soak
@every_pattern
def test_chunks_agree_with_the_library_on_every_scalar_value(name):
    split, library = splitter(PATTERNS[name]), library_splitter(PATTERNS[name])
    for shape in ("a{}b 1{}2!{}? {} ", "'{}x 'l{}\n{}\n"):
        for character in SCALARS:
            text = shape.replace("{}", character)
            assert split(text) == library(text), hex(ord(character))


@every_pattern
def test_ascii_is_cut_by_python_as_by_regex(name):
    """Every character in every company of two others, and long random rows."""
    by_re = re.compile(ascii_form(PATTERNS[name]), re.ASCII).findall
    by_regex = regex.compile(PATTERNS[name]).findall
    some = [" ", "\n", "\r", "'", "s", "L", "l", "7", "!", "\x1c", "\t", "\x00"]
    ascii = [chr(code) for code in range(128)]
    for text in (a + b + c + d for a in some for b in ascii for c in some for d in some[:9]):
        assert by_re(text) == by_regex(text), repr(text)
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(ascii, k=200))
        assert by_re(text) == by_regex(text), repr(text)


@every_pattern
@pytest.mark.parametrize("text", ["", "I'LL pay 1234567, won't I?\r\n\n  \t x", "Là, 12345 猫。\n"])
def test_the_fast_form_cuts_as_the_plain_one(name, text):
    assert splitter(PATTERNS[name])(text) == split_chunks(text, PATTERNS[name])


def test_a_new_letter_is_cut_as_the_library_cuts_it():
    """`regex` takes U+1E4D0 (Unicode 15) for a letter; the library decides, whatever it knows."""
    text = "ab\U0001e4d0cd 12"
    assert splitter(PATTERN)(text) == library_splitter(PATTERN)(text)


def test_any_other_pattern_is_cut_by_the_library_gaps_included():
    assert splitter(r"\d\d")("ab1234c") == ["ab", "12", "34", "c"]


def test_what_is_no_pattern_is_refused():
    with pytest.raises(ValueError, match=r"pattern '\(': .*parenthes"):
        splitter("(")
