"""Cut batches from token files, for training and evaluation.

The batch of a step is a pure function of (seed, step): nothing has to be saved to resume a run,
and several processes take disjoint `shard`s of the same global batch.

A batch is idx and targets or, where several documents share a row and must not see each other, a
third tensor as well: `documents` numbers each token's document.

Shapes: B batch, T time (block_size). Targets are the inputs' next tokens; IGNORE marks padding.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from minigpt.batching.token_files import STRETCH, TokenFile
from minigpt.support.errors import ConfigError, DataError

IGNORE = -100  # the target that cross_entropy leaves out

Batch = tuple[Tensor, ...]  # idx, targets and perhaps documents, each (B, T) int64


# --- training batches ---


class Windows:
    """Windows of T + 1 tokens that begin anywhere, drawn with replacement."""

    def __init__(self, tokens: TokenFile, batch_size: int, block_size: int, seed: int):
        check_sizes(tokens, batch_size, block_size, seed)
        self.tokens, self.seed = tokens.tokens, seed
        self.batch_size, self.block_size = batch_size, block_size

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step."""
        rng = np.random.default_rng((self.seed, step))
        starts = rng.integers(len(self.tokens) - self.block_size, size=self.batch_size)
        rows = self.tokens[starts[:, None] + np.arange(self.block_size + 1)]  # (B, T + 1)
        return inputs_and_targets(rows)


class Documents:
    """Rows that begin with a document: <|endoftext|>, its text, then the documents after it.

    The file ends with <|endoftext|> and is read as a circle, so every document can come first.
    apart: batches say which document each token is of, so that none sees another.
    """

    def __init__(
        self, tokens: TokenFile, batch_size: int, block_size: int, seed: int, apart: bool = False
    ):
        check_sizes(tokens, batch_size, block_size, seed)
        self.tokens, self.seed = tokens.tokens, seed
        self.batch_size, self.block_size = batch_size, block_size
        self.separator = tokens.eot_id if apart else None
        self.starts, _ = document_spans(tokens)
        if len(self.starts) == 0:
            raise DataError("no documents", str(tokens.path), "give documents that are not empty")

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step, and documents where they are apart."""
        rng = np.random.default_rng((self.seed, step))
        starts = self.starts[rng.integers(len(self.starts), size=self.batch_size)]
        places = (starts[:, None] + np.arange(self.block_size + 1)) % len(self.tokens)
        batch = inputs_and_targets(self.tokens[places])  # (B, T + 1)
        return batch if self.separator is None else with_documents(batch, self.separator)


def document_spans(tokens: TokenFile) -> tuple[np.ndarray, np.ndarray]:
    """Return for each document the place of the <|endoftext|> before it, and its length in tokens.

    The length counts one <|endoftext|>. The first document begins with the last token of the
    file. Empty documents are left out.
    """
    if tokens.eot_id is None or tokens.tokens[-1] != tokens.eot_id:
        raise DataError(
            "does not end with <|endoftext|>, so it is not a file of whole documents",
            str(tokens.path),
            "write <|endoftext|> after each document, or use windows",
        )
    parts = [
        start + np.flatnonzero(tokens.tokens[start : start + STRETCH] == tokens.eot_id)
        for start in range(0, len(tokens), STRETCH)
    ]
    ends = np.concatenate(parts)
    starts = np.roll(ends, 1)
    lengths = (ends - starts - 1) % len(tokens) + 1
    return starts[lengths > 1], lengths[lengths > 1]


def inputs_and_targets(rows: np.ndarray) -> Batch:
    """Split rows (B, T + 1) into inputs and next tokens (B, T) as int64 tensors."""
    return (
        torch.from_numpy(rows[:, :-1].astype(np.int64)),
        torch.from_numpy(rows[:, 1:].astype(np.int64)),
    )


def with_documents(batch: Batch, separator: int) -> Batch:
    """Add to idx and targets a number for each token's document, which begins with a separator.

    >>> idx = torch.tensor([[0, 5, 6, 0, 7]])
    >>> with_documents((idx, idx), separator=0)[2]
    tensor([[1, 1, 1, 2, 2]])
    """
    idx, targets = batch
    return idx, targets, (idx == separator).cumsum(dim=1)


def answer_rows(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Batch:
    """Return idx, targets (B, T): prompts and their answers, padded; answers alone are targets.

    >>> answer_rows([[5, 6], [7]], [[8], [9]])[1].tolist()
    [[-100, 8], [9, -100]]
    """
    T = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) - 1
    idx = torch.zeros(len(prompts), T).long()
    targets = torch.full_like(idx, IGNORE)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = torch.tensor([*prompt, *answer])
        idx[row, : len(ids) - 1] = ids[:-1]
        targets[row, len(prompt) - 1 : len(ids) - 1] = ids[len(prompt) :]
    return idx, targets


def shard(batch: Batch, rank: int, world_size: int) -> Batch:
    """Return the rows of one of `world_size` processes: disjoint, together the whole batch."""
    rows = len(batch[0])
    assert 0 <= rank < world_size, (rank, world_size)
    assert rows % world_size == 0, (rows, world_size)
    mine = slice(rank * rows // world_size, (rank + 1) * rows // world_size)
    return tuple(part[mine] for part in batch)


def fill_rows(batch: Batch, world_size: int) -> Batch:
    """Return a batch whose rows part evenly: some may be added that have no targets."""
    idx, targets, *documents = batch
    missing = -len(idx) % world_size
    if missing == 0:
        return batch
    added = torch.full_like(targets[:1], IGNORE).expand(missing, -1)
    rest = (torch.cat([part, part[:1].expand(missing, -1)]) for part in (idx, *documents))
    idx, *documents = rest
    return idx, torch.cat([targets, added]), *documents


def shard_validation(batch: Batch, rank: int, world_size: int) -> Batch:
    """Return the rows of one of `world_size` processes, of a batch that may not part evenly.

    Where there are fewer rows than processes, some get the first row without targets.
    """
    idx, targets, *documents = batch
    mine = slice(rank * len(idx) // world_size, (rank + 1) * len(idx) // world_size)
    if mine.start == mine.stop:
        return idx[:1], torch.full_like(targets[:1], IGNORE), *(part[:1] for part in documents)
    return tuple(part[mine] for part in batch)


def check_sizes(tokens: TokenFile, batch_size: int, block_size: int, seed: int = 0) -> None:
    """Raise where no batch can be cut: ConfigError for a bad number, DataError for few tokens."""
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("block_size", block_size, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} {value}", "batches", f"give {least} or more")
    if len(tokens) < block_size + 1:
        raise DataError(
            f"{len(tokens)} tokens, but block_size {block_size} needs {block_size + 1}",
            str(tokens.path),
            "give more text or a smaller block_size",
        )


# --- evaluation batches ---


class EvalWindows:
    """Windows one after the other: every token but the first is a target exactly once."""

    def __init__(self, tokens: TokenFile, batch_size: int, block_size: int):
        check_sizes(tokens, batch_size, block_size=min(block_size, 1))
        self.tokens, self.batch_size, self.block_size = tokens.tokens, batch_size, block_size
        self.n_targets = len(tokens) - 1

    def __len__(self) -> int:
        return -(-self.n_targets // (self.batch_size * self.block_size))

    def __iter__(self) -> Iterator[Batch]:
        """Yield idx, targets (B, T) int64; the last batch has fewer rows, its last row padding."""
        step = self.batch_size * self.block_size
        for start in range(0, self.n_targets, step):
            stretch = self.tokens[start : start + step + 1].astype(np.int64)
            rows = -(-(len(stretch) - 1) // self.block_size)
            idx = np.zeros(rows * self.block_size, dtype=np.int64)
            targets = np.full_like(idx, IGNORE)
            idx[: len(stretch) - 1] = stretch[:-1]
            targets[: len(stretch) - 1] = stretch[1:]
            yield (
                torch.from_numpy(idx.reshape(rows, self.block_size)),
                torch.from_numpy(targets.reshape(rows, self.block_size)),
            )


class EvalDocuments:
    """Whole documents, one a row: input <|endoftext|> and text, targets text and <|endoftext|>.

    Rows are sorted by length, and each batch is as long as its longest row. Raises DataError
    where a document does not fit into block_size.
    """

    def __init__(self, tokens: TokenFile, batch_size: int, block_size: int):
        check_sizes(tokens, batch_size, block_size=1)
        starts, lengths = document_spans(tokens)
        if len(starts) and lengths.max() > block_size:
            raise DataError(
                f"a document of {lengths.max()} tokens, but block_size is {block_size}",
                f"{tokens.path}, token {starts[lengths.argmax()]}",
                "give a larger block_size, or evaluate on windows",
            )
        order = np.argsort(lengths, kind="stable")
        self.tokens, self.batch_size = tokens.tokens, batch_size
        self.starts, self.lengths = starts[order], lengths[order]
        self.n_documents, self.n_targets = len(starts), int(lengths.sum())

    def __len__(self) -> int:
        return -(-self.n_documents // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yield idx, targets (B, T) int64; T is the batch's longest row, the last B may be less."""
        for first in range(0, self.n_documents, self.batch_size):
            starts = self.starts[first : first + self.batch_size, None]  # (B, 1)
            lengths = self.lengths[first : first + self.batch_size, None]  # (B, 1)
            steps = np.arange(lengths.max() + 1)
            idx, targets = inputs_and_targets(self.tokens[(starts + steps) % len(self.tokens)])
            padding = torch.from_numpy(steps[:-1] >= lengths)  # (B, T)
            yield idx.masked_fill(padding, 0), targets.masked_fill(padding, IGNORE)
