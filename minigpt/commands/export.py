"""Write a model for other programs: `export --checkpoint RUN --out DIR [--format hf|gguf]`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minigpt.commands.arguments import parse
from minigpt.counts import count_parameters
from minigpt.export import GGUF_FILE, HF_FILES, export_folder, export_gguf
from minigpt.runs.run import open_run
from minigpt.support.files import check_writable, refuse_existing


@dataclass(frozen=True)
class ExportCommand:
    """Write a trained model for other programs, in float32 and bit for bit.

    hf: a folder that transformers and vLLM open, as GPT-2, Llama or Qwen3, whichever the model is.
    gguf: one file for llama.cpp and the programs that are built on it (needs the package gguf).
    """

    checkpoint: Path
    """A run directory, one checkpoint directory in it, little or little-base, the folder of a
    published model (GPT-2, Llama 3, Qwen3), or its name: hf:Qwen/Qwen3-0.6B."""
    out: Path
    """Directory for the files; it is made if it is not there, and nothing in it is replaced."""
    format: Literal["hf", "gguf"] = "hf"
    """hf: for transformers and vLLM; gguf: for llama.cpp."""


def main(words: list[str]) -> int:
    """Run the command."""
    command = parse(ExportCommand, "export", words)
    out, is_gguf = command.out, command.format == "gguf"
    check_writable(out)
    names = (GGUF_FILE,) if is_gguf else HF_FILES
    refuse_existing((out / name for name in names), "choose another --out")
    run = open_run(command.checkpoint, "cpu")
    for note in run.notes:
        print(note, file=sys.stderr)
    if is_gguf:
        family = export_gguf(run.model, run.tokenizer, out / GGUF_FILE)
        use = f"llama-cli -m {out / GGUF_FILE}"
    else:
        family = export_folder(run.model, run.tokenizer, out)
        use = f"transformers.AutoModelForCausalLM.from_pretrained({str(out)!r})"
    print(f"{count_parameters(run.config.model):,} parameters as {family}, written to {out}")
    print(f"open it: {use}")
    return 0
