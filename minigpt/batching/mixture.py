"""Mix running text with conversations, so that one run learns to read first and to answer then.

Knows nothing of where the texts and conversations come from.
"""

from collections.abc import Sequence

from minigpt.batching.packing import Mixed, Packed, RowSource, Stages
from minigpt.chat import Encoded

# Shares of the conversations' rows in pre-training, found by trial (docs/experiments.md).
ALL_TEXT, SHORT, ANSWERS = 0.65, 0.2, 0.15


def read_then_answer(
    texts: RowSource,
    long: Sequence[Encoded],
    short: Sequence[Encoded],
    share: float,
    reading_steps: int,
    separator: int,
    seed: int = 0,
) -> Stages:
    """Return batches of pre-training for `reading_steps`, then of instruction tuning.

    Throughout, `share` of the rows are conversations and the others are `texts`. Pre-training
    learns most from all of the conversations' text, as from any other; short ones are among them,
    because what to look back for is found much sooner in a short text. Instruction tuning learns
    from the answers alone. Short ones also fill the room that long ones leave in their rows.
    """
    sizes = texts.batch_size, texts.block_size

    def mixed(seed: int, *parts: tuple[Sequence[Encoded], float]) -> Mixed:
        """Return rows of text and, by their weights, of conversations."""
        packed = [
            Packed(conversations, *sizes, seed + number, "drop", separator, apart=True)
            for number, (conversations, _) in enumerate(parts)
        ]
        weights = [1 - share, *(share * weight for _, weight in parts)]
        return Mixed([texts, *packed], weights, seed)

    all_text = [(ids, [False] + [True] * (len(ids) - 1)) for ids, _ in long]
    read, answered = [*all_text, *short], [*long, *short]
    reading = mixed(seed, (read, ALL_TEXT), (short, SHORT), (answered, ANSWERS))
    return Stages([(reading, reading_steps)], mixed(seed + 1, (answered, 1)))
