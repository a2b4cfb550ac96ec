"""Batches: which tokens they hold, and what is refused."""

import random

import pytest
import torch
from helpers import EOT, token_file

from minigpt.batching.token_files import write_tokens
from minigpt.batching.windows import (
    IGNORE,
    Documents,
    EvalDocuments,
    EvalWindows,
    Windows,
    shard,
    shard_validation,
)
from minigpt.support.errors import ConfigError, DataError


def random_documents(count: int, longest: int = 9, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, 1000) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def join(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in [*document, EOT]]


# --- training batches ---


@pytest.mark.parametrize("kind", [Windows, Documents])
def test_batch_is_a_function_of_seed_and_step(kind, tmp_path):
    tokens = token_file(tmp_path, join(random_documents(50)))
    source = kind(tokens, batch_size=6, block_size=7, seed=1)
    idx, targets = source.batch(3)
    assert idx.shape == targets.shape == (6, 7)
    assert idx.dtype == targets.dtype == torch.int64
    assert torch.equal(idx[:, 1:], targets[:, :-1])
    source.batch(9)
    for again in (source, kind(tokens, 6, 7, 1)):
        assert torch.equal(again.batch(3)[0], idx)
        assert torch.equal(again.batch(3)[1], targets)
    assert not torch.equal(source.batch(4)[0], idx)
    assert not torch.equal(kind(tokens, 6, 7, 2).batch(3)[0], idx)


def test_windows_are_stretches_from_everywhere(tmp_path):
    tokens = token_file(tmp_path, list(range(40)))
    source = Windows(tokens, batch_size=8, block_size=5, seed=0)
    firsts = set()
    for step in range(100):
        idx, targets = source.batch(step)
        assert torch.equal(targets, idx + 1)
        assert torch.equal(idx, idx[:, :1] + torch.arange(5))
        firsts.update(idx[:, 0].tolist())
    assert firsts == set(range(35))


@pytest.mark.parametrize("block_size", [3, 20, 60])
def test_documents_begin_rows_and_run_on(block_size, tmp_path):
    documents = random_documents(20)
    ids = join(documents)
    tokens = token_file(tmp_path, ids)
    source = Documents(tokens, batch_size=8, block_size=block_size, seed=0)
    circle = [EOT, *ids, *ids]
    begins = {tuple(circle[n : n + block_size + 1]) for n in range(len(ids)) if circle[n] == EOT}
    seen = set()
    for step in range(60):
        idx, targets = source.batch(step)
        seen.update(tuple(row) for row in torch.cat([idx, targets[:, -1:]], dim=1).tolist())
    assert seen == begins


def test_documents_leave_out_empty_ones(tmp_path):
    tokens = token_file(tmp_path, [1, EOT, EOT, 2, 3, EOT, EOT])
    source = Documents(tokens, 50, 1, 0)
    assert set(source.batch(0)[1][:, 0].tolist()) == {1, 2}
    with pytest.raises(DataError, match=r"no documents.*give documents that are not empty"):
        Documents(token_file(tmp_path, [EOT, EOT]), 1, 1, 0)


@pytest.mark.parametrize("kind", [Documents, EvalDocuments])
def test_documents_need_their_ends(kind, tmp_path):
    arguments = (4, 3, 0) if kind is Documents else (4, 3)
    with pytest.raises(DataError, match=r"does not end with <\|endoftext\|>.*use windows"):
        kind(token_file(tmp_path, [1, EOT, 2, 3, 4]), *arguments)
    no_eot = write_tokens(tmp_path / "t.bin", [[1, 2, 3, 4]], 9, None)
    with pytest.raises(DataError, match=r"does not end with"):
        kind(no_eot, *arguments)


@pytest.mark.parametrize("kind", [Windows, Documents])
@pytest.mark.parametrize("count", [1, 8, 9, 10])
def test_too_few_tokens(kind, count, tmp_path):
    tokens = token_file(tmp_path, [7] * (count - 1) + [EOT])
    if count < 9:
        with pytest.raises(DataError, match=rf"{count} tokens.* 8 needs 9.*more text or a smaller"):
            kind(tokens, 2, 8, 0)
    else:
        assert kind(tokens, 2, 8, 0).batch(0)[0].shape == (2, 8)


def test_one_token_cannot_be_evaluated(tmp_path):
    with pytest.raises(DataError, match=r"1 tokens.*needs 2.*give more text"):
        EvalWindows(token_file(tmp_path, [1]), 2, 8)


def test_no_tokens_at_all(tmp_path):
    with pytest.raises(DataError, match=r"0 tokens.*give a text"):
        token_file(tmp_path, [])


@pytest.mark.parametrize("sizes", [(0, 4, 0), (4, 0, 0), (4, 4, -1)])
def test_impossible_sizes_are_refused(sizes, tmp_path):
    with pytest.raises(ConfigError, match=r"(batch_size|block_size|seed) -?\d.*give \d or more"):
        Windows(token_file(tmp_path, [1] * 20), *sizes)


def test_shards_are_disjoint_and_together_the_batch(tmp_path):
    batch = Windows(token_file(tmp_path, list(range(100))), 6, 5, 0).batch(0)
    parts = [shard(batch, rank, 3) for rank in range(3)]
    assert all(len(idx) == 2 for idx, _ in parts)
    for n in range(2):
        assert torch.equal(torch.cat([part[n] for part in parts]), batch[n])
    with pytest.raises(AssertionError):
        shard(batch, 0, 4)


# --- evaluation batches ---


@pytest.mark.parametrize("count", [2, 7, 8, 9, 15, 16, 49, 50, 101])
def test_every_token_is_predicted_exactly_once(count, tmp_path):
    batches = EvalWindows(token_file(tmp_path, list(range(count))), batch_size=3, block_size=7)
    predicted, n_batches = [], 0
    for idx, targets in batches:
        assert idx.shape == targets.shape
        assert idx.shape[1] == 7
        kept = targets != IGNORE
        assert torch.equal(idx[kept] + 1, targets[kept])
        predicted += targets[kept].tolist()
        n_batches += 1
    assert predicted == list(range(1, count))
    assert batches.n_targets == count - 1
    assert len(batches) == n_batches


@pytest.mark.parametrize("count", [1, 2, 23])
def test_every_document_is_evaluated_whole(count, tmp_path):
    documents = random_documents(count)
    batches = EvalDocuments(token_file(tmp_path, join(documents)), batch_size=4, block_size=10)
    seen, lengths = [], []
    for idx, targets in batches:
        assert idx.dtype == targets.dtype == torch.int64
        assert (targets[:, -1] != IGNORE).any(), "no longer than the longest row"
        for row, row_targets in zip(idx.tolist(), targets.tolist(), strict=True):
            length = sum(target != IGNORE for target in row_targets)
            assert row[0] == EOT
            assert row_targets[:length] == [*row[1:length], EOT]
            assert row_targets[length:] == [IGNORE] * (len(row) - length)
            seen.append(row[1:length])
            lengths.append(length)
    assert sorted(seen) == sorted(documents)
    assert lengths == sorted(lengths)
    assert batches.n_documents == count
    assert batches.n_targets == sum(len(document) + 1 for document in documents)
    assert len(batches) == -(-count // 4)


def test_document_longer_than_block_size_names_both(tmp_path):
    tokens = token_file(tmp_path, join([[1] * 3, [2] * 12, [3] * 5]))
    with pytest.raises(DataError, match=r"document of 13 tokens, but block_size is 12.*token 3 — "):
        EvalDocuments(tokens, 2, 12)
    assert EvalDocuments(tokens, 2, 13).n_documents == 3


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_validation_rows_of_all_processes_are_the_batch(rows, size):
    idx = torch.arange(rows * 5).reshape(rows, 5)
    documents = idx // 3
    parts = []
    for rank in range(size):
        mine, targets, numbers = shard_validation((idx, idx + 1, documents), rank, size)
        assert len(mine) == len(targets) == len(numbers) > 0
        assert torch.equal(numbers, mine // 3)
        parts.append(mine[(targets != IGNORE).any(dim=1)])
    assert torch.equal(torch.cat(parts), idx)


def test_documents_apart_are_numbered_and_sharded_with_their_rows(tmp_path):
    tokens = write_tokens(tmp_path / "x.bin", [[5, 0, 6, 7, 0, 8, 9, 10, 0]], 11, 0)
    plain, apart = (Documents(tokens, 6, 7, seed=1, apart=way) for way in (False, True))
    idx, targets, documents = apart.batch(2)
    assert all(map(torch.equal, plain.batch(2), (idx, targets)))
    assert torch.equal(documents, (idx == 0).cumsum(dim=1))
    assert len(documents[0].unique()) > 1
    parts = [shard(apart.batch(2), rank, 3) for rank in range(3)]
    for whole, pieces in zip((idx, targets, documents), zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces), whole)
