"""Is this a story of the storyworld? Reads any text and says up to which sentence it is.

A text is a story of this world if some chain of choices yields it word for word; then every fact
in it agrees with every other, because the choices depend on the facts. The first sentence that no
choice yields is where the story stops being one: it names a wrong person, a thing that is
elsewhere, a feeling without a reason, or simply words that this world does not have. Pairs of words
that are kept apart only to hold stories out are no fault.
"""

from itertools import islice
from typing import NamedTuple

from minigpt.storyworld.read import Reader, split_sentences
from minigpt.storyworld.spelling import spell
from minigpt.storyworld.tables import Step, World
from minigpt.storyworld.tell import LANGUAGES, Language


class Verdict(NamedTuple):
    """What `verify` found: `steps` is the story's derivation, as far as it could be read."""

    ok: bool
    sentences_read: int
    log_prob: float | None  # in nats, of a whole story; None if this world never tells it
    fault: str  # one line: the first sentence that no derivation yields, and what could stand there
    steps: list[Step]


def verify(text: str, language: Language, world: World | None = None) -> Verdict:
    """Score any text: is it a consistent story of this world, and if not, from where on?

    >>> verify("Once upon a time.", "en").sentences_read
    0
    """
    world = world or World.full()
    reader = Reader(world.readable, language)
    for sentence in split_sentences(text.strip(), language):
        if not reader.read(sentence):
            wanted = " | ".join(examples(reader)) or "nothing: the story was over"
            return fault(reader, f"{sentence!r} cannot stand here; possible were: {wanted}")
    if reader.table is not None:
        wanted = " | ".join(examples(reader))
        return fault(reader, f"the story stops before its end; possible were: {wanted}")
    return Verdict(True, len(reader.steps), exact_log_prob(reader, text, world), "", reader.steps)


def exact_log_prob(reader: Reader, text: str, world: World) -> float | None:
    """Return the log-probability of a story that was read; None if its own world keeps it out."""
    if reader.world is not world:
        reader = Reader(world, LANGUAGES[reader.side])
        if not all(map(reader.read, split_sentences(text.strip(), LANGUAGES[reader.side]))):
            return None
    return sum(step.log_p for step in reader.steps)


def fault(reader: Reader, what: str) -> Verdict:
    place = len(reader.steps)
    return Verdict(False, place, None, f"sentence {place + 1}: {what}", reader.steps)


def examples(reader: Reader, count: int = 3) -> list[str]:
    """Return some sentences that could come next: the likeliest events, one form each."""
    table = reader.table
    if table is None:
        return []
    order = sorted(range(len(table.items)), key=lambda i: -table.weights[i])
    sentences = (first_rendering(reader, table.items[i]) for i in order)
    return list(islice(sentences, count))


def first_rendering(reader: Reader, choice) -> str:
    """Tell one event with the first form and the first words that it allows."""
    cast, slots = dict(reader.cast), dict(reader.slots)
    for role in choice.event.new:
        cast[role] = reader.world.words(role, cast, choice.event.after).items[0]
        slots |= spell(role, cast[role], cast)[reader.side]
    return choice.forms.items[0][reader.side] % slots
