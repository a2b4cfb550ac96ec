"""Learn from preferences: this answer rather than that one.

Direct preference optimization (DPO) needs no reward model: a policy that raises log p of the chosen
answer above that of the rejected one, both measured from a frozen reference, is the best policy for
the reward under which people would have chosen so. A reward model by itself learns from the same
pairs (Bradley and Terry). Training is `train()` with another objective.

Shapes: B rows, T time, V vocab_size, P pairs; row 2i of a batch is chosen over row 2i + 1.

Sources: Rafailov et al. 2023, "Direct Preference Optimization" (arXiv:2305.18290); Bradley and
Terry 1952, "Rank analysis of incomplete block designs".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.batching.windows import Batch, answer_rows
from minigpt.gpt import GPT
from minigpt.support.errors import ConfigError, DataError, require
from minigpt.validation import Objective


class Pair(NamedTuple):
    """A prompt and two continuations as token ids; the first is the better one."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]


# --- losses ---


def sequence_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return log p of each row's targets that count, summed: (B, T, V), (B, T) -> (B,), nats."""
    losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")  # (B, T)
    return -losses.sum(dim=1)  # cross_entropy gives 0 where the target is IGNORE


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Return the loss of each pair, (P,), from log p of the rows (B,) by policy and reference.

    beta: how strongly the policy is held to the reference. Source: Rafailov et al. 2023, eq. 7.
    """
    return bradley_terry_loss(*implicit_rewards(policy, reference, beta))


def implicit_rewards(policy: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the rewards of chosen and rejected, (P,) each, for which the policy is the best one.

    They are beta log(policy / reference), known up to a constant that pairs do not depend on.
    """
    rewards = beta * (policy - reference)  # (B,)
    return rewards[0::2], rewards[1::2]


def bradley_terry_loss(better: Tensor, worse: Tensor) -> Tensor:
    """Return -ln of the probability that the better one wins: a sigmoid of the difference (P,)."""
    return -F.logsigmoid(better - worse)


def dpo_objective(reference: GPT, beta: float = 0.1) -> Objective:
    """Return an objective for `train`: batches of pairs, as `PairSource` makes them.

    The reference is frozen here, and must be another object than the model that is trained.
    Micro-batches must hold whole pairs.
    """
    require(beta > 0, "beta", beta, "a number above 0")
    reference.requires_grad_(False).eval()

    def objective(forward: Callable, batch: Sequence[Tensor]) -> Tensor:
        idx, targets = batch[:2]
        check_pairs(len(idx))
        reference.to(idx.device)
        logits, _ = forward(idx)
        policy = sequence_log_probs(logits, targets)  # (B,)
        with torch.no_grad():
            anchor = sequence_log_probs(reference(idx)[0], targets)
        return dpo_loss(policy, anchor, beta).mean()

    return objective


def check_pairs(rows: int) -> None:
    """Refuse rows that are no whole pairs."""
    if rows % 2:
        raise ConfigError(
            f"{rows} rows hold half a pair", "micro_batch_size", "give an even number"
        )


# --- batches ---


class PairSource:
    """Give batches of pairs: each chosen row is followed by its rejected one.

    Every pair comes once in an epoch, in an order of that epoch's own. Prompts are no targets, so
    only answers are compared. Rows are padded to the longest of their batch.
    """

    def __init__(self, pairs: Sequence[Pair], n_pairs: int, block_size: int, seed: int = 0):
        """n_pairs: pairs of a batch. Raises DataError for an answer that is empty or too long."""
        require(n_pairs >= 1, "n_pairs", n_pairs, "1 or more")
        if not pairs:
            raise DataError("no pairs", "preferences", "give at least one")
        for number, pair in enumerate(pairs):
            check_pair(pair, number, block_size)
        self.pairs, self.n_pairs, self.seed = list(pairs), n_pairs, seed

    def batch(self, step: int) -> Batch:
        """Return idx, targets (B, T) int64 of a step, B = 2 n_pairs."""
        places = range(step * self.n_pairs, (step + 1) * self.n_pairs)
        return pair_batch([self.pairs[self.place(place)] for place in places])

    def place(self, number: int) -> int:
        """Return which pair comes as number `number` of all that are ever given."""
        epoch, place = divmod(number, len(self.pairs))
        return int(np.random.default_rng((self.seed, epoch)).permutation(len(self.pairs))[place])


def pair_batch(pairs: Sequence[Pair]) -> Batch:
    """Return idx, targets (B, T) of some pairs, each chosen row before its rejected one."""
    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    return answer_rows(prompts, [answer for pair in pairs for answer in pair[1:]])


def check_pair(pair: Pair, number: int, block_size: int) -> None:
    """Raise a DataError for a pair that cannot be learned from."""
    if not (pair.prompt and pair.chosen and pair.rejected):
        what, remedy = "an empty prompt or answer", "give at least one token to each"
    elif list(pair.chosen) == list(pair.rejected):
        what, remedy = "two equal answers", "leave the pair out: it prefers nothing"
    elif (longest := len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) - 1) > block_size:
        what = f"{longest} tokens, and the context has {block_size}"
        remedy = "shorten it, or leave it out"
    else:
        return
    raise DataError(what, f"pair {number}", remedy)


# --- measures ---


@torch.no_grad()
def preference_scores(
    policy: GPT, reference: GPT, pairs: Sequence[Pair], beta: float = 0.1
) -> dict[str, float]:
    """Return how a policy ranks pairs, and what became of the answers themselves.

    accuracy: share of pairs whose implicit reward is higher for the chosen answer. margin: mean
    difference of the rewards. chosen, rejected: mean change of log p since the reference, in nats.
    """
    batch = pair_batch(pairs)
    policy_log_p, reference_log_p = (
        sequence_log_probs(model.eval()(batch[0].to(model.head.weight.device))[0].cpu(), batch[1])
        for model in (policy, reference)
    )
    better, worse = implicit_rewards(policy_log_p, reference_log_p, beta)
    change = policy_log_p - reference_log_p
    return {
        "accuracy": float((better > worse).float().mean()),
        "margin": float((better - worse).mean()),
        "chosen": float(change[0::2].mean()),
        "rejected": float(change[1::2].mean()),
    }
