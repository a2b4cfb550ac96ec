"""What may come next in a state of the story world, rendered whole."""

from collections import Counter

from minigpt import metrics
from minigpt.storyworld.census import castings
from minigpt.storyworld.plot import Plot
from minigpt.storyworld.read import split_sentences
from minigpt.storyworld.spelling import spell
from minigpt.storyworld.tables import World
from minigpt.storyworld.tell import LANGUAGES, Language


def every_rendering(
    world: World, plot: Plot, cast: dict[str, str], language: Language
) -> list[str]:
    """Render all that can come next, with every word for every new role."""
    side, known = LANGUAGES.index(language), {}
    for role, word in cast.items():
        known |= spell(role, word, cast)[side]
    sentences, table = [], world.choices(plot)
    for choice in table.items if table else []:
        for named, _ in castings(world, choice.event, cast):
            slots, grown = dict(known), dict(cast)
            for role, word in named:
                grown[role] = word
                slots |= spell(role, word, grown)[side]
            sentences += [form[side] % slots for form in choice.forms.items]
    return sentences


def check_distinct(world: World, plot: Plot, cast: dict[str, str], language: Language) -> None:
    """Assert that all sentences that may come next differ, and that each is one sentence."""
    sentences = every_rendering(world, plot, cast, language)
    twice = [text for text, count in Counter(sentences).items() if count > 1]
    assert not twice, (plot, twice)
    for text in sentences[:40]:
        assert split_sentences(text, language) == metrics.split_sentences(text) == [text]
