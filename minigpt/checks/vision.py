"""Checks of the vision exercises, each with an oracle of its own."""

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    number_slip,
    require,
    require_own,
    same_number,
    same_results,
    same_tensor,
    slip_hint,
)
from minigpt.pictures import draw_digits

HAND = {
    "count": 6.0,
    "patch": [22.0, 23.0, 32.0, 33.0],
    "tokens": 196.0,
    "pairs": 16.0,
    "parameters": 49216.0,
    "seen": 18.0,
}
HAND_HINTS = {
    "count": "Three rows of patches, two in each.",
    "patch": "Patches go row by row, two in a row: patch 3 begins at row 2, column 2.",
    "tokens": "224 / 16 patches on each side.",
    "pairs": "Half the side makes four times as many patches; attention compares each with each.",
    "parameters": "16 · 16 · 3 numbers enter, each has 64 weights, and there are 64 biases.",
    "seen": "Each of 3 patches sees 3; the first word sees 4, the second sees 5.",
}
HAND_SLIPS = {
    ("patch", (22.0, 32.0, 23.0, 33.0)): "Within a patch, too, read each row from left to right.",
    ("patch", (2.0, 3.0, 12.0, 13.0)): "That is patch 1: count along the rows, and from 0.",
    ("patch", (20.0, 21.0, 30.0, 31.0)): "That is patch 2: count from 0.",
}
HAND_NUMBERS = {
    "tokens": {14.0: "That is one side; a picture has two."},
    "pairs": {4.0: "That is how many times as many patches; pairs grow with the square."},
    "parameters": {
        49152.0: "Those are the weights alone: the matrix has biases, too.",
        16448.0: "That is a gray picture; this one has three channels.",
    },
    "seen": {
        15.0: "That is the causal mask: patches of one picture see each other.",
        25.0: "A patch sees no word, and a word no later word.",
    },
}


@exercise("vision.by_hand", "patches row by row from 0; attention compares each with each.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the six results of the exercise text."""
    same_results(answer, HAND, _hand_hint, slack=0.01, first=0)


def _hand_hint(name: str, got: Any) -> str:
    slip = number_slip(got, HAND_NUMBERS.get(name, {})) or slip_hint(name, got, HAND_SLIPS)
    return slip or HAND_HINTS[name]


# Patches that overlap


def _overlapping(pictures: Tensor, size: int, stride: int) -> Tensor:
    H, W = pictures.shape[-2:]
    corners = [
        (y, x) for y in range(0, H - size + 1, stride) for x in range(0, W - size + 1, stride)
    ]
    return torch.stack(
        [pictures[:, :, y : y + size, x : x + size].flatten(1) for y, x in corners], dim=1
    )


@exercise("vision.overlapping", "unfold takes a size and a step; then chapter 25's order.")
def overlapping_patches(answer: Callable, generator: Generator) -> None:
    """Expect overlapping_patches(pictures, size, stride): (N, T, K * size * size), row by row."""
    require_own(answer, "patches")
    for shape, size, stride in (
        ((2, 1, 6, 10), 4, 2),
        ((1, 3, 7, 5), 3, 1),
        ((3, 2, 8, 11), 4, 4),
        ((1, 1, 5, 9), 2, 3),
    ):
        pictures = torch.rand(shape, generator=generator)
        case = f"pictures {shape}, size {size}, stride {stride}"
        got = call(answer, pictures, size, stride, case=case)
        expected = _overlapping(pictures, size, stride)
        same_tensor(got, expected, case, _overlap_slip(got, expected))


def _overlap_slip(got: Any, expected: Tensor) -> str:
    flat = expected.flatten(1)
    if torch.equal(got.flatten(1).sort(dim=1).values, flat.sort(dim=1).values):
        return "The right numbers in another order: patches row by row; in each, channel by channel"
    return "Patch (i, j) begins at row i · stride and column j · stride."


# Masked patches


def _masked_loss(predict: Callable, rows: Tensor, scores: Tensor, count: int) -> Tensor:
    places = scores.argsort(dim=1)[:, :count]
    hidden = torch.zeros_like(scores, dtype=torch.bool).scatter(1, places, True)
    seen = rows.masked_fill(hidden[..., None], 0.0)
    return (predict(seen) - rows)[hidden].square().mean()


@exercise(
    "vision.masked_loss",
    "hide, predict, and compare with what was there, at the hidden patches alone.",
    travels=False,
)
def masked_loss(answer: Callable, generator: Generator) -> None:
    """Expect masked_loss(predict, rows, scores, count): the loss at the hidden patches alone."""
    for N, T, D, count in ((2, 5, 3, 2), (3, 8, 4, 6), (1, 4, 6, 1), (4, 6, 2, 3)):
        rows = torch.randn(N, T, D, generator=generator) + 1
        scores = torch.rand(N, T, generator=generator)
        mix = torch.randn(T, T, generator=generator) / T

        def predict(seen: Tensor, mix: Tensor = mix) -> Tensor:
            return mix @ seen + 0.3

        case = f"{count} of {T} patches hidden"
        got = call(answer, predict, rows, scores, count, case=case)
        require(
            isinstance(got, Tensor) and got.ndim == 0, f"expected one number, a 0-d tensor: {case}"
        )
        expected = _masked_loss(predict, rows, scores, count)
        slip = _masked_slip(got.item(), predict, rows, scores, count)
        same_number(got, expected.item(), f"the loss ({case})", slip, 1e-4)


def _masked_slip(got: float, predict: Callable, rows: Tensor, scores: Tensor, count: int) -> str:
    hidden = scores.argsort(dim=1).argsort(dim=1) < count
    seen = rows.masked_fill(hidden[..., None], 0.0)
    wrong = {
        "That is the mean over all patches; what is visible is only copied.": (predict(seen) - rows)
        .square()
        .mean(),
        "predict saw the whole picture: hand it the one with the hidden patches set to 0.": (
            (predict(rows) - rows)[hidden].square().mean()
        ),
        "Compare with what was there, not with the zeros that took its place.": (
            (predict(seen) - seen)[hidden].square().mean()
        ),
        "That is the loss at the visible patches.": (
            (predict(seen) - rows)[~hidden].square().mean()
        ),
        "Those with the smallest scores are hidden, not those with the largest.": _masked_loss(
            predict, rows, -scores, count
        ),
    }
    near = (slip for slip, loss in wrong.items() if abs(loss.item() - got) < 1e-4)
    return next(near, "The mean of squares over all numbers of the hidden patches.")


# What the answer needs


def _saliency(
    score: Callable, picture: Tensor, size: int, stride: int, average: bool = True
) -> Tensor:
    H, W = picture.shape[-2:]
    before = score(picture[None])[0]
    total, windows = torch.zeros(H, W), torch.zeros(H, W)
    for y in range(0, H - size + 1, stride):
        for x in range(0, W - size + 1, stride):
            covered = picture.clone()
            covered[:, y : y + size, x : x + size] = 0
            total[y : y + size, x : x + size] += before - score(covered[None])[0]
            windows[y : y + size, x : x + size] += 1
    return total / windows.clamp(min=1) if average else total


@exercise(
    "vision.saliency",
    "cover a window, note the drop at all its points, divide by the windows over each point.",
    travels=False,
)
def saliency(answer: Callable, generator: Generator) -> None:
    """Expect saliency(score, picture, size, stride): (H, W), the mean drop of windows over it."""
    for shape, size, stride in (((1, 6, 8), 2, 2), ((2, 7, 5), 3, 1), ((3, 6, 9), 2, 3)):
        weight = torch.randn(shape, generator=generator)
        picture = 0.2 + torch.rand(shape, generator=generator)

        def score(pictures: Tensor, weight: Tensor = weight) -> Tensor:
            return (pictures * weight).sum(dim=(1, 2, 3)).sigmoid()

        case = f"picture {shape}, windows of {size} every {stride}"
        got = call(answer, score, picture, size, stride, case=case)
        expected = _saliency(score, picture, size, stride)
        same_tensor(got, expected, case, _saliency_slip(got, score, picture, size, stride), 1e-4)


def _saliency_slip(got: Any, score: Callable, picture: Tensor, size: int, stride: int) -> str:
    right = _saliency(score, picture, size, stride)
    if not isinstance(got, Tensor) or got.shape != right.shape:
        return ""
    wrong = {
        "A fall is positive: before minus after.": -right,
        "Divide by the number of windows over each point.": _saliency(
            score, picture, size, stride, average=False
        ),
    }
    near = (slip for slip, values in wrong.items() if torch.allclose(got, values, atol=1e-4))
    return next(near, "A window covers all channels with 0, and its drop counts at all its points.")


# Flips


@functools.cache
def _flips() -> dict[str, Any]:
    """Return what the exercise measures, computed anew."""
    pictures, digits = draw_digits(2000, seed=25)
    tests, truth = draw_digits(1000, seed=26)

    def reads(examples: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        means = torch.stack([examples[labels == digit].mean(dim=0) for digit in range(10)])
        gaps = (asked[:, None] - means).square().sum(dim=(2, 3, 4))
        return gaps.argmin(dim=1) == truth

    mirrored = reads(pictures, digits, tests.flip(-1))
    both = reads(torch.cat((pictures, pictures.flip(-1))), digits.repeat(2), tests)
    return {
        "plain": reads(pictures, digits, tests).float().mean().item(),
        "mirrored": mirrored.float().mean().item(),
        "augmented": both.float().mean().item(),
        "symmetric": [d for d in range(10) if mirrored[truth == d].float().mean() > 0.6],
        "why": "b",
    }


FLIP_HINTS = {
    "plain": "Averages of the 2,000, and the 1,000 as they are.",
    "mirrored": "The same averages; the 1,000 flipped along their last dimension.",
    "augmented": "Averages of the 2,000 and their mirror images; the 1,000 as they are.",
    "symmetric": "The digits of which more than 60 % are right when mirrored, in order.",
    "why": "What is a 2 in a mirror?",
}


@exercise(
    "vision.flips", "flip(-1) mirrors; averages of each digit; the nearest one is the answer."
)
def flips(answer: Any, generator: Generator) -> None:
    """Expect what mirrored digits do to the nearest average, and why."""
    expected = _flips()
    named = isinstance(answer, dict) and set(answer) == set(expected)
    require(named, f"expected a dict of {sorted(expected)}")
    for name, right in expected.items():
        got = answer[name]
        if name in ("symmetric", "why"):
            require(got == right, f"{name} is {got!r}. {FLIP_HINTS[name]}")
        else:
            same_number(got, right, name, FLIP_HINTS[name], 0.004)


# An order without jumps


@exercise("vision.path", "a row from left to right, the next one from right to left ...")
def path(answer: Callable, generator: Generator) -> None:
    """Expect path(rows, columns): all places from 0 on, each a neighbor of the one before."""
    for rows, columns in ((2, 2), (4, 4), (3, 5), (5, 3), (1, 6), (4, 7)):
        case = f"{rows} rows of {columns}"
        got = call(answer, rows, columns, case=case)
        got = got.tolist() if isinstance(got, Tensor) else got
        fits = isinstance(got, list | tuple) and all(type(place) is int for place in got)
        require(fits, f"expected a list of whole numbers, got {got!r} ({case})")
        every = sorted(got) == list(range(rows * columns))
        require(every, f"each of the places 0 to {rows * columns - 1} once, got {got} ({case})")
        require(got[0] == 0, f"the path begins at {got[0]}, not at the top left, 0 ({case})")
        for a, b in pairwise(got):
            far = abs(a // columns - b // columns) + abs(a % columns - b % columns)
            require(far == 1, f"from {a} to {b} is a jump over {far} places ({case})")
