"""Generate text with a trained model: `generate --checkpoint DIR --prompt TEXT`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.api import load
from minigpt.commands.arguments import parse
from minigpt.sampling import SampleConfig
from minigpt.support.errors import require


@dataclass(frozen=True)
class GenerateCommand:
    """Generate text with a trained model: continue a prompt, and print the text as it is made."""

    checkpoint: Path
    """A run directory, one checkpoint directory in it, little or little-base, the folder of a
    published model (GPT-2, Llama 3, Qwen3), or its name: hf:Qwen/Qwen3-0.6B."""
    prompt: str = ""
    """How the text begins; empty: the model begins by itself."""
    count: int = 1
    """How many texts to write, each with the next seed."""
    stop: tuple[str, ...] = ()
    """Stop generating before any of these strings."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    sampling: SampleConfig = field(default_factory=SampleConfig)


def main(words: list[str]) -> int:
    """Run the command."""
    command = parse(GenerateCommand, "generate", words)
    require(command.count >= 1, "count", command.count, "1 or more")
    model = load(command.checkpoint, command.device)
    for note in model.run.notes:
        print(note, file=sys.stderr)
    for number in range(command.count):
        seed = command.sampling.seed + number
        pieces = model.stream(
            command.prompt, stop=command.stop, sampling=command.sampling, seed=seed
        )
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    return 0
