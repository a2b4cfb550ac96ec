"""Cut training batches from conversations: several in a row, or one; and for validation.

Fine-tuning is `train()` with another source of batches; there is no second training loop.

Conversations have different lengths, and rows of a batch have one. `Packed` fills each row with
several whole conversations, <|endoftext|> between them. With `apart` a conversation sees nothing of
those before it in its row (attention within a document: Krell et al. 2021, arXiv:2107.02027);
otherwise everything, as in GPT-3's training (Brown et al. 2020, appendix B). Then the model has to
learn that neighbors do not matter: every epoch deals others, and the first conversation of a row
sees what it sees in use, nothing else. Rotary positions are relative: it does not matter where in a
row a conversation stands.

A small model that learns from little text pays for neighbors that it can see: trained from nothing
on movie reviews, it judged 70 % of others rightly after packed rows, and 74 % after as many tokens
in `Bucketed` ones. These hold one conversation each, those of like length together, and need no
mask.

Shapes: B batch, T time (block_size). Targets are the inputs' next tokens; IGNORE marks what is not
trained on.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from minigpt.batching.conversations import Flat, OverLong, flatten
from minigpt.batching.windows import Batch, with_documents
from minigpt.chat import Encoded
from minigpt.support.errors import require

WIDTH_STEP = 8  # tokens by which rows of one conversation grow


# --- training ---


class Packed:
    """Rows filled with whole conversations; each is trained on once an epoch.

    The rows' lengths are packed once; in each epoch conversations of equal length change places
    and the rows come in another order. Row r of the endless stream of epochs stands in batch
    r // B, so a batch is a pure function of (seed, step).
    """

    def __init__(
        self,
        conversations: Sequence[Encoded],
        batch_size: int,
        block_size: int,
        seed: int,
        over_long: OverLong = "refuse",
        separator: int = 0,
        places: Sequence[str] = (),
        apart: bool = False,
    ):
        check_numbers(batch_size, block_size, seed)
        self.batch_size, self.block_size, self.seed = batch_size, block_size, seed
        self.flat = flatten(conversations, block_size, over_long, places)
        self.separator, self.apart = separator, apart
        packed = best_fit(self.flat.lengths + 1, block_size + 2)  # the last separator may fall off
        self.n_rows = len(packed)
        self.slots = np.concatenate(packed)  # a conversation in each place, row after row
        self.ends = np.cumsum([len(row) for row in packed])
        self.fill = float(self.flat.lengths.sum() / (self.n_rows * (block_size + 1)))
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step, and documents where they are apart."""
        numbers = step * self.batch_size + np.arange(self.batch_size)
        groups = [self.row(int(number)) for number in numbers]
        batch = self.flat.rows(groups, self.block_size + 1, self.separator)
        return with_documents(batch, self.separator) if self.apart else batch

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


class Bucketed:
    """Rows of one conversation each, those of like length together; each once an epoch.

    Batches have about the same number of tokens, so many short rows or few long ones: batch_size
    is the mean. A batch is as long as its longest row, rounded up: each new shape costs memory. In
    each epoch the lengths are blurred by a tenth before they are sorted, so that rows meet others,
    and the batches come in another order. A batch is a pure function of (seed, step).
    """

    def __init__(
        self,
        conversations: Sequence[Encoded] | Flat,
        batch_size: int,
        block_size: int,
        seed: int,
        over_long: OverLong = "refuse",
        separator: int = 0,
        places: Sequence[str] = (),
        tokens: int | None = None,
    ):
        """Cut the batches. `tokens`: of a batch, padded (None: batch_size rows of mean width)."""
        check_numbers(batch_size, block_size, seed)
        self.batch_size, self.block_size, self.seed = batch_size, block_size, seed
        is_flat = isinstance(conversations, Flat)
        self.flat = (
            conversations if is_flat else flatten(conversations, block_size, over_long, places)
        )
        self.separator = separator
        widths = [self.width(length) for length in np.sort(self.flat.lengths)]
        self.cuts = cut_batches(widths, tokens or math.ceil(batch_size * np.mean(widths)))
        self.n_batches = len(self.cuts) + 1
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step."""
        epoch, place = divmod(step, self.n_batches)
        group = self.epoch(epoch)[place]
        T = self.width(self.flat.lengths[group].max())
        return self.flat.rows(group[:, None], T + 1, self.separator)

    def width(self, length: int) -> int:
        """Return T for rows of up to `length` ids, of which T are inputs."""
        return min(int(-(-(length - 1) // WIDTH_STEP) * WIDTH_STEP), self.block_size)

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """Return the conversations of each batch of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        blurred = self.flat.lengths * (1 + rng.random(len(self.flat)) / 10)
        groups = np.split(np.argsort(blurred), self.cuts)
        return [groups[place] for place in rng.permutation(self.n_batches)]


def cut_batches(widths: Sequence[int], most_tokens: int) -> list[int]:
    """Return where to cut rows of rising width, so that no batch has more tokens, padded.

    >>> cut_batches([2, 2, 3, 4, 9], most_tokens=9)
    [3, 4]
    """
    cuts, first = [], 0
    for row, width in enumerate(widths):
        if row > first and (row + 1 - first) * width > most_tokens:
            cuts.append(row)
            first = row
    return cuts


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


class Stages:
    """Sources one after the other: each for its number of steps, the last one for all the rest."""

    def __init__(self, stages: Sequence[tuple[RowSource, int]], last: RowSource):
        self.stages, self.last = stages, last
        self.batch_size, self.block_size = last.batch_size, last.block_size

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step."""
        for source, steps in self.stages:
            if step < steps:
                return source.batch(step)
            step -= steps
        return self.last.batch(step)


# --- validation ---


class EvalPacked:
    """Conversations one a row, as the model meets them in use; every answer is a target once.

    Rows are sorted by length, and each batch is as long as its longest row.
    """

    def __init__(
        self,
        conversations: Sequence[Encoded],
        batch_size: int,
        block_size: int,
        over_long: OverLong = "refuse",
        separator: int = 0,
    ):
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
