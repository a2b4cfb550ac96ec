"""Compile the step from token to token: once for each form of model, whatever the lengths.

Knows how torch compiles, not what a step does. All of it is about speed: the same texts come out
(docs/experiments.md, section 14, says what each part gives).
"""

import functools
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, fx, nn
from torch._inductor.custom_graph_pass import CustomGraphPass

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
        "post_grad_custom_post_pass": BiasesApart(),
        "size_asserts": False,  # `program_key` holds the model's, torch checks the cache's
    }
    own_backend = functools.partial(torch._inductor.compile, options=options)
    checks = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    return torch.compile(step, backend=own_backend, options=checks)


class BiasesApart(CustomGraphPass):
    """Add biases after products, where they melt into what follows.

    A product that adds its bias begins with as many copies of the bias as there are rows.
    """

    def __call__(self, graph: fx.Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.addmm.default):
            if node.kwargs:  # scaled by alpha or beta
                continue
            bias, *factors = node.args
            with graph.inserting_before(node):
                product = graph.call_function(torch.ops.aten.mm.default, tuple(factors))
                total = graph.call_function(torch.ops.aten.add.Tensor, (product, bias))
            product.meta, total.meta = dict(node.meta), dict(node.meta)
            node.replace_all_uses_with(total)
            graph.erase_node(node)

    def uuid(self) -> str:
        """Name this pass in torch's store of compiled programs."""
        return "minigpt: biases apart, 1"
