"""Wrong answers about many GPUs fail, each with a word on what to look at."""

import pytest
import torch
from solved import answer_of, fails, passes_always, solution

from minigpt.checks import exercises, judge
from minigpt.checks.many_gpus import cut, peak, plan_costs
from minigpt.machine.cluster import all_gather_bytes, rank_bytes

pytestmark = pytest.mark.usefixtures("student")

HAND = {
    "gradient": [4, 3],
    "copies": 6000,
    "parts": 9000,
    "held": 11,
    "bubble": 0.375,
    "pieces": 3,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gradient": [4, 4]}, "plain average"),
        ({"gradient": [2, 3]}, "share of the 4 targets"),
        ({"copies": 3000}, "reduce-scatter alone"),
        ({"copies": 8000}, "own part stays"),
        ({"copies": 1500}, "4 bytes"),
        ({"copies": 24000}, "not the whole"),
        ({"parts": 6000}, "what copies send"),
        ({"parts": 3000}, "three rings"),
        ({"held": 4}, "stage 3"),
        ({"held": 18}, "stage 1"),
        ({"bubble": 0.6}, "slots"),
        ({"pieces": 12}, "single process"),
        ({"pieces": 24}, "in pieces of 8"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_numbers_by_hand(change, words):
    assert judge("many_gpus.by_hand", HAND) == ("passed", "passed")
    fails("many_gpus.by_hand", HAND | change, words)


# The ring; each option of this one plants a fault


def faulty(start=0, halves=True, is_whole=False, in_place=False, rounds=0, replaces=True):
    def ring(rank, size, values):
        pieces = values.tensor_split(size) if not is_whole else (values,) * size
        parts = list(pieces) if in_place else [part.clone() for part in pieces]
        for turn in range(2 * (size - 1) + rounds):
            arrived = yield parts[(rank - turn + start) % size]
            into = (rank - turn - 1 + start) % size
            if (turn < size - 1) == halves or not replaces:
                parts[into] += arrived
            else:
                parts[into] = arrived
        return torch.cat(parts)

    return ring


def silent(rank, size, values):
    return values


def selfish(rank, size, values):
    for part in list(values.tensor_split(size)) * 2:
        if part is not values and size > 1 and rank >= 0:
            yield part
    return values


def early_end(rank, size, values):
    if rank:
        yield values[:1]
    return values


def numbers(rank, size, values):
    yield 3.0
    return values


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (faulty(halves=False), "the value"),
        (faulty(replaces=False), "the value"),
        (faulty(is_whole=True), "numbers at once"),
        (faulty(in_place=True), "changed in place"),
        (faulty(rounds=1), "messages"),
        (faulty(rounds=5), "messages"),
        (faulty(rounds=-1), "messages, expected 2"),
        (silent, "no `yield`"),
        (selfish, "messages are sent"),
        (early_end, "wait for its message"),
        (numbers, "expected a tensor"),
        (3, "expected a function"),
    ],
)
def test_wrong_rings(answer, words):
    fails("many_gpus.ring", answer, words)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_ring_may_begin_with_any_part(start):
    assert judge("many_gpus.ring", faulty(start=start)) == ("passed", "passed")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"is_rounded": False}, "Rows are not cut"),
        ({"averages": 1}, "two averages"),
        ({"gathered": False}, "largest block"),
        ({"first": (1, 2, 3)}, "Stage 1 splits the averages"),
    ],
)
def test_wrong_memory(options, words):
    assert judge("many_gpus.memory", lambda *a: peak(*a)) == ("passed", "passed")
    fails("many_gpus.memory", lambda *a: peak(*a, **options), words)


def test_memory_in_numbers_is_no_memory_in_bytes():
    fails("many_gpus.memory", lambda *a: peak(*a) / 4, "each has 4 bytes")
    fails("many_gpus.memory", lambda *a: None, "returned None")


def test_the_oracle_of_memory_is_the_packages_formula():
    for stage in range(4):
        found = peak([[(16, 5)], [(8, 3)]], 4, stage, gathered=False)
        assert found == rank_bytes(16 * 5 + 8 * 3, 4, stage)


def padding_kept(shards, length, size):
    return cut(torch.cat([shards[f"rank-{rank}"] for rank in range(len(shards))]), size)


def sorted_as_text(shards, length, size):
    return cut(torch.cat([shards[name] for name in sorted(shards)])[:length], size)


def names_by_number(shards, length, size):
    right = padding_kept(shards, length, size)
    return {int(name.removeprefix("rank-")): part for name, part in right.items()}


def cleared(shards, length, size):
    whole = torch.cat([shards[f"rank-{rank}"] for rank in range(len(shards))])[:length]
    for part in shards.values():
        part.zero_()
    return cut(whole, size)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (padding_kept, "The padding of the old parts"),
        (sorted_as_text, "Sorted as text"),
        (names_by_number, "expected the names"),
        (cleared, "was changed"),
        (lambda s, length, size: list(s.values()), "expected a dict"),
        (lambda s, length, size: s, "expected the names"),
    ],
)
def test_wrong_parts(answer, words):
    assert judge("many_gpus.reshard", answer_of("many_gpus.reshard")) == ("passed", "passed")
    fails("many_gpus.reshard", answer, words)


def test_the_planted_resharding_fails_as_it_is():
    fails("many_gpus.reshard", solution("many_gpus.reshard").names["broken"], "")


BUBBLE = {
    "idle_1": 0.75,
    "idle_4": 0.4286,
    "idle_16": 0.1579,
    "pieces": 27,
    "held_late": 16,
    "held_early": 4,
    "why": "b",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"idle_1": 0.25}, "first of the two results"),
        ({"idle_4": 0.75}, "first of the two results"),
        ({"pieces": 28}, "at most 0.1"),
        ({"held_late": 4}, r"pipeline(4, 16)"),
        ({"held_early": 16}, "early=True"),
        ({"why": "a"}, "BOTH results"),
        ({"why": "c"}, "BOTH results"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_bubbles(change, words):
    assert judge("many_gpus.bubble", BUBBLE) == ("passed", "passed")
    fails("many_gpus.bubble", BUBBLE | change, words)


PLAN = {"gpus": 128, "stage": 1, "batch_tokens": 2**22, "piece_tokens": 2048}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stage": 0}, "would hold 136 GB"),
        ({"piece_tokens": 4096}, "smaller pieces"),
        ({"stage": 3, "piece_tokens": 16_384}, "sends 5 times around"),
        ({"stage": 2, "piece_tokens": 8192}, "sends 5 times around"),
        ({"gpus": 256}, "efficiency"),
        ({"gpus": 64}, "more GPUs"),
        ({"gpus": 100}, "full nodes"),
        ({"gpus": 120}, "multiple"),
        ({"batch_tokens": 2**23}, "still teach"),
        ({"piece_tokens": 512}, "at least 1,024"),
        ({"stage": 4}, "there are 0, 1, 2 and 3"),
        ({"gpus": 128.0}, "whole number"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_plans(change, words):
    assert judge("many_gpus.plan", PLAN) == ("passed", "passed")
    fails("many_gpus.plan", PLAN | change, words)


def test_a_plan_costs_what_the_packages_formulas_say():
    held, efficiency, _ = plan_costs(128, 1, 2**22, 2048)
    assert held == pytest.approx((rank_bytes(8_000_000_000, 128, 1) + 4e6 * 2048) / 1e9)
    exchange = 2 * all_gather_bytes(4 * 8e9, 128) / 5e10
    compute = 6 * 8e9 * 2**22 / 128 / 4e14
    assert efficiency == pytest.approx(compute / (compute + exchange))


@pytest.mark.slow
@pytest.mark.parametrize("name", exercises("many_gpus"))
def test_right_answers_never_fail(name, monkeypatch):
    passes_always(name, monkeypatch)
