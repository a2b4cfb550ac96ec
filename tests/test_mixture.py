"""Reading first, answering then: which rows a run meets, and what of them is trained on."""

from collections import Counter

import numpy as np
import pytest
import torch

from minigpt.batching.conversations import Flat, flatten
from minigpt.batching.mixture import read_then_answer
from minigpt.batching.token_files import write_tokens
from minigpt.batching.windows import IGNORE, fill_rows, shard

EOT = 0
DOCUMENTS = [[10 + n] * (3 + n % 17) for n in range(80)]
TALKS = [
    ([1, *[100 + n] * (2 + n % 23), 2, 200 + n, 3], [False] * (4 + n % 23) + [True, True])
    for n in range(60)
]


@pytest.fixture
def flats(tmp_path) -> tuple[Flat, Flat]:
    file = write_tokens(tmp_path / "a.bin", ([*ids, EOT] for ids in DOCUMENTS), 300, EOT)
    return Flat.of_documents(file), flatten(TALKS, 32, "refuse")


def rows_of(idx: torch.Tensor, targets: torch.Tensor):
    for row, wanted in zip(idx.tolist(), targets.tolist(), strict=True):
        trained = [place for place, target in enumerate(wanted) if target != IGNORE]
        yield row, wanted, trained


def test_documents_of_a_token_file_are_whole_and_trained_from_end_mark_to_end_mark(flats):
    documents, _ = flats
    assert len(documents) == len(DOCUMENTS) - 1, "the first has its end mark at the file's end"
    idx, targets = documents.rows(np.arange(79)[:, None], documents.lengths.max(), EOT)
    for (row, wanted, trained), ids in zip(rows_of(idx, targets), DOCUMENTS[1:], strict=True):
        assert row[: len(ids) + 1] == [EOT, *ids]
        assert trained == list(range(len(ids) + 1))
        assert [wanted[place] for place in trained] == [*ids, EOT]


def test_documents_come_first_and_then_conversations_with_some_of_them(flats):
    source = read_then_answer(*flats, 0.25, 30, (4, 32), EOT, seed=3)
    seen: tuple[Counter, Counter] = (Counter(), Counter())  # tokens, by phase
    for step in range(230):
        idx, targets = source.batch(step)
        assert idx.numel() <= 1.5 * 4 * 32, "rows of like length, not of equal length"
        for row, wanted, trained in rows_of(idx, targets):
            if row[0] == 1:
                first = row.index(2)
                assert trained == [first, first + 1], "answers alone"
                assert [wanted[place] for place in trained] == [row[first + 1], 3]
            kind = "talk" if row[0] == 1 else "document"
            seen[step >= 30][kind] += max(trained) + 1
    assert set(seen[0]) == {"document"}
    share = seen[1]["document"] / seen[1].total()
    assert share == pytest.approx(0.25, abs=0.05)


def test_a_batch_is_a_function_of_seed_and_step_and_every_epoch_deals_anew(flats):
    one, same, other = (read_then_answer(*flats, 0.2, 4, (4, 32), EOT, s) for s in (1, 1, 2))
    for step in (0, 3, 4, 60):
        assert all(map(torch.equal, one.batch(step), same.batch(step)))
    assert any(not torch.equal(one.batch(s)[0], other.batch(s)[0]) for s in range(8))


@pytest.mark.parametrize(("rows", "size"), [(5, 2), (4, 2), (1, 3), (7, 4)])
def test_rows_are_filled_up_so_that_every_process_gets_as_many(rows, size):
    idx = torch.arange(rows * 6).view(rows, 6)
    batch = fill_rows((idx, idx + 1, idx * 0), size)
    parts = [shard(batch, rank, size) for rank in range(size)]
    assert len({len(part[0]) for part in parts}) == 1
    whole = [torch.cat(part) for part in zip(*parts, strict=True)]
    assert torch.equal(whole[0][:rows], idx)
    assert torch.equal(whole[1][:rows], idx + 1)
    assert (whole[1][rows:] == IGNORE).all(), "what was added trains nothing"
    assert len(whole[2]) == len(whole[0])
