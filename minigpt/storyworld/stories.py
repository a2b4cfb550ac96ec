"""Stories as a reader wants them: a seed gives a text in two languages and its probability."""

import math
from collections.abc import Iterator
from functools import cached_property
from random import Random

from minigpt.storyworld import labels, tasks
from minigpt.storyworld.read import parse
from minigpt.storyworld.tables import Step, World
from minigpt.storyworld.tell import Language, join, render, sample

FIRST_TRAINING_SEED = 1_000_000  # training is told the stories from this seed on, never others


class Story:
    """One told story. `derivation` is the chain of choices from which all else follows."""

    def __init__(self, derivation: list[Step]):
        self.derivation = derivation

    @cached_property
    def english(self) -> str:
        return join(render(self.derivation, "en"), "en")

    @cached_property
    def chinese(self) -> str:
        return join(render(self.derivation, "zh"), "zh")

    @cached_property
    def sentences(self) -> list[tuple[str, str]]:
        """The story sentence by sentence, as (English, Chinese)."""
        pairs = zip(render(self.derivation, "en"), render(self.derivation, "zh"), strict=True)
        return list(pairs)

    @cached_property
    def log_prob(self) -> float:
        """The natural logarithm of the probability of this text, in either language."""
        return total(self.derivation)

    def questions(self) -> list[tasks.Question]:
        """Return everything that can be asked about the story, with the answers."""
        return list(tasks.questions(self.derivation))

    @property
    def title(self) -> tasks.Pair:
        return labels.title(self.derivation)

    @property
    def summary(self) -> tasks.Pair:
        return labels.summary(self.derivation)

    @property
    def sentiment(self) -> tasks.Pair:
        return labels.sentiment(self.derivation)

    @property
    def topic(self) -> tasks.Pair:
        return labels.topic(self.derivation)


def total(derivation: list[Step]) -> float:
    """Return the log-probability of a whole derivation, in nats."""
    return sum(step.log_p for step in derivation)


def story(seed: int, world: World | None = None) -> Story:
    """Tell the story of a seed: the same text on every platform, independent of other seeds.

    `world` is `World.full()` unless another is given, here and everywhere.
    """
    return Story(sample(world or World.full(), Random(seed).random))


def log_prob(text: str, language: Language, world: World | None = None) -> float:
    """Return the exact log-probability (nats) of a story, from its text alone.

    DataError names the first sentence that is not of this world.
    """
    return total(parse(world or World.full(), text, language))


def documents(count: int, seed: int = 0, world: World | None = None) -> Iterator[tuple[str, float]]:
    """Yield training documents as (text, -log p in nats).

    Document i is the story of seed + i, in English or Chinese with probability 1/2 each, drawn
    after the story; the choice costs ln 2, since the first word reveals it.
    """
    for number in range(seed, seed + count):
        random = Random(number).random
        derivation = sample(world or World.full(), random)
        language = "en" if random() < 0.5 else "zh"
        yield join(render(derivation, language), language), math.log(2) - total(derivation)
