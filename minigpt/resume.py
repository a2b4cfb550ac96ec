"""Write down the state of a training run, and take it up again bit for bit.

Weights and optimizer state go by parameter name and in full, so a checkpoint reads the same
whether one process wrote it or many. The rows of metrics.jsonl go along with the checkpoints.
"""

import contextlib
import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import Module
from torch.optim import Optimizer

from minigpt.checkpoint import Checkpoint
from minigpt.errors import CheckpointError, ConfigError
from minigpt.files import atomic_write, fsync

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def collect_tensors(
    model: Module, optimizers: list[Optimizer]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights and the optimizer state, named `<parameter>.<what>`, on the CPU.

    Learning rates and the like are not saved: they follow from the settings and the step.
    """
    nested = get_optimizer_state_dict(model, optimizers, options=FULL)["state"]
    return get_model_state_dict(model, options=FULL), flatten(nested)


def restore_tensors(checkpoint: Checkpoint, model: Module, optimizers: list[Optimizer]) -> None:
    """Put a checkpoint's weights and optimizer state in place; names and shapes must fit."""
    expected = get_model_state_dict(model, options=FULL)
    compare_shapes(expected, checkpoint.model, checkpoint)
    set_model_state_dict(model, checkpoint.model, options=FULL)
    if not checkpoint.optimizer:
        return  # float16 overflowed in every step so far, so no optimizer has a state yet
    fresh = get_optimizer_state_dict(model, optimizers, options=FULL)
    compare_shapes(flatten(fresh["state"]), checkpoint.optimizer, checkpoint)
    nested = {}
    for name, value in checkpoint.optimizer.items():
        parameter, _, key = name.rpartition(".")
        nested.setdefault(parameter, {})[key] = value
    set_optimizer_state_dict(model, optimizers, fresh | {"state": nested}, options=FULL)


def compare_shapes(
    expected: dict[str, Tensor], found: dict[str, Tensor], checkpoint: Checkpoint
) -> None:
    """Raise a CheckpointError that names the first tensor whose name or shape does not fit."""
    for name in sorted(expected.keys() | found.keys()):
        shapes = [tuple(t[name].shape) if name in t else "missing" for t in (expected, found)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"{name} is {shapes[0]} in the model and {shapes[1]} in the checkpoint",
                str(checkpoint.path), "use the settings of the run that wrote it",
            )  # fmt: skip


def check_unchanged(before: dict, now: dict, free: set[str], where: str) -> None:
    """Raise a ConfigError that lists every setting, except the free ones, that has changed."""
    before, now = flatten(before), flatten(now)
    changed = [
        f"{key} {before.get(key, 'not set')!r} -> {now.get(key, 'not set')!r}"
        for key in sorted(before.keys() | now.keys())
        if key not in free and before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"changed since the checkpoint: {', '.join(changed)}", where,
            "resume with the old values, or start a new run (free to change: "
            f"{', '.join(sorted(free))})",
        )  # fmt: skip


def flatten(value: dict, prefix: str = "") -> dict:
    """Return {"a": {"b": 1}} as {"a.b": 1}."""
    flat = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
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
        "device": device.type, "machine": machine, "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(), "optimizer": " + ".join(kinds),
        "torch": str(torch.__version__),
    }  # fmt: skip


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
    """Append rows to metrics.jsonl; each step of a run stands there once, also after a resume."""

    def __init__(self, path: Path, step: int, on_log: Callable[[dict], None] | None):
        atomic_write(path, "".join(rows_until(path, step)))
        self.file = path.open("a", encoding="utf-8", newline="\n")
        self.on_log = on_log

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
        fsync(self.file)


def rows_until(path: Path, step: int) -> Iterator[str]:
    """Yield the lines of a metrics file that belong to steps up to `step`, without torn ones."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                yield line + "\n"
