"""Wrong answers about preferences fail, each with a word on what to look at."""

import pytest
import torch
from solved import answer_of, fails, passes_always
from torch.nn import functional as F

from minigpt.checks import judge
from minigpt.checks.preference import HAND, NOISE

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"apart": 9.0}, "logarithm"),
        ({"chance": 0.964}, "one difference is negative"),
        ({"best": [0.6, 0.6, 0.6]}, "divide by their sum"),
        ({"best": [0.539, 0.32, 0.141]}, "not multiplied"),
        ({"best": [0.473, 0.334, 0.193]}, "beta = 1"),
        ({"loss": 0.127}, "reference is missing"),
        ({"loss": 1.463}, "exchanged"),
        ({"loss": 0.0025}, "beta is missing"),
        ({"pull": 0.0463}, "negative"),
        ({"pull": -0.2315}, "sigmoid"),
        ({"most": 0.223}, "0.8"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_preference_by_hand(change, words):
    assert judge("preference.by_hand", HAND) == ("passed", "passed")
    fails("preference.by_hand", HAND | change, words)


def square(policy, reference, tau, goal=0.5, sign=1, halves=False):
    change = policy - reference
    P = len(change) // 2
    better, worse = (change[:P], change[P:]) if halves else (change[0::2], change[1::2])
    return (sign * (better - worse) - goal / tau) ** 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p, r, t: square(p, 0 * r, t), "reference is missing"),
        (lambda p, r, t: square(p, r, t, sign=-1), "exchanged"),
        (lambda p, r, t: square(p, r, t, goal=1), "not 1 / tau"),
        (lambda p, r, t: square(p, r, t).sqrt(), "square is missing"),
        (lambda p, r, t: square(p, r, t).mean(), "shape"),
        (lambda p, r, t: square(p, r, t).tolist(), "expected a tensor"),
        (lambda p, r, t: square(p.mul_(2), r, t), "changed"),
    ],
)
def test_wrong_ipo(answer, words):
    assert judge("preference.ipo", square) == ("passed", "passed")
    fails("preference.ipo", answer, words)


def test_halves_for_pairs_fail():
    fails("preference.ipo", lambda p, r, t: square(p, r, t, halves=True), "next to each other")


def fit(wins, steps=200, centered=True, sign=1.0):
    rewards = torch.zeros(len(wins), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([rewards], max_iter=steps, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        differences = rewards[:, None] - rewards[None, :]
        loss = -(wins * F.logsigmoid(sign * differences)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = rewards.detach().float()
    return found - (found.mean() if centered else found[0])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda w: fit(w, centered=False), "subtract the mean"),
        (lambda w: fit(w, sign=-1.0), "signs are turned"),
        (lambda w: fit((w > 0).float()), "Weigh"),
        (lambda w: w.sum(1) / (w.sum(0) + w.sum(1)), "share of comparisons won"),
        (lambda w: fit(w)[:1], "shape"),
    ],
)
def test_wrong_rewards(answer, words):
    assert judge("preference.reward_model", fit) == ("passed", "passed")
    fails("preference.reward_model", answer, words)


def test_the_logit_of_the_share_fails_where_opponents_differ():
    def logits(w):
        share = w.sum(1) / (w.sum(0) + w.sum(1))
        return 2 * (share.logit() - share.logit().mean()) if len(w) > 2 else fit(w)

    fails("preference.reward_model", logits, "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clean": 0.95}, "the seeds 0 to 9"),
        ({"noisy": [0.9] * 6}, "noise 0.3"),
        ({"worth": 800}, "at least as good"),
        ({"worth": 1600.0}, "at least as good"),
        ({"why": "a"}, "limit below"),
        ({"why": "c"}, "limit below"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_label_noise(change, words):
    assert judge("preference.label_noise", NOISE) == ("passed", "passed")
    fails("preference.label_noise", NOISE | change, words)


def test_the_experiment_finds_what_its_check_expects():
    answer = answer_of("preference.label_noise")
    assert answer["clean"] == pytest.approx(NOISE["clean"], abs=0.01)
    assert answer["noisy"] == pytest.approx(NOISE["noisy"], abs=0.01)
    assert (answer["worth"], answer["why"]) == (NOISE["worth"], NOISE["why"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda c, r: list(range(len(c))), "wins"),
        (lambda c, r: torch.randperm(len(c))[: len(c) // 2].tolist(), "wins"),
        (lambda c, r: [i for i in range(len(c)) if c[i] <= r[i]], "precious"),
        (lambda c, r: [i for i in range(len(c)) if c[i] == r[i]], "are left"),
        (lambda c, r: [0] * len(c), "different places"),
        (lambda c, r: [len(c)], "different places"),
        (lambda c, r: c > r, "list of places"),
    ],
)
def test_wrong_balance(answer, words):
    fails("preference.leak", answer, words)


def test_signs_alone_are_no_balance():
    """As many longer as shorter, but the longest of the longer: the mean tells."""

    def lopsided(chosen, rejected):
        gap = chosen - rejected
        order = gap.argsort(descending=True).tolist()
        shorter = [i for i in order if gap[i] < 0]
        return shorter + order[: len(shorter)] + [i for i in order if gap[i] == 0]

    fails("preference.leak", lopsided, "size of the difference")


def test_the_solution_balances_all_students_pairs(monkeypatch):
    passes_always("preference.leak", monkeypatch, students=40)
