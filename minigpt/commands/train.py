"""Train a model: `train --data FILE|DIR|storyworld --out DIR --max-steps N [--resume]`.

With several processes: `torchrun --nproc-per-node N -m minigpt train ...`.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from minigpt.commands.arguments import parse, stored_settings
from minigpt.commands.pipeline import run_pipeline
from minigpt.machine.device import choose_device
from minigpt.machine.distributed import PeerError, connected
from minigpt.runs.run import PRESETS, RunConfig, default_preset, load_config


@dataclass(frozen=True)
class TrainCommand:
    """Train a model on text; Ctrl-C leaves a checkpoint, --resume goes on from it.

    Begin with the name of a preset for another size: train
    tiny|laptop|gpu|card_16gb|card_24gb|h200|eight_gpus --out DIR. Several processes train together
    with torchrun --nproc-per-node N -m minigpt train --out DIR; --shard splits the model.
    """

    out: Path
    """Directory of the run; it is made if it is not there."""
    resume: bool = False
    """Go on from the run's newest checkpoint, with its settings."""
    config: Path | None = None
    """A config.json, or a run that has one: its settings are the defaults; flags still count."""
    run: RunConfig = dataclasses.field(default_factory=RunConfig)


def main(words: list[str]) -> int:
    """Run the command; exit 0, or 130 / 143 after Ctrl-C / a request to end."""
    preset = words[0] if words and words[0] in PRESETS else None
    words = words[1:] if preset else words
    stored = stored_settings(words, f"the preset {preset}" if preset else None)
    settings = load_config(stored) if stored else PRESETS[preset or default_preset()]()
    command = parse(TrainCommand, "train", words, TrainCommand(tyro.MISSING, run=settings))
    try:
        with connected(choose_device(command.run.training.device)):
            return run_pipeline(command.out, command.run, command.resume)
    except PeerError as error:
        return error.exit_code  # the other process says what it was
