"""Make a model that comes with the package out of a finished run: weights, record, card and sums.

    python tools/make_little.py RUN --base CHECKPOINT --command TEXT --machine TEXT [--out DIR]

RUN is the run's directory: its newest checkpoint is the tuned model. CHECKPOINT is one checkpoint
directory of the same run, the last before it learned to answer: keep it with --keep-checkpoints, or
copy it aside. TEXT is the command that made the run, and a few words on the kind of machine. All
files hold what the run holds; nothing is measured here.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

from minigpt.data.corpora import GENERATED
from minigpt.gpt import GPT
from minigpt.runs.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    safetensors_pieces,
    write_file,
)
from minigpt.runs.report import report_text
from minigpt.runs.run import RunConfig, check_tokenizer, load_config, load_weights, save_config
from minigpt.runs.shipped import MODELS, SUMS
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.support.files import atomic_write
from minigpt.tokenizer import load_tokenizer

MOST_BYTES = 5_000_000  # of all weights together


def make_model(run: Path, base: Path, out: Path, command: str, machine: str) -> None:
    """Write the folder of a model that comes with the package."""
    config = load_config(run)
    check_portable(config, run)
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    tuned = latest_checkpoint(run)
    if tuned is None:
        raise CheckpointError("no checkpoint that verifies", str(run), "train first")
    checkpoints = {"base": load_checkpoint(base), "tuned": tuned}
    check_order(checkpoints, config, report["steps"])
    out.mkdir(parents=True, exist_ok=True)
    save_config(out, config)
    shutil.copyfile(run / "tokenizer.json", out / "tokenizer.json")
    shutil.copyfile(run / "report.json", out / "report.json")
    tokenizer = load_tokenizer(out / "tokenizer.json")
    for name, checkpoint in checkpoints.items():
        check_tokenizer(checkpoint, tokenizer, run)
        facts = {"step": str(checkpoint.step), "tokenizer_sha256": tokenizer.fingerprint}
        weights = half_weights(config, checkpoint)
        write_file(out / f"{name}.safetensors", safetensors_pieces(weights, facts))
    size = sum((out / f"{name}.safetensors").stat().st_size for name in checkpoints)
    if size > MOST_BYTES:
        what = f"the weights take {size:,} bytes, more than {MOST_BYTES:,}"
        raise ConfigError(what, str(out), "train a smaller model")
    atomic_write(out / "README.md", record(config, checkpoints, report, command, machine))
    write_sums(out)


def check_portable(config: RunConfig, run: Path) -> None:
    """Refuse a run whose settings name a file, which nobody else has."""
    if config.data not in GENERATED or config.tokenizer not in ("bpe", "char"):
        raise ConfigError(
            f"its settings name a file ({config.data}, {config.tokenizer})",
            str(run / "config.json"),
            "ship a run on a generated corpus, with a tokenizer of its own",
        )


def check_order(checkpoints: dict[str, Checkpoint], config: RunConfig, steps: int) -> None:
    """Make sure that the card is that of the tuned model, and that the base is older."""
    base, tuned = checkpoints["base"], checkpoints["tuned"]
    if tuned.step != steps:
        what = f"the card is that of step {steps}, the newest checkpoint of step {tuned.step}"
        raise CheckpointError(what, str(tuned.path), "evaluate the run again")
    if base.state["facts"] != tuned.state["facts"]:
        raise CheckpointError("another run", str(base.path), "give a checkpoint of the same run")
    answers_from = round((1 - config.tuning_fraction) * config.training.max_steps)
    if config.dialogue_share and base.step > answers_from:
        what = f"step {base.step} has begun to learn answers (from {answers_from} on)"
        raise CheckpointError(what, str(base.path), "give an older checkpoint")


def half_weights(config: RunConfig, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return a checkpoint's weights in float16; a matrix that has two names stands there once."""
    model = GPT(config.model)
    load_weights(model, checkpoint)
    weights = {name: weight.detach().half() for name, weight in model.named_parameters()}
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise CheckpointError(
                f"{name} overflows in float16", str(checkpoint.path), "ship float32"
            )
    return weights


def record(
    config: RunConfig, checkpoints: dict[str, Checkpoint], report: dict, command: str, machine: str
) -> str:
    """Return README.md: what the folder holds, how it was made, and the card."""
    versions = checkpoints["tuned"].manifest["versions"]
    seconds = report.get("seconds", {})
    parts = ", ".join(f"{name} {value:,.0f}" for name, value in seconds.items() if name != "total")
    settings = ", ".join(
        f"{name} {value}" for name, value in dataclasses.asdict(config.model.resolved()).items()
    )
    card = report_text(report).replace("# Report", "## Report card", 1).strip()
    return f"""# A model that comes with minigpt

`python -m minigpt chat` talks to it; `--checkpoint little` and `minigpt.load("little")` use it, and
`little-base` is the same model before it learned to answer. `tools/make_little.py` wrote this
folder.

| file | holds |
| --- | --- |
| `tuned.safetensors` | the weights after step {checkpoints["tuned"].step:,}, in float16 |
| `base.safetensors` | the weights after step {checkpoints["base"].step:,}, in float16 |
| `config.json`, `tokenizer.json` | the settings of the run; the vocabulary |
| `report.json` | the report card of the run, which is also below |
| `SHA256SUMS` | the SHA-256 of each file: `sha256sum -c SHA256SUMS` |

## How it was made

| | |
| --- | --- |
| command | `{command}` |
| machine | {machine} |
| seconds | {seconds.get("total", 0):,.0f} in all: {parts} |
| versions | {", ".join(f"{name} {version}" for name, version in versions.items())} |
| model | {settings} |

{card}
"""


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS for all other files of a folder, as `sha256sum` does."""
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    atomic_write(folder / SUMS, "".join(lines))


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--out", type=Path, default=MODELS / "little")
    words = parser.parse_args()
    torch.set_num_threads(1)
    make_model(words.run, words.base, words.out, words.command, words.machine)
    print(f"written to {words.out}")


if __name__ == "__main__":
    main()
