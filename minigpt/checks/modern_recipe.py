"""Checks of the exercises on the modern recipe, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from minigpt.checks import exercise
from minigpt.checks.compare import (
    LargestTensor,
    call,
    integers,
    require,
    same_number,
    same_results,
    same_tensor,
    slip_hint,
)

HAND = {
    "values": [0.94, 0.30],
    "cache": 1_024_000,
    "reach": 25,
    "hidden": 64,
    "balance": 1.24,
    "active": 2_564,
    "interval": [-0.045, 0.005],
}
HAND_HINTS = {
    "values": "Put each singular value into 1.5 s - 0.5 s^3.",
    "cache": "Keys and values, for each layer, key-value head, dimension and token.",
    "reach": "Each layer looks back over the window without the token itself.",
    "hidden": "Three matrices of C x hidden instead of two of C x 96.",
    "balance": "E times the sum of share times mean probability.",
    "active": "Attention and the router work for every token, and two experts of the eight.",
    "interval": "Mean -0.02; the half-width is 4.30 times 0.01 over the root of 3.",
}
HAND_SLIPS = {  # (key, what was written) -> what to look at
    ("interval", (-0.063, 0.023)): "Divide the deviation by the root of 3: it is a mean of three.",
    ("interval", (-0.031, -0.009)): "1.96 is for many seeds. With three, t is 4.30.",
    ("values", (0.3, 0.94)): "Keep the order: first what becomes of 0.8.",
}
NUMBER_SLIPS = {
    ("cache", 4_096_000): "Eight query heads share two key-value heads; only those are kept.",
    ("cache", 512_000): "Keys and values: twice as much.",
    ("reach", 30): "A window of 6 holds the token itself and 5 before it.",
    ("hidden", 96): "At equal width SwiGLU has half as many parameters again.",
    ("balance", 0.62): "The sum is multiplied by the number of experts.",
    ("active", 8_564): "Six of the eight experts do nothing for this token.",
    ("active", 2_500): "The router works for every token, too.",
}


@exercise("modern_recipe.by_hand", "each line is one formula of the chapter.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the seven results of the exercise text."""
    same_results(answer, HAND, _hand_hint)


def _hand_hint(name: str, got: Any) -> str:
    is_number = isinstance(got, int | float) and not isinstance(got, bool)
    slip = NUMBER_SLIPS.get((name, round(got, 2)), "") if is_number and got == got else ""
    return slip or slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# Squared ReLU, backward


@exercise("modern_recipe.squared_relu", "go back from y; the slope of relu(h)^2 is 2 relu(h).")
def squared_relu(answer: Callable, generator: Generator) -> None:
    """Expect backward(x, up, down, dy): the gradients of x, up and down."""
    for N, C, H in [(3, 4, 6), (1, 2, 3), (5, 3, 2)]:
        x, up, down, dy = (
            torch.randn(shape, generator=generator) for shape in ((N, C), (H, C), (C, H), (N, C))
        )
        case = f"N = {N}, C = {C}, H = {H}"
        got = call(answer, x, up, down, dy, case=case)
        fits = isinstance(got, tuple | list) and len(got) == 3
        require(fits, f"expected three tensors (of x, up, down), got {type(got).__name__} ({case})")
        expected = _relu2_gradients(x, up, down, dy)
        slips = {
            "The 2 of the slope 2 relu(h) is missing.": _relu2_gradients(x, up, down, dy, "half"),
            "That is the slope of plain ReLU, 1 or 0: the square has the slope 2 relu(h).": (
                _relu2_gradients(x, up, down, dy, "plain")
            ),
            "Negative h must give no gradient: the slope is 2 relu(h), not 2 h.": (
                _relu2_gradients(x, up, down, dy, "both")
            ),
        }
        for place, name in enumerate(("x", "up", "down")):
            wrong = {hint: each[place] for hint, each in slips.items()}
            look_at = _slip(got[place], wrong, "Which of the two matrices, and which side, is it?")
            same_tensor(got[place], expected[place], f"gradient of {name}, {case}", look_at)


def _relu2_gradients(
    x: Tensor, up: Tensor, down: Tensor, dy: Tensor, slope: str = "right"
) -> tuple[Tensor, Tensor, Tensor]:
    h = x @ up.T  # (N, H)
    slopes = {"right": 2 * h.relu(), "half": h.relu(), "plain": (h > 0).float(), "both": 2 * h}
    dh = dy @ down * slopes[slope]  # (N, H)
    return dh @ up, dh.T @ x, dy.T @ h.relu().square()


def _slip(got: Any, slips: dict[str, Tensor], otherwise: str) -> str:
    """Return the sentence of the wrong tensor that `got` equals, or else the general one."""
    for sentence, wrong in slips.items():
        same = isinstance(got, Tensor) and got.shape == wrong.shape
        if same and torch.allclose(got, wrong.to(got.dtype), atol=1e-4):
            return sentence
    return otherwise


# A window that forgets


@exercise("modern_recipe.window", "for token t, which rows of k and v may it still see?")
def window(answer: Callable, generator: Generator) -> None:
    """Expect attend_in_window(q, k, v, window), each (T, D) -> (T, D), with little memory."""
    for T, size in [(7, 3), (1, 1), (5, 1), (4, 9), (9, 4)]:
        D = integers(generator, 2, 6)[0]
        q, k, v = (torch.randn(T, D, generator=generator) * 1.5 for _ in range(3))
        case = f"T = {T}, D = {D}, window = {size}"
        got = call(answer, q, k, v, size, case=case)
        slips = {
            "The window counts the token itself: it reaches back window - 1 places.": (
                _in_window(q, k, v, size + 1)
            ),
            "Every token sees its whole past: cut it to the window.": _in_window(q, k, v, T),
            "A token must see itself, too.": _in_window(q, k, v, size, own=False),
            "The future is visible: no key after t.": _in_window(q, k, v, size, causal=False),
            "Divide the scores by the root of D.": _in_window(q * D**0.5, k, v, size),
        }
        look_at = "The softmax goes over the keys of the window alone."
        same_tensor(got, _in_window(q, k, v, size), case, _slip(got, slips, look_at))
    T, D, size = 211, 3, 5
    q, k, v = (torch.randn(T, D, generator=generator) for _ in range(3))
    with LargestTensor() as seen:
        answer(q, k, v, size)
    require(
        seen.numbers < T * T / 4,
        f"right, but a tensor of shape {seen.shape} was made with T = {T}, D = {D}, window = "
        f"{size}: memory must grow with T x window, not with T x T",
    )


def _in_window(
    q: Tensor, k: Tensor, v: Tensor, size: int, own: bool = True, causal: bool = True
) -> Tensor:
    distance = torch.arange(len(q))[:, None] - torch.arange(len(q))
    seen = (distance < size) & (distance >= 0 if causal else torch.ones_like(distance).bool())
    if not own:
        seen &= (distance > 0) | (distance.sum(1, keepdim=True) == 0)
    scores = (q @ k.T / math.sqrt(q.size(-1))).masked_fill(~seen, -math.inf)
    return scores.softmax(dim=-1).nan_to_num() @ v


# A router that collapses


@exercise(
    "modern_recipe.router",
    "ask of each of the three results: does a gradient reach the scores, and which way?",
    travels=False,
)
def router(answer: Callable, generator: Generator) -> None:
    """Expect repaired(scores, n_active): shares (N, K), experts (N, K), balance loss."""
    for N, E, n_active in [(6, 3, 1), (9, 4, 2), (5, 2, 2)]:
        scores = torch.randn(N, E, generator=generator) + torch.linspace(1, 0, E)
        scores.requires_grad_()
        case = f"N = {N}, E = {E}, n_active = {n_active}"
        got = call(answer, scores, n_active, case=case)
        fits = isinstance(got, tuple | list) and len(got) == 3
        require(fits, f"expected shares, experts and the balance loss ({case})")
        shares, chosen, loss = got
        expected = _route(scores, n_active)
        over_tokens = scores.softmax(dim=0).gather(1, expected[1])
        scaled = expected[0] / expected[0].sum(dim=-1, keepdim=True)
        slips = {
            "The softmax goes over the experts of a token, not over the tokens.": over_tokens,
            "The shares are the router's probabilities, not divided once more.": scaled,
        }
        same_tensor(chosen, expected[1], f"experts, {case}", "The largest first, n_active of them.")
        look_at = _slip(shares, slips, "A share is the probability of the chosen expert.")
        same_tensor(shares, expected[0], f"shares, {case}", look_at)
        same_tensor(loss, expected[2], f"balance loss, {case}", _loss_hint(loss, expected))
        _same_gradient(shares.sum(), expected[0].sum(), scores, f"shares, {case}")
        _same_gradient(loss, expected[2], scores, f"balance loss, {case}")


def _route(scores: Tensor, n_active: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what the exercise asks for, and the loads (E)."""
    probabilities = scores.softmax(dim=-1)
    shares, chosen = probabilities.topk(n_active)
    E = scores.size(-1)
    loads = F.one_hot(chosen, E).float().mean(dim=(0, 1))
    return shares, chosen, E * (loads * probabilities.mean(dim=0)).sum(), loads


def _loss_hint(loss: Any, expected: tuple[Tensor, ...]) -> str:
    right, loads = expected[2], expected[3]
    E = len(loads)
    slips = {
        "The sign is wrong: this rewards a full expert.": -right,
        "The factor E is missing, so that even use does not give 1.": right / E,
        "Counts alone have no gradient: multiply by the mean probabilities.": (
            E * loads.square().sum()
        ),
    }
    return _slip(loss, slips, "E times the sum of load times mean probability; loads sum to 1.")


def _same_gradient(got: Tensor, expected: Tensor, scores: Tensor, case: str) -> None:
    """Require that both depend on the scores in the same way."""
    right = torch.autograd.grad(expected, scores, retain_graph=True)[0]
    mine = None
    if got.requires_grad:
        mine = torch.autograd.grad(got, scores, retain_graph=True, allow_unused=True)[0]
    require(
        mine is not None,
        f"no gradient reaches the scores ({case}), so the router cannot learn. Where is the "
        "graph cut?",
    )
    look_at = "Only the counts have no gradient; everything else keeps its own."
    assert mine is not None
    same_tensor(mine, right, f"gradient of the {case}", look_at)


# An honest ablation


@exercise("modern_recipe.ablation", "draw the differences, apply the verdict, count.")
def ablation(answer: Any, generator: Generator) -> None:
    """Expect the three shares that were measured and the letter of the explanation."""
    named = isinstance(answer, dict) and set(answer) == set(SHARES) | {"why"}
    require(named, f"expected a dict of {sorted([*SHARES, 'why'])}")
    for name, (right, slack, hint) in SHARES.items():
        same_number(answer[name], right, name, hint, slack)
    why = answer["why"]
    require(isinstance(why, str) and why in WHY, f"why should be one letter, a to d, got {why!r}")
    require(why == "c", WHY[why])


T_OF_196 = 1 - 1.96 / math.sqrt(1.96**2 + 2)  # both tails beyond 1.96, two degrees of freedom
SHARES = {  # name -> what is right, slack, what to look at
    "student": (0.05, 0.012, "t = 4.303 was made for this: 5 in 100, helps and hurts together."),
    "normal": (T_OF_196, 0.02, "The same with 1.96 instead of 4.303."),
    "best_of_20": (
        1 - 0.975**20,
        0.03,
        "Twenty useless changes, and the question is whether at least one of them 'helps'.",
    ),
}
WHY = {
    "a": "The changes are useless by construction: none of them can have helped.",
    "b": "The seeds are equal in number for all twenty.",
    "c": "",
    "d": "The interval is right: it errs in 5 of 100 cases, as it promises.",
}


# Five coefficients of your own


LEAST, BEST = 0.01, 0.1  # singular values from here to 1; how far from 1 they may end


@exercise("modern_recipe.coefficients", "fast steps first, then gentle ones that end at 1.")
def coefficients(answer: Any, generator: Generator) -> None:
    """Expect five triples (a, b, c) that bring all values from 0.01 to 1 near 1."""
    fits = isinstance(answer, tuple | list) and len(answer) == 5
    require(fits, "expected a list of five steps, each (a, b, c)")
    s = torch.logspace(math.log10(LEAST), 0, 2001, dtype=torch.float64)
    for step, triple in enumerate(answer, 1):
        fits = isinstance(triple, tuple | list) and len(triple) == 3
        numbers = fits and all(type(x) in (int, float) and math.isfinite(x) for x in triple)
        require(numbers, f"step {step} should be three numbers (a, b, c), got {triple!r}")
        a, b, c = triple
        s = a * s + b * s**3 + c * s**5
        largest = s.abs().max().item()
        require(largest < 10, f"after step {step} a value is {largest:.3g}: the steps run away")
    far = (s - 1).abs()
    start = LEAST ** (1 - far.argmax().item() / 2000)
    require(
        far.max() <= BEST,
        f"a singular value of {start:.3g} ends at {s[far.argmax()]:.3f}, {far.max():.3f} from 1; "
        f"{BEST} is allowed. Small values want a large a; near 1 the slope should be 0",
    )
