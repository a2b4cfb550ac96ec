"""Is this a story of the storyworld? Reads any text and says up to which sentence it is.

A text is a story of this world if some chain of choices yields it word for word; then every fact
in it agrees with every other, because the choices depend on the facts. The first sentence that no
choice yields is where the story stops being one: it names a wrong person, a thing that is
elsewhere, a feeling without a reason, or simply words that this world does not have.
"""

from itertools import islice
from typing import NamedTuple

from minigpt.storyworld.read import Reader, split_sentences
from minigpt.storyworld.spelling import spell
from minigpt.storyworld.tables import WORLDS
from minigpt.storyworld.tell import Language


class Verdict(NamedTuple):
    """What `verify` found. `log_prob` (nats) is None unless the whole text is a story."""

    ok: bool
    sentences_read: int
    log_prob: float | None
    fault: str  # one line: the first sentence that no derivation yields, and what could stand there


def verify(text: str, language: Language, split: str = "train") -> Verdict:
    """Score any text: is it a consistent story of this world, and if not, from where on?

    >>> verify("Once upon a time.", "en").sentences_read
    0
    """
    reader = Reader(WORLDS[split], language)
    for sentence in split_sentences(text.strip(), language):
        if not reader.read(sentence):
            wanted = " | ".join(examples(reader)) or "nothing: the story was over"
            return fault(reader, f"{sentence!r} cannot stand here; possible were: {wanted}")
    if reader.table is not None:
        wanted = " | ".join(examples(reader))
        return fault(reader, f"the story stops before its end; possible were: {wanted}")
    return Verdict(True, len(reader.steps), sum(step.log_p for step in reader.steps), "")


def fault(reader: Reader, what: str) -> Verdict:
    return Verdict(False, len(reader.steps), None, f"sentence {len(reader.steps) + 1}: {what}")


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
