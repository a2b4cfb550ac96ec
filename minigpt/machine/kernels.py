"""Kernels: operations whose backward pass is written by hand, in few trips over memory.

Where matrix products are fast, a training step spends more time on reading and writing vectors
between them. Autograd takes `x / sqrt(mean(x^2) + eps) * weight` back operation by operation, each
a pass over the vectors; the formula of the whole gradient needs few (docs/experiments.md, section
14, has the times). Values and gradients are the same up to rounding: see the tests.

Shapes: leading dimensions are free; D is the last one, N the number of vectors.

Sources: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", equation 4; Su et al.
2021, "RoFormer", equation 34; So et al. 2021, "Primer", section 4.1.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each vector of x (..., D) by its root mean square, and scale by weight (D).

    GPUs have a kernel of their own, and so has every device where no gradient is wanted.
    """
    if x.is_cpu and torch.is_grad_enabled():
        return _RMSNorm.apply(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


class _RMSNorm(Function):
    """y = n w with n = x r and r = 1 / sqrt(mean(x^2) + eps)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (..., 1)
        r = torch.rsqrt(length.square() / x.size(-1) + eps)
        n = x * r
        ctx.save_for_backward(n, r, weight)
        return n * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """dx = r (g w - n mean(g w n)), and dw = g n, summed over all vectors."""
        n, r, weight = ctx.saved_tensors
        product = (grad * n).flatten(0, -2)  # (N, D)
        mean = (product @ weight / n.size(-1)).view_as(r)
        dx = (grad * weight).addcmul_(n, mean, value=-1).mul_(r)
        return dx, product.sum(dim=0), None


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pair (i, i + D/2) of x (..., D) by an angle; in its first half `sin` is negative."""
    return _ApplyRotary.apply(x, cos, sin)


class _ApplyRotary(Function):
    """A gradient is turned back by the same angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotated(grad, cos, -sin), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute x cos + partners sin half by half, so that no partners are copied."""
    half = x.size(-1) // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half])
    y[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return y


def squared_relu(x: Tensor) -> Tensor:
    """Cut negative numbers off, and square the rest."""
    return _SquaredReLU.apply(x)


class _SquaredReLU(Function):
    """y = max(x, 0)^2, dy/dx = 2 max(x, 0)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (grad * positive).mul_(2)
