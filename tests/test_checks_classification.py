"""Wrong answers about classification fail, each with a word on what to look at."""

import math

import pytest
import torch
from solved import answer_of, fails, passes_always
from torch.nn import functional as F

from minigpt.checks import judge
from minigpt.checks.classification import HAND, LAYERS, pool

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": [0.9, 0.25]}, "along the rows"),
        ({"precision": [0.5, 0.75]}, "down a column"),
        ({"recall": [0.75, 0.5]}, "down the columns"),
        ({"recall": [0.9, 0.75]}, "along a row"),
        ({"macro_f1": 0.714}, "accuracy"),
        ({"macro_f1": 0.6}, "mean of the two"),
        ({"first_loss": 0.2}, "the probability"),
        ({"first_loss": 2.3}, "five labels"),
        ({"together": [26, 12]}, "counted twice"),
        ({"together": [21, 14]}, "no pair with itself"),
        ({"together": [13, 7]}, "n (n - 1) / 2"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_classification_by_hand(change, words):
    assert judge("classification.by_hand", HAND) == ("passed", "passed")
    fails("classification.by_hand", HAND | change, words)


def weighted(logits, targets, weights=lambda n, K: 1 / n, over=None):
    counts = torch.bincount(targets, minlength=logits.size(1)).float()
    each = weights(counts, logits.size(1))[targets]
    losses = F.cross_entropy(logits, targets, reduction="none")
    return (losses * each).sum() / (each.sum() if over is None else over(counts))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, y: F.cross_entropy(x, y), "plain mean"),
        (lambda x, y: weighted(x, y, lambda n, K: n), "mean loss of each class"),
        (lambda x, y: weighted(x, y, over=len), "mean loss of each class"),
        (lambda x, y: weighted(x, y, lambda n, K: 1 / n, over=lambda n: 1.0), "mean loss of each"),
        (
            lambda x, y: torch.stack(
                [F.cross_entropy(x[y == k], y[y == k]) for k in range(x.size(1))]
            ).mean(),
            "without texts",
        ),
        (lambda x, y: F.cross_entropy(x, y, reduction="none"), "should be a number"),
    ],
)
def test_wrong_class_weights(answer, words):
    assert judge("classification.class_weights", weighted) == ("passed", "passed")
    fails("classification.class_weights", answer, words)


def search(scores, targets, miss, alarm, above=True, strict=False, swap=False, only=None):
    miss, alarm = (alarm, miss) if swap else (miss, alarm)

    def cost(t):
        said = scores > t if strict else scores >= t
        return (~said & (targets == 1)).sum() * miss + (said & (targets == 0)).sum() * alarm

    tried = [*scores.tolist(), *([math.inf] if above else [])] if only is None else only
    return min(tried, key=cost)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: search(*a, swap=True), "exchanged"),
        (lambda *a: search(*a, above=False), "never to say yes"),
        (lambda *a: 0.5, "another one"),
        (lambda s, y, miss, alarm: s.mean().item(), "another one"),
        (lambda *a: search(*a, strict=True), "another one"),
        (lambda *a: "0.5", "expected a number"),
        (lambda *a: math.nan, "expected a number"),
    ],
)
def test_wrong_threshold(answer, words):
    assert judge("classification.threshold", search) == ("passed", "passed")
    fails("classification.threshold", answer, words)


def margins(p):
    top = p.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p, k: p.max(dim=1).values.argsort()[:k].tolist(), "highest probability"),
        (lambda p, k: margins(p).argsort(descending=True)[:k].tolist(), "Sort by"),
        (lambda p, k: sorted(margins(p).argsort()[:k].tolist()), "comes first"),
        (lambda p, k: margins(p).argsort()[: k - 1].tolist(), "are asked for"),
        (lambda p, k: margins(p).argsort()[:k].double(), "list of places"),
        (
            lambda p, k: (-(p * p.log()).sum(1)).argsort(descending=True)[:k].tolist(),
            "probabilit",
        ),
    ],
)
def test_wrong_active(answer, words):
    right = lambda p, k: margins(p).argsort()[:k].tolist()  # noqa: E731
    assert judge("classification.active", right) == ("passed", "passed")
    fails("classification.active", answer, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"best_of_many": 3}, "128 labels"),
        ({"worst_of_many": 2}, "lowest of the same"),
        ({"best_of_few": 0}, "16 labels"),
        ({"best_of_few": 3.0}, "16 labels"),
        ({"why": "d"}, "choose from"),
    ],
)
def test_wrong_layers(change, words):
    assert judge("classification.layers", LAYERS) == ("passed", "passed")
    fails("classification.layers", LAYERS | change, words)


def test_the_probe_measures_what_its_check_expects():
    assert answer_of("classification.layers") == LAYERS


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, k: list(range(k)), "of 6 groups"),
        (lambda x, k: torch.randperm(len(x))[:k].tolist(), "of 6 groups"),
        (lambda x, k: x.norm(dim=1).topk(k).indices.tolist(), "of 6 groups"),
        (lambda x, k: [0] * k, "different places"),
        (lambda x, k: list(range(k - 1)), "different places"),
        (lambda x, k: [len(x) - i for i in range(k)], "different places"),
        (lambda x, k: x[:k], "list of places"),
    ],
)
def test_wrong_spend(answer, words):
    fails("classification.spend", answer, words)


def test_the_farthest_texts_always_meet_the_aim(monkeypatch):
    passes_always("classification.spend", monkeypatch, students=40)
    x, group = pool(torch.Generator().manual_seed(0))
    assert x.shape == (len(group), 8)
    assert group.unique().tolist() == [0, 1, 2, 3, 4, 5]
