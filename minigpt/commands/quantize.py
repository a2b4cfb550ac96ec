"""Make a model smaller: `quantize --checkpoint RUN --out DIR [--bits 8|4] [--group row|N]`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.commands.arguments import parse
from minigpt.counts import count_parameters
from minigpt.quantize import QuantConfig
from minigpt.runs.run import open_run, save_quantized
from minigpt.support.files import check_writable, refuse_existing

FILES = ("config.json", "tokenizer.json", "quantized.json", "checkpoints")


@dataclass(frozen=True)
class QuantizeCommand:
    """Write a copy of a trained model that keeps its weights in 8 or 4 bits.

    The copy is a run like any other for chat, generate, serve and evaluate. It cannot be trained or
    exported: for that, use the run that it was made from.
    """

    checkpoint: Path
    """A run directory, one checkpoint directory in it, little or little-base, the folder of a
    published model (GPT-2, Llama 3, Qwen3), or its name: hf:Qwen/Qwen3-0.6B."""
    out: Path
    """Directory for the copy; it is made if it is not there, and nothing in it is replaced."""
    quantization: QuantConfig = field(default_factory=QuantConfig)


def main(words: list[str]) -> int:
    """Run the command."""
    command = parse(QuantizeCommand, "quantize", words)
    check_writable(command.out)
    refuse_existing((command.out / name for name in FILES), "choose another --out")
    run = open_run(command.checkpoint, "cpu")
    for note in run.notes:
        print(note, file=sys.stderr)
    file = save_quantized(run, command.quantization, command.out, command.checkpoint)
    n, size = count_parameters(run.model.config), file.stat().st_size
    print(
        f"{n:,} parameters in {size / 1e6:.2f} MB, {8 * size / n:.2f} bits each "
        f"(float32: {4 * n / 1e6:.2f} MB), written to {command.out}"
    )
    print(f"use it as any run: python -m minigpt generate --checkpoint {command.out}")
    return 0
