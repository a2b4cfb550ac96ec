"""Choose where and in which precision to compute, and tell beforehand how much memory it takes.

Knows nothing of training; asks the machine, and guesses nothing that it can measure.
"""

import contextlib
import os
import re
from contextlib import AbstractContextManager

import psutil
import torch

from minigpt.attention import EXPLICIT_ON_CPU_UP_TO
from minigpt.errors import ConfigError
from minigpt.gpt import GPTConfig, count_parameters

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device ("auto": a CUDA GPU, an Apple GPU, or the CPU, in this order)."""
    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    there = [device for device, is_usable in usable.items() if is_usable]
    if name == "auto":
        return torch.device(there[0])
    numbered = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if name not in there + numbered:
        raise ConfigError(
            f"device {name!r} is not here", "--device", f"choose auto or {', '.join(there)}"
        )
    return torch.device(name)


def choose_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """Return the precision of matrix products ("auto": bfloat16 where that is fast)."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and cpu_is_fast_at_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise ConfigError(
            f"dtype {name!r} is unknown", "--dtype", f"choose auto, {', '.join(DTYPES)}"
        )
    if name == "float16" and device.type != "cuda":
        raise ConfigError(
            "float16 trains on CUDA GPUs only", "--dtype", "choose bfloat16 or float32"
        )
    return DTYPES[name]


def cpu_is_fast_at_bfloat16() -> bool:
    """Tell whether this CPU has bfloat16 matrix instructions (AMX or AVX512-BF16).

    Without them bfloat16 is slower than float32. oneDNN, which does the products, can be held back
    by the environment variable ONEDNN_MAX_CPU_ISA.
    """
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if allowed not in ("DEFAULT", "ALL") and not re.search("BF16|FP16|AMX", allowed):
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Return the context in which matrix products use `dtype` and weights stay in float32."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def available_memory(device: torch.device) -> int:
    """Return the bytes that a new process could take on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    if os.name == "posix":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free = min(free, max(limit - psutil.Process().memory_info().vms, 0))
    return free


def training_memory(config: GPTConfig, micro_batch_size: int, dtype: torch.dtype) -> int:
    """Estimate the bytes that training takes: weights and optimizer state, then activations.

    16 bytes a parameter: weight, gradient and two AdamW moments in float32. The activations that
    the backward pass needs are counted tensor by tensor; attention's scores are among them where
    it is explicit on CPUs (GPUs, always fused, take less).
    """
    c = config.resolved()
    width = torch.finfo(dtype).bits // 8
    tokens = micro_batch_size * c.block_size
    block = 8 * c.n_embd * 4 + 4 * c.n_hidden * width + 6 * c.n_head * c.head_dim * width
    scores = 2 * c.n_head * c.block_size * width if c.block_size <= EXPLICIT_ON_CPU_UP_TO else 0
    logits = 3 * c.vocab_size * 4
    return 16 * count_parameters(c) + tokens * (c.n_layer * (block + scores) + logits)


def check_memory(config: GPTConfig, micro_batch_size: int, device: torch.device,
                 dtype: torch.dtype) -> int:  # fmt: skip
    """Return the estimated bytes of training, or raise a ConfigError naming smaller settings."""
    needed, free = training_memory(config, micro_batch_size, dtype), available_memory(device)
    if needed <= free:
        return needed
    fitting = max(int(micro_batch_size > 1), int(micro_batch_size * free / needed / 2))
    even = 2 * config.n_head  # each head's width must be
    halves = {
        "micro-batch-size": fitting, "block-size": config.block_size // 2,
        "n-embd": config.n_embd // 2 // even * even, "n-layer": config.n_layer // 2,
    }  # fmt: skip
    smaller = [f"--{name} {value}" for name, value in halves.items() if value]
    raise ConfigError(
        f"training would take about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
        f"device {device}", f"try {', '.join(smaller[:3])}",
    )  # fmt: skip
