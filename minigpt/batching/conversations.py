"""Hold many documents or encoded conversations as arrays, and put them into rows of a batch.

A conversation that no row can hold is refused, left out, or loses the middle of its prompt.

Shapes: B batch, T time. Targets are the inputs' next tokens; IGNORE marks what is not trained on.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import numpy as np
import torch

from minigpt.batching.token_files import TokenFile
from minigpt.batching.windows import IGNORE, Batch, document_spans, inputs_and_targets
from minigpt.chat import Encoded
from minigpt.support.errors import DataError

OverLong = Literal["refuse", "drop", "cut"]


@dataclass(frozen=True, eq=False)
class Flat:
    """All conversations end to end: number n has `lengths[n]` ids, from `starts[n]` on."""

    ids: np.ndarray  # int32
    trained: np.ndarray  # bool, which ids are trained on
    starts: np.ndarray
    lengths: np.ndarray
    n_over_long: int = 0  # left out, or cut

    @staticmethod
    def of_documents(tokens: TokenFile) -> "Flat":
        """Return the documents of a token file, all trained on: from <|endoftext|> to the next."""
        starts, lengths = document_spans(tokens)
        inside = starts + lengths < len(tokens)  # the first one begins with the file's last token
        ids = np.asarray(tokens.tokens)
        return Flat(ids, np.ones(len(ids), dtype=bool), starts[inside], lengths[inside] + 1)

    def first(self, count: int) -> "Flat":
        """Return the first conversations alone, at most `count` of them."""
        return replace(self, starts=self.starts[:count], lengths=self.lengths[:count])

    def joined(self, other: "Flat") -> "Flat":
        """Return these conversations and the others'."""
        return Flat(
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.trained, other.trained]),
            np.concatenate([self.starts, other.starts + len(self.ids)]),
            np.concatenate([self.lengths, other.lengths]),
            self.n_over_long + other.n_over_long,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, groups: Sequence[np.ndarray] | np.ndarray, length: int, separator: int) -> Batch:
        """Return idx, targets (B, T): one row for each group of conversations, T = length - 1."""
        ids = np.full((len(groups), length), separator, dtype=np.int32)
        targets = np.full((len(groups), length), IGNORE, dtype=np.int64)
        for row, group in enumerate(groups):
            end = 0
            for start, size in zip(self.starts[group], self.lengths[group], strict=True):
                here, there = slice(end, end + size), slice(start, start + size)
                ids[row, here] = self.ids[there]
                np.copyto(targets[row, here], self.ids[there], where=self.trained[there])
                end += size + 1  # a separator stays
        idx, _ = inputs_and_targets(ids)
        return idx, torch.from_numpy(targets[:, 1:].copy())


def flatten(
    conversations: Sequence[Encoded],
    block_size: int,
    over_long: OverLong,
    places: Sequence[str] = (),
) -> Flat:
    """Store encoded conversations as arrays; see `fit` for those that no row can hold.

    Raises DataError, naming the conversation's place or else its number from 0, where it has
    nothing to train on, or where none is left.
    """
    places = places or [f"conversation {number}" for number in range(len(conversations))]
    for where, (_, trained) in zip(places, conversations, strict=True):
        if not any(trained[1:]):
            remedy = "give it an assistant's message, or leave it out"
            raise DataError("no answer to train on", where, remedy)
    fitted = [
        fit(*pair, block_size, over_long, where)
        for where, pair in zip(places, conversations, strict=True)
    ]
    kept = [encoded for encoded in fitted if encoded is not None]
    if not kept:
        raise DataError(
            f"no conversation is left of {len(fitted)}",
            "fine-tuning",
            "give conversations, or a larger --block-size",
        )
    lengths = np.array([len(ids) for ids, _ in kept])
    return Flat(
        ids=np.concatenate([np.asarray(ids, dtype=np.int32) for ids, _ in kept]),
        trained=np.concatenate([np.asarray(trained, dtype=bool) for _, trained in kept]),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        n_over_long=sum(len(ids) > block_size + 1 for ids, _ in conversations),
    )


def fit(
    ids: Sequence[int], trained: Sequence[bool], block_size: int, over_long: OverLong, where: str
) -> Encoded | None:
    """Return a conversation as a row of block_size + 1 ids can hold it, or None.

    "refuse" raises DataError naming its place and both lengths, "drop" gives None, "cut" takes ids
    out of the middle of the longest stretch that is not trained on.
    """
    if len(ids) <= block_size + 1:
        return list(ids), list(trained)
    if over_long == "refuse":
        raise DataError(
            f"a conversation of {len(ids)} tokens, but rows hold {block_size + 1}",
            where,
            "give a larger --block-size, or leave such ones out or cut them: --over-long drop|cut",
        )
    return cut_middle(ids, trained, block_size + 1) if over_long == "cut" else None


def cut_middle(ids: Sequence[int], trained: Sequence[bool], length: int) -> Encoded | None:
    """Shorten a conversation to `length` ids: the longest untrained stretch loses its middle.

    What is said first and last stays, and so do the special tokens there and all answers. Where
    the stretch has too few ids for that, None comes back.
    """
    if all(trained):  # of a text that is learned whole, any middle may go
        cut = cut_middle(ids, [False] * len(ids), length)
        return (cut[0], [True] * len(cut[0])) if cut else None
    edges = np.flatnonzero(np.diff(np.asarray([True, *trained, True], dtype=np.int8)))
    begins, ends = edges[::2], edges[1::2]  # of the stretches that are not trained on
    excess = len(ids) - length
    if len(begins) == 0 or (ends - begins).max() < excess + 4:
        return None
    longest = (ends - begins).argmax()
    first = int(begins[longest] + ends[longest] - excess) // 2
    return (
        [*ids[:first], *ids[first + excess :]],
        [*trained[:first], *trained[first + excess :]],
    )


def fit_prompts(
    prompts: Sequence[Sequence[int]], room: int, keep: Collection[int]
) -> tuple[list[list[int]], int]:
    """Shorten the prompts of more than `room` ids; also say how many these were.

    The longest messages lose their middle, so what a template puts first and last stays, and so do
    the ids to `keep`: those that mark roles and ends.
    """
    fitted = [list(ids) if len(ids) <= room else shorten(ids, room, keep) for ids in prompts]
    return fitted, sum(len(ids) > room for ids in prompts)


def shorten(ids: Sequence[int], room: int, keep: Collection[int]) -> list[int]:
    """Cut the messages of one prompt down to one length, the greatest for which it has room.

    >>> shorten([1, 10, 11, 12, 13, 2, 1, 20, 2], room=7, keep={1, 2})
    [1, 10, 13, 2, 1, 20, 2]
    """
    runs = [(kept, list(run)) for kept, run in groupby(ids, key=lambda token: token in keep)]
    lengths = [len(run) for kept, run in runs if not kept]
    left = max(room - (len(ids) - sum(lengths)), 0)
    longest = max(lengths, default=0)
    while sum(min(length, longest) for length in lengths) > left:
        longest -= 1
    rows = [run if kept else without_middle(run, longest) for kept, run in runs]
    # Where the marks of very many messages alone are too long, the oldest of them go as well.
    return [token for row in rows for token in row][-room:]


def without_middle(ids: Sequence[int], length: int) -> list[int]:
    """Keep the first and the last of some ids, `length` in all."""
    excess = max(len(ids) - length, 0)
    first = (len(ids) - excess + 1) // 2
    return [*ids[:first], *ids[first + excess :]]
