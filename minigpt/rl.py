"""Reinforcement learning: answers that a program can check, and none that could be copied.

The model answers each prompt several times; what is better than the mean of its group becomes more
likely, what is worse less likely (GRPO). There is no second model that estimates rewards, and no
standard deviation to divide by: both are options that the field has mostly dropped. Training is
`train()`, with a source that asks the model itself and an objective that weighs its own tokens.

Shapes: P prompts, G answers to each, B = P G rows, T time, V vocab_size.

Sources: Williams 1992 (REINFORCE); Shao et al. 2024, "DeepSeekMath" (arXiv:2402.03300: GRPO); Liu
et al. 2025, "Understanding R1-Zero-like training" (arXiv:2503.20783: neither deviation nor length);
Yu et al. 2025, "DAPO" (arXiv:2503.14476: mean over tokens, asymmetric clipping); Chen et al. 2021
(arXiv:2107.03374: pass@k); Schulman 2020, "Approximating KL divergence".
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from minigpt.batching.windows import IGNORE, Batch, answer_rows
from minigpt.generate import generate
from minigpt.gpt import GPT
from minigpt.sampling import SampleConfig
from minigpt.support.errors import DataError
from minigpt.support.settings import above, at_least, check_fields
from minigpt.validation import Objective

Reward = Callable[[int, list[int]], float]  # of the prompt's number and the answer's ids


@dataclass(frozen=True)
class RLConfig:
    """Describe how answers are drawn, and how their rewards become a loss."""

    n_prompts: Annotated[int, at_least(1)] = 8
    """Prompts of a step."""
    group_size: Annotated[int, at_least(2)] = 8
    """Answers to each prompt; their mean reward is the baseline."""
    max_answer_tokens: Annotated[int, at_least(1)] = 100
    """Most tokens of an answer; one that is longer is cut, and graded as it is."""
    temperature: Annotated[float, above(0)] = 1.0
    """Of the answers that are drawn; at 1 they are the policy's own."""
    divide_by_deviation: bool = False
    """Divide advantages by the deviation of their group, as GRPO first did."""
    kl: Annotated[float, at_least(0)] = 0.0
    """Weight of the penalty for leaving the reference (0: none)."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of the prompts and of the answers."""

    def __post_init__(self):
        check_fields(self)


# --- from rewards to a loss ---


def group_advantages(rewards: Tensor, divide_by_deviation: bool = False) -> Tensor:
    """Return how much better than its group each answer is: (P, G) -> (P, G).

    Where all of a group have the same reward, there is nothing to learn from: all are 0.
    """
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if divide_by_deviation:
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + 1e-6)
    return advantages


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return log p of each target, and 0 where it does not count: (B, T, V), (B, T) -> (B, T)."""
    counted = targets != IGNORE
    log_p = logits.float().log_softmax(dim=-1)
    chosen = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]  # (B, T)
    return torch.where(counted, chosen, 0.0)


def token_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the next token in nats: (..., V) -> (...)."""
    log_p = logits.float().log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def masked_mean(values: Tensor, counted: Tensor, dim: int | None = None) -> Tensor:
    """Return the mean of the values that count, over all or one dimension; 0 of none."""
    counted = counted.to(values.dtype)
    if dim is None:
        return (values * counted).sum() / counted.sum().clamp(min=1)
    return (values * counted).sum(dim) / counted.sum(dim).clamp(min=1)


def policy_gradient_loss(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """Return each token's loss: its gradient is that of the expected reward (REINFORCE)."""
    return -advantages * log_probs


def clipped_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    low: float = 0.2,
    high: float = 0.28,
) -> Tensor:
    """Return each token's loss where one batch of answers serves several updates.

    The ratio of the new to the old probability stops to count once it has moved by `low` down or
    by `high` up, in the direction that the advantage wants. Source: Schulman et al. 2017 (PPO,
    equation 7); bounds of unequal size: DAPO.
    """
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_estimate(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Estimate each token's KL divergence from the reference by the sample at hand.

    Never negative, and right on average under the policy. Source: Schulman 2020 (k3).
    """
    difference = reference - log_probs
    return difference.exp() - 1 - difference


def rl_objective(reference: GPT | None = None, kl: float = 0.0) -> Objective:
    """Return an objective for `train`: batches of `Rollouts`, whose third part is the advantages.

    The loss is the mean over all tokens of all answers, so a long answer weighs more than a short
    one, and each token the same (DAPO). reference: what the KL penalty holds the policy to.
    """
    if reference is not None:
        reference.requires_grad_(False).eval()

    def objective(forward: Callable, batch: Sequence[Tensor]) -> Tensor:
        idx, targets, advantages = batch  # (B, T) each
        counted = targets != IGNORE
        logits, _ = forward(idx)
        log_probs = token_log_probs(logits, targets)
        loss = policy_gradient_loss(log_probs, advantages)
        if reference is not None and kl > 0:
            with torch.no_grad():
                anchor = token_log_probs(reference.to(idx.device)(idx)[0], targets)
            loss = loss + kl * kl_estimate(log_probs, anchor)
        return masked_mean(loss, counted)

    return objective


# --- answers of the model itself ---


class Rollouts:
    """Give batches that the model makes: its own answers, and how much better each was.

    The batch of a step depends on (seed, step) and on the weights at that step, so a resumed run
    sees what an uninterrupted one would have seen. `history` holds a row for each step of this
    process: mean reward, share of groups that differ, mean length, share of distinct answers.
    """

    on_policy = True

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Sequence[int]],
        reward: Reward,
        config: RLConfig,
        stop_ids: Collection[int],
    ):
        """prompts: token ids. reward: is given the prompt's number and the answer's ids, the stop
        id not among them. stop_ids: end an answer; the one that did is learned, too.
        """
        if not prompts:
            raise DataError("no prompts", "reinforcement learning", "give at least one")
        self.model, self.prompts, self.reward = model, list(prompts), reward
        self.config, self.stop_ids = config, list(stop_ids)
        self.history: list[dict[str, float]] = []

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 and advantages (B, T) of a step."""
        c = self.config
        rng = np.random.default_rng((c.seed, step))
        chosen = rng.choice(len(self.prompts), c.n_prompts, len(self.prompts) < c.n_prompts)
        numbers = [int(number) for number in chosen for _ in range(c.group_size)]
        answers = self.sample(numbers, int(rng.integers(2**31)))
        rewards = torch.tensor(
            [self.reward(number, ids) for number, ids in zip(numbers, answers, strict=True)]
        ).view(c.n_prompts, c.group_size)
        advantages = group_advantages(rewards, c.divide_by_deviation).flatten()
        self.history.append(summary(step, rewards, answers))
        prompts = [self.prompts[number] for number in numbers]
        # One that was cut at the limit did not choose to end.
        ended = [
            [*ids, self.stop_ids[0]] if len(ids) < c.max_answer_tokens else ids for ids in answers
        ]
        idx, targets = answer_rows(prompts, ended)  # (B, T) each
        return idx, targets, advantages[:, None].expand(targets.shape)

    def sample(self, numbers: Sequence[int], seed: int) -> list[list[int]]:
        """Return an answer of the model to each of the prompts with these numbers."""
        config = SampleConfig(
            self.config.max_answer_tokens, temperature=self.config.temperature, seed=seed
        )
        prompts = [self.prompts[number] for number in numbers]
        return generate(self.model, prompts, config, self.stop_ids)


def summary(step: int, rewards: Tensor, answers: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return what a step's answers (P G) were like; rewards (P, G)."""
    return {
        "step": step,
        "reward": float(rewards.mean()),
        "groups_that_differ": float((rewards.std(dim=1) > 0).float().mean()),
        "length": float(np.mean([len(ids) for ids in answers])),
        "distinct": len({tuple(ids) for ids in answers}) / len(answers),
    }


# --- what can be had without training ---


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the chance that one of k answers is right, from n answers of which `right` were.

    Without bias, unlike 1 - (1 - right / n)^k. Source: Chen et al. 2021, equation 1.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= right <= n or not 1 <= k <= n:
        raise DataError(f"n = {n}, right = {right}, k = {k}", "pass@k", "give right, k up to n")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def best_of(answers: Sequence[list[int]], score: Callable[[list[int]], float]) -> list[int]:
    """Return the answer with the highest score; of equals the first (best of n)."""
    return max(answers, key=score)
