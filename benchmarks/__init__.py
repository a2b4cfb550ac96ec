"""Benchmarks: how fast training, generation, tokenizer and autograd are beside other packages.

A peer that is not installed, or whose clone is not named, is skipped by name.
"""

import json
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.decoding import measure_decoding
from benchmarks.derivatives import measure_autograd
from benchmarks.gpu import measure_gpu
from benchmarks.peers import installed, load_clone
from benchmarks.text import measure_tokenizer
from benchmarks.timing import Row
from benchmarks.timing import table as table
from benchmarks.training import measure_shakespeare, measure_throughput
from minigpt import __version__


@dataclass(frozen=True)
class Peers:
    """Say where the others are: clones of their repositories, and a text."""

    nanogpt: Path | None = None
    minbpe: Path | None = None
    micrograd: Path | None = None
    text: str | None = None  # Tiny Shakespeare
    chinese: str | None = None  # the novel of the data set sanguo


def measure(
    part: str, peers: Peers, out: Path, quick: bool, skip: Callable[[str], None]
) -> Iterator[Row]:
    """Yield the figures of one part; `skip` is told what cannot be measured, and why."""
    nanogpt = clone(peers.nanogpt, "model", "nanogpt", skip)
    if part == "training":
        if nanogpt is not None and peers.text is not None:
            yield from measure_shakespeare(nanogpt, peers.text, quick)
        elif peers.text is None:
            skip("time to nanoGPT's loss: no Tiny Shakespeare (give --data or MINIGPT_DATA)")
        yield from measure_throughput(nanogpt, quick)
    elif part == "generation":
        yield from measure_decoding(nanogpt, package("transformers", skip), quick)
    elif part == "tokenizer":
        minbpe = clone(peers.minbpe, "minbpe", "minbpe", skip)
        if peers.text is None:
            skip("tokenizer: no Tiny Shakespeare (give --data or MINIGPT_DATA)")
        else:
            texts = {"Tiny Shakespeare": peers.text}
            if peers.chinese is None:
                skip("tokenizer on Chinese: no sanguo (give --data or MINIGPT_DATA a folder)")
            else:
                texts["sanguo"] = peers.chinese
            yield from measure_tokenizer(minbpe, package("tiktoken", skip), texts, quick)
    elif part == "autograd":
        engine, layers = (
            clone(peers.micrograd, f"micrograd.{name}", "micrograd", skip)
            for name in ("engine", "nn")
        )
        yield from measure_autograd(engine, layers, quick)
    else:
        yield from measure_gpu(peers.text, out, quick, skip)


def clone(folder: Path | None, module: str, flag: str, skip: Callable[[str], None]):
    """Return a module of a clone, or None where none is named."""
    if folder is None:
        skip(f"{flag}: give the folder of its clone by --{flag}")
        return None
    return load_clone(folder, module)


def package(name: str, skip: Callable[[str], None]):
    """Return an installed package, or None."""
    found = installed(name)
    if found is None:
        skip(f"{name}: not installed (pip install {name})")
    return found


def report(rows: list[Row], skipped: list[str]) -> str:
    """Return bench.json: the figures, what was skipped, and where they were measured."""
    content = {
        "minigpt": __version__,
        "torch": str(torch.__version__),
        "system": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "rows": [as_json(row) for row in rows],
        "skipped": skipped,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def as_json(row: Row) -> dict:
    """Return a row as JSON can hold it: what was not reached has no value."""
    value = row.value if math.isfinite(row.value) else None
    return asdict(row) | {"value": value, "met": row.met}


def processor() -> str:
    """Name what computes here."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
