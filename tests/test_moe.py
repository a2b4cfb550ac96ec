"""A mixture of experts against plain formulas; its balance; its way through a model."""

import copy
import io
import math

import pytest
import torch
from helpers import TINY, random_model
from torch.nn import functional as F

from minigpt.counts import active_parameters, count_parameters
from minigpt.gpt import GPT, GPTConfig
from minigpt.layers import SwiGLU
from minigpt.moe import MoE, balance_loss
from minigpt.recipe import TrainConfig, make_optimizers
from minigpt.support.errors import ConfigError

B, T, C, HIDDEN, E = 2, 5, 7, 11, 3  # all different, so that no mix-up of axes goes unseen
EXPERTS = {"mlp": "experts", "n_expert": 4, "n_active": 2}

pytestmark = pytest.mark.usefixtures("seed_zero")


def layer(n_active: int = 1, balance: float = 0.01, n_expert: int = E) -> MoE:
    made = MoE(C, HIDDEN, n_expert, n_active, balance)
    for weight in (made.gate, made.up, made.down):
        torch.nn.init.normal_(weight, std=0.4)
    return made


def alone(moe: MoE, expert: int) -> SwiGLU:
    """Return one expert as the dense MLP that it is."""
    dense = SwiGLU(C, HIDDEN)
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            getattr(dense, name).weight.copy_(getattr(moe, name)[expert])
    return dense


@pytest.mark.parametrize("n_active", [1, 2, 3])
def test_each_token_gets_the_weighed_sum_of_its_own_experts(n_active):
    moe, x = layer(n_active), torch.randn(B, T, C)
    found = moe(x)
    assert found.shape == (B, T, C)
    experts = [alone(moe, number) for number in range(E)]
    for b in range(B):
        for t in range(T):
            probabilities = moe.router(x[b, t]).softmax(-1)
            best = probabilities.argsort(descending=True)[:n_active].tolist()
            expected = sum(probabilities[e] * experts[e](x[b, t]) for e in best)
            torch.testing.assert_close(found[b, t], expected)


def test_all_experts_chosen_is_the_dense_sum():
    moe, x = layer(n_active=E), torch.randn(B, T, C)
    shares = moe.router(x).softmax(-1)  # (B, T, E)
    dense = torch.stack([alone(moe, e)(x) for e in range(E)], dim=-1)  # (B, T, C, E)
    torch.testing.assert_close(moe(x), (dense * shares[:, :, None]).sum(-1))


def test_balance_by_hand_and_at_its_ends():
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    chosen = probabilities.argmax(-1, keepdim=True)
    assert balance_loss(probabilities, chosen).item() == pytest.approx(1.15)
    even = torch.full((6, 3), 1 / 3)
    assert balance_loss(even, torch.tensor([[0, 1], [2, 0], [1, 2]] * 2)).item() == pytest.approx(1)
    one = F.one_hot(torch.zeros(6, dtype=torch.long), 3).float()
    assert balance_loss(one, torch.zeros(6, 1, dtype=torch.long)).item() == pytest.approx(3)


def test_the_balance_loss_takes_from_the_full_and_gives_to_the_empty():
    scores = torch.zeros(8, 3, requires_grad=True)
    chosen = torch.tensor([[0]] * 6 + [[1]] * 2)
    balance_loss(scores.softmax(-1), chosen).backward()
    slope = scores.grad.sum(0)  # what descent lowers is positive
    assert slope[0] > 0 > slope[1] > slope[2]


def test_balance_is_asked_for_in_training_alone_and_the_router_hears_both_losses():
    moe, x = layer(balance=0.5), torch.randn(B, T, C)
    assert moe.eval()(x) is not None
    assert moe.auxiliary_loss == 0.0
    moe.train()(x)
    scores = moe.router(x).flatten(0, 1)
    expected = 0.5 * balance_loss(scores.softmax(-1), scores.argmax(-1, keepdim=True))
    torch.testing.assert_close(moe.auxiliary_loss, expected)
    (by_balance,) = torch.autograd.grad(moe.auxiliary_loss, moe.router.weight)
    (by_result,) = torch.autograd.grad(moe(x).square().sum(), moe.router.weight)
    assert by_balance.abs().max() > 0
    assert by_result.abs().max() > 0


def test_every_weight_has_a_gradient_even_of_experts_that_no_token_chose():
    """Or else several processes would wait for it forever."""
    moe = layer(n_expert=20)
    moe(torch.randn(1, 2, C)).sum().backward()
    for name, parameter in moe.named_parameters():
        assert parameter.grad is not None, name
    idle = moe.down.grad.abs().amax(dim=(1, 2)) == 0
    assert 18 <= idle.sum() < 20


def test_a_trained_layer_can_be_copied_and_saved():
    moe, x = layer(), torch.randn(B, T, C)
    moe(x)
    assert moe.auxiliary_loss > 0
    file = io.BytesIO()
    torch.save(moe, file)
    file.seek(0)
    for other in (copy.deepcopy(moe), torch.load(file, weights_only=False)):
        assert other.auxiliary_loss == 0.0
        torch.testing.assert_close(other(x), moe(x))


def test_bfloat16_is_near_float32():
    moe, x = layer(n_active=2).eval(), torch.randn(B, T, C)
    expected = moe(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = moe(x)
    assert found.dtype == x.dtype
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_a_step_trains_experts_and_router_and_one_batch_is_learned_by_heart():
    torch.manual_seed(0)
    model = GPT(GPTConfig(**TINY, **EXPERTS))
    idx, targets = torch.randint(37, (2, 4, 11))
    optimizers = make_optimizers(model, TrainConfig(batch_size=4, muon_learning_rate=0.05))
    routers = [block.mlp.router.weight.detach().clone() for block in model.blocks]
    for _ in range(60):
        loss = model(idx, targets)[1]
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    assert model.eval()(idx, targets)[1] < 1.0  # of ln 37 = 3.6
    for before, block in zip(routers, model.blocks, strict=True):
        assert not torch.equal(before, block.mlp.router.weight)


def collapse(balance: float) -> float:
    """Train a router that begins with a favorite; return its share of the tokens in the end."""
    torch.manual_seed(0)
    moe, x = layer(balance=balance, n_expert=4), torch.randn(1, 64, C)
    x[..., 0] = 2.0
    with torch.no_grad():
        moe.router.weight[0, 0] = 1.5
    optimizer = torch.optim.Adam([moe.router.weight], lr=0.03)
    for _ in range(60):
        moe(x)
        optimizer.zero_grad()
        moe.auxiliary_loss.backward()
        optimizer.step()
    return (moe.router(x).argmax(-1) == 0).float().mean().item()


def test_balance_empties_a_favorite_and_without_it_nothing_happens():
    assert collapse(0.0) > 0.9
    assert collapse(1.0) < 0.5


def test_active_parameters_are_those_of_a_model_with_so_many_experts():
    config = GPTConfig(**TINY, **EXPERTS)
    fewer = GPTConfig(**TINY, mlp="experts", n_expert=2, n_active=2)
    routers = 2 * TINY["n_layer"] * TINY["n_embd"]  # two rows fewer in each router
    assert active_parameters(config) == count_parameters(fewer) + routers
    assert active_parameters(GPTConfig(**TINY)) == count_parameters(GPTConfig(**TINY))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_active": 5}, "at most n_expert"),
        ({"biases": True}, "experts have none"),
        ({"balance": -0.1}, "balance"),
        ({"balance": math.nan}, "balance"),
        ({"n_expert": 0}, "n_expert"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        GPTConfig(**TINY | EXPERTS | options)


def test_first_loss_is_near_ln_vocab_size():
    torch.manual_seed(0)
    model = GPT(GPTConfig(500, 16, 2, n_embd=64, mlp="experts", balance=0.0))
    loss = model(*torch.randint(500, (2, 64, 16)))[1].item()
    assert abs(loss / math.log(500) - 1) < 0.02


def test_generation_uses_the_same_experts_with_a_cache_as_without():
    model, idx = random_model(**EXPERTS), torch.randint(37, (2, 9))
    with torch.no_grad():
        cache = model.new_cache(2)
        steps = [model(idx[:, t : t + 1], cache=cache)[0] for t in range(9)]
        torch.testing.assert_close(torch.cat(steps, 1), model(idx)[0], atol=1e-5, rtol=1e-4)
