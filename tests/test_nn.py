"""Layers and losses against torch's; initialization and dropout by their statistics."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from minigpt.autograd import Tensor, check_gradients
from minigpt.nn import (
    MLP,
    Dropout,
    Linear,
    cross_entropy,
    log_softmax,
    mean_squared_error,
    softmax,
    sum_of_squares,
)
from minigpt.optim import SGD, AdamW

N, V = 7, 5


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def twin(network: MLP, activation: str) -> torch.nn.Sequential:
    """Return the same network in torch, in float64."""
    modules: list[torch.nn.Module] = []
    for layer in network.layers:
        linear = torch.nn.Linear(*layer.weight.shape, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(layer.weight.data.T))
            linear.bias.copy_(torch.tensor(layer.bias.data))
        modules += [linear, {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[activation]()]
    return torch.nn.Sequential(*modules[:-1])


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_network_and_its_torch_twin_train_alike(activation):
    """The same losses to 1e-9 for 20 steps of AdamW, from the same weights."""
    network = MLP([6, 11, 8, V], np.random.default_rng(0), activation)
    other = twin(network, activation)
    ours = AdamW(network.parameters(), 0.01, weight_decay=0.1)
    theirs = torch.optim.AdamW(other.parameters(), 0.01, weight_decay=0.1)
    x, targets, losses = numbers(N, 6), np.arange(N) % V, []
    for _ in range(20):
        ours.zero_grad()
        theirs.zero_grad()
        loss = cross_entropy(network(x), targets)
        expected = F.cross_entropy(other(torch.tensor(x)), torch.tensor(targets))
        assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
        loss.backward()
        expected.backward()
        ours.step()
        theirs.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_network_learns_what_a_line_cannot_separate():
    x = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    targets = np.array([0, 1, 1, 0])
    losses = {}
    for activation in ("tanh", "none"):
        network = MLP([2, 8, 2], np.random.default_rng(0), activation)
        optimizer = SGD(network.parameters(), 0.5)
        for _ in range(300):
            optimizer.zero_grad()
            loss = cross_entropy(network(x), targets)
            loss.backward()
            optimizer.step()
        losses[activation] = loss.item()
    assert losses["tanh"] < 0.05
    assert losses["none"] == pytest.approx(math.log(2), abs=0.01)


def test_network_shapes_and_parameters():
    network = MLP([6, 11, V], np.random.default_rng(0))
    assert network(numbers(2, 3, 6)).shape == (2, 3, V)
    assert [p.shape for p in network.parameters()] == [(6, 11), (11,), (11, V), (V,)]
    assert network.weights() == [network.layers[0].weight, network.layers[1].weight]
    check_gradients(
        lambda: cross_entropy(network(numbers(N, 6)), np.arange(N) % V), network.parameters()
    )


def test_the_same_generator_gives_the_same_network():
    a, b = (MLP([3, 4, 2], np.random.default_rng(5)) for _ in range(2))
    assert all(
        np.array_equal(p.data, q.data) for p, q in zip(a.parameters(), b.parameters(), strict=True)
    )


@pytest.mark.parametrize("activation", ["relu", "tanh", "none"])
def test_initial_signals_keep_their_size_through_depth(activation):
    """20 layers neither silence nor blow up a signal with the suitable gain; others do."""
    sizes = {}
    for gain in (None, 0.3, 4.0):
        network = MLP([100] * 21, np.random.default_rng(0), activation, gain=gain)
        sizes[gain] = np.abs(network(numbers(50, 100)).data).mean()
    assert 0.1 < sizes[None] < 10
    assert sizes[0.3] < 1e-6
    assert sizes[4.0] > 1.2 * sizes[None]


def test_linear_draws_weights_of_the_stated_size():
    layer = Linear(400, 300, np.random.default_rng(0), gain=2.0)
    assert layer.weight.data.std() == pytest.approx(2 / math.sqrt(400), rel=0.01)
    assert not layer.bias.data.any()
    assert layer(np.ones((1, 400))).shape == (1, 300)


# Dropout


def test_dropout_keeps_the_mean_and_drops_the_share():
    dropout, x = Dropout(0.3, np.random.default_rng(0)), Tensor(np.ones((200, 300)))
    y = dropout(x, training=True)
    assert (y.data == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert y.data.mean() == pytest.approx(1, abs=0.01)
    assert set(np.unique(y.data)) == {0, 1 / 0.7}
    y.sum().backward()
    assert np.array_equal(x.grad, y.data)  # the gradient passes where the number passed


def test_dropout_acts_in_training_only_and_draws_anew():
    dropout, x = Dropout(0.5, np.random.default_rng(0)), Tensor(np.ones(50))
    assert dropout(x, training=False) is x
    assert Dropout(0.0, np.random.default_rng(0))(x, training=True) is x
    first, second = (dropout(x, training=True).data for _ in range(2))
    assert not np.array_equal(first, second)
    network = MLP([3, 50, 2], np.random.default_rng(0), dropout=0.5)
    assert np.array_equal(network(numbers(4, 3)).data, network(numbers(4, 3)).data)
    assert not np.array_equal(
        network(numbers(4, 3), training=True).data, network(numbers(4, 3), training=True).data
    )
    with pytest.raises(AssertionError, match="share = 1"):
        Dropout(1, np.random.default_rng(0))


# Softmax and losses


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(("ours", "theirs"), [(softmax, F.softmax), (log_softmax, F.log_softmax)])
def test_softmax_equals_torch(ours, theirs, axis):
    x, weighting = Tensor(numbers(3, 4, 5)), numbers(3, 4, 5, seed=1)
    y = torch.tensor(x.data, requires_grad=True)
    result, expected = ours(x, axis), theirs(y, axis)
    np.testing.assert_allclose(result.data, expected.detach(), rtol=1e-9)
    (result * weighting).sum().backward()
    (expected * torch.tensor(weighting)).sum().backward()
    np.testing.assert_allclose(x.grad, y.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e300])
def test_softmax_of_huge_scores_stays_finite(size):
    x = Tensor([[size, 0.0, -size], [-size, -size, -size]])
    np.testing.assert_allclose(softmax(x).data, [[1, 0, 0], [1 / 3] * 3])
    loss = cross_entropy(x, [1, 0])
    loss.backward()
    assert loss.item() == pytest.approx((size + math.log(3)) / 2)
    np.testing.assert_allclose(x.grad, [[0.5, -0.5, 0], [-1 / 3, 1 / 6, 1 / 6]], atol=1e-12)
    with np.errstate(all="ignore"):  # negative control: the formula as it is written
        naive = np.exp(x.data) / np.exp(x.data).sum(-1, keepdims=True)
    assert np.isnan(naive).any()


@pytest.mark.parametrize("shape", [(N,), (2, 3), ()])
def test_cross_entropy_equals_torch(shape):
    x, targets = numbers(*shape, V), np.random.default_rng(1).integers(0, V, shape)
    ours, theirs = Tensor(x), torch.tensor(x, requires_grad=True)
    loss = cross_entropy(ours, targets)
    expected = F.cross_entropy(theirs.reshape(-1, V), torch.tensor(targets).reshape(-1))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    expected.backward()
    np.testing.assert_allclose(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12)


def test_cross_entropy_by_hand():
    """Probabilities 1/4 and 3/4, the second class is right: -ln(3/4)."""
    assert cross_entropy(Tensor([[0.0, math.log(3)]]), [1]).item() == pytest.approx(-math.log(0.75))
    assert cross_entropy(Tensor(np.zeros((4, V))), [0, 1, 2, 3]).item() == pytest.approx(
        math.log(V)
    )


@pytest.mark.parametrize("targets", [[0, V], [-1, 0], [0.5, 0], [float("nan"), 0]])
def test_cross_entropy_refuses_targets_that_are_no_class(targets):
    with pytest.raises(AssertionError, match=f"from 0 to {V - 1}"):
        cross_entropy(Tensor(np.zeros((2, V))), targets)


def test_losses_refuse_shapes_that_merely_broadcast():
    """(N, 1) against (N,) would broadcast to (N, N): a wrong loss without an error."""
    with pytest.raises(AssertionError, match=r"predictions \(7, 1\), targets \(7,\)"):
        mean_squared_error(Tensor(np.zeros((N, 1))), np.zeros(N))
    with pytest.raises(AssertionError, match=r"logits \(7, 5\), targets \(7, 1\)"):
        cross_entropy(Tensor(np.zeros((N, V))), np.zeros((N, 1), dtype=int))


def test_mean_squared_error_equals_torch():
    a, b = numbers(N, 3), numbers(N, 3, seed=1)
    ours, theirs = Tensor(a), torch.tensor(a, requires_grad=True)
    loss, expected = mean_squared_error(ours, b), F.mse_loss(theirs, torch.tensor(b))
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item())
    np.testing.assert_allclose(ours.grad, theirs.grad)


def test_sum_of_squares():
    a, b = Tensor([1.0, 2.0]), Tensor([[3.0]])
    loss = sum_of_squares([a, b])
    loss.backward()
    assert loss.item() == 14
    assert (a.grad.tolist(), b.grad.tolist()) == ([2, 4], [[6]])
    assert sum_of_squares([]).item() == 0
