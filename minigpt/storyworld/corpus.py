"""Storyworld as a corpus to train on: which stories train, which validate, and their exam.

It is opened by `data.corpora.open_corpus`, and only where it is named.
"""

import itertools
from collections.abc import Iterator
from functools import partial

from minigpt.data.corpora import Exam, HeldOut, Messages
from minigpt.storyworld.lessons import SHARES, dialogue
from minigpt.storyworld.stories import FIRST_TRAINING_SEED, documents
from minigpt.storyworld.tables import World, WorldName

VALIDATION_STORIES = 1000
FIRST_DIALOGUE_SEED = 2_000_000  # conversations are about other stories than those told
TOKENIZER_STORIES = 3000
TOKENIZER_DIALOGUES = 1000
# What instruction tuning consists of, by conversations; found by trial (docs/experiments.md).
TAUGHT = SHARES | {
    "dialogue": {"conversation": 27, "translation": 57, "story": 16},
    "translation": {"excerpt": 50, "passage": 20, "whole": 30},
    "turns": dict.fromkeys(range(6, 12), 1),  # nearly all that there is to ask about a story
}


class StoryCorpus:
    """Stories and conversations about them; the stories that validate are independent draws."""

    def __init__(self, world: World):
        self.world = world

    @property
    def exam(self) -> Exam:
        """The exam of a model of this world; see `examine`."""
        from minigpt.storyworld.exam import examine  # it needs a model, and so torch

        return partial(examine, world=self.world)

    def texts(self) -> Iterator[str]:
        """Yield the first training stories, and the messages of the first conversations."""
        for text, _ in documents(TOKENIZER_STORIES, FIRST_TRAINING_SEED, self.world):
            yield text
        for seed in range(FIRST_DIALOGUE_SEED, FIRST_DIALOGUE_SEED + TOKENIZER_DIALOGUES):
            for message in dialogue(seed, self.world):
                yield message["content"]

    def documents(self) -> Iterator[str]:
        """Yield training stories without end."""
        for seed in itertools.count(FIRST_TRAINING_SEED, 1000):
            for text, _ in documents(1000, seed, self.world):
                yield text

    def held_out(self) -> HeldOut:
        """Return the stories that validate, and the sum of their surprises in nats."""
        held = list(documents(VALIDATION_STORIES, 0, self.world))
        return HeldOut([text for text, _ in held], sum(nats for _, nats in held))

    def conversations(self, count: int) -> Iterator[Messages]:
        """Yield conversations: about stories, translations, and stories to order."""
        for seed in range(FIRST_DIALOGUE_SEED, FIRST_DIALOGUE_SEED + count):
            yield dialogue(seed, self.world, TAUGHT)


def open_corpus(world: WorldName) -> StoryCorpus:
    """Return the corpus of a world; see `data.corpora`."""
    return StoryCorpus(World.named(world))
