"""The settings of `finetune`: its flags, its defaults, and what a run keeps of them."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.batching.conversations import OverLong
from minigpt.batching.examples import ExampleConfig
from minigpt.gpt import GPTConfig
from minigpt.recipe import TrainConfig
from minigpt.runs.formats import FORMAT, upgrade
from minigpt.runs.run import build
from minigpt.support.errors import CheckpointError, ConfigError, require
from minigpt.support.files import atomic_write


@dataclass(frozen=True)
class FinetuneCommand:
    """Teach a model to answer from your own examples: a file in, a report out.

    With --checkpoint a trained model learns on. Without, tokenizer and model are made from nothing:
    the model first learns all of the examples' text, then the answers alone. In the end it answers
    examples that training never showed, and is scored beside simple baselines. Ctrl-C leaves a
    checkpoint; --out DIR --resume goes on from it.
    """

    out: Path
    """Directory of the run; it is made if it is not there."""
    data: str = ""
    """Examples: .jsonl, .json, .csv, .tsv, bAbI text, a folder, an archive, a pattern in quotes, or
    the name of a public data set."""
    checkpoint: Path | None = None
    """A run directory with the model to start from (None: from nothing)."""
    held_out: str | None = None
    """Examples to be tested on (None: the data set's own test files, or else a part of --data)."""
    validation_fraction: float = 0.1
    """The part of --data that is kept for the test where there are no other examples for it."""
    resume: bool = False
    """Go on from the run's newest checkpoint, with its settings."""
    epochs: float | None = None
    """How often each answer is learned; --max-steps may end it sooner (None: 4 times or, where
    examples are few, as often as 1,000 steps allow)."""
    pretrain_epochs: float | None = None
    """How often all of the text, prompts too, is learned before that (None: half as often; with
    --checkpoint not at all)."""
    over_long: OverLong = "refuse"
    """Examples that do not fit into block_size: stop and name the line, leave them out, or cut the
    middle of their prompts."""
    examples: ExampleConfig = field(default_factory=ExampleConfig)
    model: GPTConfig = field(
        default_factory=lambda: GPTConfig(
            vocab_size=4096, block_size=512, n_layer=4, n_head=2, n_embd=128, dropout=0.2
        )
    )
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            max_steps=4000, batch_size=32, learning_rate=1e-3, muon_learning_rate=5e-3
        )
    )

    def __post_init__(self):
        share = self.validation_fraction
        require(0 < share < 1, "validation_fraction", share, "a number between 0 and 1")
        for name, least in (("epochs", 1e-9), ("pretrain_epochs", 0.0)):
            value = getattr(self, name)
            holds = value is None or least <= value < math.inf
            require(holds, name, value, "a number >= 0" if least == 0 else "a number above 0")


def tuned() -> FinetuneCommand:
    """Return the defaults with --checkpoint: the model has read enough, it learns to answer."""
    return FinetuneCommand(Path(), pretrain_epochs=0.0)


def check_model_flags(command: FinetuneCommand) -> None:
    """Refuse settings that a checkpoint's model has already, and cannot change."""
    usual = dataclasses.asdict(tuned().model) | {"dropout": command.model.dropout}
    for name, value in dataclasses.asdict(command.model).items():
        if value != usual[name]:
            raise ConfigError(
                f"{name} = {value!r} beside --checkpoint",
                "--" + name.replace("_", "-"),
                "leave it out: with --checkpoint the model is that of the run",
            )


def load_command(out: Path) -> FinetuneCommand:
    """Read finetune.json: the settings of an earlier run."""
    path = out / "finetune.json"
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        version = content.pop("format", 1)  # the first format had no number
        content = upgrade("finetune.json", content, version, str(path))
        parts = {"examples": ExampleConfig, "model": GPTConfig, "training": TrainConfig}
        content |= {name: build(kind, content.get(name), name) for name, kind in parts.items()}
        content |= {"out": out, "checkpoint": content["checkpoint"] and Path(content["checkpoint"])}
        content["examples"] = dataclasses.replace(
            content["examples"], columns=tuple(content["examples"].columns)
        )
        return build(FinetuneCommand, content, "finetune.json")
    except FileNotFoundError:
        remedy = "give the directory that finetune wrote, or leave --resume out"
        raise CheckpointError("no finetune.json", str(out), remedy) from None
    except CheckpointError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        what = error.what if isinstance(error, ConfigError) else str(error)
        raise CheckpointError(
            f"not the settings of a run: {what}", str(path), "restore the file"
        ) from None


def save_command(command: FinetuneCommand) -> None:
    """Write finetune.json."""
    content = {"format": FORMAT, **dataclasses.asdict(command)}
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    atomic_write(command.out / "finetune.json", text + "\n")
