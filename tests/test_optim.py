"""Every optimizer against torch.optim, step for step; schedules and clipping likewise."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch

from minigpt.autograd import Tensor
from minigpt.optim import (
    SGD,
    Adam,
    AdamW,
    Momentum,
    Optimizer,
    clip_gradients,
    constant_factor,
    cosine_factor,
    linear_factor,
)

STEPS = 200
A = np.random.default_rng(0).normal(size=(7, 3))
B = np.random.default_rng(1).normal(size=(7, 2))


def loss_of(w, b, t):
    """A loss that is not quadratic, whose gradients are now large, now small, now exactly 0."""
    a, target = (A, B) if isinstance(w, Tensor) else (torch.tensor(A), torch.tensor(B))
    error = (a @ w).tanh() + b - target
    return (error**2).mean() * (1 + t % 7) + (error.relu()).sum() * (t % 3 == 0)


@cache
def trajectory(make, is_ours: bool, schedule=None) -> list[np.ndarray]:
    """Return the parameters after every step; the same arguments are run once."""
    numbers = np.random.default_rng(2)
    starts = [numbers.normal(size=(3, 2)), numbers.normal(size=2), np.ones(4)]
    make_tensor = Tensor if is_ours else lambda a: torch.tensor(a, requires_grad=True)
    parameters = [make_tensor(start.copy()) for start in starts]
    optimizer, seen = make(parameters), []
    for t in range(STEPS):
        optimizer.zero_grad()
        # the last parameter has a gradient in every fifth step only
        loss = loss_of(*parameters[:2], t) + (parameters[2] ** 2).sum() * (t % 5 == 0)
        loss.backward()
        if schedule:
            rate = schedule(t)
            if is_ours:
                optimizer.learning_rate = rate
            else:
                optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        values = [p.data if is_ours else p.detach().numpy().copy() for p in parameters]
        seen.append(np.concatenate([np.ravel(v) for v in values]))
    return seen


OPTIMIZERS = {
    "SGD": (lambda p: SGD(p, 0.05), lambda p: torch.optim.SGD(p, 0.05)),
    "Momentum": (
        lambda p: Momentum(p, 0.02, momentum=0.8),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.8),
    ),
    "Nesterov": (
        lambda p: Momentum(p, 0.02, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True),
    ),
    "Adam": (
        lambda p: Adam(p, 0.03, betas=(0.8, 0.95), eps=1e-6),
        lambda p: torch.optim.Adam(p, 0.03, betas=(0.8, 0.95), eps=1e-6),
    ),
    "AdamW": (
        lambda p: AdamW(p, 0.03, weight_decay=0.2),
        lambda p: torch.optim.AdamW(p, 0.03, weight_decay=0.2),
    ),
    "defaults of Adam": (Adam, torch.optim.Adam),
    "defaults of AdamW": (AdamW, torch.optim.AdamW),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_torch_for_200_steps(name):
    ours, theirs = OPTIMIZERS[name]
    pairs = list(zip(trajectory(ours, True), trajectory(theirs, False), strict=True))
    for step, (a, b) in enumerate(pairs):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=f"step {step}")
    assert np.abs(pairs[-1][0] - pairs[0][0]).max() > 0.01  # it did move


@pytest.mark.parametrize("name", ["Momentum", "AdamW"])
def test_equals_torch_under_a_schedule(name):
    ours, theirs = OPTIMIZERS[name]

    def schedule(t):
        return 0.03 * cosine_factor(t, STEPS, warmup_steps=20, final=0.1)

    for a, b in zip(
        trajectory(ours, True, schedule), trajectory(theirs, False, schedule), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_no_two_optimizers_are_the_same():
    ends = [trajectory(ours, True)[-1] for ours, _ in OPTIMIZERS.values()]
    for i, a in enumerate(ends):
        assert all(np.abs(a - b).max() > 1e-6 for b in ends[:i])


def test_sgd_with_a_penalty_is_sgd_with_weight_decay():
    """For SGD alone, a penalty in the loss and decay of the weights are one thing."""
    w, v = Tensor([2.0, -1.0]), torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
    ours, theirs = SGD([w], 0.1), torch.optim.SGD([v], 0.1, weight_decay=0.3)
    for _ in range(20):
        ours.zero_grad()
        theirs.zero_grad()
        (((w - 3) ** 2).sum() + 0.3 / 2 * (w**2).sum()).backward()
        ((v - 3) ** 2).sum().backward()
        ours.step()
        theirs.step()
    np.testing.assert_allclose(w.data, v.detach(), rtol=1e-12)


def test_adam_with_a_penalty_is_not_adamw():
    """The reason for decoupling: Adam divides the penalty's gradient by its own size."""
    ends = []
    for make, penalty in [
        (lambda p: Adam(p, 0.01), 0.5),
        (lambda p: AdamW(p, 0.01, weight_decay=1.0), 0),
    ]:
        w = Tensor([1.0])
        optimizer = make([w])
        for _ in range(50):
            optimizer.zero_grad()
            ((w * 1000).sum() + penalty * (w**2).sum()).backward()
            optimizer.step()
        ends.append(w.item())
    assert ends[1] < ends[0] - 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_arrays_of_earlier_steps_stay_as_they_were(name):
    start = np.ones(3)
    w = Tensor(start)
    optimizer = OPTIMIZERS[name][0]([w])
    kept = [w.data]
    for _ in range(3):
        optimizer.zero_grad()
        (w**2).sum().backward()
        optimizer.step()
        kept.append(w.data)
    assert start.tolist() == [1, 1, 1]
    values = [array[0] for array in kept]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


def test_parameters_may_come_as_a_generator():
    w = Tensor(1.0)
    optimizer = SGD((p for p in [w]), 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (w * 1).backward()
        optimizer.step()
    assert w.item() == 0
    with pytest.raises(NotImplementedError):
        Optimizer([w], 0.1).step()


# Schedules


def test_constant_schedule():
    assert [constant_factor(t) for t in (0, 5, 10**6)] == [1, 1, 1]
    assert [constant_factor(t, 4) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize("factor", [linear_factor, cosine_factor])
def test_decay_begins_at_1_falls_and_ends_at_the_final_share(factor):
    values = [factor(t, 100, warmup_steps=10, final=0.2) for t in range(130)]
    assert values[:10] == pytest.approx([(t + 1) / 10 for t in range(10)])
    assert values[10] == 1
    assert all(a > b for a, b in itertools.pairwise(values[10:101]))
    assert values[100:] == pytest.approx([0.2] * 30)
    assert [factor(t, 4) for t in (0, 2, 4)] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("final", [0.0, 0.3])
def test_schedules_equal_torchs(warmup, final):
    """torch: LinearLR and CosineAnnealingLR, after the warm-up."""
    steps, lr = 50, 0.7
    parameter = torch.nn.Parameter(torch.zeros(1))
    for factor, make in [
        (linear_factor, lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, final, steps - warmup)),
        (
            cosine_factor,
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps - warmup, final * lr),
        ),
    ]:
        optimizer = torch.optim.SGD([parameter], lr)
        scheduler = make(optimizer)
        for t in range(warmup, steps + 1):
            rate = optimizer.param_groups[0]["lr"]
            assert lr * factor(t, steps, warmup, final) == pytest.approx(rate, abs=1e-9)
            optimizer.step()
            scheduler.step()


def test_linear_and_cosine_differ_between_their_ends():
    assert cosine_factor(25, 100) > linear_factor(25, 100)
    assert cosine_factor(75, 100) < linear_factor(75, 100)


def test_a_run_shorter_than_its_warm_up_is_defined():
    for factor in (linear_factor, cosine_factor):
        assert all(math.isfinite(factor(t, 5, warmup_steps=5)) for t in range(8))
        assert factor(0, 0) == 1


# Clipping


@pytest.mark.parametrize("largest", [0.5, 3.0, 1e9])
def test_clipping_equals_torchs(largest):
    numbers = np.random.default_rng(0)
    arrays = [numbers.normal(size=shape) for shape in [(3, 4), (5,), ()]]
    ours = [Tensor(np.zeros(np.shape(a))) for a in arrays]
    theirs = [torch.nn.Parameter(torch.zeros(np.shape(a), dtype=torch.float64)) for a in arrays]
    for p, q, a in zip(ours, theirs, arrays, strict=True):
        p.grad, q.grad = np.array(a), torch.tensor(a)
    length = clip_gradients(ours, largest)
    assert length == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, largest).item())
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-5)
    left = math.sqrt(sum((p.grad**2).sum() for p in ours))
    assert left == pytest.approx(min(length, largest))


def test_clipping_leaves_zero_gradients_alone():
    w = Tensor([1.0, 2.0])
    assert clip_gradients([w], 1.0) == 0
    assert w.grad.tolist() == [0, 0]
