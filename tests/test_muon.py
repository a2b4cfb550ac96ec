"""Muon against torch.optim.Muon, and what its orthogonal updates promise."""

import copy

import pytest
import torch
from torch.optim import _muon

from minigpt import muon
from minigpt.muon import Muon, orthogonalize

SHAPES = [(7, 12), (12, 7), (5, 5), (7, 12), (1, 9)]


pytestmark = pytest.mark.usefixtures("seed_zero")


@pytest.fixture(autouse=True, params=["float32", "bfloat16"])
def dtype(request, monkeypatch) -> str:
    """Iterate in this precision, whichever one this machine is fast at."""
    choice = getattr(torch, request.param)
    monkeypatch.setattr(muon, "choose_dtype", lambda device: choice)
    return request.param


def matrices() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def set_gradients(parameters: list[torch.nn.Parameter], step: int) -> None:
    """Give every parameter a random gradient that depends on the step alone."""
    generator = torch.Generator().manual_seed(step)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator) * 10.0 ** (step % 5 - 2)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_equals_torchs_muon_for_20_steps(weight_decay, momentum, dtype, monkeypatch):
    if dtype == "float32":  # torch's iteration knows bfloat16 only: lend it ours, compare the rest
        monkeypatch.setattr(
            _muon,
            "_zeropower_via_newtonschulz",
            lambda gradient, coefficients, steps, eps: orthogonalize(gradient, steps),
        )
    ours = matrices()
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 0.03, "momentum": momentum, "weight_decay": weight_decay}
    optimizers = (
        Muon(ours, **options),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options),
    )
    start = [p.detach().clone() for p in ours]
    for step in range(20):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            set_gradients(parameters, step)
            optimizer.step()
    tolerance = 1e-4 if dtype == "float32" else 0.15
    for ours_now, theirs_now, before in zip(ours, theirs, start, strict=True):
        moved = (theirs_now - before).norm()
        assert moved > 0.01
        assert (ours_now - theirs_now).norm() < tolerance * moved


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonalize_equals_torchs_iteration_up_to_its_bfloat16(shape):
    gradient = torch.randn(shape)
    theirs = _muon._zeropower_via_newtonschulz(gradient, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    distance = (orthogonalize(gradient) - theirs.float()).norm() / theirs.float().norm()
    assert distance < 0.15


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_orthogonalize_brings_singular_values_near_1_and_keeps_directions(scale, dtype):
    tolerance = 1e-3 if dtype == "float32" else 0.1
    stack = torch.randn(3, 24, 40) * scale
    found = orthogonalize(stack)
    assert found.shape == stack.shape
    for before, after in zip(stack, found, strict=True):
        values = torch.linalg.svdvals(after)
        assert 0.6 < values.min()
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        across = u.T @ after @ v.T  # diagonal, where the directions are the same
        assert (across - across.diag().diag()).abs().max() < tolerance
    for same in (orthogonalize(stack.mT).mT, torch.stack([orthogonalize(x) for x in stack])):
        torch.testing.assert_close(same, found, atol=tolerance, rtol=0)


def test_orthogonalize_leaves_zero_alone():
    assert not orthogonalize(torch.zeros(4, 6)).any()


def test_updates_have_the_size_that_adamws_have():
    for p in (torch.nn.Parameter(torch.zeros(64, 256)), torch.nn.Parameter(torch.zeros(128, 16))):
        p.grad = torch.randn(p.shape)
        Muon([p], lr=1.0).step()
        assert 0.15 < p.detach().square().mean().sqrt() < 0.25


def test_state_dict_round_trip_continues_the_same():
    ours = matrices()
    optimizer = Muon(ours, lr=0.01, weight_decay=0.1)
    for step in range(5):
        set_gradients(ours, step)
        optimizer.step()
    copies = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    resumed = Muon(copies, lr=0.5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(5, 10):
        for parameters, each in ((ours, optimizer), (copies, resumed)):
            set_gradients(parameters, step)
            each.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, copies, strict=True))


def test_parameters_without_gradient_stay_and_closures_are_called():
    moved, still = torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(2, 3))
    optimizer = Muon([moved, still], lr=0.1, weight_decay=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = moved.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 6
    assert torch.equal(still, torch.ones(2, 3))
    assert not torch.equal(moved, torch.ones(2, 3))


def test_other_than_matrices_are_refused_by_shape():
    with pytest.raises(AssertionError, match=r"\(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_a_batch_of_matrices_is_updated_as_each_matrix_alone(dtype):
    """A weight (experts, out, in): also its size counts by the matrix, not by the batch."""
    for shape in ((5, 4, 12), (30, 4, 3), (2, 3, 6, 5)):
        start, grad = torch.randn(shape), torch.randn(shape)
        whole = torch.nn.Parameter(start.clone())
        parts = [torch.nn.Parameter(x.clone()) for x in start.flatten(0, -3)]
        whole.grad = grad.clone()
        for p, g in zip(parts, grad.flatten(0, -3), strict=True):
            p.grad = g.clone()
        for parameters in ([whole], parts):
            Muon(parameters, lr=0.1, weight_decay=0.2).step()
        together = torch.stack([p.detach() for p in parts]).view(shape)
        moved = (together - start).abs().max()
        tolerance = (1e-4 if dtype == "float32" else 2e-2) * moved
        torch.testing.assert_close(whole.detach(), together, atol=tolerance.item(), rtol=0)


def test_works_with_learning_rate_schedulers_and_parameter_groups():
    a, b = torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(3, 4))
    optimizer = Muon([{"params": [a]}, {"params": [b], "lr": 0.0}], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    sizes = []
    for _ in range(2):
        before = a.detach().clone()
        a.grad, b.grad = torch.ones(3, 4), torch.ones(3, 4)
        optimizer.step()
        schedule.step()
        sizes.append((a.detach() - before).norm())
    assert not b.any()
    torch.testing.assert_close(sizes[0], 2 * sizes[1], atol=0, rtol=0.05)
