"""torch's optimizers without torch's compiler, which they import when the first one is made.

That import (`torch._dynamo`, and with it sympy and all of `torch.distributed`) takes as long as
`import torch` itself, and serves only to keep the compiler out of an optimizer's methods. Nothing
here is compiled, so the methods under those wrappers are called: the numbers stay the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function inside a decorator's wrapper, or itself where there is no wrapper."""
    return getattr(function, "__wrapped__", function)


class LightOptimizer(Optimizer):
    """Be an Optimizer that can be made without importing the compiler."""

    add_param_group = unwrapped(Optimizer.add_param_group)


class AdamW(LightOptimizer, torch.optim.AdamW):
    """Be torch's AdamW, bit for bit; its step needs no compiler either."""

    step = torch.no_grad()(unwrapped(torch.optim.AdamW.step))


class LBFGS(LightOptimizer, torch.optim.LBFGS):
    """Be torch's LBFGS, bit for bit; clear gradients by hand, since its `zero_grad` is wrapped."""

    step = torch.no_grad()(unwrapped(torch.optim.LBFGS.step))
