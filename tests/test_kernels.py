"""Kernels equal what autograd makes of their formulas: values, gradients, with and without it."""

import pytest
import torch
from torch.nn import functional as F

from minigpt.attention import RMSNorm, apply_rotary, rotary_table
from minigpt.machine import kernels

SHAPES = [(5, 8), (2, 3, 8), (2, 3, 4, 8)]


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def angles(T: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(table.double() for table in rotary_table(T, 8, 100.0))


def turned_as_numbers(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    z = torch.complex(a, b) * torch.complex(cos[..., :4], sin[..., 4:])
    return torch.cat((z.real, z.imag), dim=-1)


KERNELS = {
    "rms_norm": (
        lambda x, w: kernels.rms_norm(x, w, 1e-3),
        lambda x, w: x / (x.square().mean(dim=-1, keepdim=True) + 1e-3).sqrt() * w,
    ),
    "turn": (
        lambda x, w: kernels.apply_rotary(x, *angles(x.size(-2))),
        lambda x, w: turned_as_numbers(x, *angles(x.size(-2))),
    ),
    "squared_relu": (
        lambda x, w: kernels.squared_relu(x),
        lambda x, w: torch.where(x > 0, x * x, 0.0),
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_values_and_gradients_are_those_of_autograd(name, shape):
    kernel, formula = KERNELS[name]
    x, w = randn(*shape), randn(8)
    y, expected = kernel(x, w), formula(x, w)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    parts = (x, w) if name == "rms_norm" else (x,)
    ours = torch.autograd.grad(y, parts, grad)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, parts, grad))
    assert torch.autograd.gradcheck(lambda *p: kernel(*p, *(() if len(p) > 1 else (w,))), parts)


@pytest.mark.parametrize("name", KERNELS)
def test_heads_need_not_lie_in_one_piece(name):
    kernel, formula = KERNELS[name]
    x, w = randn(2, 5, 3, 8), randn(8)
    heads = x.transpose(1, 2)  # (B, H, T, D), as attention has them
    grad = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    ours = torch.autograd.grad(kernel(heads, w), x, grad)
    torch.testing.assert_close(ours, torch.autograd.grad(formula(heads, w), x, grad))


def test_without_gradients_the_values_are_the_same():
    x, w = torch.randn(2, 3, 8), torch.randn(8)
    kept = kernels.rms_norm(x.requires_grad_(), w, 1e-6)
    with torch.no_grad():
        torch.testing.assert_close(kernels.rms_norm(x, w, 1e-6), kept.detach())


def test_a_vector_of_zeros_has_a_finite_gradient():
    x = torch.zeros(1, 8, requires_grad=True)
    norm = RMSNorm(8)
    norm(x).sum().backward()
    expected = torch.zeros(1, 8, requires_grad=True)
    F.rms_norm(expected, (8,), eps=1e-6).sum().backward()
    torch.testing.assert_close(x.grad, expected.grad)


def test_compiled_kernels_give_the_same():
    cos, sin = rotary_table(6, 8, 100.0)
    norm = RMSNorm(8)

    def both(x):
        return kernels.squared_relu(apply_rotary(norm(x), cos, sin))

    x, y = (torch.randn(2, 6, 8, generator=torch.manual_seed(0)).requires_grad_() for _ in "xy")
    torch.compile(both, backend="aot_eager", fullgraph=True)(x).sum().backward()
    both(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
