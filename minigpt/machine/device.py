"""Choose where and in which precision to compute, and measure what the machine has.

Knows nothing of the training loop; asks the machine, and guesses nothing that it can measure.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import torch

from minigpt.support.errors import ConfigError, MinigptError, TrainingError

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


def logits_at_once(device: torch.device) -> int:
    """Return how many logits to compute at a time: on a CPU as many as its own memory holds."""
    return 2**20 if device.type == "cpu" else 2**28  # 4 MB and 1 GB in float32


def can_compile(device: torch.device) -> bool:
    """Tell whether torch.compile can work: on CPUs it needs a C++ compiler."""
    names = [os.environ.get("CXX", "c++"), "g++", "clang++", "cl"]
    return device.type != "cpu" or any(map(shutil.which, names))


def require_compiler(device: torch.device) -> None:
    """Raise a ConfigError where torch.compile cannot work."""
    if not can_compile(device):
        raise ConfigError(
            "compiling for a CPU needs a C++ compiler, and none is found",
            "--compile",
            "install g++ or clang, or leave --compile out",
        )


# ---- how much memory there is


def available_memory(device: torch.device) -> int:
    """Return the bytes that a new process could take on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = min([psutil.virtual_memory().available, *cgroup_memory()])
    if os.name == "posix":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free = min(free, max(limit - psutil.Process().memory_info().vms, 0))
    return free


def cgroup_memory(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """Yield the bytes that each limit on this process's group leaves: containers set such limits.

    Linux alone has them. A group's own limit counts, and those of the groups around it. Cached
    files count as free: they make room when it is needed.
    """
    names = {  # of version 2 and version 1: the limit, what is in use, what of it is cached
        "": ("memory.max", "memory.current", "inactive_file"),
        "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            base, (limit, used, cached) = root / controllers, names[controllers]
            group = base / path.strip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(base):
                    yield from group_memory(folder / limit, folder / used, cached)


def group_memory(limit: Path, used: Path, cached: str) -> Iterator[int]:
    """Yield what one group may still take, where it has a limit."""
    with contextlib.suppress(OSError, ValueError):  # "max" is no limit
        free = int(limit.read_text("utf-8")) - int(used.read_text("utf-8"))
        for line in (limit.parent / "memory.stat").read_text("utf-8").splitlines():
            name, value = line.split()
            free += int(value) if name == cached else 0
        yield max(free, 0)


# ---- how fast it is


def matmul_flops(
    device: torch.device, dtype: torch.dtype, size: int | None = None, seconds: float = 0.3
) -> float:
    """Measure how many operations per second products of square matrices reach: the best of some.

    size: rows and columns (None: 2,048, on a GPU 8,192).
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # one number: until it comes, a GPU has only been asked
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def make_scaler(device: torch.device, dtype: torch.dtype) -> torch.amp.GradScaler:
    """Return what keeps float16 gradients from vanishing; for other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


@contextlib.contextmanager
def memory_advice(step: int, rows: int, T: int) -> Iterator[None]:
    """Turn the ways in which memory runs out into one error that says what to make smaller."""
    try:
        yield
    except MinigptError:
        raise
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        signs = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, MemoryError) and not any(sign in text for sign in signs):
            raise
        if rows > 1:
            advice = f"micro_batch_size {rows // 2} (same result, slower)"
        else:
            advice = f"block_size {max(T // 2, 1)} or a smaller model"
        raise TrainingError(
            f"out of memory with {rows} rows of {T} tokens", f"step {step}", f"try {advice}"
        ) from error
