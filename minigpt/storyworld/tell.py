"""The sampler: draws one story from the tables and writes it down in either language."""

from collections.abc import Callable
from typing import Literal

from minigpt.storyworld.plot import Plot
from minigpt.storyworld.spelling import spell
from minigpt.storyworld.tables import Step, World

Language = Literal["en", "zh"]
LANGUAGES = ("en", "zh")


def sample(world: World, random: Callable[[], float]) -> list[Step]:
    """Tell one story; every choice takes one call of `random`, which returns a float in [0, 1)."""
    steps: list[Step] = []
    cast: dict[str, str] = {}
    table = world.choices(Plot())
    while table is not None:
        choice, log_p = table.draw(random)
        event = choice.event
        named = []
        for role in event.new:
            cast[role], log_word = world.words(role, cast, event.after).draw(random)
            named.append((role, cast[role]))
            log_p += log_word
        form, log_form = choice.forms.draw(random)
        steps.append(Step(event, tuple(named), form, log_p + log_form))
        table = choice.next
    return steps


def render(steps: list[Step], language: Language) -> list[str]:
    """Return the sentences of a story in one language."""
    side = LANGUAGES.index(language)
    sentences, cast, slots = [], {}, {}
    for step in steps:
        for role, word in step.words:
            cast[role] = word
            slots.update(spell(role, word, cast)[side])
        sentences.append(step.form[side] % slots)
    return sentences


def join(sentences: list[str], language: Language) -> str:
    """Return the sentences as one text: Chinese needs no spaces between them."""
    return (" " if language == "en" else "").join(sentences)
