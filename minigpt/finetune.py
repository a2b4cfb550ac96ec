"""Cut training batches from conversations: packed rows, mixtures of sources, validation.

Fine-tuning is `train()` with another source of batches; there is no second training loop.

Conversations have different lengths, and rows of a batch have one. So each row holds several whole
conversations, with <|endoftext|> between them and padding after the last. Attention is left as it
is: a conversation sees those that stand before it in its row, as in GPT-3's training (Brown et al.
2020, appendix B), and <|endoftext|> tells the model that they have nothing to do with it. Masking
the neighbours (Krell et al. 2021, arXiv:2107.02027) would need another attention in every layer;
here every epoch deals other neighbours instead, so that nothing can be learned from them, and
positions are rotary, that is relative, so that it does not matter where in a row a conversation
stands. The first conversation of a row sees what it sees when the model is used: nothing else.

Shapes: B batch, T time (block_size). Targets are the inputs' next tokens; IGNORE marks what is not
trained on.
"""

import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch

from minigpt.batches import IGNORE, Batch, inputs_and_targets
from minigpt.chat import Encoded
from minigpt.errors import ConfigError, DataError, require

DECK = 1000  # rows in which a mixture holds its weights exactly

OverLong = Literal["refuse", "drop", "cut"]


# --- conversations as arrays ---


@dataclass(frozen=True, eq=False)
class Flat:
    """All conversations end to end: number n has `lengths[n]` ids, from `starts[n]` on."""

    ids: np.ndarray  # int32
    trained: np.ndarray  # bool, which ids are trained on
    starts: np.ndarray
    lengths: np.ndarray
    n_over_long: int  # left out, or cut

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, groups: Sequence[np.ndarray], length: int, separator: int) -> Batch:
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
    conversations: Sequence[Encoded], block_size: int, over_long: OverLong,
    places: Sequence[str] = (),
) -> Flat:  # fmt: skip
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
            f"no conversation is left of {len(fitted)}", "fine-tuning",
            "give conversations, or a larger --block-size",
        )  # fmt: skip
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
        return ids, trained
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


# --- training ---


class Packed:
    """Rows filled with whole conversations; each is trained on once an epoch.

    The rows' lengths are packed once; in each epoch conversations of equal length change places
    and the rows come in another order. Row r of the endless stream of epochs stands in batch
    r // B, so a batch is a pure function of (seed, step).
    """

    def __init__(
        self, conversations: Sequence[Encoded], batch_size: int, block_size: int, seed: int,
        over_long: OverLong = "refuse", separator: int = 0, places: Sequence[str] = (),
    ):  # fmt: skip
        check_numbers(batch_size, block_size, seed)
        self.batch_size, self.block_size, self.seed = batch_size, block_size, seed
        self.flat = flatten(conversations, block_size, over_long, places)
        self.separator = separator
        packed = best_fit(self.flat.lengths + 1, block_size + 2)  # the last separator may fall off
        self.n_rows = len(packed)
        self.slots = np.concatenate(packed)  # a conversation in each place, row after row
        self.ends = np.cumsum([len(row) for row in packed])
        self.fill = float(self.flat.lengths.sum() / (self.n_rows * (block_size + 1)))
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step."""
        numbers = step * self.batch_size + np.arange(self.batch_size)
        return self.flat.rows(
            [self.row(int(number)) for number in numbers], self.block_size + 1, self.separator
        )

    def row(self, number: int) -> np.ndarray:
        """Return the conversations of one row of the endless stream."""
        epoch, place = divmod(number, self.n_rows)
        conversations, order = self.epoch(epoch)
        row = order[place]
        begin = self.ends[row - 1] if row else 0
        return conversations[begin : self.ends[row]]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which conversation stands in each slot, and the order of the rows."""
        rng = np.random.default_rng((self.seed, epoch))
        by_length = np.argsort(self.flat.lengths[self.slots], kind="stable")
        dealt = np.lexsort((rng.random(len(self.flat)), self.flat.lengths))  # equal ones shuffled
        conversations = np.empty_like(self.slots)
        conversations[by_length] = dealt
        return conversations, rng.permutation(self.n_rows)


def best_fit(lengths: np.ndarray, room: int) -> list[np.ndarray]:
    """Pack items into rows: the longest first, each into the fullest row that can take it.

    Returns the items of each row (Johnson et al. 1974, best fit decreasing). Bit s of `spaces`
    tells whether a row has s places left, so the search is one shift.

    >>> [row.tolist() for row in best_fit(np.array([3, 2, 7, 4]), room=9)]
    [[2, 1], [3, 0]]
    """
    rows: list[list[int]] = []
    by_space: dict[int, list[int]] = defaultdict(list)
    spaces = 0
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            spaces ^= 0 if by_space[space] else 1 << space
        else:
            space, row = room, len(rows)
            rows.append([])
        rows[row].append(item)
        by_space[space - length].append(row)
        spaces |= 1 << (space - length)
    return [np.array(row) for row in rows]


class RowSource(Protocol):
    """A source whose batches all have B rows of T tokens."""

    batch_size: int
    block_size: int

    def batch(self, step: int) -> Batch: ...


class Mixed:
    """Rows of several sources by weight; all sources must have the same B and T.

    Rows are dealt like cards: of every 1000 rows each source gives exactly its share, in an order
    that is drawn anew. A source's rows come in its own order and none is passed over, so a `Packed`
    source keeps its epochs.
    """

    def __init__(self, sources: Sequence[RowSource], weights: Sequence[float], seed: int = 0):
        sizes = {(source.batch_size, source.block_size) for source in sources}
        if len(sizes) != 1:
            raise ConfigError(f"sources of (B, T) {sorted(sizes)}", "mixture", "make them equal")
        good = len(weights) == len(sources) and all(weight >= 0 for weight in weights)
        if not good or not 0 < sum(weights) < float("inf"):
            raise ConfigError(
                f"weights {list(weights)} for {len(sources)} sources", "mixture",
                "give one number >= 0 for each source, not all of them 0",
            )  # fmt: skip
        ((self.batch_size, self.block_size),) = sizes
        self.sources, self.seed = list(sources), seed
        shares = np.cumsum(weights) / sum(weights)
        self.counts = np.diff(np.rint(shares * DECK).astype(int), prepend=0)  # in each deck
        self.deck = functools.lru_cache(maxsize=2)(self._deck)

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step."""
        rows = [self.row(step * self.batch_size + row) for row in range(self.batch_size)]
        built: dict[tuple[int, int], Batch] = {}
        for source, number in rows:
            key = source, number // self.batch_size
            if key not in built:
                built[key] = self.sources[source].batch(key[1])
        picked = [
            (*built[source, number // self.batch_size], number % self.batch_size)
            for source, number in rows
        ]
        return (
            torch.stack([idx[row] for idx, _, row in picked]),
            torch.stack([targets[row] for _, targets, row in picked]),
        )

    def row(self, number: int) -> tuple[int, int]:
        """Return the source of a row of the mixture, and which row of that source it is."""
        deck, place = divmod(number, DECK)
        sources, ranks = self.deck(deck)
        source = int(sources[place])
        return source, int(deck * self.counts[source] + ranks[place])

    def _deck(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each row of a deck, and how many rows of it came before."""
        rng = np.random.default_rng((self.seed, number))
        sources = rng.permutation(np.repeat(np.arange(len(self.counts)), self.counts))
        ranks = np.empty(DECK, dtype=int)
        for source, count in enumerate(self.counts):
            ranks[sources == source] = np.arange(count)
        return sources, ranks


class Stages:
    """One source after the other: the first for `steps` steps, from then on the second."""

    def __init__(self, first: RowSource, steps: int, second: RowSource):
        self.first, self.steps, self.second = first, steps, second
        self.batch_size, self.block_size = second.batch_size, second.block_size

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step."""
        if step < self.steps:
            return self.first.batch(step)
        return self.second.batch(step - self.steps)


# --- validation ---


class EvalPacked:
    """Conversations one a row, as the model meets them in use; every answer is a target once.

    Rows are sorted by length, and each batch is as long as its longest row.
    """

    def __init__(
        self, conversations: Sequence[Encoded], batch_size: int, block_size: int,
        over_long: OverLong = "refuse", separator: int = 0,
    ):  # fmt: skip
        check_numbers(batch_size, block_size)
        self.flat, self.separator = flatten(conversations, block_size, over_long), separator
        self.batch_size, self.block_size = batch_size, block_size
        self.order = np.argsort(self.flat.lengths, kind="stable")
        firsts = self.flat.trained[self.flat.starts]  # the first id of a row is never a target
        self.n_targets = int(self.flat.trained.sum() - firsts.sum())

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield idx, targets (B, T) int64; T is the batch's longest row, the last B may be less."""
        for first in range(0, len(self.order), self.batch_size):
            group = self.order[first : first + self.batch_size]
            yield self.flat.rows(group[:, None], self.flat.lengths[group].max(), self.separator)


def check_numbers(batch_size: int, block_size: int, seed: int = 0) -> None:
    """Raise ConfigError for sizes of which no batch can be made."""
    require(batch_size >= 1, "batch_size", batch_size, "1 or more")
    require(block_size >= 1, "block_size", block_size, "1 or more")
    require(seed >= 0, "seed", seed, "0 or more")
