"""Read first, answer then: one run learns the language from documents, and then what to say.

Knows nothing of where the documents and conversations come from.
"""

from minigpt.batching.conversations import Flat
from minigpt.batching.packing import Bucketed, Stages


def read_then_answer(
    documents: Flat,
    conversations: Flat,
    document_share: float,
    reading_steps: int,
    sizes: tuple[int, int],
    separator: int,
    seed: int = 0,
) -> Stages:
    """Return batches of pre-training for `reading_steps`, then of instruction tuning.

    Pre-training reads documents alone. Instruction tuning takes all conversations, and among them
    documents that make up `document_share` of the tokens, so that these are not forgotten. Every
    row holds one document or conversation, those of like length together, so that nothing has to
    be masked; every batch has about batch_size x block_size tokens. sizes: (batch_size,
    block_size).
    """
    tokens = sizes[0] * sizes[1]

    def bucketed(flat: Flat, seed: int) -> Bucketed:
        return Bucketed(flat, *sizes, seed, separator=separator, tokens=tokens)

    wanted = conversations.lengths.sum() * document_share / (1 - document_share)
    count = int(wanted / documents.lengths.mean())
    both = conversations.joined(documents.first(count)) if count else conversations
    return Stages([(bucketed(documents, seed), reading_steps)], bucketed(both, seed + 1))
