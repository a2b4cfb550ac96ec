"""Wrong answers about the modern recipe fail, each with a word on what to look at."""

import math

import pytest
import torch
from solved import answer_of, fails, solution
from torch.nn import functional as F

from minigpt.checks import judge

pytestmark = pytest.mark.usefixtures("student")

HAND = {
    "values": [0.944, 0.296],
    "cache": 1_024_000,
    "reach": 25,
    "hidden": 64,
    "balance": 1.24,
    "active": 2_564,
    "interval": [-0.045, 0.005],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": [0.3, 0.94]}, "Keep the order"),
        ({"values": [0.8, 0.2]}, "1.5 s - 0.5 s^3"),
        ({"cache": 4_096_000}, "only those are kept"),
        ({"cache": 512_000}, "twice as much"),
        ({"reach": 30}, "the token itself"),
        ({"hidden": 96}, "half as many parameters again"),
        ({"balance": 0.62}, "number of experts"),
        ({"active": 8_564}, "do nothing"),
        ({"active": 2_500}, "router works"),
        ({"interval": [-0.0631, 0.0231]}, "root of 3"),
        ({"interval": [-0.0313, -0.0087]}, "t is 4.30"),
        ({"interval": [-0.02]}, "list of 2"),
        ({"more": 1}, "expected a dict"),
        ({"reach": math.nan}, "looks back"),
    ],
)
def test_wrong_recipe_by_hand(change, words):
    assert judge("modern_recipe.by_hand", HAND) == ("passed", "passed")
    fails("modern_recipe.by_hand", HAND | change, words)


def gradients(x, up, down, dy, slope=lambda h: 2 * h.relu(), turn=False):
    h = x @ up.T
    dh = dy @ down * slope(h)
    found = dh @ up, dh.T @ x, dy.T @ h.relu().square()
    return tuple(g.T for g in found) if turn else found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: gradients(*a, slope=torch.relu), "The 2 of the slope"),
        (lambda *a: gradients(*a, slope=lambda h: (h > 0).float()), "plain ReLU"),
        (lambda *a: gradients(*a, slope=lambda h: 2 * h), "Negative h"),
        (lambda *a: gradients(*a, turn=True), "the shape is"),
        (lambda *a: gradients(*a)[::-1], "the shape is"),
        (lambda *a: gradients(*a)[:2], "expected three tensors"),
        (lambda x, up, down, dy: gradients(x, up, down, dy / len(x)), "Which of the two matrices"),
        (lambda x, up, down, dy: (x.mul_(2), gradients(x, up, down, dy))[1], "changed in place"),
    ],
)
def test_wrong_squared_relu(answer, words):
    assert judge("modern_recipe.squared_relu", lambda *a: gradients(*a)) == ("passed", "passed")
    fails("modern_recipe.squared_relu", answer, words)


def looking_back(q, k, v, window, own=1, scale=True, future=0, whole=False):
    rows = []
    for t in range(len(q)):
        start, end = max(0, t + 1 - window), t + own + future
        start = 0 if whole else start
        end = max(end, start + 1)
        scores = q[t] @ k[start:end].T / (q.size(-1) ** 0.5 if scale else 1)
        rows.append(scores.softmax(-1) @ v[start:end])
    return torch.stack(rows)


def masked(q, k, v, window):
    seen = torch.ones(len(q), len(q)).bool().tril().triu(1 - window)
    scores = (q @ k.T / q.size(-1) ** 0.5).masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda q, k, v, w: looking_back(q, k, v, w + 1), "counts the token itself"),
        (lambda q, k, v, w: looking_back(q, k, v, w, whole=True), "whole past"),
        (lambda q, k, v, w: looking_back(q, k, v, w, scale=False), "root of D"),
        (lambda q, k, v, w: looking_back(q, k, v, w, future=99), "future is visible"),
        (lambda q, k, v, w: looking_back(q, k, v, w - 1 or 1), "keys of the window alone"),
        (masked, "memory must grow with T x window"),
        (lambda q, k, v, w: looking_back(q, k, v, w).T, "the shape is"),
    ],
)
def test_wrong_window(answer, words):
    assert judge("modern_recipe.window", lambda *a: looking_back(*a)) == ("passed", "passed")
    fails("modern_recipe.window", answer, words)


def routed(scores, n_active, dim=-1, detach=False, kind="right", again=False, least=False):
    p = scores.softmax(dim)
    shares, chosen = p.topk(n_active, largest=not least)
    E = scores.size(-1)
    loads = F.one_hot(chosen, E).float().mean(dim=(0, 1))
    right = E * (loads * p.mean(0)).sum()
    loss = {
        "right": right,
        "sign": -right,
        "factor": right / E,
        "counts": E * loads.square().sum(),
        "cut": right.detach(),
        "square": E * p.mean(0).square().sum(),
    }[kind]
    shares = shares / shares.sum(-1, keepdim=True) if again else shares
    return shares.detach() if detach else shares, chosen, loss


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"detach": True}, "no gradient reaches the scores (shares"),
        ({"kind": "cut"}, "no gradient reaches the scores (balance loss"),
        ({"kind": "sign"}, "sign is wrong"),
        ({"kind": "factor"}, "factor E"),
        ({"kind": "counts"}, "Counts alone"),
        ({"kind": "square"}, "load times mean probability"),
        ({"again": True}, "not divided once more"),
        ({"least": True}, "largest first"),
        ({"dim": 0}, "is"),
    ],
)
def test_wrong_router(options, words):
    assert judge("modern_recipe.router", lambda *a: routed(*a)) == ("passed", "passed")
    fails("modern_recipe.router", lambda *a: routed(*a, **options), words)


def test_shares_over_tokens_are_named():
    def answer(scores, n_active):
        _, chosen, loss = routed(scores, n_active)
        return scores.softmax(0).gather(1, chosen), chosen, loss

    fails("modern_recipe.router", answer, "not over the tokens")
    fails("modern_recipe.router", lambda *a: routed(*a)[:2], "expected shares, experts")


def test_the_planted_router_of_chapter_15_fails_as_it_is():
    names = solution("modern_recipe.router").names
    assert judge("modern_recipe.router", lambda *a: names["broken"](*a))[0] == "failed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"student": 0.025}, "helps and hurts together"),
        ({"normal": 0.05}, "1.96 instead"),
        ({"best_of_20": 0.64}, "at least one"),
        ({"why": "a"}, "useless by construction"),
        ({"why": "b"}, "equal in number"),
        ({"why": "d"}, "as it promises"),
        ({"why": 3}, "one letter"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_ablation(change, words):
    fails("modern_recipe.ablation", answer_of("modern_recipe.ablation") | change, words)


MUON, GENTLE = (3.4445, -4.7750, 2.0315), (1.875, -1.25, 0.375)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([MUON] * 5, "from 1; 0.1 is allowed"),
        ([GENTLE] * 5, "a singular value of 0.01 ends at"),
        ([MUON] * 3, "five steps"),
        ([MUON] * 4 + [(1, 2)], "step 5 should be three numbers"),
        ([MUON] * 4 + [(1, 2, math.nan)], "step 5 should be three numbers"),
        ([(9, 9, 9)] * 5, "run away"),
    ],
)
def test_wrong_coefficients(answer, words):
    assert judge("modern_recipe.coefficients", [MUON] * 3 + [GENTLE] * 2) == ("passed", "passed")
    fails("modern_recipe.coefficients", answer, words)
