"""LoRA: change a model by thin matrices beside its own, which stay as they are.

A matrix W (out, in) becomes W + (alpha / rank) B A, where A (rank, in) and B (out, rank) are
trained and W is not. B begins at 0, so the model begins as it was. After training the product can
be added to W, and the model costs what it did before.

Knows nothing of training or of files.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt.gpt import GPT
from minigpt.support.errors import ConfigError
from minigpt.support.settings import above, at_least, check_fields

PARTS = {"attention": (".attention.",), "mlp": (".mlp.",), "all": (".attention.", ".mlp.")}


@dataclass(frozen=True)
class LoRAConfig:
    """Describe which matrices get thin ones beside them, and how thin."""

    rank: Annotated[int, at_least(1)] = 8
    """Rows of A and columns of B: how many directions of each matrix can change."""
    alpha: Annotated[float, above(0)] = 16.0
    """The change is multiplied by alpha / rank, so that its size does not depend on the rank."""
    matrices: Literal["attention", "mlp", "all"] = "all"
    """Matrices of the blocks that are changed."""
    train_embedding: bool = False
    """Train the token embedding in full as well: what is to be learned has new words."""

    def __post_init__(self):
        check_fields(self)


class LoRALinear(nn.Linear):
    """A linear layer that is frozen, with a change of low rank beside it."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        nn.Module.__init__(self)  # no new matrix is made: this layer takes over the other's
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = alpha / rank
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.lora_a = nn.Parameter(torch.randn(rank, self.in_features, **like))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        with torch.no_grad():
            self.lora_a.mul_(self.in_features**-0.5)  # a x has numbers of the size of those in x

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        # Two thin products, never the matrix B A: that would cost as much as W itself.
        change = F.linear(F.linear(input, self.lora_a), self.lora_b)
        return F.linear(input, self.weight, self.bias) + self.scale * change

    def merged(self) -> nn.Linear:
        """Return a plain layer that computes the same."""
        out, width = self.weight.shape
        linear = nn.Linear(width, out, self.bias is not None, self.weight.device, self.weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(self.weight + self.scale * self.lora_b @ self.lora_a)
            if self.bias is not None:
                linear.bias.copy_(self.bias)
        return linear


def add_lora(model: GPT, config: LoRAConfig) -> GPT:
    """Freeze the model and give its blocks' matrices a change to learn, in place; return it.

    Raises a ConfigError where the model has such changes already.
    """
    if is_adapted(model):
        raise ConfigError("the model has LoRA matrices already", "LoRA", "merge them first")
    model.requires_grad_(False)
    for name, parent, child, linear in list(linears(model)):
        if any(part in name for part in PARTS[config.matrices]):
            setattr(parent, child, LoRALinear(linear, config.rank, config.alpha))
    if config.train_embedding:
        model.embedding.weight.requires_grad_(True)  # and the head, where they are tied
    return model


def merge(model: GPT) -> GPT:
    """Add each change to the matrix beside it, in place; the model is plain again, and returned."""
    for _, parent, child, linear in list(linears(model)):
        if isinstance(linear, LoRALinear):
            setattr(parent, child, linear.merged())
    return model.requires_grad_(True)


def linears(model: GPT) -> Iterator[tuple[str, nn.Module, str, nn.Linear]]:
    """Yield each linear layer of the blocks: its name, what it belongs to, its name there."""
    for name, module in model.named_modules():
        for child, linear in module.named_children():
            if isinstance(linear, nn.Linear) and name.startswith("blocks."):
                yield f".{name}.{child}", module, child, linear


def is_adapted(model: nn.Module) -> bool:
    """Tell whether a model has changes of low rank that are not merged."""
    return any(isinstance(module, LoRALinear) for module in model.modules())


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights that belong to a run: all, or of an adapted model the trained ones alone.

    What is frozen belongs to the base, which has it already.
    """
    state = model.state_dict()
    if not is_adapted(model):
        return state
    trained = {p for p in model.parameters() if p.requires_grad}
    names = {name for name, p in model.named_parameters(remove_duplicate=False) if p in trained}
    return {name: weight for name, weight in state.items() if name in names}


def fingerprint_weights(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 of all weights by name: an adapter fits one base alone."""
    digest = hashlib.sha256()
    for name in sorted(state):
        weight = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
