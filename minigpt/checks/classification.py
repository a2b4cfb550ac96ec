"""Checks of the classification exercises, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    integers,
    require,
    same_number,
    same_results,
    slip_hint,
)

HAND = {
    "precision": [0.75, 0.5],
    "recall": [0.9, 0.25],
    "macro_f1": 0.576,
    "first_loss": 1.609,
    "together": [13.0, 6.0],
}
HAND_HINTS = {
    "precision": "Right of all that was CALLED the class: go down a column.",
    "recall": "Right of all that IS of the class: go along a row.",
    "macro_f1": "2 · right / (called + are) for each class, then the mean of the two.",
    "first_loss": "A head of zeros gives each of the five labels the same probability.",
    "together": "A cluster of n stories has n (n - 1) / 2 pairs.",
}
HAND_SLIPS = {  # (key, what was written) -> what to look at
    ("precision", (0.9, 0.25)): "That is the recall: you went along the rows.",
    ("recall", (0.75, 0.5)): "That is the precision: you went down the columns.",
    ("together", (26.0, 12.0)): "Each pair was counted twice: a with b is b with a.",
    ("together", (21.0, 14.0)): "A story is no pair with itself.",
}


@exercise("classification.by_hand", "rows are what is, columns what was called; then pairs.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the five results of the exercise text."""
    same_results(answer, HAND, _hand_hint)


def _hand_hint(name: str, got: Any) -> str:
    if name == "macro_f1" and isinstance(got, int | float) and abs(got - 0.714) < 0.011:
        return "That is the accuracy; macro F1 counts both classes alike."
    if name == "first_loss" and isinstance(got, int | float) and abs(got - 0.2) < 0.011:
        return "That is the probability; the loss is minus its natural logarithm."
    return slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# Class weights


@exercise("classification.class_weights", "weigh each text by N / (K · texts of its class).")
def class_weights(answer: Callable, generator: Generator) -> None:
    """Expect balanced_loss(logits, targets): each class that is there counts alike."""
    for N, K, absent in [(12, 2, 0), (30, 3, 0), (25, 5, 2), (7, 4, 1)]:
        logits = 2 * torch.randn(N, K, generator=generator)
        there = K - absent
        targets = torch.cat(
            [torch.arange(there), torch.randint(2, (N - there,), generator=generator)]
        )
        case = f"{N} texts, {K} labels" + (f", {absent} of them without a text" if absent else "")
        losses = F.cross_entropy(logits, targets, reduction="none")
        by_class = torch.stack([losses[targets == k].mean() for k in range(there)])
        got = call(answer, logits, targets, case=case)
        got = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
        same_number(got, by_class.mean().item(), f"the loss ({case})", _slip(got, losses), 1e-3)


def _slip(got: Any, losses: Tensor) -> str:
    if isinstance(got, int | float) and math.isnan(got):
        return "A class without texts has no mean loss: leave it out."
    if isinstance(got, int | float) and abs(got - losses.mean().item()) < 1e-4:
        return "That is the plain mean: frequent classes count more."
    return "Take the mean loss of each class that has texts, then the mean of these."


# A threshold by cost


@exercise("classification.threshold", "try every score as threshold; count both errors.")
def threshold(answer: Callable, generator: Generator) -> None:
    """Expect best_threshold(scores, targets, miss, alarm): no other one costs less."""
    for N, miss, alarm, share in [
        (40, 1.0, 1.0, 0.5),
        (60, 10.0, 1.0, 0.2),
        (60, 1.0, 10.0, 0.3),
        (30, 1.0, 500.0, 0.3),
        (30, 500.0, 1.0, 0.3),
    ]:
        targets = (torch.rand(N, generator=generator) < share).long()
        targets[:2] = torch.tensor([0, 1])
        scores = torch.sigmoid(torch.randn(N, generator=generator) + 1.5 * targets)
        scores = (scores * 20).round() / 20  # some are equal
        if alarm == 500:
            scores[0] = 1.0  # the surest one is a false alarm
        case = f"{N} texts, a miss costs {miss:g}, a false alarm {alarm:g}"
        got = call(answer, scores, targets, miss, alarm, case=case)
        got = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
        is_number = isinstance(got, int | float) and not isinstance(got, bool) and got == got
        require(is_number, f"expected a number, got {got!r} ({case})")
        limit = float(got)
        least = min(_cost(scores, targets, t, miss, alarm) for t in [*scores.tolist(), math.inf])
        cost = _cost(scores, targets, limit, miss, alarm)
        require(cost <= least + 1e-6, _too_dear(scores, targets, limit, miss, alarm, least, case))


def _cost(scores: Tensor, targets: Tensor, limit: float, miss: float, alarm: float) -> float:
    said = scores >= limit
    misses, alarms = (~said & (targets == 1)).sum(), (said & (targets == 0)).sum()
    return float(misses * miss + alarms * alarm)


def _too_dear(
    scores: Tensor,
    targets: Tensor,
    got: float,
    miss: float,
    alarm: float,
    least: float,
    case: str,
) -> str:
    cost = _cost(scores, targets, got, miss, alarm)
    swapped = min(_cost(scores, targets, t, alarm, miss) for t in [*scores.tolist(), math.inf])
    words = "Is `scores >= threshold` what says yes, and are equal scores kept together?"
    if _cost(scores, targets, got, alarm, miss) <= swapped and miss != alarm:
        words = "It would be best with the two costs exchanged."
    elif least == _cost(scores, targets, math.inf, miss, alarm):
        words = "Here it is cheapest never to say yes: try a threshold above all scores, too."
    return f"the threshold {got:.4g} costs {cost:g}, another one {least:g} ({case}). {words}"


# Which text to label next


@exercise("classification.active", "the two highest probabilities of each row, and their gap.")
def active(answer: Callable, generator: Generator) -> None:
    """Expect next_to_label(p, k): the places of the k least margins, the least first."""
    for N, K, k in [(9, 2, 3), (20, 3, 5), (40, 5, 8), (6, 4, 6)]:
        p = (3 * torch.randn(N, K, generator=generator)).softmax(dim=1)
        top = p.topk(2, dim=1).values
        expected = (top[:, 0] - top[:, 1]).argsort()[:k].tolist()
        case = f"{N} texts, {K} labels, k = {k}"
        got = call(answer, p, k, case=case)
        got = got.tolist() if isinstance(got, Tensor | np.ndarray) else got
        whole = isinstance(got, list) and all(type(place) is int for place in got)
        require(whole, f"expected a list of places, got {got!r} ({case})")
        require(len(got) == k, f"{len(got)} places where {k} are asked for ({case})")
        require(got == expected, _unlike(got, expected, p, k, case))


def _unlike(got: list[int], expected: list[int], p: Tensor, k: int, case: str) -> str:
    surest = p.max(dim=1).values
    entropy = -(p * p.log()).sum(dim=1)
    if got == surest.argsort()[:k].tolist():
        words = "You looked at the highest probability alone; how near is the second?"
    elif got == entropy.argsort(descending=True)[:k].tolist():
        words = "That is the entropy; the margin looks at the two highest probabilities alone."
    elif sorted(got) == sorted(expected):
        words = "These are the right ones; the least margin comes first."
    else:
        words = "Sort by the highest probability minus the second highest."
    return f"expected {expected}, got {got} ({case}). {words}"


# A probe on each layer

LAYERS = {"best_of_many": 0, "worst_of_many": 1, "best_of_few": 3, "why": "c"}
LAYER_HINTS = {
    "best_of_many": "The mean of five draws with 128 labels, layer by layer; 0 is the embedding.",
    "worst_of_many": "The lowest of the same four means, with 128 labels.",
    "best_of_few": "The mean of twenty draws with 16 labels, layer by layer; 0 is the embedding.",
    "why": "What does the mean of embeddings know, and what can 16 labels choose from?",
}


@exercise("classification.layers", "one fitted head for each layer, the same draws for all.")
def layers(answer: Any, generator: Generator) -> None:
    """Expect the best layer with many labels and with few, and the letter that says why."""
    named = isinstance(answer, dict) and set(answer) == set(LAYERS)
    require(named, f"expected a dict of {sorted(LAYERS)}")
    for name, right in LAYERS.items():
        got = answer[name]
        require(
            got == right and type(got) is type(right), f"{name} is {got!r}. {LAYER_HINTS[name]}"
        )


# Spend the labels well

GROUPS, BOUGHT = 6, 9


@exercise("classification.spend", "far apart: a text that lies near a chosen one tells little new.")
def spend(answer: Callable, generator: Generator) -> None:
    """Expect spend(x, k): k different places that meet every group, the rare ones too."""
    met = []
    for _ in range(8):
        x, group = pool(generator)
        case = f"{len(x)} vectors, k = {BOUGHT}"
        got = call(answer, x, BOUGHT, case=case)
        got = got.tolist() if isinstance(got, Tensor | np.ndarray) else got
        whole = isinstance(got, list) and all(type(place) is int for place in got)
        require(whole, f"expected a list of places, got {got!r} ({case})")
        inside = len(set(got)) == BOUGHT and all(0 <= place < len(x) for place in got)
        require(inside, f"expected {BOUGHT} different places from 0 to {len(x) - 1} ({case})")
        met.append(len({int(group[place]) for place in got}))
    share = sum(met) / len(met)
    require(
        min(met) >= GROUPS - 1 and share >= GROUPS - 0.25,
        f"on average {share:.1f} of {GROUPS} groups have a label, in the worst pool {min(met)}: "
        "the aim is 5.75, and 5 at worst. Choose at random and the large groups get all",
    )


def pool(generator: Generator) -> tuple[Tensor, Tensor]:
    """Return vectors (N, 8) of six groups, from large to tiny, in random order; and the groups."""
    sizes = [300, 120, 40, 12, *integers(generator, 4, 6, 2)]
    places = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])
    centers = 6 * torch.eye(8)[:GROUPS]
    places = places[torch.randperm(len(places), generator=generator)]
    return centers[places] + torch.randn(len(places), 8, generator=generator) * 0.7, places
