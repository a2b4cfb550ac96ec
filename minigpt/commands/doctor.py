"""Check the computer: `doctor` prints what minigpt found and whether it is enough."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from minigpt import __version__
from minigpt.commands.arguments import parse
from minigpt.gpt import GPT, GPTConfig
from minigpt.machine.device import autocast, available_memory, choose_device, choose_dtype
from minigpt.runs.run import default_preset
from minigpt.support.files import atomic_write

NEEDED_MEMORY = 3e9
NEEDED_DISK = 1e9


@dataclass(frozen=True)
class DoctorCommand:
    """Check Python, packages, memory, disk and device, and take one small training step."""

    out: Path = Path()
    """Directory where runs will be written."""


def main(words: list[str]) -> int:
    """Print one line for each check; exit 1 if one failed."""
    command = parse(DoctorCommand, "doctor", words)
    checks = [
        check_python(),
        check_packages(),
        check_device(),
        check_memory(),
        check_disk(command.out),
        check_writing(command.out),
        check_training(),
    ]
    for good, name, found in checks:
        print(f"{'ok  ' if good else 'FAIL'}  {name:<10}{found}")
    print(f"Presets: train takes {default_preset()!r} here unless you name another.")
    return 0 if all(good for good, _, _ in checks) else 1


def check_python() -> tuple[bool, str, str]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    good = sys.version_info >= (3, 11)
    return good, "Python", found if good else f"{found}: install Python 3.11 or newer"


def check_packages() -> tuple[bool, str, str]:
    names = ("torch", "numpy", "tokenizers", "safetensors")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return True, "packages", f"minigpt {__version__}, {versions}"


def check_device() -> tuple[bool, str, str]:
    device = choose_device()
    dtype = str(choose_dtype(device)).removeprefix("torch.")
    cores = f"{psutil.cpu_count(logical=False) or os.cpu_count()} cores"
    return (
        True,
        "device",
        f"{device}, {cores}, {torch.get_num_threads()} threads, computes in {dtype}",
    )


def check_memory() -> tuple[bool, str, str]:
    free = available_memory(choose_device())
    advice = "" if free >= NEEDED_MEMORY else "; close programs, or use the preset tiny"
    return not advice, "memory", f"{free / 1e9:.1f} GB free, 3 GB wanted{advice}"


def check_disk(out: Path) -> tuple[bool, str, str]:
    place = next(p for p in (out, *out.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free
    advice = "" if free >= NEEDED_DISK else "; free some space, or name another --out"
    return not advice, "disk", f"{free / 1e9:.1f} GB free, 1 GB wanted{advice}"


def check_writing(out: Path) -> tuple[bool, str, str]:
    try:
        with tempfile.TemporaryDirectory(dir=out if out.is_dir() else None) as folder:
            atomic_write(Path(folder) / "probe", b"minigpt")
    except OSError as error:
        return False, "writing", f"{error.strerror}: name a directory you may write to by --out"
    return True, "writing", "files can be written and replaced"


def check_training() -> tuple[bool, str, str]:
    device = choose_device()
    model = GPT(GPTConfig(vocab_size=256, block_size=64)).to(device)
    idx = torch.randint(256, (8, 64), device=device)
    start = time.perf_counter()
    with autocast(device, choose_dtype(device)):
        loss = model(idx, idx)[1]
    loss.backward()
    good = bool(loss.isfinite())
    found = f"one step of {8 * 64} tokens in {time.perf_counter() - start:.2f} s"
    return (
        good,
        "training",
        found if good else f"{found}, but the loss is not a number: reinstall torch",
    )
