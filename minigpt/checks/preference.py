"""Checks of the preference exercises, each with an oracle of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    integers,
    number_slip,
    require,
    same_results,
    same_tensor,
    slip_hint,
)

HAND = {
    "apart": 2.197,
    "chance": 0.75,
    "best": [0.333, 0.333, 0.333],
    "loss": 0.263,
    "pull": -0.0463,
    "most": 1.609,
}
HAND_HINTS = {
    "apart": "The difference d for which 1 / (1 + exp(-d)) is 9/10.",
    "chance": "The difference of A and C is the sum of two differences; then the sigmoid.",
    "best": "Multiply each probability by exp(reward / beta), then divide by the sum.",
    "loss": "The margin is beta · ((-20 + 18) - (-30 + 22)); the loss is ln(1 + exp(-margin)).",
    "pull": "-beta · (1 - sigmoid(margin)).",
    "most": "ln(1 / base rate).",
}
LIST_SLIPS = {
    ("best", (0.6, 0.6, 0.6)): "These are the products: divide by their sum.",
    ("best", (0.539, 0.32, 0.141)): "The reward is divided by beta, not multiplied.",
    ("best", (0.473, 0.334, 0.193)): "This is right for beta = 1.",
}
NUMBER_SLIPS = {
    "apart": {0.9: "That is the probability.", 9.0: "The natural logarithm is missing."},
    "chance": {0.25: "That is C's chance.", 0.964: "B loses to C, so one difference is negative."},
    "loss": {
        0.127: "The reference is missing.",
        0.00248: "beta is missing.",
        1.463: "Chosen and rejected are exchanged.",
        1.2: "That is the margin.",
    },
    "pull": {0.0463: "Downhill means up for the chosen answer: its gradient is negative."},
    "most": {0.223: "That is ln(1 / 0.8): the unhappy ones are lost, not won."},
}


@exercise("preference.by_hand", "sections 1, 2, 3 and 9 have one formula for each.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the six results of the exercise text."""
    same_results(answer, HAND, _hand_hint, slack=0.002)


def _hand_hint(name: str, got: Any) -> str:
    slip = slip_hint(name, got, LIST_SLIPS) or number_slip(got, NUMBER_SLIPS.get(name, {}), 0.0015)
    return slip or HAND_HINTS[name]


# IPO


@exercise("preference.ipo", "rows alternate; each pair's log-ratios should end 1 / (2 tau) apart.")
def ipo(answer: Callable, generator: Generator) -> None:
    """Expect ipo_loss(policy, reference, tau): (distance - 1 / (2 tau)) ** 2 of each pair."""
    for P, tau in [(1, 0.5), (3, 0.1), (5, 1.0)]:
        policy, reference = -10 * torch.rand(2, 2 * P, generator=generator)
        change = policy - reference
        distance = change[0::2] - change[1::2]
        expected = (distance - 1 / (2 * tau)) ** 2
        case = f"{P} pairs, tau = {tau}"
        got = call(answer, policy, reference, tau, case=case)
        same_tensor(got, expected, case, _ipo_slip(got, policy, change, distance, tau), 1e-3)


def _ipo_slip(got: Any, policy: Tensor, change: Tensor, distance: Tensor, tau: float) -> str:
    half = len(change) // 2
    slips = {
        "The reference is missing.": policy[0::2] - policy[1::2],
        "Chosen and rejected are exchanged.": -distance,
        "A pair's two rows stand next to each other.": change[:half] - change[half:],
    }
    forms = {words: (wrong - 1 / (2 * tau)) ** 2 for words, wrong in slips.items()}
    forms |= {
        "The goal is 1 / (2 tau), not 1 / tau.": (distance - 1 / tau) ** 2,
        "tau does not scale the distance; it sets the goal.": (tau * distance - 0.5) ** 2,
        "The square is missing.": (distance - 1 / (2 * tau)).abs(),
    }
    for words, wrong in forms.items():
        if isinstance(got, Tensor) and got.shape == wrong.shape and torch.allclose(got, wrong):
            return words
    if isinstance(got, Tensor) and got.ndim == 0 and len(distance) > 1:
        return "Return the loss of each pair; the mean is taken outside."
    return "The square of: log-ratio of the chosen, minus that of the rejected, minus 1 / (2 tau)."


# Rewards from a table of comparisons


@exercise("preference.reward_model", "minimize the loss of all comparisons; mean reward 0.")
def reward_model(answer: Callable, generator: Generator) -> None:
    """Expect fit_rewards(wins): the likeliest rewards, with mean 0, for wins[i, j] of i over j."""
    for n, most in [(2, 9), (3, 6), (5, 20)]:
        wins = torch.tensor(integers(generator, 1, most, n * n)).reshape(n, n).float()
        wins.fill_diagonal_(0)
        wins[0, 1] += most  # so that no table is even
        case = f"{n} answers, {int(wins.sum())} comparisons"
        expected = _likeliest(wins)
        got = call(answer, wins, case=case)
        same_tensor(got, expected, case, _reward_slip(got, wins, expected), 0.02)


def _likeliest(wins: Tensor) -> Tensor:
    """Return the rewards by Zermelo's iteration: strength = wins / sum of games / strengths."""
    strength, games = torch.ones(len(wins), dtype=torch.float64), (wins + wins.T).double()
    for _ in range(3000):
        strength = wins.double().sum(1) / (games / (strength[:, None] + strength)).sum(1)
        strength = strength / strength.log().mean().exp()
    return strength.log().float()


def _reward_slip(got: Any, wins: Tensor, expected: Tensor) -> str:
    if not isinstance(got, Tensor) or got.shape != expected.shape:
        return "One reward for each answer."
    if torch.allclose(got - got.mean(), expected, atol=0.02):
        return "The differences are right: subtract the mean."
    if torch.allclose(got, -expected, atol=0.02):
        return "The signs are turned: wins[i, j] counts that i beat j."
    share = wins.sum(1) / (wins.sum(0) + wins.sum(1))
    if torch.allclose(got, share, atol=0.02):
        return "That is the share of comparisons won; it does not ask against whom."
    if torch.allclose(got, share.logit() - share.logit().mean(), atol=0.02):
        return "The logit of the share does not ask against whom an answer won."
    return "Weigh -ln sigmoid(r_i - r_j) by wins[i, j], and take enough steps."


# What noise costs

NOISE = {
    "clean": 0.899,
    "noisy": [0.659, 0.775, 0.834, 0.869, 0.913, 0.935],
    "worth": 1600,
    "why": "b",
}
NOISE_HINTS = {
    "clean": "Average ranked_rightly(100, 0.0, seed) over the seeds 0 to 9.",
    "noisy": "Average over the seeds 0 to 9, with noise 0.3, from 100 to 3,200 pairs.",
    "worth": "The smallest number of noisy pairs that is at least as good as 100 clean ones.",
    "why": "Do many noisy pairs reach what clean ones reach, or is there a limit below it?",
}


@exercise("preference.label_noise", "average over all seeds, then compare with 100 clean pairs.")
def label_noise(answer: Any, generator: Generator) -> None:
    """Expect the accuracies, how many noisy pairs are worth 100 clean ones, and why (a letter)."""
    named = isinstance(answer, dict) and set(answer) == set(NOISE)
    require(named, f"expected a dict of {sorted(NOISE)}")
    measured = {name: answer[name] for name in ("clean", "noisy")}
    right = {name: NOISE[name] for name in measured}
    same_results(measured, right, lambda name, got: NOISE_HINTS[name], 0.02, 0.02)
    for name in ("worth", "why"):
        got = answer[name]
        is_right = type(got) is type(NOISE[name]) and got == NOISE[name]
        require(is_right, f"{name} is {got!r}. {NOISE_HINTS[name]}")


# The leak

KEPT = 0.3  # share of the pairs that must stay


@exercise(
    "preference.leak", "for each pair with a longer rejected answer keep one that mirrors it."
)
def leak(answer: Callable, generator: Generator) -> None:
    """Expect balanced(chosen, rejected): places of pairs in which length says nothing."""
    for P, gap in [(200, 8.0), (400, 12.0), (300, 5.0)]:
        chosen, rejected = lengths(P, gap, generator)
        case = f"{P} pairs"
        got = call(answer, chosen, rejected, case=case)
        got = got.tolist() if isinstance(got, Tensor | np.ndarray) else got
        whole = isinstance(got, list) and all(type(place) is int for place in got)
        require(whole, f"expected a list of places, got {type(got).__name__} ({case})")
        inside = len(set(got)) == len(got) and all(0 <= place < P for place in got)
        require(inside, f"expected different places from 0 to {P - 1} ({case})")
        require(
            len(got) >= KEPT * P,
            f"only {len(got)} of {P} pairs are left; keep {KEPT:.0%} at least. Every pair with the "
            "longer answer rejected is precious: keep all of these",
        )
        difference = (chosen - rejected)[got].double()
        longer = ((difference > 0).double().mean() + (difference == 0).double().mean() / 2).item()
        require(
            0.45 <= longer <= 0.55,
            f"'the longer one' wins {longer:.0%} of the pairs you kept ({case}). "
            "As many pairs should have the longer answer rejected as chosen",
        )
        mean = difference.mean().item()
        require(
            abs(mean) <= 1,
            f"the chosen answers are {mean:+.1f} tokens longer on average ({case}). "
            "Match the size of the difference as well as its sign",
        )


def lengths(P: int, gap: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return lengths of chosen and rejected answers (P,): the chosen ones are mostly longer."""
    rejected = torch.tensor(integers(generator, 30, 90, P))
    difference = gap + 1.6 * gap * torch.randn(P, generator=generator)
    return (rejected + difference.round().long()).clamp(min=5), rejected
