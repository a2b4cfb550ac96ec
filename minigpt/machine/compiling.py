"""Compile the step from token to token: once for each form of model, whatever the lengths.

Knows how torch compiles, not what a step does. All of it is about speed: the same texts come out
(docs/experiments.md, section 14, says what each part gives).
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.cache import KVCache
from minigpt.machine.device import require_compiler

GROWING = "L['cache'].length"  # the one number that changes from step to step


def compile_step(step: Callable[..., Tensor], model: nn.Module) -> Callable[..., Tensor]:
    """Return `step(model, idx, cache)`, compiled once for all texts and all models of a form.

    Raises ConfigError where a compiler is missing.
    """
    device = next(model.parameters()).device
    require_compiler(device)
    return compile_program(step, program_key(model), device.type)


def program_key(model: nn.Module) -> Hashable:
    """Return all that a compiled program takes for granted of a model: all but its weights.

    A number that a module computes with must stand in the config or in the module's repr.
    """
    tensors = (*model.parameters(), *model.buffers())
    layout = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    return repr(model), model.config, layout


@functools.cache
def compile_program(step: Callable, form: Hashable, device: str) -> Callable[..., Tensor]:
    """Return the step compiled for a form: the same object for the same form.

    A CUDA GPU records it and plays it again, for which no shape may change. Elsewhere one program
    serves all lengths; on a CPU it is C++ as a whole. There torch would check before each step
    that no part of the model has changed. Models do not change while they write, and a backend of
    its own keeps each form's program apart.
    """
    if device == "cuda":
        return torch.compile(step, mode="reduce-overhead")
    known = torch.compiler.config.dynamic_sources
    if GROWING not in known:
        torch.compiler.config.dynamic_sources = f"{known},{GROWING}" if known else GROWING
    options = {
        "cpp_wrapper": device == "cpu",
        "size_asserts": False,  # `program_key` holds the model's, torch checks the cache's
    }
    own_backend = functools.partial(torch._inductor.compile, options=options)
    checks: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    return torch.compile(step, backend=own_backend, options=checks)


def cache_to_compile(cache: KVCache) -> KVCache:
    """Return an empty cache as a compiled step needs it: a static one on a CUDA GPU."""
    return StaticCache(cache) if cache.positions.is_cuda else cache


class StaticCache(KVCache):
    """A cache for CUDA GPUs that record a step and play it again: no shape or address changes.

    New tokens look at all positions, those that hold nothing yet being masked.
    """

    def __init__(self, cache: KVCache):
        self.__dict__.update(vars(cache))
        self.measure()
        for tensor in (*self.keys, *self.values, self.positions):
            if tensor.is_cuda:  # a recorded step may write to it where it lies
                torch._dynamo.mark_static_address(tensor, guard=False)

    def reach(self, T: int) -> int:
        """Return how many positions T new tokens look at: all."""
        return self.block_size

    def advance(self, counts: int | Tensor) -> None:
        """Count tokens as seen; no number outside of tensors changes."""
        self.positions += counts

    def measure(self) -> None:
        """Treat rows as uneven, whatever their lengths."""
        self.length, self.is_even = self.block_size, False
