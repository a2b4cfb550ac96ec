"""Measure speed beside other packages: `bench --out DIR [--nanogpt PATH] [--minbpe PATH] ...`."""

import importlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

import minigpt
from minigpt.commands.arguments import parse
from minigpt.commands.pipeline import run_pipeline
from minigpt.machine.device import choose_device
from minigpt.runs.run import gpu
from minigpt.support.errors import ConfigError
from minigpt.support.files import atomic_write, check_writable, refuse_existing

Part = Literal["training", "generation", "tokenizer", "autograd", "gpu"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class BenchCommand:
    """Measure training, generation, tokenizer and autograd beside the packages that are here.

    All take turns within the run and medians are compared, so a table is good for ratios. Close
    other programs before. A clone that you name is Python code that is run.
    """

    out: Path
    """Directory for bench.json and bench.md; it is made if it is not there."""
    nanogpt: Path | None = None
    """Folder with a clone of github.com/karpathy/nanoGPT."""
    minbpe: Path | None = None
    """Folder with a clone of github.com/karpathy/minbpe."""
    micrograd: Path | None = None
    """Folder with a clone of github.com/karpathy/micrograd."""
    data: Path | None = None
    """Tiny Shakespeare, or the folder of public data sets (None: what MINIGPT_DATA names)."""
    only: tuple[Part, ...] = ()
    """Parts to measure (none named: all)."""
    quick: bool = False
    """Tiny sizes, to see that everything runs; the figures then mean nothing."""


def main(words: list[str]) -> int:
    """Print what was measured and what was skipped; write both."""
    command = parse(BenchCommand, "bench", words)
    check_out(command.out)
    command.out.mkdir(parents=True, exist_ok=True)
    benchmarks = load_benchmarks()
    clones = command.nanogpt, command.minbpe, command.micrograd
    peers = benchmarks.Peers(*clones, find_text(command.data), find_chinese(command.data))
    rows = []
    skipped: dict[str, None] = {}  # each once, in order

    def skip(why: str) -> None:
        skipped[why] = None

    for part in command.only or PARTS:
        print(f"{part} ...", file=sys.stderr, flush=True)
        rows += benchmarks.measure(part, peers, command.out, command.quick, skip)
        if part == "gpu" and choose_device().type == "cuda" and not command.quick:
            rows.append(benchmarks.Row(**train_storyworld(command.out / "storyworld_30m")))
        atomic_write(command.out / "bench.json", benchmarks.report(rows, list(skipped)))
    text = "\n".join([benchmarks.table(rows), "", *(f"skipped: {why}" for why in skipped)])
    atomic_write(command.out / "bench.md", text + "\n")
    print(text)
    return 0


def check_out(out: Path) -> None:
    """Make sure that the tables can be written, and replace those of an earlier run at most."""
    check_writable(out)
    try:
        found = json.loads((out / "bench.json").read_text(encoding="utf-8"))
        is_ours = {"minigpt", "rows", "skipped"} <= found.keys()
    except (OSError, ValueError, RecursionError, AttributeError):
        is_ours = False
    if not is_ours:
        refuse_existing([out / "bench.json", out / "bench.md"], "choose another --out")


def load_benchmarks() -> ModuleType:
    """Import the folder benchmarks/ of the repository; what pip installs has none."""
    root = Path(minigpt.__file__).resolve().parents[1]
    if not (root / "benchmarks").is_dir():
        raise ConfigError(
            "the benchmarks do not come with the installed package",
            "bench",
            "clone the course's repository and run the command there",
        )
    sys.path.insert(0, str(root))
    return importlib.import_module("benchmarks")


def train_storyworld(out: Path) -> dict:
    """Train the preset gpu, 30 million parameters, with its report; return how near it came."""
    run_pipeline(out, gpu(), resume=False)
    found = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {
        "part": "gpu",
        "what": "30M on storyworld: validation loss",
        "value": found["val_loss"],
        "unit": "nats a token",
        "note": f"report and metrics in {out.name}",
    }


def find_chinese(data: Path | None) -> str | None:
    """Return the Chinese novel of the data set sanguo, or None where it is not."""
    place = data if data is not None else Path(os.environ.get("MINIGPT_DATA", "nowhere"))
    path = place / "sanguo" / "sanguo.txt"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def find_text(data: Path | None) -> str | None:
    """Return Tiny Shakespeare, or None where it is not."""
    places = [data] if data is not None else [Path(os.environ.get("MINIGPT_DATA", "nowhere"))]
    for place in places:
        for path in (place, place / "tinyshakespeare" / "input.txt"):
            if path.is_file():
                return path.read_text(encoding="utf-8")
    if data is not None:
        raise ConfigError(
            "no Tiny Shakespeare there",
            str(data),
            "get it by: python -m minigpt data download tinyshakespeare, or name its input.txt",
        )
    return None
