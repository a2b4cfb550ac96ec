"""Wrong answers about counting and embeddings fail, each with a word on what to look at."""

import itertools
import math

import numpy as np
import pytest
import torch
from solved import answer_of, fails
from torch.nn import functional as F

from minigpt.checks import judge
from minigpt.checks.counting_and_embeddings import association, noise_loss, smooth_rows

pytestmark = pytest.mark.usefixtures("student")

TOPIC = "counting_and_embeddings"
BY_HAND = {"entropy": 1.75, "cross_entropy": 2.625, "perplexity": 3.36, "added": 0.43, "pot": 0.375}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"entropy": 1.213}, "in nats"),
        ({"entropy": 2.25}, "weight each"),
        ({"entropy": 2.0}, "probability times surprise"),
        ({"cross_entropy": 2.375}, "-log2 of the belief"),
        ({"cross_entropy": 0.875}, "excess over the entropy"),
        ({"perplexity": 5.75}, "base is 2"),
        ({"perplexity": 6.17}, "perplexity of the belief"),
        ({"added": 0.5}, "added to nothing"),
        ({"added": 0.6}, "grows by 3"),
        ({"pot": 0.125}, "EACH"),
        ({"pot": 1.5}, "divide by"),
        ({"pot": "0.375"}, "should be a number"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_by_hand(change, words):
    assert judge(f"{TOPIC}.by_hand", BY_HAND) == ("passed", "passed")
    fails(f"{TOPIC}.by_hand", BY_HAND | change, words)


def test_the_numbers_by_hand_follow_from_the_text():
    text = ["up", "down", "up", "up", "down", "down", "up", "."]
    after = [b for a, b in itertools.pairwise(text) if a == "up"]
    assert (after.count("down") + 1) / (len(after) + 3) == pytest.approx(3 / 7)
    assert 0.5 * len(set(after)) / len(after) == 0.375


def in_place(counts, shorter):
    counts += 1
    return smooth_rows(counts - 1, shorter)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda c, s: smooth_rows(c, s, lambda c: c.sum(1, keepdims=True)), "DIFFERENT"),
        (lambda c, s: smooth_rows(c, s, lambda c: (c == 0).sum(1, keepdims=True)), "did not"),
        (lambda c, s: smooth_rows(c, s, lambda c: (c > 0).sum(0, keepdims=True)), "columns"),
        (lambda c, s: smooth_rows(c, s, lambda c: np.zeros((len(c), 1))), "no effect"),
        (lambda c, s: smooth_rows(c, np.full(len(s), 1 / len(s))), "evenly"),
        (
            lambda c, s: (
                (c + (c > 0).sum(1, keepdims=True) * s) / (c + (c > 0)).sum(1, keepdims=True)
            ),
            "NaN",
        ),
        (lambda c, s: smooth_rows(c, s)[0], "shape"),
        (lambda c, s: smooth_rows(c, s).tolist(), "expected an array"),
        (in_place, "changed in place"),
    ],
)
def test_wrong_witten_bell(answer, words):
    assert judge(f"{TOPIC}.witten_bell", lambda c, s: smooth_rows(c, s)) == ("passed", "passed")
    fails(f"{TOPIC}.witten_bell", answer, words)


def test_rows_of_the_oracle_are_probabilities():
    counts = np.array([[2, 1, 0], [0, 0, 0], [0, 5, 0]])
    smoothed = smooth_rows(counts, np.array([0.2, 0.3, 0.5]))
    assert smoothed.sum(axis=1) == pytest.approx([1, 1, 1])
    assert smoothed[0, 2] == pytest.approx(2 * 0.5 / 5)
    assert smoothed[1].tolist() == [0.2, 0.3, 0.5]


def unclipped(counts, k, add=0.0):
    by_chance = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    with np.errstate(divide="ignore"):
        return np.log((counts + add) / by_chance / k)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda c, k: association(c, k, np.log2), "base 2"),
        (lambda c, k: association(c, 1.0), "shift is missing"),
        (lambda c, k: association(c, math.exp(k)), "subtract its logarithm"),
        (unclipped, "not finite"),
        (lambda c, k: np.where(c > 0, unclipped(np.maximum(c, 1) * (c > 0), k), 0), "become 0"),
        (lambda c, k: association(c, 1.0) - math.log(k), "cut last"),
        (lambda c, k: association(c, k).T, "exchanged"),
        (
            lambda c, k: np.maximum(
                np.log(np.maximum(c, 1e-9) * c.sum() / np.outer(c.sum(1), c.sum(1)) / k), 0
            ),
            "both words",
        ),
        (lambda c, k: association(c + 1, k), "one cell"),
    ],
)
def test_wrong_association(answer, words):
    right = judge(f"{TOPIC}.association", lambda c, k: association(c, k))
    assert right == ("passed", "passed")
    fails(f"{TOPIC}.association", answer, words)


def overflowing(v, c, noise):
    right = (v * c).sum(-1).sigmoid().log()
    return -(right + (1 - (noise @ v.unsqueeze(-1)).squeeze(-1).sigmoid()).log().sum(-1)).mean()


def spoiling(v, c, noise):
    noise.neg_()
    return noise_loss(v, c, -noise)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda v, c, n: noise_loss(v, c, n, dot=torch.Tensor.mean), "dot product"),
        (lambda v, c, n: noise_loss(v, c, n, sign=1.0), "refused"),
        (lambda v, c, n: noise_loss(v, c, n, together=torch.Tensor.mean), "all K"),
        (lambda v, c, n: noise_loss(v, c, n) * len(v), "More than one fault"),
        (lambda v, c, n: -F.logsigmoid((v * c).sum(-1)).mean(), "made-up one no"),
        (lambda v, c, n: noise_loss(v, c, n).item(), "expected a tensor"),
        (overflowing, "not finite"),
        (spoiling, "changed in place"),
    ],
)
def test_wrong_repair(answer, words):
    right = judge(f"{TOPIC}.repair", lambda v, c, n: noise_loss(v, c, n))
    assert right == ("passed", "passed")
    fails(f"{TOPIC}.repair", answer, words)


SAMPLES = {"bits_10": 2.155, "bits_100": 2.548, "throws": 1000, "why": "c"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits_10": 1.494}, "in nats"),
        ({"bits_10": 2.585}, "true entropy"),
        ({"bits_100": 2.6}, "own frequencies"),
        ({"bits_10": math.log2(6) - 5 / 20 / math.log(2)}, "own frequencies"),  # a formula's
        ({"throws": 100}, "within 0.01"),
        ({"throws": 10_000}, "within 0.01"),
        ({"why": "a"}, "least surprising"),
        ({"bits_10": None, "more": 1}, "expected a dict"),
    ],
)
def test_wrong_small_samples(change, words):
    assert judge(f"{TOPIC}.small_samples", SAMPLES) == ("passed", "passed")
    if None in change.values():
        change = {"more": 1}
    fails(f"{TOPIC}.small_samples", SAMPLES | change, words)


def credit(probabilities, rounds=1000):
    weights = np.full(len(probabilities), 1 / len(probabilities))
    for _ in range(rounds):
        shares = weights[:, None] * probabilities
        weights = (shares / shares.sum(axis=0)).mean(axis=1)
    return weights


def by_gradient(probabilities):
    scores = torch.zeros(len(probabilities), dtype=torch.float64, requires_grad=True)
    p = torch.tensor(probabilities)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(1500):
        loss = -(scores.softmax(0) @ p).log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return scores.softmax(0).detach().numpy()


def by_search(probabilities):
    weights, step = np.full(len(probabilities), 1 / len(probabilities)), 0.25
    best = np.log(weights @ probabilities).sum()
    while step > 1e-5:
        moved = False
        for giver, taker in itertools.permutations(range(len(weights)), 2):
            other = weights.copy()
            amount = min(step, other[giver] * 0.999)
            other[giver] -= amount
            other[taker] += amount
            if (found := np.log(other @ probabilities).sum()) > best:
                weights, best, moved = other, found, True
        step = step if moved else step / 2
    return weights


@pytest.mark.parametrize("right", [credit, by_gradient, by_search])
def test_every_way_that_the_exercise_names_finds_the_best_mixture(right):
    """Gradient descent on scores with softmax, a search, credit shared out."""
    assert judge(f"{TOPIC}.mixture", lambda p: right(p)) == ("passed", "passed")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p: np.full(len(p), 1 / len(p)), "deserves more weight"),
        (lambda p: credit(p, rounds=2), "More rounds"),
        (lambda p: np.eye(len(p))[0], "0"),
        (lambda p: p.mean(axis=1) / p.mean(axis=1).sum(), "deserves more weight"),
        (lambda p: credit(p) * 1.01, "not to 1"),
        (lambda p: credit(p) + np.eye(len(p))[0] - np.eye(len(p))[1], "not negative"),
        (lambda p: credit(p)[:-1], "shape"),
        (lambda p: credit(p) * math.nan, "finite"),
        (lambda p: credit(p).tolist(), "expected an array"),
    ],
)
def test_wrong_mixture(answer, words):
    fails(f"{TOPIC}.mixture", answer, words)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["witten_bell", "association", "repair", "mixture"])
def test_200_right_answers_pass(name, monkeypatch):
    answer = answer_of(f"{TOPIC}.{name}")
    for student in range(200):
        monkeypatch.setenv("MINIGPT_STUDENT", f"student {student}")
        assert judge(f"{TOPIC}.{name}", answer) == ("passed", "passed"), student


@pytest.mark.slow
def test_200_measured_entropies_pass(monkeypatch):
    for student in range(200):
        monkeypatch.setenv("MINIGPT_STUDENT", f"student {student}")
        rng = np.random.default_rng(student)
        answer = dict(SAMPLES)
        for n in (10, 100):
            shares = rng.multinomial(n, np.full(6, 1 / 6), size=2000) / n
            surprises = -np.log2(np.where(shares > 0, shares, 1.0))
            answer[f"bits_{n}"] = float((shares * surprises).sum(axis=1).mean())
        assert judge(f"{TOPIC}.small_samples", answer) == ("passed", "passed"), student
