"""The parser: recovers every choice of a story from its text alone, in either language.

It knows after each sentence what may come next, renders those options and compares. In every
state the rendered sentences differ from each other, so there is at most one that fits.
"""

import re
from collections.abc import Iterator
from functools import cache

from minigpt.storyworld import lexicon
from minigpt.storyworld.forms import Form
from minigpt.storyworld.plot import Event, Plot
from minigpt.storyworld.spelling import Slots, spell
from minigpt.storyworld.tables import Choice, Step, Table, World
from minigpt.storyworld.tell import LANGUAGES, Language
from minigpt.support.errors import DataError

SENTENCE = {
    "en": re.compile(
        r"""(?:"[^"]*[^".!?]"|"[^"]*[.!?]"(?=[ ][a-z])|[^".!?])*"""
        r"""(?:[.!?]|"[^"]*[.!?]")(?:[ ]|$)"""
    ),
    "zh": re.compile(r"(?:“[^”]*[^。！？”]”|[^“”。！？])*(?:[。！？]|“[^”]*[。！？]”)"),
}


def split_sentences(text: str, language: Language) -> list[str]:
    """Return the sentences of a text, and last whatever has no sentence's end."""
    sentences, start = [], 0
    while start < len(text):
        match = SENTENCE[language].match(text, start)
        end = match.end() if match else len(text)
        sentences.append(text[start:end].removesuffix(" ") if match else text[start:])
        start = end
    return sentences


@cache
def told_ways(table: Table, side: int) -> list[tuple[str, Choice, float, Form, float]]:
    """Return each way to go on from a table: (literal, choice, log p, form, log p).

    The literal is a piece that every rendering contains: most options are ruled out by it alone.
    """
    return [
        (longest_literal(form[side]), choice, log_choice, form, log_form)
        for choice, log_choice in table.options()
        for form, log_form in choice.forms.options()
    ]


@cache
def longest_literal(template: str) -> str:
    """Return the longest piece of a template that is not filled in."""
    return max(re.split(r"%\([\w.]+\)s", template), key=len)


class Reader:
    """Reads a story sentence by sentence; knows after each what may come next."""

    def __init__(self, world: World, language: Language):
        self.world, self.side = world, LANGUAGES.index(language)
        self.table = world.choices(Plot())
        self.cast: dict[str, str] = {}
        self.slots: Slots = {}
        self.steps: list[Step] = []

    def read(self, sentence: str) -> bool:
        """Take one sentence; return False, and stay as before, where it cannot stand here."""
        matches = list(self.matches(sentence))
        assert len(matches) <= 1, f"two derivations of {sentence!r}"
        for choice, named, step in matches:
            self.cast |= dict(step.words)
            self.slots |= named
            self.steps.append(step)
            self.table = choice.next
        return bool(matches)

    def matches(self, sentence: str) -> Iterator[tuple[Choice, Slots, Step]]:
        """Yield every way to get this very sentence out of the options."""
        if self.table is None:
            return
        lowered = sentence.lower()
        for literal, choice, log_choice, form, log_form in told_ways(self.table, self.side):
            if literal in sentence:
                for named, slots, log_p in self.namings(choice.event, lowered, log_choice):
                    if form[self.side] % slots == sentence:
                        yield choice, slots, Step(choice.event, named, form, log_p + log_form)

    def namings(
        self, event: Event, lowered: str, log_p: float
    ) -> Iterator[tuple[tuple[tuple[str, str], ...], Slots, float]]:
        """Yield the words for the event's new roles that are spelled out in the sentence."""
        partial = [((), self.slots, log_p)]
        for role in event.new:
            longer = []
            for named, slots, log_before in partial:
                cast = self.cast | dict(named)
                for word, log_word in self.world.words(role, cast, event.after).options():
                    if SPELLED[role, word][self.side] in lowered:
                        more = slots | spell(role, word, cast)[self.side]
                        longer.append(((*named, (role, word)), more, log_before + log_word))
            partial = longer
        yield from partial


SPELLED = {
    (role, word): (entry.en.lower(), entry.zh)
    for role, entries in lexicon.BY_NAME.items()
    for word, entry in entries.items()
}


def parse(world: World, text: str, language: Language) -> list[Step]:
    """Return the choices that yield exactly this text.

    DataError names the first sentence that no choice yields.
    """
    reader = Reader(world, language)
    for number, sentence in enumerate(split_sentences(text.strip(), language), start=1):
        if not reader.read(sentence):
            raise DataError(
                "not a story of this world",
                f"sentence {number}: {sentence!r}",
                "verify() tells what could have stood there",
            )
    if reader.table is not None:
        raise DataError(
            "the story has no end", f"after sentence {len(reader.steps)}", "give the whole story"
        )
    return reader.steps
