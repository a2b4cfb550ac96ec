"""Optimizers without torch's compiler: the same numbers, and none of its imports."""

import subprocess
import sys

import pytest
import torch

from minigpt.machine.optimizer import LBFGS, AdamW, LightOptimizer, unwrapped
from minigpt.muon import Muon


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_takes_torchs_own_steps_to_the_last_bit(fused):
    pairs = []
    for kind in (AdamW, torch.optim.AdamW):
        generator = torch.Generator().manual_seed(3)
        weights = [torch.randn(n, 5, generator=generator).requires_grad_() for n in (3, 7)]
        groups = [
            {"params": weights[:1], "weight_decay": 0.3},
            {"params": weights[1:], "weight_decay": 0.0},
        ]
        optimizer = kind(groups, lr=0.02, betas=(0.8, 0.97), fused=fused)
        for _ in range(7):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
        pairs.append((weights, [optimizer.state[weight] for weight in weights]))
    (ours, our_states), (theirs, their_states) = pairs
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(our_states, their_states, strict=True):
        assert one.keys() == other.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_step_builds_no_graph():
    weight = torch.ones(3, 5, requires_grad=True)
    optimizer = AdamW([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(3, 5)
    optimizer.step()
    assert weight.grad_fn is None
    assert torch.is_grad_enabled()


def test_lbfgs_equals_torchs():
    ends = []
    for kind in (LBFGS, torch.optim.LBFGS):
        weight = torch.tensor([3.0, -2.0, 0.5], requires_grad=True)
        optimizer = kind([weight], max_iter=7, line_search_fn="strong_wolfe")

        def closure(weight=weight) -> torch.Tensor:
            weight.grad = None
            loss = (weight[0] - 1) ** 2 + 10 * (weight[1] - weight[0] ** 2) ** 2 + weight[2] ** 4
            loss.backward()
            return loss

        optimizer.step(closure)
        ends.append(weight.detach())
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], torch.tensor([3.0, -2.0, 0.5]))


def test_all_optimizers_are_light():
    assert issubclass(Muon, LightOptimizer)
    assert issubclass(LBFGS, torch.optim.LBFGS)
    assert issubclass(AdamW, torch.optim.AdamW)


def test_a_function_without_a_wrapper_is_itself():
    assert unwrapped(test_a_step_builds_no_graph) is test_a_step_builds_no_graph


def test_making_and_stepping_them_imports_no_compiler():
    code = """
import sys, torch
from minigpt.machine.optimizer import AdamW
from minigpt.muon import Muon
w = torch.ones(3, 5, requires_grad=True)
for optimizer in (Muon([w]), AdamW([w], fused=True)):
    w.grad = torch.ones(3, 5)
    optimizer.step()
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
