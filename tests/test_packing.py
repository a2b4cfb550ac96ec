"""Batches of conversations: what a row holds, what is a target, and that no step forgets."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from minigpt.batching.packing import Bucketed, EvalPacked, Packed, Stages, best_fit
from minigpt.batching.windows import IGNORE
from minigpt.gpt import GPT, GPTConfig
from minigpt.recipe import TrainConfig
from minigpt.support.errors import ConfigError, DataError
from minigpt.train import train
from minigpt.validation import evaluate_loss

EOT = 0


def conversations(count: int, longest: int = 30, seed: int = 0) -> list[tuple[list, list]]:
    """Return (ids, trained) with ids that no other conversation has, a prompt and an answer."""
    rng, made = random.Random(seed), []
    for number in range(count):
        length = rng.randint(2, longest)
        ids = [1 + 100 * number + place for place in range(length)]
        begin = rng.randint(1, length - 1)
        made.append((ids, [place >= begin for place in range(length)]))
    return made


def split_row(idx: torch.Tensor, targets: torch.Tensor) -> list[list[int]]:
    """Return the conversations of a row, cut at the separators; the padding leaves nothing."""
    last = [int(targets[-1])] if targets[-1] != IGNORE else []
    parts, part = [], []
    for token in [*idx.tolist(), *last, EOT]:
        if token == EOT:
            parts += [part] if part else []
            part = []
        else:
            part.append(token)
    return parts


def wanted_targets(row: list[list[int]], known: dict[int, tuple[list, list]]) -> list[int]:
    """Return the targets that a row's conversations should have, in order."""
    found = []
    for number, part in enumerate(row):
        ids, trained = known[part[0]]
        assert part == ids, "a conversation is cut"
        pairs = list(zip(ids, trained, strict=True))[0 if number else 1 :]
        found += [token for token, is_trained in pairs if is_trained]
    return found


def test_every_row_holds_whole_conversations_and_their_answers_as_targets():
    made = conversations(83)
    known = {ids[0]: (ids, trained) for ids, trained in made}
    source = Packed(made, batch_size=5, block_size=40, seed=1)
    seen = Counter()
    for step in range(-(-source.n_rows // 5)):
        idx, targets = source.batch(step)
        assert idx.shape == targets.shape == (5, 40)
        assert idx.dtype == targets.dtype == torch.int64
        for row in range(5):
            if step * 5 + row >= source.n_rows:
                break
            parts = split_row(idx[row], targets[row])
            predicted = targets[row] != IGNORE
            assert targets[row][predicted].tolist() == wanted_targets(parts, known)
            shifted = idx[row, 1:][predicted[:-1]]
            assert shifted.tolist() == targets[row, :-1][predicted[:-1]].tolist()
            seen.update(part[0] for part in parts)
    assert seen == Counter({ids[0]: 1 for ids, _ in made}), "each once an epoch"


def test_conversations_apart_have_numbers_of_their_own():
    made = conversations(40)
    plain, apart = (Packed(made, 5, 40, seed=1, separator=EOT, apart=way) for way in (False, True))
    idx, targets, documents = apart.batch(0)
    assert all(map(torch.equal, plain.batch(0), (idx, targets)))
    conversation = torch.where(idx == EOT, -1, (idx - 1) // 100)
    for row in range(5):
        held = conversation[row][conversation[row] >= 0].unique()
        numbers = [documents[row][conversation[row] == each].unique().tolist() for each in held]
        assert len(held) > 1
        assert sorted(n for (n,) in numbers) == sorted({n for (n,) in numbers})  # one each


def test_a_conversation_that_just_fits_is_whole():
    ids = list(range(1, 10))
    source = Packed([(ids, [False] * 4 + [True] * 5)], batch_size=1, block_size=8, seed=0)
    idx, targets = source.batch(0)
    assert idx[0].tolist() == ids[:-1]
    assert targets[0].tolist() == [IGNORE] * 3 + ids[4:]


def test_a_batch_depends_on_seed_and_step_alone():
    made = conversations(60)
    first, again = (Packed(made, 4, 40, seed=3) for _ in range(2))
    other = Packed(made, 4, 40, seed=4)
    wanted = [first.batch(step) for step in range(9)]
    for step in reversed(range(9)):
        assert all(map(torch.equal, again.batch(step), wanted[step]))
    assert not all(torch.equal(other.batch(step)[0], wanted[step][0]) for step in range(9))


def test_epochs_differ_in_order_and_in_neighbors():
    made = conversations(200, longest=8)
    source = Packed(made, batch_size=1, block_size=30, seed=0)
    assert source.n_rows > 10

    def rows(epoch: int) -> list[tuple[int, ...]]:
        numbers = range(epoch * source.n_rows, (epoch + 1) * source.n_rows)
        return [tuple(source.row(number).tolist()) for number in numbers]

    first, second = rows(0), rows(1)
    assert sorted(sum(first, ())) == sorted(sum(second, ())) == list(range(200))
    assert len({frozenset(row) for row in first} & {frozenset(row) for row in second}) < 3


def test_rows_are_well_filled():
    source = Packed(conversations(2000, longest=60), batch_size=1, block_size=255, seed=0)
    assert 0.97 < source.fill <= 1
    by_hand = [
        sum(map(len, split_row(*(side[0] for side in source.batch(step)))))
        for step in range(source.n_rows)
    ]
    assert source.fill == pytest.approx(sum(by_hand) / (256 * source.n_rows))


@pytest.mark.parametrize("room", [12, 40, 1000])
def test_packing_keeps_every_item_and_no_row_overflows(room):
    lengths = np.random.default_rng(room).integers(1, 13, size=300)
    rows = best_fit(lengths, room)
    assert sorted(np.concatenate(rows).tolist()) == list(range(300))
    assert max(lengths[row].sum() for row in rows) <= room
    assert len(rows) <= 1.25 * lengths.sum() / room + 1, "far from the fewest rows possible"


# --- one conversation a row ---


def test_bucketed_rows_hold_one_conversation_each_once_an_epoch():
    made = conversations(83)
    known = {ids[0]: (ids, trained) for ids, trained in made}
    source = Bucketed(made, batch_size=5, block_size=40, seed=1)
    for epoch in range(2):
        seen, tokens, padded = Counter(), 0, 0
        for step in range(epoch * source.n_batches, (epoch + 1) * source.n_batches):
            idx, targets = source.batch(step)
            assert idx.shape == targets.shape
            padded += idx.numel()
            for row, wanted in zip(idx, targets, strict=True):
                (part,) = split_row(row, wanted)
                assert wanted[wanted != IGNORE].tolist() == wanted_targets([part], known)
                seen[part[0]] += 1
                tokens += len(part) - 1
        assert seen == Counter({ids[0]: 1 for ids, _ in made})
        assert tokens > 0.65 * padded, "rows of like length belong together"


def test_bucketed_batches_have_like_numbers_of_tokens_and_the_rows_asked_for():
    source = Bucketed(conversations(300), batch_size=8, block_size=40, seed=0)
    shapes = [source.batch(step)[0].shape for step in range(source.n_batches)]
    assert sum(rows for rows, _ in shapes) / len(shapes) == pytest.approx(8, rel=0.25)
    tokens = [shape.numel() for shape in shapes]
    assert max(tokens) <= 1.5 * sum(tokens) / len(tokens)
    assert len({rows for rows, _ in shapes}) > 2, "many short rows, few long ones"
    assert all(T % 8 == 0 for _, T in shapes)


def test_a_bucketed_batch_depends_on_seed_and_step_alone():
    made = conversations(300)
    first, again = (Bucketed(made, 4, 40, seed=3) for _ in range(2))
    n = first.n_batches
    wanted = [first.batch(step) for step in range(2 * n)]
    for step in reversed(range(2 * n)):
        assert all(map(torch.equal, again.batch(step), wanted[step]))
    groups = [{frozenset(ids.tolist()) for ids in source} for source in map(first.epoch, (0, 1))]
    assert len(groups[0] & groups[1]) < 0.2 * n, "each epoch has other batches"
    other = Bucketed(made, 4, 40, seed=4)
    assert any(not torch.equal(other.batch(step)[0], wanted[step][0]) for step in range(n))


# --- what is too long ---


def test_a_conversation_too_long_is_named_with_both_lengths():
    made = [*conversations(3, longest=8), ([5] * 33, [False, *[True] * 32])]
    with pytest.raises(DataError, match=r"33 tokens.*rows hold 20.*conversation 3.*--block-size"):
        Packed(made, 2, 19, seed=0)
    with pytest.raises(DataError, match=r"33 tokens.*a\.tsv, line 4"):
        Packed(made, 2, 19, seed=0, places=[f"a.tsv, line {n}" for n in (1, 2, 3, 4)])


def test_too_long_ones_are_dropped_or_cut_by_choice_and_counted():
    short, long = conversations(3, longest=8), (list(range(1, 34)), [False] * 30 + [True] * 3)
    dropped = Packed([*short, long], 2, 19, seed=0, over_long="drop")
    assert len(dropped.flat) == 3
    assert dropped.flat.n_over_long == 1
    cut = Packed([*short, long], 2, 19, seed=0, over_long="cut")
    assert len(cut.flat) == 4
    assert cut.flat.n_over_long == 1
    assert EvalPacked([*short, long], 2, 19, over_long="drop").flat.n_over_long == 1


def test_a_conversation_without_an_answer_is_named():
    made = [*conversations(3), ([1, 2, 3], [False] * 3)]
    with pytest.raises(DataError, match=r"no answer.*conversation 3.*leave it out"):
        Packed(made, 2, 40, seed=0)
    with pytest.raises(DataError, match="no conversation is left of 0"):
        Packed([], 2, 40, seed=0)


@pytest.mark.parametrize("numbers", [(0, 8, 0), (2, 0, 0), (2, 8, -1)])
def test_impossible_sizes_are_refused(numbers):
    with pytest.raises(ConfigError, match="give"):
        Packed(conversations(3, longest=5), *numbers)


# --- mixtures ---


class Counting:
    """A source whose row r holds the number r, so that a mixture's rows can be told."""

    def __init__(self, first: int, batch_size: int = 4, block_size: int = 3):
        self.first, self.batch_size, self.block_size = first, batch_size, block_size

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = self.first + step * self.batch_size + torch.arange(self.batch_size)
        rows = numbers[:, None].repeat(1, self.block_size)
        return rows, rows + 1


def test_stages_follow_each_other_from_their_first_rows():
    stages = Stages([(Counting(0), 3), (Counting(50), 2)], Counting(100))
    firsts = [int(stages.batch(step)[0][0, 0]) for step in range(7)]
    assert firsts == [0, 4, 8, 50, 54, 100, 104]


# --- validation, and training ---


def test_validation_has_every_answer_once_each_row_alone():
    made = conversations(31)
    known = {ids[0]: (ids, trained) for ids, trained in made}
    batches = EvalPacked(made, batch_size=4, block_size=40)
    rows = [pair for idx, targets in batches for pair in zip(idx, targets, strict=True)]
    assert len(rows) == 31
    assert len(batches) == len(list(batches)) == 8
    for idx, targets in rows:
        parts = split_row(idx, targets)
        assert len(parts) == 1
        assert targets[targets != IGNORE].tolist() == wanted_targets(parts, known)
    assert batches.n_targets == sum(int((targets != IGNORE).sum()) for _, targets in rows)


@pytest.mark.parametrize("width", [4, 7])
def test_validation_loss_does_not_depend_on_the_padding(width):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=3101, block_size=40, n_layer=1, n_head=1, n_embd=8))
    torch.nn.init.normal_(model.blocks[0].attention.output.weight)
    cpu, made = torch.device("cpu"), conversations(31)
    losses = [
        evaluate_loss(model, EvalPacked(made, size, 40), cpu, torch.float32) for size in (1, width)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_fine_tuning_is_train_and_learns_the_answers_alone(tmp_path):
    """The answer to prompt n is n + 20; the prompts are noise that nobody can learn."""
    rng = random.Random(0)
    made = []
    for _ in range(64):
        key = rng.randrange(1, 10)
        noise = [rng.randrange(30, 60) for _ in range(4)]
        made.append(([*noise, key, key + 20], [False] * 5 + [True]))
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=60, block_size=20, n_layer=1, n_head=1, n_embd=32))
    config = TrainConfig(max_steps=200, batch_size=8, dtype="float32", device="cpu")
    validation = EvalPacked(made, 8, 20)
    result = train(model, Packed(made, 8, 20, seed=0), config, tmp_path, validation=validation)
    assert result.val_loss < 0.3, "chance is 2.2"
    idx, targets = (side.clone() for side in next(iter(validation)))
    everything = torch.where(targets == IGNORE, torch.roll(idx, -1, dims=1), targets)
    prompt_only = torch.where(targets == IGNORE, everything, IGNORE)[:, :4]
    with torch.no_grad():
        _, prompt_loss = model(idx[:, :4], prompt_only)
    assert prompt_loss > 3, "the prompts were trained on"
