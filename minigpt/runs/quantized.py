"""Quantized runs: quantized.json says in how many bits a run keeps its weights, and whose they are.

It stands beside the run's config.json. The checkpoint of such a run holds codes and scales and no
state of an optimizer. Knows nothing of how runs are opened.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from minigpt.quantize import QuantConfig
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.support.files import atomic_write

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
    content = {"format": 1, **dataclasses.asdict(quantized.config), "source": quantized.source}
    atomic_write(run_dir / FILE, json.dumps(content, indent=2) + "\n")


def read_quantized(run_dir: Path) -> Quantized | None:
    """Return what a run's quantized.json says; None for a run that has plain weights."""
    path = run_dir / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON ({error})", str(path), "restore the file") from None
    try:
        if content.pop("format") != 1:
            raise CheckpointError(
                "written by a newer version", str(path), "install that version of minigpt"
            )
        source = str(content.pop("source"))
        return Quantized(QuantConfig(**content), source)
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        reason = error.what if isinstance(error, ConfigError) else error
        what = f"not the settings of a quantized run: {reason}"
        raise CheckpointError(what, str(path), "restore the file") from None


def refuse_quantized_run(run_dir: Path, doing: str) -> None:
    """Raise ConfigError where a run is quantized; the remedy names the run to use instead."""
    if quantized := read_quantized(run_dir):
        raise ConfigError(
            f"the run keeps its weights in {quantized.config.bits} bits and cannot {doing}",
            str(run_dir),
            f"use the run that it was made from: {quantized.source}",
        )
