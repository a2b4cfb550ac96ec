"""A small story model in minutes, from nothing: `quickstart --out DIR`."""

import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

from minigpt.commands.arguments import parse
from minigpt.commands.pipeline import run_pipeline
from minigpt.runs.report import next_commands
from minigpt.runs.run import load_config, quickstart

ABOUT = """\
A small language model from nothing, on this computer, without a network: it reads stories of a
made-up world in English and Chinese, and learns to tell, translate and answer questions about them.
Ctrl-C stops at any time; the same command with --resume goes on."""


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
    print(ABOUT, file=sys.stderr)
    exit_code = run_pipeline(command.out, config, command.resume)
    if exit_code == 0:
        print(f"\nNext:\n{textwrap.indent(next_commands(command.out), '  ')}")
    return exit_code
