"""Checks of the exercises on reinforcement learning, each with an oracle of its own."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
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

HAND = {
    "gradient": 0.75,
    "estimates": [1.5, -1.5],
    "baseline": 3.0,
    "advantages": [0.6, 0.6, -0.4, -0.4, -0.4],
    "pass_at_2": 0.7,
    "losses": [-2.56, 0.8],
}
HAND_HINTS = {
    "gradient": "p(1 - p) times the difference of the two rewards.",
    "estimates": "The reward times d log p: 1 - p for arm 1, and -p for arm 0.",
    "baseline": "Both estimates are equal: (6 - b)/4 = (2 - b)(-3/4).",
    "advantages": "Each reward minus the mean of the five.",
    "pass_at_2": "One minus the share of pairs in which both are wrong.",
    "losses": "Minus the smaller of ratio times A and clipped ratio times A.",
}
HAND_SLIPS = {
    ("estimates", (4.5, -0.5)): "d log p(arm) is 1 - p(arm), with a minus for arm 0: not p itself.",
    ("advantages", (1.095, 1.095, -0.730, -0.730, -0.730)): "Nothing is divided by the deviation.",
    ("losses", (-3.0, 0.5)): "These are not clipped: the bounds are 0.8 and 1.28.",
    ("losses", (-2.4, 0.8)): "The upper bound is 1.28, not 1.2.",
    ("losses", (2.56, -0.8)): "A loss is to become smaller: the sign is turned.",
}
NUMBER_SLIPS = {
    "gradient": {3.0: "p depends on theta: multiply by p(1 - p).", 1.0: "p is 3/4, not 1/2."},
    "baseline": {
        5.0: "That is the mean reward: a good baseline, but not the one without any variance.",
        4.0: "Half-way between the rewards is right only where both arms are equally likely.",
    },
    "pass_at_2": {0.64: "That draws with replacement; count pairs of the five answers."},
}


@exercise("reinforcement_learning.by_hand", "sections 1 to 5 and 9 have one formula for each.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the six results of the exercise text."""
    same_results(answer, HAND, _hand_hint)


def _hand_hint(name: str, got: Any) -> str:
    slip = slip_hint(name, got, HAND_SLIPS) or number_slip(got, NUMBER_SLIPS.get(name, {}))
    return slip or HAND_HINTS[name]


# A baseline from the others


@exercise(
    "reinforcement_learning.baseline", "the sum of the others is the sum of all minus one's own."
)
def baseline(answer: Callable, generator: Generator) -> None:
    """Expect leave_one_out(rewards): (P, G) -> (P, G)."""
    require_own(answer, "group_advantages")
    for P, G in [(1, 2), (3, 4), (4, 3), (2, 7), (5, 5)]:
        rewards = torch.randn(P, G, generator=generator) + 2
        case = f"rewards of {P} groups of {G}"
        got = call(answer, rewards, case=case)
        same_tensor(got, left_out(rewards), case, _baseline_hint(got, rewards))


def left_out(rewards: Tensor) -> Tensor:
    """Return each reward minus the mean of the others in its row."""
    G = rewards.shape[1]
    rest = torch.stack([rewards[:, torch.arange(G) != g].mean(dim=1) for g in range(G)], dim=1)
    return rewards - rest


def _baseline_hint(got: Any, rewards: Tensor) -> str:
    P, G = rewards.shape
    own_in = rewards - rewards.mean(dim=1, keepdim=True)
    over_all = rewards - (rewards.sum() - rewards) / max(P * G - 1, 1)
    columns = rewards - (rewards.sum(0, keepdim=True) - rewards) / max(P - 1, 1)
    slips = {
        "This baseline holds the answer's own reward: it is GRPO's. Leave it out.": own_in,
        "The others are those of the same group, not of the whole batch.": over_all,
        "A group is a row: the others differ in the second dimension.": columns,
        "The mean of the others divides by G - 1.": rewards
        - (rewards.sum(1, keepdim=True) - rewards) / G,
        "The sign is turned: what is better than the others has a positive advantage.": -left_out(
            rewards
        ),
    }
    for sentence, wrong in slips.items():
        if isinstance(got, Tensor) and got.shape == wrong.shape and torch.allclose(got, wrong):
            return sentence
    return "For each answer: its reward minus the mean of the G - 1 others of its row."


# Three estimators


@exercise(
    "reinforcement_learning.kl", "k1 = log p - log q; k2 = half its square; k3 = q/p - 1 + k1."
)
def kl(answer: Callable, generator: Generator) -> None:
    """Expect kl_estimates(log_p, log_q, counted) -> (3,): the means over the tokens that count."""
    require_own(answer, "kl_estimate", "masked_mean")
    for B, T in [(1, 5), (3, 4), (4, 7), (2, 6)]:
        log_p = -torch.rand(B, T, generator=generator) * 3
        log_q = -torch.rand(B, T, generator=generator) * 3
        counted = torch.rand(B, T, generator=generator) < 0.6
        counted[0, 0], counted[-1, -1] = True, False
        case = f"{B} answers of {T} tokens, {int(counted.sum())} of which count"
        got = call(answer, log_p, log_q, counted, case=case)
        same_tensor(
            got, three_means(log_p, log_q, counted), case, _kl_hint(got, log_p, log_q, counted)
        )


def three_means(log_p: Tensor, log_q: Tensor, counted: Tensor) -> Tensor:
    """Return the means of k1, k2 and k3 over the tokens that count."""
    d = [(p - q).item() for p, q in zip(log_p[counted], log_q[counted], strict=True)]
    sums = [sum(d), sum(x * x / 2 for x in d), sum(math.exp(-x) - 1 + x for x in d)]
    return torch.tensor([each / len(d) for each in sums], dtype=log_p.dtype)


def _kl_hint(got: Any, log_p: Tensor, log_q: Tensor, counted: Tensor) -> str:
    if not isinstance(got, Tensor) or got.shape != (3,):
        return "Return one tensor of three means."
    every = torch.ones_like(counted)
    right = three_means(log_p, log_q, counted)
    if torch.allclose(got, three_means(log_q, log_p, counted), atol=1e-5):
        return "p and q are exchanged: the tokens were drawn from p."
    if torch.allclose(got, three_means(log_p, log_q, every), atol=1e-5):
        return "Tokens that do not count are in the mean: use `counted`."
    if torch.allclose(got, right * counted.float().mean(), atol=1e-5):
        return "Divide by the number of tokens that count, not by all of them."
    close = torch.isclose(got, right, atol=1e-5).tolist()
    wrong = [name for name, is_right in zip(("k1", "k2", "k3"), close, strict=True) if not is_right]
    return f"Look at {', '.join(wrong)}; d is log p - log q, and q/p is exp(-d)."


# A hack, found and closed


@exercise(
    "reinforcement_learning.hack",
    "what is the shortest answer with right / told = 1?",
)
def hack(answer: Any, generator: Generator) -> None:
    """Expect (3, told, right): the shortest answer that is paid 1 and is not right."""
    is_three = isinstance(answer, tuple | list) and len(answer) == 3
    whole = is_three and all(isinstance(n, int) and not isinstance(n, bool) for n in answer)
    require(whole, f"hack is {answer!r}, expected three whole numbers: asked, told, right")
    asked, told, right = answer
    require(asked == 3, f"{asked} sentences are asked for; the exercise asks for 3")
    require(told >= 1 and 0 <= right <= told, "no answer can be like that")
    require(right == told, f"this answer is paid {right / told:.2f}; find one that is paid 1")
    require(told != asked, "this answer is right, so it deserves its reward: it is no hack")
    require(told == 1, f"paid 1, and not right; but a shorter one than {told} sentences is, too")


@exercise(
    "reinforcement_learning.closed",
    "pay nothing for a wrong number of sentences, and less than half for a wrong sentence.",
)
def closed(answer: Callable, generator: Generator) -> None:
    """Expect closed(asked, told, right) -> 0 to 1."""
    for asked in range(1, 6):
        _require_closed(answer, asked)


def _require_closed(closed: Callable, asked: int) -> None:
    def pay(told: int, right: int) -> float:
        case = f"asked = {asked}, told = {told}, right = {right}"
        paid = call(closed, asked, told, right, case=case)
        is_number = isinstance(paid, int | float) and not isinstance(paid, bool)
        require(is_number and 0 <= paid <= 1, f"it pays {paid!r}, expected 0 to 1 ({case})")
        return float(paid)

    require(pay(asked, asked) == 1, f"a right answer of {asked} sentences is not paid 1")
    for told in range(asked + 3):
        for right in range(told + 1):
            if told == right == asked:
                continue
            case = f"{right} right of {told} told, {asked} asked"
            paid = pay(told, right)
            require(paid <= 0.5, f"it pays {paid:.2f} for a wrong answer ({case}); 0.5 at most")
            if told != asked and right < asked:
                honest = pay(asked, right)
                require(
                    paid <= honest,
                    f"it pays {paid:.2f} for {case}, and {honest:.2f} for as many right sentences "
                    "in an answer of the right length: a wrong length pays",
                )
    steps = [pay(asked, right) for right in range(asked + 1)]
    rising = all(a < b for a, b in pairwise(steps))
    require(rising, f"with {asked} told, more right sentences must pay more; it pays {steps}")


# Best of n against training


@exercise(
    "reinforcement_learning.best_of_n",
    "success(logits, n), before and after trained(logits); then count draws.",
)
def best_of_n(answer: Any, generator: Generator) -> None:
    """Expect four rates, a number of visits and a letter."""
    start, after = tables()
    rates = {
        "one": success(start, 1),
        "best_of_8": success(start, 8),
        "trained": success(after, 1),
        "trained_best_of_8": success(after, 8),
    }
    keys = {*rates, "visits", "why"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    for name, right in rates.items():
        n = 8 if name.endswith("8") else 1
        which = "trained(logits)" if name.startswith("trained") else "logits"
        same_number(answer[name], right, name, f"It is success({which}, {n}).", 0.004)
    slips: dict[float, str] = {
        34: "240 + 34 is still more than 8 times 34: look at the next one.",
        30: "After training, each visit costs one draw as well.",
        240: "240 draws are training; compare 240 + v with 8 v.",
    }
    look_at = number_slip(answer["visits"], slips) or "The least v with 240 + v < 8 v."
    same_number(answer["visits"], 35, "visits", look_at, 0.1)
    require(
        answer["why"] == "b",
        "the explanation does not fit: compare what each way costs once, and what per answer.",
    )


def tables() -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of the exercise, before and after training."""
    logits = np.random.default_rng(21).normal(size=(50, 40))
    after = logits.copy()
    for _ in range(30):
        p = np.exp(after) / np.exp(after).sum(axis=1, keepdims=True)
        mean = p[:, :4].sum(axis=1, keepdims=True)
        after += 1.5 * p * ((np.arange(40) < 4) - mean)
    return logits, after


def success(logits: np.ndarray, n: int) -> float:
    """Return how often one of n answers is right; the first four of a row are."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float((1 - (1 - p[:, :4].sum(axis=1)) ** n).mean())
