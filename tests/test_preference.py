"""Preferences: the loss by hand, pairs in batches, and a policy that learns to prefer."""

import copy
import math

import pytest
import torch
from helpers import random_model
from small_training import make_config, make_model, same, weights

from minigpt.batching.windows import IGNORE
from minigpt.preference import (
    Pair,
    PairSource,
    bradley_terry_loss,
    dpo_loss,
    dpo_objective,
    implicit_rewards,
    pair_batch,
    preference_scores,
    sequence_log_probs,
)
from minigpt.support.errors import ConfigError, DataError
from minigpt.train import train

# log p of four pairs (chosen, rejected), by the policy and by the reference
POLICY = torch.tensor([-3.0, -5.0, -2.0, -2.5, -7.0, -4.0, -1.0, -1.0])
REFERENCE = torch.tensor([-3.5, -4.0, -2.0, -2.0, -6.0, -6.0, -1.5, -0.5])
BETA = 0.5


def test_the_loss_of_four_pairs_by_hand():
    margins = [  # beta ((policy - reference) of the chosen - that of the rejected)
        0.5 * (0.5 - -1.0),
        0.5 * (0.0 - -0.5),
        0.5 * (-1.0 - 2.0),
        0.5 * (0.5 - -0.5),
    ]
    by_hand = [math.log1p(math.exp(-margin)) for margin in margins]
    assert dpo_loss(POLICY, REFERENCE, BETA).tolist() == pytest.approx(by_hand, abs=1e-6)


def test_the_gradient_by_hand():
    """Each row moves by beta times how wrong its pair still is: sigmoid(-margin)."""
    policy = POLICY.clone().requires_grad_(True)
    dpo_loss(policy, REFERENCE, BETA).sum().backward()
    better, worse = implicit_rewards(POLICY, REFERENCE, BETA)
    wrong = BETA * torch.sigmoid(worse - better)
    by_hand = torch.stack((-wrong, wrong), dim=1).flatten()
    assert torch.allclose(policy.grad, by_hand, atol=1e-6)


def test_it_is_the_formula_of_trl():
    """Trl: -logsigmoid(beta ((chosen - rejected) - (reference chosen - reference rejected)))."""
    chosen, rejected = POLICY[0::2], POLICY[1::2]
    anchored = REFERENCE[0::2] - REFERENCE[1::2]
    theirs = -torch.nn.functional.logsigmoid(BETA * (chosen - rejected - anchored))
    assert torch.allclose(dpo_loss(POLICY, REFERENCE, BETA), theirs)


def test_a_table_of_probabilities_reaches_the_known_optimum():
    """Where a share p of people prefer one answer, the log-ratios end logit(p) / beta apart."""
    p, beta = 0.8, 0.5
    policy, reference = torch.zeros(2, requires_grad=True), torch.zeros(2)
    optimizer = torch.optim.SGD([policy], lr=2.0)
    for _ in range(400):
        optimizer.zero_grad()
        log_p = policy.log_softmax(0)
        loss = p * dpo_loss(log_p, reference, beta) + (1 - p) * dpo_loss(
            log_p.flip(0), reference, beta
        )
        loss.sum().backward()
        optimizer.step()
    difference = (policy[0] - policy[1]).item()
    assert difference == pytest.approx(math.log(p / (1 - p)) / beta, abs=1e-3)


def test_equal_rewards_lose_ln_2():
    assert bradley_terry_loss(torch.ones(2), torch.ones(2)).tolist() == pytest.approx(
        [math.log(2)] * 2
    )


def test_log_probs_are_those_of_the_targets_that_count():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[IGNORE, 4, 1], [2, IGNORE, IGNORE]])
    log_p = logits.log_softmax(-1)
    by_hand = [log_p[0, 1, 4] + log_p[0, 2, 1], log_p[1, 0, 2]]
    assert sequence_log_probs(logits, targets).tolist() == pytest.approx(
        [x.item() for x in by_hand], abs=1e-5
    )


PAIRS = [Pair([1, 2], [3, 4, 5], [6]), Pair([7], [8], [9, 10]), Pair([1], [2, 2], [3, 3])]


def test_rows_alternate_and_prompts_are_no_targets():
    idx, targets = pair_batch(PAIRS[:2])
    assert idx.tolist() == [[1, 2, 3, 4], [1, 2, 0, 0], [7, 0, 0, 0], [7, 9, 0, 0]]
    X = IGNORE
    assert targets.tolist() == [[X, 3, 4, 5], [X, 6, X, X], [8, X, X, X], [9, 10, X, X]]


def test_an_epoch_gives_each_pair_once_and_another_gives_another_order():
    many = [Pair([1], [2 + n], [30 + n]) for n in range(20)]
    source = PairSource(many, 4, block_size=8, seed=3)
    epochs = [
        [int(source.batch(step)[1][row, 0]) for step in steps for row in range(0, 8, 2)]
        for steps in (range(5), range(5, 10))
    ]
    assert all(sorted(epoch) == list(range(2, 22)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = PairSource(many, 4, block_size=8, seed=3)
    assert torch.equal(again.batch(7)[1], source.batch(7)[1])
    other = PairSource(many, 4, block_size=8, seed=4)
    assert not torch.equal(other.batch(0)[1], source.batch(0)[1])


@pytest.mark.parametrize(
    ("pair", "cause"),
    [
        (Pair([], [1], [2]), "empty"),
        (Pair([1], [1], []), "empty"),
        (Pair([1], [2, 3], [2, 3]), "two equal answers"),
        (Pair([1, 1, 1], [2, 3], [2] * 7), "9 tokens, and the context has 8"),
    ],
)
def test_pairs_that_cannot_be_learned_from_are_refused(pair, cause):
    with pytest.raises(DataError, match=f"{cause}.*pair 1"):
        PairSource([PAIRS[0], pair], 1, block_size=8)


def test_half_a_pair_is_refused(tmp_path):
    model = make_model()
    objective = dpo_objective(copy.deepcopy(model))
    source = PairSource([Pair([1], [2], [3])], 3, block_size=7)
    config = make_config(batch_size=6, micro_batch_size=3)
    with pytest.raises(ConfigError, match="half a pair"):
        train(model, source, config, tmp_path, objective=objective)
    with pytest.raises(ConfigError, match="beta"):
        dpo_objective(model, beta=0.0)


def test_training_prefers_the_chosen_and_leaves_the_reference_alone(tmp_path):
    policy = make_model()
    reference = copy.deepcopy(policy)
    frozen = weights(reference)
    pairs = [Pair([1, 2], [3, 4, 5], [6, 3]), Pair([7], [8, 9], [9, 10]), Pair([4], [2], [3, 3])]
    before = preference_scores(policy, reference, pairs, beta=0.3)
    assert before == {"accuracy": 0.0, "margin": 0.0, "chosen": 0.0, "rejected": 0.0}
    rows = []
    config = make_config(max_steps=25, learning_rate=0.01, muon_learning_rate=0.01)
    objective = dpo_objective(reference, beta=0.3)
    train(
        policy, PairSource(pairs, 3, 7), config, tmp_path, objective=objective, on_log=rows.append
    )
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows[-1]["loss"] < 0.4
    after = preference_scores(policy, reference, pairs, beta=0.3)
    assert after["accuracy"] == 1.0
    assert after["margin"] > 0.5
    assert after["chosen"] > after["rejected"]
    assert same(weights(reference), frozen)


def test_micro_batches_of_whole_pairs_give_the_gradient_of_all():
    """Pairs of equal length weigh the same in any cut."""
    model, reference = random_model(), random_model()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1)
    pairs = [Pair([1, n], [3, 4, 5 + n], [6, n, 2]) for n in range(1, 5)]
    objective = dpo_objective(reference, beta=0.2)

    def gradient(cuts):
        model.zero_grad()
        for part in cuts:
            loss = objective(model, pair_batch(part)) * len(part) / len(pairs)
            loss.backward()
        return model.head.weight.grad.clone()

    whole, pieces = gradient([pairs]), gradient([pairs[:1], pairs[1:]])
    assert torch.allclose(whole, pieces, atol=1e-6)
    assert whole.abs().max() > 1e-4
