"""Write down the state of a training run, and take it up again bit for bit.

Weights and optimizer state go by parameter name and in full, so a checkpoint reads the same
whether one process wrote it or many. The rows of metrics.jsonl go along with the checkpoints.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import AdamW, Optimizer

from minigpt.lora import is_adapted, own_state
from minigpt.machine.distributed import rank_zero_first, world
from minigpt.muon import Muon
from minigpt.runs.checkpoint import Checkpoint
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.support.files import atomic_write, fsync

# What each optimizer keeps of a parameter: tensors of its shape, and AdamW's count of steps.
STATE: dict[type[Optimizer], tuple[str, ...]] = {
    Muon: ("momentum_buffer",),
    AdamW: ("step", "exp_avg", "exp_avg_sq"),
}


def collect_tensors(
    model: Module, optimizers: list[Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights and the optimizer state, named `<parameter>.<what>`, on the CPU.

    Of an adapted model (LoRA) these are what is trained: the rest is its base's.
    Of several processes rank 0 gets all tensors and the others none: it must have memory for 12
    bytes a parameter (8 where Muon trains). Learning rates and the like are not saved: they follow
    from the settings and the step.
    """
    if world().size > 1:
        return gather_tensors(model, optimizers)
    weights = {name: weight.detach().cpu() for name, weight in own_state(model).items()}
    state = {
        f"{name}.{key}": torch.as_tensor(value).detach().cpu()
        for name, parameter, optimizer in trained_parameters(model, optimizers)
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return weights, state


def restore_tensors(
    checkpoint: Checkpoint | None, model: Module, optimizers: list[Optimizer]
) -> None:
    """Put a checkpoint's weights and optimizer state in place; names and shapes must fit.

    Only rank 0 of several processes has the checkpoint; the others (None) are sent their part.
    """
    if world().size > 1:
        scatter_tensors(checkpoint, model, optimizers)
        return
    assert checkpoint is not None, "one process has no other that could send it the tensors"
    compare_shapes(own_state(model), checkpoint.model, checkpoint)
    model.load_state_dict(checkpoint.model, strict=not is_adapted(model))
    saved = checkpoint.optimizer
    if not saved:
        return  # float16 overflowed in every step so far, so no optimizer has a state yet
    trained = list(trained_parameters(model, optimizers))
    compare_shapes(expected_state(trained), saved, checkpoint)
    for name, parameter, optimizer in trained:
        optimizer.state[parameter] = {
            key: saved[f"{name}.{key}"].to(parameter.device) for key in state_keys(optimizer)
        }


def trained_parameters(
    model: Module, optimizers: list[Optimizer]
) -> Iterator[tuple[str, Tensor, Optimizer]]:
    """Yield each parameter that an optimizer trains: its name, itself, and which optimizer."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield names[parameter], parameter, optimizer


def state_keys(optimizer: Optimizer) -> tuple[str, ...]:
    """Return the names of what an optimizer keeps of each parameter."""
    return next(keys for kind, keys in STATE.items() if isinstance(optimizer, kind))


def expected_state(trained: list[tuple[str, Tensor, Optimizer]]) -> dict[str, Tensor]:
    """Return tensors named and shaped as the optimizers' states are after a first step."""
    return {
        f"{name}.{key}": torch.zeros(()) if key == "step" else parameter
        for name, parameter, optimizer in trained
        for key in state_keys(optimizer)
    }


def gather_tensors(
    model: Module, optimizers: list[Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Do what `collect_tensors` does in each of several processes, which may hold parts each."""
    from torch.distributed.checkpoint import state_dict as states  # a second: when it is needed

    adapted = is_adapted(model)
    options = states.StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapted
    )
    # The weights first: that folds up what FSDP2 unfolded.
    weights: dict[str, Any] = states.get_model_state_dict(model, options=options)
    nested: dict[str, Any] = states.get_optimizer_state_dict(model, optimizers, options=options)
    return weights, flatten(nested.get("state", {}))


def scatter_tensors(
    checkpoint: Checkpoint | None, model: Module, optimizers: list[Optimizer]
) -> None:
    """Do what `restore_tensors` does in each of several processes."""
    from torch.distributed.checkpoint import state_dict as states

    adapted = is_adapted(model)
    full = states.StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=adapted, strict=not adapted
    )
    from_first = dataclasses.replace(full, broadcast_from_rank0=True)
    expected: dict[str, Any] = states.get_model_state_dict(model, options=full)
    if checkpoint is not None:
        compare_shapes(expected, checkpoint.model, checkpoint)
    weights: dict[str, Any] = checkpoint.model if checkpoint else {}
    states.set_model_state_dict(model, weights, options=from_first)
    if not rank_zero_first(lambda: checkpoint is not None and bool(checkpoint.optimizer)):
        return  # as in restore_tensors
    fresh: dict[str, Any] = states.get_optimizer_state_dict(model, optimizers, options=full)
    if checkpoint is not None:
        compare_shapes(flatten(fresh["state"]), checkpoint.optimizer, checkpoint)
        nested: dict[str, Any] = {}
        for name, value in checkpoint.optimizer.items():
            parameter, _, key = name.rpartition(".")
            nested.setdefault(parameter, {})[key] = value
        fresh |= {"state": nested}
    values = fresh if checkpoint else {}
    states.set_optimizer_state_dict(model, optimizers, values, options=from_first)


def compare_shapes(
    expected: dict[str, Tensor], found: dict[str, Tensor], checkpoint: Checkpoint
) -> None:
    """Raise a CheckpointError that names the first tensor whose name or shape does not fit."""
    for name in sorted(expected.keys() | found.keys()):
        shapes = [tuple(t[name].shape) if name in t else "missing" for t in (expected, found)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{name} is {shapes[0]} in the model and {shapes[1]} in the checkpoint",
                str(checkpoint.path),
                "use the settings of the run that wrote it",
            )


def check_unchanged(
    before: dict, now: dict, free: set[str], where: str, usual: dict | None = None
) -> None:
    """Raise a ConfigError that lists every setting, except the free ones, that has changed.

    A setting that a later version added is missing in `before`. Its usual value stands for what
    the run did without it, so it counts as changed if it has another value now.
    """
    before, now = flatten(usual or {}) | flatten(before), flatten(now)
    changed = [
        f"{key} {before.get(key, 'not set')!r} -> {now.get(key, 'not set')!r}"
        for key in sorted(before.keys() | now.keys())
        if key not in free and before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"changed since the checkpoint: {', '.join(changed)}",
            where,
            "resume with the old values, or start a new run in another --out (free to change: "
            f"{', '.join(sorted(free))})",
        )


def flatten(value: dict, prefix: str = "") -> dict:
    """Return {"a": {"b": 1}} as {"a.b": 1}."""
    flat = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(item) if isinstance(item, tuple) else item  # as JSON does
    return flat


def fingerprint(value: dict) -> str:
    """Return the SHA-256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def environment(device: torch.device, dtype: torch.dtype, optimizers: list[Optimizer]) -> dict:
    """Return what, besides the settings, the last bit of a result depends on."""
    kinds = [type(o).__name__ + (" fused" if o.defaults.get("fused") else "") for o in optimizers]
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        machine = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": device.type,
        "machine": machine,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "optimizer": " + ".join(kinds),
        "torch": str(torch.__version__),
    }


def warn_if_inexact(before: dict, now: dict) -> None:
    """Warn when a resumed run need not end with the same bits as an uninterrupted one."""
    reasons = [
        f"{key} {before.get(key)} -> {value}"
        for key, value in now.items()
        if before.get(key) != value
    ]
    if not now["deterministic"] and (now["compile"] or now["device"] != "cpu"):
        reasons.append("deterministic is off")
    if reasons:
        warnings.warn(f"the resumed run is not bit-identical: {', '.join(reasons)}", stacklevel=4)


class Metrics:
    """Append rows to metrics.jsonl; each step of a run stands there once, also after a resume.

    Without a path nothing is written: another process does.
    """

    def __init__(self, path: Path | None, step: int, on_log: Callable[[dict], None] | None):
        self.path, self.on_log = path, on_log
        if path is not None:
            refuse_foreign_rows(path)
            atomic_write(path, "".join(rows_until(path, step)))
        path = path or Path(os.devnull)
        self.file = path.open("a", encoding="utf-8", newline="\n")

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    def write(self, row: dict) -> None:
        """Write one row so that other programs can read it at once."""
        self.file.write(json.dumps(row, allow_nan=False) + "\n")
        self.file.flush()
        if self.on_log is not None:
            self.on_log(row)

    def to_disk(self) -> None:
        """Make sure that no checkpoint reaches the disk before its rows."""
        if self.path is not None:
            fsync(self.file)


def refuse_foreign_rows(path: Path) -> None:
    """Raise ConfigError where a metrics file holds lines, and none of them is a run's."""
    if not path.is_file() or not path.read_bytes().count(b"\n"):
        return
    if next(metrics_lines(path), None) is None:
        raise ConfigError(
            "a file that no training wrote", str(path), "move it away, or choose another run_dir"
        )


def rows_until(path: Path, step: int) -> Iterator[str]:
    """Yield the lines of a metrics file that belong to steps up to `step`, without torn ones."""
    for line in metrics_lines(path):
        if json.loads(line)["step"] <= step:
            yield line + "\n"


def metrics_lines(path: Path) -> Iterator[str]:
    """Yield the whole lines of a metrics file: objects of numbers that have a step."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            numbers = row.values() if isinstance(row, dict) else ["no row"]
            if all(type(number) in (int, float) for number in numbers) and "step" in row:
                yield line
