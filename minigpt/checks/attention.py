"""Checks of the attention exercises, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from minigpt.attention import attend, causal_mask
from minigpt.checks import exercise
from minigpt.checks.compare import (
    LargestTensor,
    call,
    integers,
    require,
    require_own,
    same_number,
    same_tensor,
)

# By hand: the numbers of the exercise text. Position 2 of 4 asks, so position 3 is its future.
HAND_QUERY = torch.tensor([2.0, 0.0, 2.0, 0.0])
HAND_KEYS = torch.tensor([[1.0, 0, 1, 0], [0, 3, 1, 1], [1, 1, 0, 0], [5, 5, 5, 5]])
HAND_VALUES = torch.tensor([4.0, 10.0, 8.0, 100.0])


@exercise("attention.by_hand", "write the three dot products down first, then divide by √4.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect (weights of the four positions, output), to two decimals."""
    is_pair = isinstance(answer, tuple | list) and len(answer) == 2
    fits = is_pair and isinstance(answer[0], tuple | list) and len(answer[0]) == 4
    require(fits, "expected a pair: the four weights, then the output")
    got, output = answer
    scores = HAND_KEYS @ HAND_QUERY / 2
    weights = F.pad(scores[:3].softmax(dim=0), (0, 1))
    for number, weight in enumerate(got):
        kind = f"the weight of position {number} should be a number, got {weight!r}"
        require(isinstance(weight, int | float), kind)
    for number, weight in enumerate(got):
        look_at = _hand_hint(got, scores)
        same_number(
            weight, weights[number].item(), f"the weight of position {number}", look_at, 0.006
        )
    look_at = "The output is the sum of weight times value; carry three decimals until the end."
    same_number(output, (weights @ HAND_VALUES).item(), "the output", look_at, 0.06)


def _hand_hint(got: Any, scores: Tensor) -> str:
    """Recognise the usual slips: no scale, the future seen, no softmax."""
    slips = {
        "These are the weights without dividing by √D; D is 4 here.": F.pad(
            (2 * scores[:3]).softmax(dim=0), (0, 1)
        ),
        "Position 3 lies in the future of position 2: its weight is 0, and it is not in the sum.": (
            scores.softmax(dim=0)
        ),
    }
    for hint, slip in slips.items():
        if all(abs(float(a) - b) < 0.02 for a, b in zip(got, slip.tolist(), strict=True)):
            return hint
    if not 0.98 < sum(float(a) for a in got) < 1.02:
        return "The weights must sum to 1: divide each e^score by their sum."
    return "Check the dot products, then the division by √4, then e^score over the sum."


@exercise("attention.window_mask", "start from causal_mask and compare t - s with the window.")
def window_mask(answer: Callable, generator: Generator) -> None:
    """Expect window_mask(T, window): True where 0 <= t - s < window."""
    require_own(answer, "sliding_mask")
    for T, window in [
        (7, 3),
        (1, 1),
        (5, 1),
        (4, 9),
        *zip(integers(generator, 6, 13, 2), integers(generator, 2, 5, 2), strict=True),
    ]:
        distance = torch.arange(T)[:, None] - torch.arange(T)
        expected = (distance >= 0) & (distance < window)
        case = f"T = {T}, window = {window}"
        got = call(answer, T, window, case=case)
        slips = {
            "The window counts position t itself, so it reaches back window - 1 positions.": (
                (distance >= 0) & (distance <= window)
            ),
            "Rows and columns are swapped: the row t is the one that looks.": expected.T,
            "The future is visible: t may not see s > t.": distance < window,
            "True must mean 'may look', here it means the opposite.": ~expected,
        }
        same_tensor(
            got, expected, case, _slip(got, slips, "Which t may see which s? t - s decides.")
        )


@exercise(
    "attention.repair", "run the function on T = 3 and print the weights: which rows sum to 1?"
)
def repair(answer: Callable, generator: Generator) -> None:
    """Expect multi-head attention of x (B, T, C) with four weight matrices (C, C) and n_head."""
    require_own(answer, "Attention")
    for B, T, n_head, D in [(2, 5, 3, 4), (1, 1, 2, 3), (3, 7, 1, 5)]:
        C = n_head * D
        x = torch.randn(B, T, C, generator=generator)
        q, k, v, o = (torch.randn(C, C, generator=generator) / math.sqrt(C) * 2 for _ in range(4))
        case = f"B = {B}, T = {T}, C = {C}, n_head = {n_head}"
        got = call(answer, x, q, k, v, o, n_head, case=case)
        expected = _multi_head(x, q, k, v, o, n_head)
        slips = {
            "The scale is √D of one head, and D = C / n_head.": _multi_head(
                x, q, k, v, o, n_head, width=C
            ),
            "The softmax runs over the wrong axis: each row must sum to 1.": _multi_head(
                x, q, k, v, o, n_head, dim=-2
            ),
            "A view cannot exchange dimensions: cut into (n_head, D), transpose.": _multi_head(
                x, q, k, v, o, n_head, cut=False
            ),
            "Position t must see itself as well: look at the mask's diagonal.": _multi_head(
                x, q, k, v, o, n_head, diagonal=-1
            ).nan_to_num(),
        }
        shape_fits = isinstance(got, Tensor) and got.shape == expected.shape
        if shape_fits and got.isnan().any():
            require(False, "the first row is NaN: it may see nothing. Look at the mask's diagonal.")
        if shape_fits and T > 1:
            later = x.clone()
            later[:, -1] += 1
            moved = (answer(later, q, k, v, o, n_head) - got)[:, :-1].abs().max()
            require(
                moved < 1e-5,
                f"a change of the last position changes earlier outputs ({case}). Look at the "
                f"mask, at the axis of the softmax, and at how the heads are cut",
            )
        hint = _slip(
            got, slips, "More than one fault may be left; compare line by line with attend."
        )
        same_tensor(got, expected, case, hint)


def _multi_head(
    x: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    n_head: int,
    width: int | None = None,
    dim: int = -1,
    cut: bool = True,
    diagonal: int = 0,
) -> Tensor:
    """The repaired function; the options plant one of the faults each."""
    B, T, C = x.shape
    D = C // n_head
    if cut:
        q, k, v = ((x @ w).view(B, T, n_head, D).transpose(1, 2) for w in (q, k, v))
    else:
        q, k, v = ((x @ w).view(B, n_head, T, D) for w in (q, k, v))
    scores = q @ k.transpose(-2, -1) / math.sqrt(width or D)
    past = torch.ones(T, T).tril(diagonal) == 1
    mixed = scores.masked_fill(~past, -math.inf).softmax(dim=dim) @ v
    return mixed.transpose(1, 2).reshape(B, T, C) @ o


@exercise(
    "attention.streaming", "keep three things: largest score, sum of e^..., weighted sum of v."
)
def streaming(answer: Callable, generator: Generator) -> None:
    """Expect streaming_attend(q, k, v, chunk): attend's result, never all T x S scores at once."""
    for T, S, D, chunk, size in [
        (3, 7, 4, 3, 1),
        (5, 8, 3, 4, 30),
        (2, 5, 6, 9, 1),
        (4, 61, 2, 5, 5),
    ]:
        q, k = (torch.randn(n, D, generator=generator) * size for n in (T, S))
        v = torch.randn(S, D + 1, generator=generator)
        case = f"T = {T}, S = {S}, D = {D}, chunk = {chunk}, scores of about {size * size}"
        expected = attend(q, k, v)
        got = call(answer, q, k, v, chunk, case=case)
        look_at = (
            "Three places to look at: the scale √D; the old sums, which must be multiplied by "
            "e^(old largest - new largest) when the largest score changes; the last, shorter chunk."
        )
        if isinstance(got, Tensor) and got.shape == expected.shape:
            require(
                got.isfinite().all(),
                f"the result is not finite ({case}): e^score overflows; subtract the largest score "
                f"of each row first",
            )
        same_tensor(got, expected, case, look_at, tolerance=1e-3)
    _streams(answer, generator)


def _streams(answer: Callable, generator: Generator) -> None:
    """Require that keys come in chunks: no query's scores with all the keys ever exist."""
    T, S, D, chunk = 41, 397, 3, 20
    q, k, v = (torch.randn(n, D, generator=generator) for n in (T, S, S))
    with LargestTensor() as seen:
        answer(q, k, v, chunk)
    limit = f"with T = {T}, S = {S} and chunk = {chunk}, at most T x chunk scores may exist"
    fused = {"scaled_dot_product_attention", "multi_head_attention_forward"} & seen.names
    require(
        not fused,
        f"right, but {min(fused, default='')} streams for you: write the loop over the keys",
    )
    whole = [shape for shape in seen.shapes if S in shape and shape not in ((S, D), (D, S))]
    require(
        not whole,
        f"right, but not streaming: a tensor of shape {min(whole, default=())} holds scores with "
        f"all {S} keys. The loop goes over the keys, not over the queries; {limit}",
    )
    require(
        seen.numbers <= max(T * chunk, S * D),
        f"right, but not streaming: a tensor of shape {seen.shape} was made on the way; {limit}",
    )


@exercise("attention.long_text", "draw scores with torch.randn, take softmax, then max, then mean.")
def long_text(answer: Any, generator: Generator) -> None:
    """Expect the largest weight of 16 and of 4096 keys, a factor, and the letter that explains."""
    keys = {"largest_16", "largest_4096", "factor", "why"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    expected = {T: _largest(T, 1.0, generator) for T in (16, 4096)}
    for T, slack in ((16, 0.02), (4096, 0.0015)):
        look_at = (
            "Scores of variance 1 (that is what the scale is for), softmax over the keys, the "
            "largest weight of each query, and the mean over at least 500 queries."
        )
        same_number(answer[f"largest_{T}"], expected[T], f"largest_{T}", look_at, slack)
    factor = answer["factor"]
    require(
        isinstance(factor, int | float) and 0 < factor < 100, f"factor is {factor!r}, not a size"
    )
    sharp = _largest(4096, float(factor), generator)
    require(
        abs(sharp - expected[16]) < 0.06,  # 0.03 of the text, and four sampling errors of 0.008
        f"with scores {factor:.3g} times as large, the largest of 4096 weights is {sharp:.2f}; the "
        f"aim is {expected[16]:.2f}, as with 16 keys. A larger factor gives a larger weight.",
    )
    require(
        answer["why"] == "b",
        "the explanation does not fit the numbers: the scores have the same variance in both "
        "cases, so what is different in the sum under the fraction of the softmax?",
    )


def _largest(T: int, factor: float, generator: Generator) -> float:
    scores = torch.randn(1000, T, generator=generator) * factor
    return scores.softmax(dim=-1).max(dim=-1).values.mean().item()


@exercise(
    "attention.pattern", "look 1 fetches each position's previous word; look 2 compares with it."
)
def pattern(answer: Callable, generator: Generator) -> None:
    """Expect continue_pattern(ids, vocab_size, attend): scores (T, V), best at the next word.

    A block of different words is told twice, so in the second telling every next word is known.
    """
    for length, V in [(4, 9), (7, 12), (11, 17)]:
        block = torch.randperm(V, generator=generator)[:length]
        ids, case = (
            torch.cat((block, block)),
            f"a block of {length} words told twice, {V} words in all",
        )
        looks = []

        def counted(*arguments: Any, looks: list = looks, **options: Any) -> Tensor:
            looks.append(1)
            return attend(*arguments, **options)

        got = call(answer, ids, V, counted, case=case)
        require(isinstance(got, Tensor), f"expected a tensor, got {type(got).__name__} ({case})")
        shape = (2 * length, V)
        require(got.shape == shape, f"the shape is {tuple(got.shape)}, expected {shape} ({case})")
        require(
            len(looks) == 2,
            f"attend was called {len(looks)} times ({case}); two looks are the idea",
        )
        require(not got.isnan().any(), f"the scores hold NaN ({case}): a row that may see nothing?")
        _needs_both_looks(answer, ids, V, case)
        share = (got[length:-1].argmax(dim=-1) == ids[length + 1 :]).float().mean().item()
        require(
            share == 1,
            f"{share:.0%} of the second telling is predicted right ({case}). Print look 1's "
            f"result: does each row hold its previous word? If so, the looks may be too soft: "
            f"multiply the queries",
        )
        other = ids.clone()
        other[-1] = (other[-1] + 1) % V
        early = call(answer, other, V, attend, case=case)[: 2 * length - 1]
        require(
            torch.allclose(early, got[:-1], atol=1e-4),
            f"a change of the last word changes earlier predictions ({case}); pass the causal mask",
        )
    require(causal_mask(2).sum() == 3, "minigpt's causal_mask was changed")


def _needs_both_looks(answer: Callable, ids: Tensor, V: int, case: str) -> None:
    """Require that the scores are made of what the two looks returned."""
    normal = answer(ids.clone(), V, attend)
    for number in (1, 2):
        looks: list[int] = []

        def blind(*arguments: Any, looks: list = looks, number: int = number, **options: Any):
            looks.append(1)
            found = attend(*arguments, **options)
            return torch.zeros_like(found) if len(looks) == number else found

        with_zeros = answer(ids.clone(), V, blind)
        require(
            not torch.allclose(normal, with_zeros, atol=1e-6),
            f"the scores are the same when look {number} finds nothing ({case}): use what attend "
            f"returns, and no other way to see other positions",
        )


def _slip(got: Any, slips: dict[str, Tensor], otherwise: str) -> str:
    """Return the sentence of the wrong answer that `got` equals, or another sentence."""
    for sentence, wrong in slips.items():
        if (
            isinstance(got, Tensor)
            and got.shape == wrong.shape
            and torch.allclose(got.float(), wrong.float(), atol=1e-4)
        ):
            return sentence
    return otherwise
