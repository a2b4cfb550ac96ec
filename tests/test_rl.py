"""Reinforcement learning: gradients against enumeration, variance, clipping, and training."""

import copy
import dataclasses
import itertools
import math

import pytest
import torch
from helpers import random_model
from small_training import make_config, make_model, same, weights

from minigpt.batching.windows import IGNORE, answer_rows
from minigpt.rl import (
    RLConfig,
    Rollouts,
    best_of,
    clipped_loss,
    group_advantages,
    kl_estimate,
    masked_mean,
    pass_at_k,
    policy_gradient_loss,
    rl_objective,
    token_entropy,
    token_log_probs,
)
from minigpt.support.errors import ConfigError, DataError
from minigpt.train import train

# --- formulas ---


def test_advantages_compare_an_answer_with_its_group():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert group_advantages(rewards).tolist() == [[0.75, -0.25, -0.25, -0.25], [0.0] * 4]
    divided = group_advantages(rewards, divide_by_deviation=True)
    assert divided[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-4)
    assert divided[1].tolist() == [0.0] * 4, "no deviation, nothing to learn"


def test_log_probs_entropy_and_means_by_hand():
    logits = torch.tensor([[[0.0, 0.0, math.log(2)], [5.0, 5.0, 5.0]]])
    targets = torch.tensor([[2, IGNORE]])
    assert token_log_probs(logits, targets).tolist() == [[pytest.approx(math.log(0.5)), 0.0]]
    assert token_entropy(logits)[0].tolist() == pytest.approx(
        [0.5 * math.log(2) + 0.5 * math.log(4), math.log(3)], abs=1e-6
    )
    values = torch.tensor([[1.0, 2.0], [3.0, 100.0]])
    counted = torch.tensor([[True, True], [True, False]])
    assert masked_mean(values, counted).item() == 2.0
    assert masked_mean(values, counted, dim=1).tolist() == [1.5, 3.0]
    assert masked_mean(values, torch.zeros(2, 2).bool()).item() == 0.0


def exact_task():
    """A policy over all answers of two tokens out of three, and a reward for each of them."""
    model = random_model(vocab_size=3, block_size=4).double()
    answers = [list(pair) for pair in itertools.product(range(3), repeat=2)]
    rewards = torch.tensor([0.0, 1.0, 0.5, 2.0, 0.0, 0.0, 0.3, 0.0, 1.0], dtype=torch.float64)
    return model, answers, rewards


def probabilities(model, answers):
    idx, targets = answer_rows([[1]] * len(answers), answers)
    return token_log_probs(model(idx)[0].double(), targets).sum(dim=1), idx, targets


@pytest.mark.parametrize("baseline", [0.0, 0.7, -3.0])
def test_the_gradient_equals_that_of_the_expected_reward_by_enumeration(baseline):
    """The log-derivative trick is exact on average, and any baseline leaves it so."""
    model, answers, rewards = exact_task()
    log_p, idx, targets = probabilities(model, answers)
    (log_p.exp() * rewards).sum().backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    log_probs = token_log_probs(model(idx)[0].double(), targets)
    p = log_p.detach().exp()
    advantages = (rewards - baseline)[:, None].expand(-1, 3 - 1)
    loss = policy_gradient_loss(log_probs, advantages).sum(dim=1)
    (p * loss).sum().backward()
    largest = 0.0
    for name, parameter in model.named_parameters():
        assert torch.allclose(-parameter.grad, exact[name], atol=1e-6), name
        largest = max(largest, float(exact[name].abs().max()))
    assert largest > 1e-3


def test_a_baseline_makes_the_estimate_less_noisy():
    """Two arms, rewards 10 and 11: without a baseline nearly all of the noise is the 10."""
    log_p = torch.tensor([0.5, 0.5]).log()

    def variance(baseline: float) -> float:
        # d log p(arm) / d logit of arm 0, times (reward - baseline): two values, half each.
        estimates = [(10 - baseline) * (1 - 0.5), (11 - baseline) * (0 - 0.5)]
        mean = sum(estimates) / 2
        return sum((x - mean) ** 2 for x in estimates) / 2

    assert log_p.exp().sum() == 1
    assert variance(10.5) < variance(0.0) / 100


def test_clipping_stops_what_has_moved_far_enough():
    old = torch.zeros(6)
    moved = torch.tensor([0.0, 0.5, -0.5, 0.5, -0.5, 0.1], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, 1.0])
    loss = clipped_loss(moved, old, advantages, low=0.2, high=0.28)
    by_hand = [-1.0, -1.28, -math.exp(-0.5), math.exp(0.5), 0.8, -math.exp(0.1)]
    assert loss.tolist() == pytest.approx(by_hand, abs=1e-6)
    loss.sum().backward()
    stopped = [gradient == 0 for gradient in moved.grad.tolist()]
    assert stopped == [False, True, False, False, True, False]


def test_clipping_equals_reinforce_at_the_first_update():
    torch.manual_seed(0)
    log_p, advantages = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    gradients = []
    for loss in (
        clipped_loss(log_p, log_p.detach(), advantages),
        policy_gradient_loss(log_p, advantages),
    ):
        gradients.append(torch.autograd.grad(loss.sum(), log_p)[0])
    assert torch.allclose(*gradients)


def test_the_estimate_of_kl_is_right_on_average_and_never_negative():
    torch.manual_seed(1)
    p, q = torch.randn(6).log_softmax(0), torch.randn(6).log_softmax(0)
    exact = (p.exp() * (p - q)).sum()
    estimates = kl_estimate(p, q)
    assert (estimates >= 0).all()
    assert (p.exp() * estimates).sum().item() == pytest.approx(exact.item(), abs=1e-6)


@pytest.mark.parametrize(("n", "right", "k"), [(5, 2, 1), (6, 3, 2), (4, 0, 3), (4, 4, 2)])
def test_pass_at_k_equals_counting(n, right, k):
    results = [True] * right + [False] * (n - right)
    draws = list(itertools.combinations(results, k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_impossible_counts_are_refused():
    for wrong in ((3, 4, 1), (3, 1, 4), (3, -1, 1), (3, 1, 0)):
        with pytest.raises(DataError, match="pass@k"):
            pass_at_k(*wrong)
    with pytest.raises(ConfigError):
        RLConfig(group_size=1)
    with pytest.raises(DataError, match="no prompts"):
        Rollouts(make_model(), [], lambda number, ids: 0.0, RLConfig(), [0])


def test_best_of_n():
    assert best_of([[1], [2, 3], [4, 5]], len) == [2, 3]


# --- training ---

END = 0
CONFIG = RLConfig(n_prompts=2, group_size=6, max_answer_tokens=4, seed=3)


def count_fives(number: int, ids: list[int]) -> float:
    """Reward answers that hold the token 5."""
    return float(5 in ids)


def rollouts(model, reward=count_fives, **changes) -> Rollouts:
    prompts = [[1, 2], [3], [4, 4, 4]]
    return Rollouts(model, prompts, reward, dataclasses.replace(CONFIG, **changes), [END])


def test_each_answer_has_its_advantage_at_every_token():
    source = rollouts(random_model())
    idx, targets, advantages = source.batch(0)
    assert advantages.shape == targets.shape == idx.shape
    assert torch.equal(advantages, advantages[:, :1].expand_as(advantages))
    by_group = advantages[:, 0].view(2, 6)
    assert torch.allclose(by_group.sum(dim=1), torch.zeros(2), atol=1e-6)
    holds_five = (targets == 5).any(dim=1).view(2, 6)
    differs = holds_five.any(dim=1) & ~holds_five.all(dim=1)
    assert differs.any()
    assert torch.equal((by_group > 0)[differs], holds_five[differs])


def test_what_ended_learns_its_end_and_what_was_cut_does_not():
    source = rollouts(random_model(), n_prompts=3, group_size=20)
    _, targets, _ = source.batch(0)
    lasts = [row[row != IGNORE] for row in targets]
    assert {len(row) for row in lasts} <= {1, 2, 3, 4}
    assert all(row[-1] == END for row in lasts if len(row) < 4)
    assert any(row[-1] == END for row in lasts)
    assert any(len(row) == 4 and row[-1] != END for row in lasts)


def test_a_step_is_a_function_of_weights_seed_and_step():
    model = random_model()
    first, again = rollouts(model).batch(7), rollouts(model).batch(7)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (rollouts(model).batch(8), rollouts(model, seed=4).batch(7)):
        assert other[0].shape != first[0].shape or not torch.equal(other[0], first[0])


def test_training_raises_the_reward_and_resumes_bit_for_bit(tmp_path):
    config = make_config(
        max_steps=30,
        learning_rate=0.01,
        muon_learning_rate=0.02,
        schedule="constant",
        save_interval=15,
        log_interval=10,
    )
    model = make_model()
    source = rollouts(model, group_size=12)
    train(model, source, config, tmp_path / "whole", objective=rl_objective())
    rewards = [row["reward"] for row in source.history]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.3
    half = make_model()
    first = dataclasses.replace(config, max_steps=15)
    source = rollouts(half, group_size=12)
    train(half, source, first, tmp_path / "half", objective=rl_objective())
    again = make_model()
    source = rollouts(again, group_size=12)
    train(again, source, config, tmp_path / "half", objective=rl_objective(), resume=True)
    assert same(weights(again), weights(model))


def test_batches_are_made_by_the_newest_weights(tmp_path):
    """A source that reads the model must not be asked ahead of the update."""
    model, seen = make_model(), []

    class Watching(Rollouts):
        def batch(self, step):
            seen.append(model.head.weight.detach().clone())
            return super().batch(step)

    source = Watching(model, [[1]], lambda number, ids: float(len(ids)), CONFIG, [END])
    train(model, source, make_config(max_steps=3), tmp_path, objective=rl_objective())
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_where_no_group_differs_nothing_is_learned():
    model = make_model()
    source = rollouts(model, reward=lambda number, ids: 1.0)
    loss = rl_objective()(model, source.batch(0))
    loss.backward()
    assert all((p.grad is None) or not p.grad.any() for p in model.parameters())
    assert source.history[0]["groups_that_differ"] == 0.0


def test_a_penalty_holds_the_policy_to_the_reference():
    model = random_model()
    reference = copy.deepcopy(model)
    batch = rollouts(model, reward=lambda number, ids: 1.0).batch(0)  # no advantages
    with torch.no_grad():
        model.head.weight.add_(0.3 * torch.randn_like(model.head.weight))
    free, held = (rl_objective(reference, kl)(model, batch) for kl in (0.0, 2.0))
    assert free.item() == pytest.approx(0.0, abs=1e-6)
    assert held.item() > 0.05
    assert rl_objective(copy.deepcopy(model), 2.0)(model, batch).item() == pytest.approx(
        0, abs=1e-5
    )
