"""Muon: momentum whose every update is made orthogonal, for the matrices inside a transformer.

An update of a matrix usually has a few large singular values and many small ones, so it moves the
weights in few directions. Muon replaces it by the nearest matrix with all singular values near 1:
every direction moves equally far. Knows nothing of models; embeddings, norms and the output head
train with AdamW.

Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al.
2025, "Muon is Scalable for LLM Training", section 2.2 (scale of the update).
"""

# torch does not export its operations on lists of tensors, which its own optimizers are made of:
# pyright: reportPrivateImportUsage=false

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from minigpt.machine.device import choose_dtype

# One step maps each singular value s to a s + b s^3 + c s^5: small ones grow fast, large ones stay.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push all singular values of each matrix (..., n, m) toward 1, into about 0.7 to 1.2.

    Newton-Schulz iteration: only matrix products, which are precise enough in bfloat16.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(choose_dtype(matrices.device)).reshape(-1, *matrices.shape[-2:])
    wide = x.size(-2) <= x.size(-1)
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # now no singular value is above 1
    for _ in range(steps):
        square = x @ x.mT
        terms = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b square + c square^2
        x = torch.baddbmm(x, terms, x, beta=a)  # a x + terms x
    return (x if wide else x.mT).to(matrices.dtype).reshape(matrices.shape)


def orthogonalize_shards(stack: Tensor, steps: int) -> Tensor:
    """Orthogonalize matrices (K, ..., n, m) of which each process may hold some rows (FSDP2).

    The processes then exchange parts, so that each has some whole matrices, and exchange again.
    """
    if not isinstance(stack, DTensor):
        return orthogonalize(stack, steps)
    matrices = stack.redistribute(placements=[Shard(0)])
    done = orthogonalize(matrices.to_local(), steps)
    done = DTensor.from_local(
        done, stack.device_mesh, [Shard(0)], shape=stack.shape, stride=stack.stride()
    )
    return done.redistribute(placements=stack.placements)


class Muon(torch.optim.Optimizer):
    """Update matrices by orthogonalized Nesterov momentum, with decoupled weight decay.

    A parameter (..., n, m) of more dimensions is a batch of matrices, each updated by itself.

    lr is the root mean square of an update's entries times 5, so learning rates and weight decay
    carry over from AdamW (whose updates have entries of about 0.2 lr).
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
    ):
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps}
        )
        for group in self.param_groups:
            for p in group["params"]:
                assert p.ndim >= 2, f"Muon updates matrices only, got shape {tuple(p.shape)}"

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; matrices of one shape go together."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for parameters in alike.values():
                self.update(parameters, group)
        return loss

    def update(self, parameters: list[Tensor], group: dict) -> None:
        """Take one step for parameters of one shape (..., n, m)."""
        states = [self.state[p] for p in parameters]
        for p, state in zip(parameters, states, strict=True):
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p)
        buffers = [state["momentum_buffer"] for state in states]
        gradients = [p.grad for p in parameters if p.grad is not None]  # `step` chose these
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch.stack(gradients)  # a copy, changed in place: torch 2.10 splits no other lerp
        torch._foreach_lerp_(ahead.unbind(), buffers, group["momentum"])  # Nesterov: one step on
        updates = orthogonalize_shards(ahead, group["steps"])
        scale = 0.2 * max(parameters[0].shape[-2:]) ** 0.5  # entries of about 0.2, as Adam's
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, updates.unbind(), alpha=-group["lr"] * scale)
