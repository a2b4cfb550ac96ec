"""Checks of the LoRA exercises, each with an oracle of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    integers,
    require,
    same_results,
    same_tensor,
    slip_hint,
)

HAND = {
    "change": [8.0, 0.0, 4.0],
    "thin": 9472.0,
    "share": 7.505,
    "largest_rank": 2.0,
    "moments": 75776.0,
}
HAND_HINTS = {
    "change": "alpha / rank, times the second number of B, times each number of A.",
    "thin": "A matrix of n inputs and m outputs costs rank · (n + m); count all seven per block.",
    "share": "100 · thin / all parameters, in percent.",
    "largest_rank": "The share grows with the rank: divide 5 by the share of rank 1, round down.",
    "moments": "Two numbers of 4 bytes for each number that is trained.",
}
HAND_SLIPS = {  # (key, what was written) -> what to look at
    ("change", (4.0, 0.0, 2.0)): "The scale is missing: alpha / rank is 2.",
    ("change", (4.0, 0.0, 4.0)): "B A has a row for each number of B: multiply each number of A.",
    ("thin", (4736.0,)): "There are two blocks.",
    ("thin", (4096.0,)): "That is the attention alone.",
    ("thin", (5376.0,)): "That is the MLP alone.",
    ("thin", (8704.0,)): "The hidden width is 160, not 128.",
    ("largest_rank", (3.0,)): "Rank 3 has 5.6 %: round down.",
    ("moments", (37888.0,)): "AdamW keeps two moments, not one.",
    ("moments", (113664.0,)): "That counts the weights as well; only the moments are asked for.",
    ("moments", (1009664.0,)): "Only what is trained has moments.",
}


@exercise("lora.by_hand", "rank · (inputs + outputs) for each matrix.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the five results of the exercise text."""
    same_results(answer, HAND, _hand_hint)


def _hand_hint(name: str, got: Any) -> str:
    got = [got] if isinstance(got, int | float) else got
    return slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# Merge two adapters


@exercise("lora.merge_two", "the sum of two products is one product of longer matrices.")
def merge_two(answer: Callable, generator: Generator) -> None:
    """Expect merge_two(a1, b1, scale1, a2, b2, scale2): A and B of one adapter with scale 1."""
    for ranks in [(1, 1), (2, 3), (4, 1)]:
        n, m = integers(generator, 5, 9, 2)
        (a1, a2), (b1, b2) = (
            [torch.randn(r, n, generator=generator) for r in ranks],
            [torch.randn(m, r, generator=generator) for r in ranks],
        )
        scale1, scale2 = (1 + torch.rand(2, generator=generator)).tolist()
        case = f"{n} inputs, {m} outputs, ranks {ranks[0]} and {ranks[1]}"
        got = call(answer, a1, b1, scale1, a2, b2, scale2, case=case)
        pair = isinstance(got, tuple | list) and len(got) == 2
        require(pair, f"expected a pair of tensors, A and B ({case})")
        shapes = {"A": (sum(ranks), n), "B": (m, sum(ranks))}
        for (name, shape), part in zip(shapes.items(), got, strict=True):
            require(isinstance(part, Tensor), f"{name} is no tensor ({case})")
            require(
                part.shape == shape,
                f"{name} has the shape {tuple(part.shape)}, expected {shape} ({case}). "
                "A has a row for each direction of both adapters, B a column",
            )
        same_tensor(
            got[1] @ got[0],
            scale1 * b1 @ a1 + scale2 * b2 @ a2,
            case,
            _merge_slip(got, (a1, b1, scale1), (a2, b2, scale2)),
        )


def _merge_slip(got: Any, first: tuple, second: tuple) -> str:
    (a1, b1, scale1), (a2, b2, scale2) = first, second
    change = got[1] @ got[0]
    slips = {
        "The scales are missing.": b1 @ a1 + b2 @ a2,
        "Each scale belongs to its own adapter, and once: to A or to B.": scale1**2 * b1 @ a1
        + scale2**2 * b2 @ a2,
        "The scales are exchanged.": scale2 * b1 @ a1 + scale1 * b2 @ a2,
        "One scale is missing.": scale1 * b1 @ a1 + b2 @ a2,
    }
    for words, wrong in slips.items():
        if torch.allclose(change, wrong, atol=1e-4):
            return words
    return "Compare with scale1 B1 A1 + scale2 B2 A2; do rows of A meet their own columns of B?"


# DoRA


@exercise("lora.dora", "length and direction of each row apart.")
def dora(answer: Callable, generator: Generator) -> None:
    """Expect dora(weight, magnitude, a, b, scale): the weight, each row of its own length."""
    for m, n, rank in [(3, 5, 1), (6, 4, 2), (4, 4, 3)]:
        weight = torch.randn(m, n, generator=generator) + 0.3
        a, b = (torch.randn(*shape, generator=generator) for shape in ((rank, n), (m, rank)))
        scale = 0.5 + torch.rand(1, generator=generator).item()
        for begins in (True, False):
            magnitude = weight.norm(dim=1)
            case = f"weight ({m}, {n}), rank {rank}" + (", at the start" if begins else "")
            if begins:
                got = call(answer, weight, magnitude, a, torch.zeros_like(b), scale, case=case)
                look = "With B = 0 and the weight's own lengths nothing may change."
                same_tensor(got, weight, case, look)
            else:
                magnitude = magnitude * (0.5 + torch.rand(m, generator=generator))
                moved = weight + scale * b @ a
                got = call(answer, weight, magnitude, a, b, scale, case=case)
                expected = magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)
                same_tensor(got, expected, case, _dora_slip(got, weight, magnitude, a, b, scale))


def _dora_slip(
    got: Any, weight: Tensor, magnitude: Tensor, a: Tensor, b: Tensor, scale: float
) -> str:
    moved, unscaled = weight + scale * b @ a, weight + b @ a
    row = magnitude[:, None]
    slips = {
        "The scale is missing.": row * unscaled / unscaled.norm(dim=1, keepdim=True),
        "Divide by the length of the sum W + scale B A, not by that of W.": row
        * moved
        / weight.norm(dim=1, keepdim=True),
        "The lengths are those of the rows (one for each output).": row
        * moved
        / moved.norm(dim=0, keepdim=True),
        "The magnitude is missing.": moved / moved.norm(dim=1, keepdim=True),
        "Divide by the length of one row, not of the whole matrix.": row * moved / moved.norm(),
    }
    if isinstance(got, Tensor) and got.shape == weight.shape:
        for words, wrong in slips.items():
            if torch.allclose(got, wrong, atol=1e-4):
                return words
    return "The direction is W + scale B A, divided row by row by its length."


# A dial

DIAL = {"best_for_new": 1.0, "best_for_old": 0.0, "why": "b"}
DIAL_HINTS = {
    "best_for_new": "The loss of swapped stories, at each of the four settings.",
    "best_for_old": "The loss of stories in the old order, at each of the four settings.",
    "why": "What does training know of the setting 3, and what is the setting 0?",
}


@exercise("lora.dial", "one adapter, four scales, two losses.")
def dial(answer: Any, generator: Generator) -> None:
    """Expect the best setting for each task, and the letter that says why."""
    named = isinstance(answer, dict) and set(answer) == set(DIAL)
    require(named, f"expected a dict of {sorted(DIAL)}")
    for name, right in DIAL.items():
        require(answer[name] == right, f"{name} is {answer[name]!r}. {DIAL_HINTS[name]}")


# Matrices under a budget


@exercise("lora.budget", "what does one more direction of a matrix bring, and what does it cost?")
def budget(answer: Callable, generator: Generator) -> None:
    """Expect spend_budget(updates, budget): ranks by name that keep nearly the most energy."""
    for matrices, allowed in _budgets(generator):
        updates = {f"matrix {number}": update for number, update in enumerate(matrices)}
        spectra = {name: torch.linalg.svdvals(u).square().tolist() for name, u in updates.items()}
        costs = {name: sum(u.shape) for name, u in updates.items()}
        case = f"{len(updates)} matrices, a budget of {allowed}"
        got = call(answer, updates, allowed, case=case)
        named = isinstance(got, dict) and set(got) <= set(updates)
        require(named, f"expected a dict of ranks, by the names of the matrices ({case})")
        for name, rank in got.items():
            fits = type(rank) is int and 0 <= rank <= min(updates[name].shape)
            require(fits, f"{name} has the rank {rank!r} ({case})")
        spent = sum(rank * costs[name] for name, rank in got.items())
        require(spent <= allowed, f"the ranks cost {spent} parameters ({case})")
        kept = sum(sum(spectra[name][:rank]) for name, rank in got.items())
        most = most_energy(spectra, costs, allowed)
        require(
            kept >= 0.97 * most,
            f"{kept / most:.0%} of the energy that is possible ({case}). A direction brings its "
            "squared singular value and costs inputs + outputs",
        )


def _budgets(generator: Generator) -> list[tuple[list[Tensor], int]]:
    """Return updates and what may be spent on them."""

    def drawn(shapes: list[tuple[int, int]], largest: float | None = None) -> list[Tensor]:
        return [_update(*shape, generator, largest) for shape in shapes]

    squares, others = [(12, 12)] * 4, [(12, 30), (12, 30), (30, 12)]
    small, large = [(6, 6)] * 4, [(40, 40)] * 2
    return [
        (drawn(squares), integers(generator, 250, 350)[0]),
        (drawn(squares + others), integers(generator, 250, 350)[0]),
        (drawn(squares), 24),  # one direction, to the last parameter
        (drawn(small, 1.0) + drawn(large, 6.0), 116),  # one large, three small: energy is a square
        (drawn(small, 2.0) + drawn(large, 2.2), 84),  # seven small: the price counts
    ]


def _update(m: int, n: int, generator: Generator, largest: float | None) -> Tensor:
    """Return a matrix (m, n) whose singular values fall from the largest at a random rate."""
    size, fall = torch.rand(2, generator=generator).tolist()
    u, v = (torch.linalg.qr(torch.randn(k, k, generator=generator)).Q for k in (m, n))
    largest = 0.2 + 3 * size if largest is None else largest
    s = largest * torch.exp(-(0.15 + 0.8 * fall) * torch.arange(min(m, n)))
    return u[:, : len(s)] @ torch.diag(s) @ v[:, : len(s)].T


def most_energy(spectra: dict[str, list[float]], costs: dict[str, int], allowed: int) -> float:
    """Return the most energy that ranks within the budget can keep, by dynamic programming."""
    best = [0.0] * (allowed + 1)  # of the matrices so far, by parameters spent
    for name, energies in spectra.items():
        choices = [(0, 0.0)]
        for energy in energies:
            choices.append((choices[-1][0] + costs[name], choices[-1][1] + energy))
        best = [
            max(best[spent - cost] + energy for cost, energy in choices if cost <= spent)
            for spent in range(allowed + 1)
        ]
    return best[-1]
