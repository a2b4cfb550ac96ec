"""Checks of the compression exercises, each with an oracle of its own."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    numpy_rng,
    require,
    require_own,
    same_number,
    same_results,
    same_tensor,
    slip_hint,
)

HAND = {
    "codes": [1.0, -3.0, 2.0, 0.0, -1.0],
    "byte": 213.0,
    "gigabytes": 3.72,
    "tokens": 13.4,
    "kept": 0.6,
    "replacement": [1.0, 0.0, 0.0],
}
HAND_HINTS = {
    "codes": "Three bits reach from -3 to 3: the scale is the largest magnitude / 3.",
    "byte": "-3 in four bits is 13 (two's complement); the second code is worth 16 times as much.",
    "gigabytes": "Bits per weight: 4 for the code, and 16 bits of scale for every 64 weights.",
    "tokens": "Each token reads every byte of the weights once: bandwidth / size.",
    "kept": "Summed over the tokens: the chance to be drafted, q, times min(1, p / q).",
    "replacement": "Where p - q is positive, scaled to the sum 1.",
}
HAND_SLIPS = {
    ("codes", (2.0, -4.0, 3.0, 1.0, -1.0)): "The largest code of three bits is 3: 2^(3-1) - 1.",
    ("codes", (1.0, -3.0, 1.0, 0.0, 0.0)): "Round to nearest; do not cut off.",
    ("replacement", (0.6, 0.3, 0.1)): "That is p: what the draft has brought would count twice.",
}


@exercise("compression.by_hand", "largest magnitude / largest code; bytes; min(p, q).")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the six results of the exercise text."""
    same_results(answer, HAND, _hand_hint, slack=0.05)


def _hand_hint(name: str, got: Any) -> str:
    slips = {
        ("byte", 93): "The first code is in the lower half of the byte.",
        ("byte", 181): "-3 is 1101: 16 - 3; 1011 would be a sign and a magnitude.",
        ("gigabytes", 3.5): "The scales take room as well.",
        ("gigabytes", 29.75): "A byte has eight bits.",
        ("kept", 0.4): "That is the chance to be refused.",
    }
    near = isinstance(got, int | float) and not isinstance(got, bool)
    for (slipped, number), hint in slips.items():
        if near and slipped == name and abs(got - number) < 0.011:
            return hint
    return slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# Packing by halves


def _packed(codes: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    return (lower.int() + 16 * upper.int()).to(torch.uint8)


@exercise("compression.pack_halves", "code + 8 is never negative; byte j holds codes j and j + 16.")
def pack_halves(answer: Callable, generator: Generator) -> None:
    """Expect pack_halves(codes): (..., 32) from -8 to 7 become (..., 16) bytes."""
    require_own(answer, "pack_int4")
    for shape in ((32,), (5, 32), (2, 3, 32)):
        codes = torch.randint(-8, 8, shape, generator=generator).to(torch.int8)
        case = f"codes of shape {shape}"
        got = call(answer, codes, case=case)
        raised = codes.int() + 8
        expected = _packed(codes, raised[..., :16], raised[..., 16:])
        slips = {
            "Byte j holds codes j and j + 16, not two neighbors.": _packed(
                codes, raised[..., 0::2], raised[..., 1::2]
            ),
            "Codes 0 to 15 go into the lower halves of the bytes.": _packed(
                codes, raised[..., 16:], raised[..., :16]
            ),
            "Add 8 to each code: these are two's complements.": _packed(
                codes, codes[..., :16].int() % 16, codes[..., 16:].int() % 16
            ),
        }
        same_tensor(
            got, expected, case, _slip_of(got, slips) or "Lower half + 16 times upper half."
        )


def _slip_of(got: Any, slips: dict[str, Tensor]) -> str:
    """Return the sentence of the wrong tensor that `got` equals, or nothing."""
    for sentence, wrong in slips.items():
        if (
            isinstance(got, Tensor)
            and got.shape == wrong.shape
            and torch.allclose(got.double(), wrong.double(), rtol=1e-5, atol=1e-5)
        ):
            return sentence
    return ""


# Outlier columns stay as they are


def _mixed(weight: Tensor, kept: Tensor, hides: bool = True) -> Tensor:
    """Return a matrix (N, K) of which all columns but the kept ones are rounded, by row."""
    rest = weight.masked_fill(kept, 0.0) if hides else weight
    scales = rest.abs().amax(dim=1, keepdim=True) / 127
    return torch.where(kept, weight, (rest / scales).round() * scales)


@exercise("compression.outliers", "outlier columns are found by column, scales are made by row.")
def outliers(answer: Callable, generator: Generator) -> None:
    """Expect mixed_product(x, weight, factor): outlier columns in float, the rest in int8."""
    for n, k, places in ((6, 24, [3, 17]), (9, 40, [0]), (5, 16, [])):
        weight = torch.randn(n, k, generator=generator)
        weight = weight + 0.2 * weight.sign()  # no column is nearly zero
        weight[:, places] *= 40.0
        weight[n // 2] *= 3.0
        x = torch.randn(4, k, generator=generator)
        columns = weight.abs().amax(dim=0)  # (K)
        kept = columns > 6 * columns.median()
        case = f"{n} rows, {k} columns, {len(places)} outliers"
        got = call(answer, x, weight, 6.0, case=case)
        expected = x @ _mixed(weight, kept).T
        none = torch.zeros_like(kept)
        per_row = weight.abs().amax(dim=1)
        wrong_way = (per_row > 6 * per_row.median())[:, None]
        slips = {
            "These are the weights as they were: nothing is rounded.": x @ weight.T,
            "Everything is rounded, outliers too.": x @ _mixed(weight, none).T,
            "The scales are still made with the outliers: leave them out of the maximum.": x
            @ _mixed(weight, kept, hides=False).T,
            "An outlier is a column (an input), not a row.": x @ _mixed(weight, wrong_way).T,
            "The outlier columns are missing from the product.": x
            @ _mixed(weight, kept).masked_fill(kept, 0.0).T,
        }
        hint = _slip_of(got, slips) or "Round the rest by row, to codes from -127 to 127."
        same_tensor(got, expected, case, hint, tolerance=2e-4)


# Rejection sampling


def _first_above(shares: np.ndarray, u: float) -> int:
    ends = np.cumsum(shares)
    return int(min(np.searchsorted(ends, u * ends[-1], side="right"), len(shares) - 1))


def _draws(p: np.ndarray, q: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tokens, kept = [], []
    for first, second, third in u:
        token = _first_above(q, first)
        kept.append(bool(second * q[token] < p[token]))
        tokens.append(token if kept[-1] else _first_above(np.clip(p - q, 0, None), third))
    return np.array(tokens), np.array(kept)


def _chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    expected = counts.sum() * p
    impossible = counts[p == 0].sum()
    there = p > 0
    return float(((counts - expected)[there] ** 2 / expected[there]).sum() + 1e6 * impossible)


@exercise("compression.rejection", "keep with min(1, p/q); replace by what p has more of than q.")
def rejection(answer: Callable, generator: Generator) -> None:
    """Expect speculate_many(p, q, u): tokens (N,) distributed as p, and which drafts were kept."""
    require_own(answer, "accept_or_replace")
    rng = numpy_rng(generator)
    cases = [(np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.6, 0.1, 0.2]))]
    cases += [(np.array([0.25, 0.25, 0.5]), np.array([0.25, 0.25, 0.5]))]
    cases += [(rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6)))]
    for p, q in cases:
        u = rng.random((2000, 3))
        case = f"p {np.round(p, 2).tolist()}, q {np.round(q, 2).tolist()}"
        got = call(answer, p, q, u, case=case)
        require(isinstance(got, tuple | list) and len(got) == 2, f"expected tokens, kept; {case}")
        tokens, kept = (np.asarray(each) for each in got)
        fits = tokens.shape == kept.shape == (2000,) and tokens.dtype.kind in "iu"
        require(fits, f"expected 2000 ids and 2000 times kept or not ({case})")
        require(tokens.min() >= 0 and tokens.max() < len(p), f"ids from 0 to {len(p) - 1} ({case})")
        counts = np.bincount(tokens, minlength=len(p))
        found, degrees = _chi_square(counts, p), int((p > 0).sum()) - 1
        limit = degrees + 6 * math.sqrt(2 * degrees) + 6
        slip = _rejection_slip(tokens, p, q, u)
        require(
            found < limit,
            f"the tokens are not p's: chi-square {found:.0f}, at most {limit:.0f} ({case}). {slip}",
        )
        share = np.minimum(p, q).sum()
        same_number(
            float(kept.mean()),
            share,
            f"the share of drafts that are kept ({case})",
            "A draft is kept with probability min(1, p / q) of its token.",
            0.06,
        )
        right, right_kept = _draws(p, q, u)
        same = (tokens == right).mean() > 0.995 and (kept == right_kept).mean() > 0.995
        require(
            same,
            f"p is right, but not by these numbers: u[:, 0] draws the draft, u[:, 1] decides, "
            f"u[:, 2] draws the replacement ({case})",
        )


def _rejection_slip(tokens: np.ndarray, p: np.ndarray, q: np.ndarray, u: np.ndarray) -> str:
    drafts = np.array([_first_above(q, each) for each in u[:, 0]])
    accepted = u[:, 1] * q[drafts] < p[drafts]
    from_p = np.array([_first_above(p, each) for each in u[:, 2]])
    if (tokens == drafts).mean() > 0.99:
        return "Those are the draft's own."
    if (tokens == np.where(accepted, drafts, from_p)).mean() > 0.99:
        return "The replacement comes from p - q where that is positive, not from p."
    if (tokens == np.where(u[:, 1] < p[drafts], drafts, tokens)).mean() > 0.99 and (
        (u[:, 1] < p[drafts]) != accepted
    ).any():
        return "Keep with probability min(1, p / q), not p."
    return "Keep with min(1, p / q); else draw from the positive part of p - q."


# Which group size?

GROUPS = (128, 64, 32, 16, 8)


def rounding_error(weight: np.ndarray, bits: int, group: int) -> float:
    """Return the size of the rounding error, relative to that of the weights."""
    parts = weight.reshape(len(weight), -1, group)
    top = 2 ** (bits - 1) - 1
    scales = np.abs(parts).max(axis=2, keepdims=True) / top
    back = np.round(parts / scales) * scales
    return float(np.sqrt(((back - parts) ** 2).mean() / (parts**2).mean()))


@functools.cache
def _groups() -> dict[str, Any]:
    """Return what the exercise measures, computed anew."""
    weight = np.random.default_rng(23).standard_t(5, size=(64, 128))
    errors = [rounding_error(weight, 4, group) for group in GROUPS]
    bits = [4 + 16 / group for group in GROUPS]
    fifth = rounding_error(weight, 5, 128)
    return {
        "errors": errors,
        "bits": bits,
        "best": min(g for g, b in zip(GROUPS, bits, strict=True) if b <= 4.5),
        "five": fifth,
        "why": "c",
    }


GROUP_HINTS = {
    "errors": "Root of the mean squared error over root of the mean square; groups 128 to 8.",
    "bits": "4 for the code, and 16 / group for its share of the scale.",
    "best": "The smallest group whose bits per weight do not exceed 4.5.",
    "five": "The same error, with 5 bits and one scale for each row of 128.",
    "why": "What does a scale follow: the typical weight of its group, or the largest?",
}


@exercise("compression.group_size", "errors of five group sizes, and what they cost in bits.")
def group_size(answer: Any, generator: Generator) -> None:
    """Expect errors and bits by group size, the best group, five bits per row, and why."""
    same_results(answer, _groups(), _group_hint, slack=0.002, list_slack=0.002)


def _group_hint(name: str, got: Any) -> str:
    if name == "errors" and isinstance(got, list | tuple) and list(got) == sorted(got):
        return "From groups of 128 down to 8: the first error is the largest."
    if name == "bits" and isinstance(got, list | tuple) and got and got[0] == 4 + 32 / 128:
        return "A scale takes 16 bits here, not 32."
    return GROUP_HINTS[name]


# A better scale than the largest weight's

SAVED = 0.15  # of the squared error; a search over one factor saves about a third


@exercise("compression.better_scale", "a smaller scale cuts the largest and serves the rest.")
def better_scale(answer: Callable, generator: Generator) -> None:
    """Expect better_scale(weights, bits): scales (N, 1) whose squared error is below absmax's."""
    for bits, n, k in ((3, 24, 128), (3, 7, 256), (2, 16, 64)):
        weights = torch.randn(n, k, generator=generator) * torch.rand(n, 1, generator=generator)
        case = f"{n} rows of {k} weights, {bits} bits"
        got = call(answer, weights, bits, case=case)
        require(isinstance(got, Tensor), f"expected a tensor, got {type(got).__name__} ({case})")
        require(got.shape == (n, 1), f"the shape is {tuple(got.shape)}, expected {(n, 1)} ({case})")
        require(bool((got > 0).all()) and bool(got.isfinite().all()), f"scales above 0 ({case})")
        largest = weights.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        before, after = (_squared(weights, scales, bits) for scales in (largest, got))
        worse = (after > before * 1.0001).nonzero().flatten().tolist()
        require(
            not worse,
            f"row {worse[0] if worse else 0} is worse than with its largest weight ({case}); "
            "absmax itself is one of the scales to try",
        )
        saved = 1 - float((after / before).mean())
        require(
            saved >= SAVED,
            f"the squared error falls by {saved:.0%}, {SAVED:.0%} is asked for ({case})",
        )


def _squared(weights: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return the summed squared error of each row (N)."""
    top = 2 ** (bits - 1) - 1
    back = (weights / scales).round().clamp(-top, top) * scales
    return (back - weights).square().sum(dim=1)
