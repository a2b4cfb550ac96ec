"""Storyworld for preferences and rewards: pairs with one fault each, and stories to order.

The world's own reader is the judge: it made the worse story of each pair, and it tells whether a
story is consistent and keeps to what was asked for.
"""

from collections.abc import Iterator
from random import Random

from minigpt.alignment.rewards import Reward
from minigpt.batching.examples import Example
from minigpt.batching.messages import turns
from minigpt.finetune import FinetuneConfig, Sides
from minigpt.storyworld.lessons import SHARES, draw, obeys, telling
from minigpt.storyworld.preferences import pairs
from minigpt.storyworld.tables import World, WorldName
from minigpt.storyworld.tell import LANGUAGES, sample

# Stories that no training was told; those held out are other ones.
TAUGHT, HELD_OUT = range(3_000_000, 3_000_400), range(3_500_000, 3_500_100)


def story_sides(config: FinetuneConfig) -> Sides:
    """Return pairs of stories (dpo), or orders of stories (grpo), to learn from and held out."""
    world = World.named(config.rewards.world)
    make, noun = (pair_examples, "pairs") if config.task == "dpo" else (order_examples, "orders")
    train, held_out = (
        [e for seed in seeds for e in make(seed, world)] for seeds in (TAUGHT, HELD_OUT)
    )
    facts = {
        "train": len(train),
        "held_out": len(held_out),
        "skipped": 0,
        "repeated": 0,
        "overlap": 0.0,
    }
    about = f"{len(train):,} {noun}: stories of the {config.rewards.world} world"
    return Sides(train, held_out, facts, about)


def pair_examples(seed: int, world: World) -> Iterator[Example]:
    """Yield the pairs of the story of a seed, one for each fault that it gives room for."""
    for pair in pairs(seed, world):
        messages = turns(pair.lesson.prompt, pair.chosen)
        yield Example(messages, f"story {seed}", str(seed), pair.reason, rejected=pair.rejected)


def order_examples(seed: int, world: World) -> Iterator[Example]:
    """Yield an order of a story, and one that obeys it; its record holds the lesson that grades."""
    random = Random(seed).random
    steps = sample(world, random)
    lesson = telling(steps, seed % len(LANGUAGES), draw(SHARES["story"], random), random)
    messages = turns(lesson.prompt, lesson.answer)
    yield Example(messages, f"story {seed}", str(seed), lesson.kind, record={"lesson": lesson})


def story_reward(world_name: WorldName) -> Reward:
    """Return the reward of 1 for a consistent story that is as it was ordered."""
    world = World.named(world_name)

    def grade(example: Example, answer: str) -> float:
        assert example.record is not None, "orders of stories bring their lesson"
        return float(obeys(example.record["lesson"], answer, world))

    return Reward("a consistent story, as ordered", "", grade)
