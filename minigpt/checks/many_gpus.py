"""Checks of the exercises on many GPUs, each with an oracle of its own."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    integers,
    number_slip,
    require,
    same_number,
    same_results,
    same_tensor,
    slip_hint,
)

HAND = {
    "gradient": [4.0, 3.0],
    "copies": 6000,
    "parts": 9000,
    "held": 11.0,
    "bubble": 0.375,
    "pieces": 3,
}
HAND_HINTS = {
    "gradient": "Each gradient weighs as much as its share of the 4 targets: 1/2, 1/4, 1/4.",
    "copies": "Two rings around; in each of 3 rounds a quarter of the 4,000 bytes is sent.",
    "parts": "Weights are gathered twice, the gradient is reduce-scattered: three rings around.",
    "held": "Stage 2 splits the gradients (4 bytes) and the averages (8), not the weights (4).",
    "bubble": "(s - 1) / (m + s - 1): three slots of eight.",
    "pieces": "96 rows are those of all ranks together; each rank computes its own in pieces of 8.",
}
HAND_SLIPS = {("gradient", (4.0, 4.0)): "This is the plain average: ranks have unequal targets."}
NUMBER_SLIPS = {
    "copies": {
        3000: "This is half of it: a reduce-scatter alone.",
        8000: "Only (n - 1)/n of the tensor goes around: a rank's own part stays.",
        1500: "A number has 4 bytes.",
        24000: "A rank sends one part in each round, not the whole.",
    },
    "parts": {6000: "That is what copies send.", 12000: "Only (n - 1)/n of it goes around."},
    "held": {
        4.0: "That is stage 3: all is split.",
        32.0: "That is stage 0: nothing is split.",
        18.0: "That is stage 1: the gradients are split as well in stage 2.",
    },
    "bubble": {0.6: "The pipeline is full for m slots of the m + s - 1 in all."},
    "pieces": {12: "That is what a single process would do."},
}


@exercise("many_gpus.by_hand", "sections 1, 2, 5, 6 and 9 have one formula for each.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the six results of the exercise text."""
    same_results(answer, HAND, _hand_hint)


def _hand_hint(name: str, got: Any) -> str:
    slip = slip_hint(name, got, HAND_SLIPS) or number_slip(got, NUMBER_SLIPS.get(name, {}))
    return slip or HAND_HINTS[name]


# The ring, from messages


@exercise(
    "many_gpus.ring",
    "cut into `size` parts; in round t send part (rank - t) mod size; add, later replace.",
    travels=False,
)
def ring(answer: Callable, generator: Generator) -> None:
    """Expect a generator that yields what it sends and is sent what has arrived."""
    require(callable(answer), f"expected a function, got {type(answer).__name__}")
    for size, length in [(2, 4), (3, 3), (4, 20), (5, 13), (3, 2), (1, 4), (7, 40)]:
        values = [torch.randn(length, generator=generator) for _ in range(size)]
        case = f"size = {size}, {length} numbers"
        copies = [each.clone() for each in values]
        results = pass_around(answer, copies, case)
        for before, after in zip(values, copies, strict=True):
            same = torch.equal(before, after)
            require(same, f"the values were changed in place ({case}); clone the parts")
        expected = torch.stack(values).sum(dim=0)
        for rank, got in enumerate(results):
            look_at = (
                "In the first size - 1 rounds what arrives is added, afterwards it replaces. "
                "Which part arrives? The one that the previous rank sends in this round."
            )
            if isinstance(got, Tensor) and torch.equal(got, values[rank]):
                look_at = "These are the rank's own numbers: what arrived was not used."
            same_tensor(got, expected, f"{case}, rank {rank}", look_at)


def pass_around(answer: Callable, values: list[Tensor], case: str) -> list[Any]:
    """Run one generator for each rank, round by round; return what they return."""
    size, longest = len(values), math.ceil(len(values[0]) / len(values))
    ranks = [answer(rank, size, each) for rank, each in enumerate(values)]
    for each in ranks:
        require(
            inspect.isgenerator(each),
            f"the function has no `yield`, so it sends nothing ({case})",
        )
    results: list[Any] = [None] * size
    arrived: list[Any] = [None] * size
    for turn in range(2 * size):
        sent, ended = [], []
        for rank, each in enumerate(ranks):
            try:
                message = each.send(arrived[rank])
            except StopIteration as stop:
                results[rank] = stop.value
                ended.append(rank)
                continue
            is_tensor = isinstance(message, Tensor)
            require(is_tensor, f"rank {rank} sends {type(message).__name__}, expected a tensor")
            require(
                message.numel() <= longest,
                f"rank {rank} sends {message.numel()} numbers at once; a part has at most "
                f"{longest} ({case})",
            )
            sent.append(message.detach().clone())
        if len(ended) == size:
            require(
                turn == 2 * (size - 1),
                f"each rank sends {turn} messages, expected {2 * (size - 1)} ({case})",
            )
            return results
        require(
            not ended,
            f"rank {ended[:1]} has ended, and the others wait for its message ({case})",
        )
        arrived = [sent[rank - 1] for rank in range(size)]
    require(False, f"more than {2 * (size - 1)} messages are sent by each rank ({case})")
    return results


# Memory


@exercise("many_gpus.memory", "count numbers, with ceil(rows / size) rows where a thing is split.")
def memory(answer: Callable, generator: Generator) -> None:
    """Expect peak_bytes(blocks, size, stage): the bytes of rank 0."""
    cases = [([[(4, 3), (8, 2)], [(6, 5)]], 2), ([[(7, 3)], [(5, 4), (3, 3)]], 4), ([[(9, 1)]], 3)]
    for _ in range(3):
        shapes = integers(generator, 1, 60, 12)
        pairs = list(zip(shapes[::2], shapes[1::2], strict=True))
        cases.append(([pairs[:2], pairs[2:5], pairs[5:]], integers(generator, 2, 9)[0]))
    for blocks, size in cases:
        for stage in range(4):
            case = f"blocks = {blocks}, size = {size}, stage = {stage}"
            got = call(answer, [list(block) for block in blocks], size, stage, case=case)
            right = peak(blocks, size, stage)
            same_number(
                got, right, "the result", f"{_memory_hint(got, blocks, size, stage)} ({case})", 0.01
            )


def peak(
    blocks: list,
    size: int,
    stage: int,
    first: tuple[int, int, int] = (3, 2, 1),
    is_rounded: bool = True,
    averages: int = 2,
    gathered: bool = True,
) -> float:
    """Return the bytes of rank 0; the options plant typical slips."""

    def numbers(block: list, is_split: bool) -> float:
        part = size if is_split else 1
        rows = (math.ceil(r / part) if is_rounded else r / part for r, _ in block)
        return sum(r * c for r, (_, c) in zip(rows, block, strict=True))

    kinds = zip(first, (1, 1, averages), strict=True)
    held = sum(count * numbers(block, stage >= f) for f, count in kinds for block in blocks)
    if stage == 3 and gathered:
        held += max(numbers(block, False) for block in blocks)
    return 4 * held


MEMORY_SLIPS: dict[str, dict] = {
    "Rows are not cut in two: rank 0 holds ceil(rows / size) of each tensor.": {
        "is_rounded": False
    },
    "AdamW keeps two averages for each parameter.": {"averages": 1},
    "In stage 3 the weights of the largest block are there as a whole, too.": {"gathered": False},
    "Stage 1 splits the averages, stage 2 the gradients too, stage 3 the weights too.": {
        "first": (1, 2, 3)
    },
}


def _memory_hint(got: Any, blocks: list, size: int, stage: int) -> str:
    if isinstance(got, int | float):
        for sentence, options in MEMORY_SLIPS.items():
            if abs(got - peak(blocks, size, stage, **options)) < 0.01:
                return sentence
        if abs(got - peak(blocks, size, stage) / 4) < 0.01:
            return "These are numbers; each has 4 bytes."
    return "Weights, gradients, two averages: which of them are split in this stage?"


# Another number of ranks


@exercise("many_gpus.reshard", "take the padding away, and look at the order of eleven ranks.")
def reshard(answer: Callable, generator: Generator) -> None:
    """Expect reshard(shards, length, size): {name: part} of equally long parts."""
    for old, size, length in [
        (2, 3, 6),
        (3, 2, 7),
        (4, 1, 9),
        (1, 4, 10),
        (11, 3, 40),
        (12, 5, 30),
    ]:
        whole = torch.randn(length, generator=generator)
        shards, case = cut(whole, old), f"{length} numbers, from {old} ranks to {size}"
        before = {name: part.clone() for name, part in shards.items()}
        got = answer(dict(shards), length, size) if callable(answer) else answer
        for name, part in shards.items():
            require(torch.equal(part, before[name]), f"the old part {name} was changed ({case})")
        expected = cut(whole, size)
        require(isinstance(got, dict), f"expected a dict, got {type(got).__name__} ({case})")
        fits = set(got) == set(expected)
        require(fits, f"expected the names {', '.join(expected)}, got {sorted(map(str, got))}")
        for name, part in expected.items():
            look_at = _reshard_hint(got[name], name, shards, length, size)
            fits = not isinstance(got[name], Tensor) or got[name].shape == part.shape
            require(fits, f"{name} has the shape {_shape(got[name])} ({case}). {look_at}")
            same_tensor(got[name], part, f"{case}, {name}", look_at)


def _shape(part: Any) -> tuple:
    return tuple(part.shape) if isinstance(part, Tensor) else ()


def cut(whole: Tensor, size: int) -> dict[str, Tensor]:
    """Return equally long parts, the last ones filled up with zeros."""
    each = -(-len(whole) // size)
    padded = torch.cat([whole, whole.new_zeros(each * size - len(whole))])
    return {f"rank-{rank}": padded[rank * each : (rank + 1) * each] for rank in range(size)}


def _reshard_hint(got: Any, name: str, shards: dict, length: int, size: int) -> str:
    slips = {
        "The padding of the old parts is not part of the tensor: cut it off before you divide.": (
            torch.cat(list(shards.values()))
        ),
        'Sorted as text, "rank-10" comes before "rank-2".': (
            torch.cat([shards[key] for key in sorted(shards)])[:length]
        ),
    }
    for sentence, whole in slips.items():
        wrong = cut(whole, size)[name]
        if isinstance(got, Tensor) and got.shape == wrong.shape and torch.equal(got, wrong):
            return sentence
    return "All parts are equally long: ceil(length / size), with zeros at the end of the last."


# A pipeline


@exercise("many_gpus.bubble", "call pipeline(4, pieces) for each; it returns idle share and held.")
def bubble(answer: Any, generator: Generator) -> None:
    """Expect three idle shares, a number of pieces, two counts and a letter."""
    numbers = {"idle_1": 3 / 4, "idle_4": 3 / 7, "idle_16": 3 / 19}
    counts = {"pieces": 27, "held_late": 16, "held_early": 4}
    keys = {*numbers, *counts, "why"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    for name, right in numbers.items():
        look_at = "It is the first of the two results of pipeline(4, pieces)."
        same_number(answer[name], right, name, look_at, 0.004)
    look_at = {
        "pieces": "Try 1, 2, 3, ... pieces: the first with an idle share of at most 0.1.",
        "held_late": "It is the second result of pipeline(4, 16).",
        "held_early": "It is the second result of pipeline(4, 16, early=True).",
    }
    for name, right in counts.items():
        same_number(answer[name], right, name, look_at[name], 0.1)
    require(
        answer["why"] == "b",
        "the explanation does not fit: compare BOTH results of the two orders for 16 pieces.",
    )


# A plan


@exercise("many_gpus.plan", "which stage sends least when each rank computes many pieces?")
def plan(answer: Any, generator: Generator) -> None:
    """Expect {"gpus", "stage", "batch_tokens", "piece_tokens"} that keeps all four limits."""
    keys = {"gpus", "stage", "batch_tokens", "piece_tokens"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    for name, value in answer.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        require(whole, f"{name} is {value!r}, expected a whole number")
    gpus, stage = answer["gpus"], answer["stage"]
    require(0 < gpus <= 4096 and gpus % 8 == 0, "gpus must be full nodes of 8, at most 4,096")
    require(stage in (0, 1, 2, 3), f"stage is {stage}; there are 0, 1, 2 and 3")
    batch, piece = answer["batch_tokens"], answer["piece_tokens"]
    require(0 < batch <= 2**22, f"the batch has {batch:,} tokens; at most {2**22:,} still teach")
    require(
        piece >= 1024 and batch % (gpus * piece) == 0,
        "each GPU computes whole pieces of at least 1,024 tokens: batch_tokens must be a multiple "
        "of gpus times piece_tokens",
    )
    held, efficiency, days = plan_costs(gpus, stage, batch, piece)
    pieces = batch // (gpus * piece)
    require(
        held <= 80,
        f"a GPU would hold {held:.0f} GB, and has 80: a higher stage, or smaller pieces",
    )
    require(
        efficiency >= 0.7,
        f"the efficiency is {efficiency:.0%}, the aim is 70 %. With {pieces} pieces, stage {stage} "
        f"sends {plan_rings(stage, pieces)} times around the ring",
    )
    require(days <= 30, f"it would take {days:.0f} days; 30 are given: more GPUs")


def plan_rings(stage: int, pieces: int) -> int:
    """Return how often a tensor as large as the model goes around the ring in a step."""
    return {0: 2, 1: 2, 2: pieces + 1, 3: 2 * pieces + 1}[stage]


def plan_costs(gpus: int, stage: int, batch: int, piece: int) -> tuple[float, float, float]:
    """Return GB on each GPU, efficiency without overlap, and days, for the exercise's model."""
    parameters, speed, link = 8e9, 4e14, 5e10 if gpus > 8 else 4.5e11
    parts = [gpus if stage >= first else 1 for first in (3, 2, 1)]
    costs = zip((4, 4, 8), parts, strict=True)
    held = sum(parameters * cost / part for cost, part in costs) + 4e6 * piece
    compute = 6 * parameters * batch / gpus / speed
    around = 4 * parameters * (gpus - 1) / gpus / link
    exchange = plan_rings(stage, batch // (gpus * piece)) * around
    days = 1.6e12 / batch * (compute + exchange) / 86_400
    return held / 1e9, compute / (compute + exchange), days
