"""Quantized runs: quantized.json says in how many bits a run keeps its weights, and whose they are.

It stands beside the run's config.json. The checkpoint of such a run holds codes and scales and no
state of an optimizer. Knows nothing of how runs are opened.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from minigpt.quantize import QuantConfig
from minigpt.runs.side_files import read_side_file, write_side_file
from minigpt.support.errors import ConfigError

FILE = "quantized.json"


@dataclass(frozen=True)
class Quantized:
    """What quantized.json says: bits and groups, and the run whose weights were rounded.

    source: the name of a shipped or published model, or a path seen from the run.
    """

    config: QuantConfig
    source: str


def write_quantized(run_dir: Path, quantized: Quantized) -> None:
    """Write quantized.json into a run's directory."""
    content = dataclasses.asdict(quantized.config)
    write_side_file(run_dir / FILE, {**content, "source": quantized.source})


def read_quantized(run_dir: Path) -> Quantized | None:
    """Return what a run's quantized.json says; None for a run that has plain weights."""

    def build(content: dict) -> Quantized:
        source = str(content.pop("source"))
        return Quantized(QuantConfig(**content), source)

    return read_side_file(run_dir / FILE, build, "a quantized run")


def refuse_quantized_run(run_dir: Path, doing: str) -> None:
    """Raise ConfigError where a run is quantized; the remedy names the run to use instead."""
    if quantized := read_quantized(run_dir):
        raise ConfigError(
            f"the run keeps its weights in {quantized.config.bits} bits and cannot {doing}",
            str(run_dir),
            f"use the run that it was made from: {quantized.source}",
        )
