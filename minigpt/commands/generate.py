"""Let a trained model write: `generate --checkpoint DIR --prompt TEXT --max-new-tokens N`."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.commands.arguments import parse
from minigpt.generate import stream
from minigpt.runs.run import Run, open_run
from minigpt.sampling import SampleConfig
from minigpt.streaming import StopStrings, TextStream
from minigpt.support.errors import require


@dataclass(frozen=True)
class GenerateCommand:
    """Continue a prompt with a trained model and print the text as it is made."""

    checkpoint: Path
    """A run directory, or one checkpoint directory in it."""
    prompt: str = ""
    """How the text begins; empty: the model begins by itself."""
    count: int = 1
    """How many texts to write, each with the next seed."""
    stop: tuple[str, ...] = ()
    """End a text where one of these strings would come."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    sampling: SampleConfig = field(default_factory=SampleConfig)


def main(words: list[str]) -> int:
    """Run the command."""
    command = parse(GenerateCommand, "generate", words)
    require(command.count >= 1, "count", command.count, "1 or more")
    run = open_run(command.checkpoint, command.device)
    for note in run.notes:
        print(note, file=sys.stderr)
    prompt = [run.tokenizer.eot_id, *run.tokenizer.encode(command.prompt)]
    for number in range(command.count):
        seed = command.sampling.seed + number
        write(run, prompt, command, dataclasses.replace(command.sampling, seed=seed))
    return 0


def write(run: Run, prompt: list[int], command: GenerateCommand, config: SampleConfig) -> None:
    """Print one text, piece by piece."""
    text, stop = TextStream(run.tokenizer), StopStrings(command.stop)
    print(command.prompt, end="", flush=True)
    for token in stream(run.model, prompt, config, stop_ids=[run.tokenizer.eot_id]):
        print(stop.push(text.push(token)), end="", flush=True)
        if stop.found:
            break
    print(stop.push(text.flush()) + stop.flush())
