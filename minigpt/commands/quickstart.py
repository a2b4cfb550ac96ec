"""A small story model in minutes, from nothing: `quickstart --out DIR`."""

from dataclasses import dataclass, replace
from pathlib import Path

from minigpt.commands.arguments import parse
from minigpt.commands.pipeline import run_pipeline
from minigpt.runs.run import load_config, quickstart


@dataclass(frozen=True)
class QuickstartCommand:
    """Train a model that tells stories, from nothing: minutes on two CPU cores, offline."""

    out: Path = Path("runs/quickstart")
    """Directory of the run; it is made if it is not there."""
    max_steps: int | None = None
    """Steps of training: more take longer and learn more. Left out: what the run or preset says."""
    resume: bool = False
    """Go on after a Ctrl-C or a crash."""


def main(words: list[str]) -> int:
    """Run the command, then say what to try next."""
    command = parse(QuickstartCommand, "quickstart", words)
    config = load_config(command.out) if command.resume else quickstart()
    if command.max_steps is not None:
        config = replace(config, training=replace(config.training, max_steps=command.max_steps))
    exit_code = run_pipeline(command.out, config, command.resume)
    if exit_code == 0:
        print(
            "\nNext:\n"
            f"  python -m minigpt chat --checkpoint {command.out}\n"
            f"  python -m minigpt generate --checkpoint {command.out} --count 3\n"
            "  python -m minigpt train --data my.txt --out runs/my\n"
            "  jupyter lab chapters"
        )
    return exit_code
