"""The tensor-level functions of CS336's fifth assignment, written over rl.py.

Only their contracts are kept, as thin adapters; all numbers here are made by hand.
"""

import math

import pytest
import torch

from minigpt.rl import (
    clipped_loss,
    group_advantages,
    masked_mean,
    policy_gradient_loss,
    token_entropy,
    token_log_probs,
)

LN2 = math.log(2)
COUNTED = torch.tensor([[True, True, False], [True, False, False]])


def normalized_rewards(rewards, group_size, divide):
    """One number per answer, in the order of the answers."""
    return group_advantages(rewards.view(-1, group_size), divide).flatten()


def microbatch_step(log_probs, counted, steps, advantages, old=None, cliprange=0.2):
    """Mean over each answer's tokens, then over answers; divided by the accumulation's steps."""
    if old is None:
        losses = policy_gradient_loss(log_probs, advantages)
    else:
        losses = clipped_loss(log_probs, old, advantages, cliprange, cliprange)
    loss = masked_mean(losses, counted, dim=1).mean() / steps
    loss.backward()
    return loss.detach()


def test_entropy_and_log_probs_of_given_tokens():
    logits = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]])
    mixed = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert token_entropy(logits)[0].tolist() == pytest.approx([LN2, mixed])
    log_p = token_log_probs(logits, torch.tensor([[0, 1]]))
    assert log_p[0].tolist() == pytest.approx([-LN2, math.log(0.75)])


def test_masked_mean_over_all_rows_and_columns():
    values = torch.tensor([[1.0, 3.0, 9.0], [5.0, 9.0, 9.0]])
    assert masked_mean(values, COUNTED).item() == 3.0
    assert masked_mean(values, COUNTED, dim=1).tolist() == [2.0, 5.0]
    assert masked_mean(values, COUNTED, dim=0).tolist() == [3.0, 3.0, 0.0]


def test_rewards_are_normalized_within_their_group():
    rewards = torch.tensor([1.0, 3.0, 0.0, 8.0])
    assert normalized_rewards(rewards, 2, divide=False).tolist() == [-1.0, 1.0, -4.0, 4.0]
    half = math.sqrt(0.5)  # two numbers d apart deviate by d / sqrt(2), with n - 1
    expected = [-half, half, -half, half]
    assert normalized_rewards(rewards, 2, divide=True).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_clipped_loss_keeps_what_the_advantage_does_not_want():
    new = torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log()
    advantages = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    loss = clipped_loss(new, torch.zeros(1, 4), advantages, 0.2, 0.2)
    assert loss[0].tolist() == pytest.approx([-2.4, 3.0, -1.0, 1.6])


@pytest.mark.parametrize("old", [None, torch.full((2, 3), -1.0)])
def test_a_microbatch_step_scales_loss_and_gradient(old):
    log_probs = torch.full((2, 3), -1.0, requires_grad=True)
    advantages = torch.tensor([[1.0], [-3.0]])
    loss = microbatch_step(log_probs, COUNTED, 4, advantages, old)
    # Without clipping each token has -A log p = A; at a ratio of 1 the clipped loss is -A.
    assert loss.item() == pytest.approx((1.0 - 3.0) / 2 / 4 * (1 if old is None else -1))
    grad = [[-1 / 16, -1 / 16, 0.0], [3 / 8, 0.0, 0.0]]
    assert torch.allclose(log_probs.grad, torch.tensor(grad))
