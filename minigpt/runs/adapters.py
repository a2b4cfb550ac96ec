"""Adapters: a run that trained thin matrices alone (LoRA), and says to which base they belong.

adapter.json stands beside the run's config.json. Its checkpoints hold what was trained, some 100
kB, so opening such a run opens its base first. Knows nothing of how the base is opened.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from minigpt.gpt import GPT
from minigpt.lora import LoRAConfig, add_lora, fingerprint_weights
from minigpt.runs.shipped import is_shipped
from minigpt.runs.side_files import read_side_file, write_side_file
from minigpt.support.errors import CheckpointError

FILE = "adapter.json"


@dataclass(frozen=True)
class Adapter:
    """What adapter.json says: the shape of the thin matrices, and the base's place and weights."""

    lora: LoRAConfig
    base: str
    base_sha256: str

    def base_path(self, run_dir: Path) -> Path:
        """Return where the base is: the name of a shipped model, or a path seen from the run."""
        return Path(self.base) if is_name(Path(self.base)) else run_dir / self.base


def begin_adapter(model: GPT, lora: LoRAConfig, base: Path, run_dir: Path) -> GPT:
    """Give the base's model thin matrices to train, and write adapter.json into the run."""
    sha256 = fingerprint_weights(model.state_dict())
    place = str(base) if is_name(base) else seen_from(run_dir, base)
    content = {"lora": dataclasses.asdict(lora), "base": place, "base_sha256": sha256}
    run_dir.mkdir(parents=True, exist_ok=True)
    write_side_file(run_dir / FILE, content)
    return add_lora(model, lora)


def is_name(base: Path) -> bool:
    """Tell whether a base is named, not found by its place: little, or hf: and a name."""
    return is_shipped(base) or str(base).startswith("hf:")


def seen_from(run_dir: Path, base: Path) -> str:
    """Return the base's path from the run's, so that both can be moved together."""
    try:
        return Path(os.path.relpath(base.resolve(), run_dir.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return str(base.resolve())


def read_adapter(run_dir: Path) -> Adapter | None:
    """Return what a run's adapter.json says; None for a run that has its own weights."""

    def build(content: dict) -> Adapter:
        return Adapter(LoRAConfig(**content.pop("lora")), **content)

    return read_side_file(run_dir / FILE, build, "an adapter")


def adapt(base: GPT, adapter: Adapter, run_dir: Path) -> GPT:
    """Give an opened base the adapter's thin matrices, untrained yet; refuse another base."""
    if fingerprint_weights(base.state_dict()) != adapter.base_sha256:
        raise CheckpointError(
            f"the adapter was trained beside other weights than those of {adapter.base}",
            str(run_dir / FILE),
            "bring back the base as it was, or train the adapter again",
        )
    return add_lora(base, adapter.lora)
