"""Plan a run: how much memory training takes, and what would fit.

Sizes are counted tensor by tensor. Trains nothing; `commands.timing` tells how long a run lasts.
"""

import dataclasses
import itertools
from collections.abc import Callable

import torch

from minigpt.counts import count_parameters, matrix_parameters
from minigpt.gpt import GPTConfig
from minigpt.machine.device import available_memory
from minigpt.support.errors import ConfigError


def training_memory(
    config: GPTConfig, micro_batch_size: int, dtype: torch.dtype, shards: int = 1
) -> int:
    """Estimate the bytes that training takes: weights and optimizer state, then activations.

    16 bytes per parameter: weight, gradient and two AdamW moments in float32; of `shards` processes
    each has its share, and gathers weights and gradients of two blocks and the tables. The
    activations that the backward pass needs are counted tensor by tensor; the weights of attention
    are not among them, as the fused kernel keeps none.
    """
    c = config.resolved()
    width = torch.finfo(dtype).bits // 8
    tokens = micro_batch_size * c.block_size
    heads = (5 * c.n_head + 4 * c.n_kv_head) * c.head_dim  # in float32, as norms are
    hidden = c.n_hidden * (c.n_active if c.mlp == "experts" else 1)
    block = (6 * c.n_embd + heads) * 4 + 4 * hidden * width
    logits = 3 * c.vocab_size * 4
    held = 16 * count_parameters(c) // shards
    if shards > 1:
        held += 8 * (2 * matrix_parameters(c) + c.vocab_size * c.n_embd)
    return held + tokens * (c.n_layer * block + logits)


def check_memory(
    config: GPTConfig, micro_batch_size: int, device: torch.device, dtype: torch.dtype,
    shards: int = 1, processes: int = 1,
) -> int:  # fmt: skip
    """Return the estimated bytes of training, or raise a ConfigError naming settings that fit.

    processes: how many share this machine; a GPU has one.
    """
    free = available_memory(device) // (1 if device.type == "cuda" else processes)
    needed = training_memory(config, micro_batch_size, dtype, shards)
    if needed <= free:
        return needed

    def fits(settings: dict[str, int]) -> bool:
        smaller = {"micro_batch_size": micro_batch_size} | settings
        rows = smaller.pop("micro_batch_size")
        return training_memory(dataclasses.replace(config, **smaller), rows, dtype, shards) <= free

    found = smaller_settings(config, micro_batch_size, fits)
    raise ConfigError(
        f"training would take about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
        f"device {device}", f"try {', or '.join(found)}" if found else
        "free some memory: no smaller model fits either",
    )  # fmt: skip


def smaller_settings(
    config: GPTConfig, micro_batch_size: int, fits: Callable[[dict[str, int]], bool]
) -> list[str]:
    """Return up to three sets of flags with which training fits, changing as little as possible."""
    names = ("n_layer", "n_embd", "block_size")
    values = {"micro_batch_size": micro_batch_size} | {n: getattr(config, n) for n in names}
    found: list[str] = []
    for count in range(1, len(values) + 1):
        for chosen in itertools.combinations(values, count):
            now, before = {name: values[name] for name in chosen}, {}
            while now != before and not fits(now):
                before, now = now, {n: half(config, n, v) for n, v in now.items()}
            flags = [f"--{n.replace('_', '-')} {v}" for n, v in now.items() if v != values[n]]
            if fits(now) and " ".join(flags) not in found:
                found.append(" ".join(flags))
    return found[:3]


def half(config: GPTConfig, name: str, value: int) -> int:
    """Return half of a setting, or the same where it cannot be less; heads stay even and whole."""
    unit = 2 * config.n_head if name == "n_embd" else 1
    return value // 2 // unit * unit or value
