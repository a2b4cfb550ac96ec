"""Wrong answers about reinforcement learning fail, each with a word on what to look at."""

import pytest
import torch
from solved import answer_of, fails, passes_always

from minigpt.checks import exercises, judge
from minigpt.checks.reinforcement_learning import left_out, success, tables, three_means
from minigpt.rl import group_advantages, kl_estimate, masked_mean, pass_at_k

pytestmark = pytest.mark.usefixtures("student")

HAND = {
    "gradient": 0.75,
    "estimates": [1.5, -1.5],
    "baseline": 3,
    "advantages": [0.6, 0.6, -0.4, -0.4, -0.4],
    "pass_at_2": 0.7,
    "losses": [-2.56, 0.8],
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gradient": 3}, "multiply by p(1 - p)"),
        ({"gradient": 1}, "not 1/2"),
        ({"gradient": -0.75}, "difference of the two"),
        ({"estimates": [4.5, -0.5]}, "not p itself"),
        ({"estimates": [1.5, 1.5]}, "-p for arm 0"),
        ({"baseline": 5}, "mean reward"),
        ({"baseline": 4}, "equally likely"),
        ({"advantages": [1.095, 1.095, -0.73, -0.73, -0.73]}, "deviation"),
        ({"advantages": [1, 1, 0, 0, 0]}, "minus the mean"),
        ({"pass_at_2": 0.64}, "replacement"),
        ({"losses": [-3, 0.5]}, "not clipped"),
        ({"losses": [-2.4, 0.8]}, "1.28"),
        ({"losses": [2.56, -0.8]}, "sign"),
        ({"losses": [-2.56, 0.5]}, "smaller of"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_numbers_by_hand(change, words):
    assert judge("reinforcement_learning.by_hand", HAND) == ("passed", "passed")
    fails("reinforcement_learning.by_hand", HAND | change, words)


def test_the_numbers_by_hand_are_the_packages():
    rewards = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(group_advantages(rewards)[0], torch.tensor(HAND["advantages"]))
    assert pass_at_k(5, 2, 2) == pytest.approx(HAND["pass_at_2"])


# A baseline


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda r: r - r.mean(dim=1, keepdim=True), "holds the answer's own"),
        (lambda r: r - (r.sum() - r) / max(r.numel() - 1, 1), ""),
        (lambda r: r - (r.sum(0) - r) / max(len(r) - 1, 1), "second dimension"),
        (lambda r: r - (r.sum(1, keepdim=True) - r) / r.shape[1], "G - 1"),
        (lambda r: -left_out(r), "sign is turned"),
        (lambda r: left_out(r) / r.std(dim=1, keepdim=True), ""),
        (lambda r: r.sub_(r.mean()), "changed in place"),
        (lambda r: left_out(r).mean(dim=1), "shape"),
        (lambda r: None, "returned None"),
        (3, "expected a function"),
    ],
)
def test_wrong_baselines(answer, words):
    assert judge("reinforcement_learning.baseline", lambda r: left_out(r)) == ("passed", "passed")
    fails("reinforcement_learning.baseline", answer, words)


def test_a_batch_is_not_a_group():
    mixed = lambda r: r - (r.sum() - r) / (r.numel() - 1)  # noqa: E731
    fails("reinforcement_learning.baseline", lambda r: left_out(r) if len(r) == 1 else mixed(r), "")
    own = lambda r: group_advantages(r) * r.shape[1] / (r.shape[1] - 1)  # noqa: E731
    fails("reinforcement_learning.baseline", own, "minigpt's own")


# Estimators


def all_tokens(p, q, counted):
    return three_means(p, q, torch.ones_like(counted))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p, q, c: three_means(q, p, c), "exchanged"),
        (all_tokens, "do not count"),
        (lambda p, q, c: three_means(p, q, c) * c.float().mean(), "not by all"),
        (lambda p, q, c: three_means(p, q, c) * torch.tensor([1, 2, 1]), "Look at k2"),
        (lambda p, q, c: three_means(p, q, c) + torch.tensor([0, 0, 1.0]), "Look at k3"),
        (lambda p, q, c: three_means(p, q, c).sum(), "the shape is"),
        (lambda p, q, c: three_means(p, q, c).tolist(), "expected a tensor"),
    ],
)
def test_wrong_estimates(answer, words):
    name = "reinforcement_learning.kl"
    assert judge(name, lambda p, q, c: three_means(p, q, c)) == ("passed", "passed")
    fails(name, answer, words)


def test_the_third_estimate_is_the_packages():
    torch.manual_seed(0)
    p, q, counted = -torch.rand(3, 4), -torch.rand(3, 4), torch.rand(3, 4) < 0.7
    expected = masked_mean(kl_estimate(p, q), counted)
    assert three_means(p, q, counted)[2].item() == pytest.approx(expected.item(), abs=1e-6)


# A hack


def closed(asked, told, right):
    if told != asked:
        return 0.0
    return 1.0 if right == asked else right / asked / 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((3, 3, 3), "it is no hack"),
        ((3, 2, 1), "is paid 0.50"),
        ((3, 0, 0), "can be like that"),
        ((3, 1, 2), "can be like that"),
        ((3, 2, 2), "a shorter one"),
        ((3, 4, 4), "a shorter one"),
        ((2, 1, 1), "asks for 3"),
        ((3, 1), "three whole numbers"),
        ((3, 1.0, 1), "three whole numbers"),
    ],
)
def test_wrong_hacks(answer, words):
    assert judge("reinforcement_learning.hack", (3, 1, 1)) == ("passed", "passed")
    fails("reinforcement_learning.hack", answer, words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda a, t, r: r / max(t, 1), "0.5 at most"),
        (lambda a, t, r: float(t == r == a), "more right sentences"),
        (lambda a, t, r: r / a / 2, "not paid 1"),
        (lambda a, t, r: 1.0 if t == r == a else r / max(t, 1) / 2, "wrong length"),
        (lambda a, t, r: 2.0, "expected 0 to 1"),
        (lambda a, t, r: "1", "expected 0 to 1"),
        (3, "expected a function"),
    ],
)
def test_rewards_that_are_not_closed(answer, words):
    assert judge("reinforcement_learning.closed", closed) == ("passed", "passed")
    fails("reinforcement_learning.closed", answer, words)


# Best of n


def best_of():
    start, after = tables()
    found = {"one": success(start, 1), "best_of_8": success(start, 8)}
    found |= {"trained": success(after, 1), "trained_best_of_8": success(after, 8)}
    return found | {"visits": 35, "why": "b"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"one": 0.9}, "success(logits, 1)"),
        ({"best_of_8": 0.2}, "success(logits, 8)"),
        ({"trained": 0.2}, "success(trained(logits), 1)"),
        ({"trained_best_of_8": 0.2}, "success(trained(logits), 8)"),
        ({"visits": 34}, "look at the next"),
        ({"visits": 30}, "one draw as well"),
        ({"visits": 36}, "The least v"),
        ({"why": "a"}, "costs once"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_comparisons(change, words):
    assert judge("reinforcement_learning.best_of_n", best_of()) == ("passed", "passed")
    fails("reinforcement_learning.best_of_n", best_of() | change, words)


def test_training_and_drawing_both_help_in_the_table():
    found = best_of()
    assert found["one"] < found["best_of_8"] < found["trained_best_of_8"] <= 1
    assert found["one"] + 0.2 < found["trained"]


def test_solutions_pass():
    for name in exercises("reinforcement_learning"):
        assert judge(name, answer_of(name)) == ("passed", "passed"), name


@pytest.mark.slow
@pytest.mark.parametrize("name", exercises("reinforcement_learning"))
def test_right_answers_never_fail(name, monkeypatch):
    passes_always(name, monkeypatch)
