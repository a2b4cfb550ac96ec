"""Runs: one directory holds everything of one training run; describe, write and open such runs.

A run directory holds config.json, tokenizer.json, train.bin and val.bin (tokens), metrics.jsonl,
loss.png, checkpoints/, report.json, report.md and report.html. Knows nothing of the command line.
"""

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from minigpt.classification import Classifier
from minigpt.gpt import GPT, GPTConfig
from minigpt.lora import merge, own_state
from minigpt.machine.device import choose_device
from minigpt.pretrained import is_pretrained, load_pretrained, pad_vocabulary
from minigpt.quantize import QuantConfig, quantize, refuse_quantized
from minigpt.recipe import CHANGEABLE, TrainConfig
from minigpt.runs.adapters import adapt, is_name, read_adapter, seen_from
from minigpt.runs.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from minigpt.runs.quantized import Quantized, read_quantized, write_quantized
from minigpt.runs.resume import check_unchanged, metrics_lines
from minigpt.runs.shipped import REMEDY, is_shipped, load_shipped, notes_on_name
from minigpt.runs.upgrades import FORMAT, upgrade
from minigpt.support.errors import CheckpointError, ConfigError, DataError, require
from minigpt.support.files import atomic_write
from minigpt.support.settings import above, at_least, below, check_fields
from minigpt.tokenizer import Tokenizer, load_tokenizer

REPORT_FILES = ("report.json", "report.md", "report.html", "loss.png")
# What commands that train write into a run directory.
RUN_FILES = (
    *("config.json", "finetune.json", "tokenizer.json", "train.bin", "val.bin", "metrics.jsonl"),
    "rewards.jsonl",
    *("bad_batch.safetensors", "checkpoints", "pretrained", *REPORT_FILES),
)


@dataclass(frozen=True)
class RunConfig:
    """Describe a whole run: its data, its tokenizer, its model and its training."""

    data: str = "storyworld"
    """Text: a file, folder, pattern, archive or data set's name; or storyworld."""
    world: Literal["little", "full"] = "full"
    """Size of storyworld: little is what a small model masters in minutes (no other data)."""
    tokenizer: str = "bpe"
    """bpe or char (trained on the data), or the path of a tokenizer.json."""
    word_cohesion: Annotated[float, at_least(0), below(1)] = 0.0
    """Above 0, bpe learns Chinese words and no phrases: how closely their characters cohere."""
    field: str = "text"
    """Name of the field or column that holds the text (.json, .jsonl, .csv, .tsv)."""
    errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: stop, or put a replacement character."""
    encoding: str = ""
    """Encoding of the text, such as gb18030 or cp1252 (empty: UTF-8)."""
    separator: str = ""
    """What parts the documents of a plain text, such as '\\n\\n' (empty: <|endoftext|> lines)."""
    skip_bad: bool = False
    """Leave out bad records, up to 1 % of a file, and count them."""
    validation_fraction: Annotated[float, above(0), below(1)] = 0.1
    """Share of the text that is kept for validation."""
    dialogue_share: Annotated[float, at_least(0), below(1)] = 0.0
    """Above 0, the model learns to talk about stories, too: their share of what it reads then."""
    tuning_fraction: Annotated[float, at_least(0), below(1)] = 0.5
    """Share of the steps, the last ones, that learn from conversations (with dialogue_share)."""
    model: GPTConfig = dataclasses.field(default_factory=lambda: GPTConfig(vocab_size=1024))
    training: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self):
        check_fields(self)
        tuning, second = self.tuning_fraction, self.training.second_phase
        wanted = f"0, or {tuning} (tuning_fraction), so that both begin with the same step"
        require(not self.dialogue_share or second in (0, tuning), "second_phase", second, wanted)


def tiny() -> RunConfig:
    """A model that trains in seconds, to try things out."""
    return RunConfig(
        model=GPTConfig(vocab_size=4096, block_size=256, n_layer=2, n_head=1, n_embd=64),
        training=TrainConfig(max_steps=200, batch_size=8),
    )


def laptop() -> RunConfig:
    """About 4 million parameters: for two CPU cores and some patience."""
    return RunConfig(
        model=GPTConfig(
            vocab_size=4096, block_size=256, n_layer=4, n_head=4, n_kv_head=2, n_embd=256
        ),
        training=TrainConfig(max_steps=2000, batch_size=8, learning_rate=6e-3),
    )


def quickstart() -> RunConfig:
    """Stories and conversations of the little world, in minutes on two CPU cores.

    Few layers, tokens that are words, and a context that holds a story and its translation.
    What was tried stands in docs/experiments.md.
    """
    return RunConfig(
        world="little",
        word_cohesion=0.6,
        dialogue_share=0.72,
        tuning_fraction=0.6,
        model=GPTConfig(
            vocab_size=1400, block_size=320, n_layer=3, n_head=4, n_embd=128, init="copying"
        ),
        training=TrainConfig(
            max_steps=3600,
            batch_size=4,
            learning_rate=4e-2,
            muon_learning_rate=0.02,
            muon_momentum=0.85,
            beta2=0.99,
            second_phase=0.6,
            eval_interval=250,
            save_interval=100,
        ),
    )


def gpu() -> RunConfig:
    """About 30 million parameters: for one CUDA or Apple GPU."""
    return RunConfig(
        model=GPTConfig(
            vocab_size=8192, block_size=512, n_layer=8, n_head=8, n_kv_head=4, n_embd=512
        ),
        training=TrainConfig(max_steps=5000, batch_size=64),
    )


def card_16gb() -> RunConfig:
    """About 100 million parameters: for one GPU with 16 GB of memory, and text of your own."""
    return RunConfig(
        model=GPTConfig(vocab_size=16_384, block_size=1024, n_layer=12, n_head=12, n_embd=768),
        training=TrainConfig(max_steps=5000, batch_size=128, micro_batch_size=8),
    )


def card_24gb() -> RunConfig:
    """About 310 million parameters: for one GPU with 24 GB of memory, and text of your own."""
    return RunConfig(
        model=GPTConfig(
            vocab_size=32_768, block_size=1024, n_layer=24, n_head=16, n_kv_head=8, n_embd=1024
        ),
        training=TrainConfig(max_steps=5000, batch_size=256, micro_batch_size=4),
    )


def h200() -> RunConfig:
    """About 670 million parameters: for one H200 (141 GB), and gigabytes of text of your own."""
    return RunConfig(
        model=GPTConfig(
            vocab_size=32_768, block_size=2048, n_layer=24, n_head=16, n_kv_head=8, n_embd=1536
        ),
        training=TrainConfig(max_steps=10_000, batch_size=256, micro_batch_size=16, compile=True),
    )


def eight_gpus() -> RunConfig:
    """About 1.2 billion parameters, split over 8 GPUs of 80 GB: start it with torchrun."""
    return RunConfig(
        model=GPTConfig(
            vocab_size=32_768, block_size=2048, n_layer=24, n_head=16, n_kv_head=8, n_embd=2048
        ),
        training=TrainConfig(max_steps=20_000, batch_size=512, micro_batch_size=8, shard=True),
    )


PRESETS = {
    preset.__name__: preset
    for preset in (tiny, laptop, gpu, card_16gb, card_24gb, h200, eight_gpus)
}


def default_preset() -> str:
    """Name the preset that fits the device at hand."""
    return "laptop" if choose_device().type == "cpu" else "gpu"


def save_config(run_dir: Path, config: RunConfig) -> None:
    """Write config.json, with its format number."""
    content = {"format": FORMAT, **dataclasses.asdict(config)}
    atomic_write(run_dir / "config.json", json.dumps(content, indent=2) + "\n")


def load_config(path: Path) -> RunConfig:
    """Read the settings of a run: of its directory, or of a config.json; CheckpointError if wrong.

    Those of an older format are upgraded.
    """
    path = path / "config.json" if path.suffix != ".json" or path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what, remedy = f"no {path.name}", "give the directory that train wrote"
        raise CheckpointError(what, str(path.parent), remedy) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON ({error})", str(path), "restore the file") from None
    if not isinstance(content, dict):
        raise CheckpointError("not a JSON object", str(path), "restore the file")
    content = upgrade("config.json", content, content.pop("format", None), str(path))
    try:
        for name, kind in {"model": GPTConfig, "training": TrainConfig}.items():
            content[name] = build(kind, content.get(name), name)
        return build(RunConfig, content, "config")
    except ConfigError as error:
        remedy = f"{error.remedy}, or restore the file"
        raise CheckpointError(error.what, str(path), remedy) from None


def is_run(folder: Path) -> bool:
    """Tell whether a directory is a run of this package: it has settings that can be read."""
    try:
        load_config(folder / "config.json")
    except (CheckpointError, OSError):
        return False
    return True


def fit_to_tokenizer(model: GPTConfig, tokenizer: Tokenizer) -> GPTConfig:
    """Return a model's settings with what its tokenizer decides: the number of ids."""
    return dataclasses.replace(model, vocab_size=tokenizer.vocab_size)


def check_resumable(stored: RunConfig, config: RunConfig, run_dir: Path) -> None:
    """Raise a ConfigError naming every setting that a resumed run must not change, but did."""

    def settings(run: RunConfig) -> dict:
        values = dataclasses.asdict(run)
        return values.pop("training") | values

    check_unchanged(settings(stored), settings(config), CHANGEABLE, str(run_dir))


def build(kind: type, values: Any, where: str) -> Any:
    """Make a config of class `kind` from a JSON object; ConfigError names a key that is wrong."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is not an object", where, "write its settings in braces")
    known = {field.name for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise ConfigError(f"{where} has an unknown key {name!r}", where, "remove it")
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}", where, "correct the setting") from None


@dataclass(frozen=True)
class Run:
    """An opened run: the model in evaluation mode, its tokenizer, its settings, its step."""

    model: GPT
    tokenizer: Tokenizer
    config: RunConfig
    step: int
    notes: tuple[str, ...] = ()
    """What a reader should know, such as damaged checkpoints that were passed over."""
    folder: Path | None = None
    """Where the run lies; None for a model of the package or a published one: beside these nothing
    is written."""
    is_published: bool = False
    """Whether the model comes from elsewhere, with weights and a tokenizer alone."""


def open_run(path: Path, device: str = "auto") -> Run:
    """Open a run directory (its newest good checkpoint) or one checkpoint directory inside it.

    Or, by its name, a model that comes with the package (`shipped.NAMES`); or a published model of
    GPT-2's, Llama 3's or Qwen3's family: its folder, or "hf:" and its name on huggingface.co.
    """
    path = Path(path)
    notes = notes_on_name(path)
    if is_pretrained(path):
        model, tokenizer = load_pretrained(path)
        pad_vocabulary(tokenizer, model.config.vocab_size)
        config = RunConfig(data="", tokenizer=str(path), model=model.config)
        model = model.to(choose_device(device))
        return Run(model, tokenizer, config, 0, is_published=True)
    if is_shipped(path):
        run_dir, checkpoint = load_shipped(str(path))
    elif (path / "manifest.json").is_file():
        run_dir, checkpoint = path.resolve().parents[1], load_checkpoint(path)
        if not (run_dir / "config.json").is_file():
            raise CheckpointError(
                "a checkpoint without its run, which has config.json and tokenizer.json",
                str(path),
                "copy it back into the folder checkpoints of its run, or give the whole run",
            )
    else:
        run_dir, checkpoint = path, None
        if not (run_dir / "config.json").is_file():
            raise CheckpointError("no config.json", str(path), REMEDY)
    config = load_config(run_dir)
    checkpoint = checkpoint or latest_checkpoint(run_dir, on_skip=notes.append)
    if checkpoint is None:
        raise CheckpointError("no checkpoint that verifies", str(run_dir), "train first")
    tokenizer = load_tokenizer(run_dir / "tokenizer.json")
    check_tokenizer(checkpoint, tokenizer, run_dir)
    check_model(checkpoint, config, run_dir)
    pad_vocabulary(tokenizer, config.model.vocab_size)
    adapter, quantized = read_adapter(run_dir), read_quantized(run_dir)
    if adapter is None:
        model = GPT(config.model)
        model = quantize(model, quantized.config) if quantized else model
    else:
        model = open_run(adapter.base_path(run_dir), device).model
        model = adapt(model, adapter, run_dir)
    facts = checkpoint.state["facts"]
    if "labels" in facts:
        model = Classifier(model, facts["labels"], facts["pooling"])
    load_weights(model, checkpoint)
    model = merge(model)  # whoever uses an adapter sees a plain model
    model = model.to(choose_device(device)).eval()
    folder = None if is_shipped(path) else run_dir
    return Run(model, tokenizer, config, checkpoint.step, tuple(notes), folder)


def save_quantized(run: Run, config: QuantConfig, out: Path, source: Path) -> Path:
    """Write a quantized copy of an opened run into a directory; return the file of its weights.

    The directory opens as any run does. The run's own model stays as it is. source: what the run
    was opened by; it is named where somebody asks the copy for what only the original can do.
    """
    refuse_quantized(run.model, "be quantized again")
    model = quantize(copy.deepcopy(run.model), config)
    out.mkdir(parents=True, exist_ok=True)
    save_config(out, dataclasses.replace(run.config, model=model.config))
    run.tokenizer.save(out / "tokenizer.json")
    place = str(source) if is_name(source) else seen_from(out, source)
    write_quantized(out, Quantized(config, place))
    facts = {
        "model": dataclasses.asdict(model.config),
        "tokenizer_sha256": run.tokenizer.fingerprint,
        "quantized": f"{config.bits} bits, {config.group}",
    }
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    path = save_checkpoint(out, run.step, weights, {}, {"facts": facts})
    return path / "model.safetensors"


def check_tokenizer(checkpoint: Checkpoint, tokenizer: Tokenizer, run_dir: Path) -> None:
    """Refuse a tokenizer that is not, byte for byte, the one the checkpoint was trained with."""
    expected = checkpoint.state["facts"]["tokenizer_sha256"]
    if expected != tokenizer.fingerprint:
        raise DataError(
            f"another tokenizer ({tokenizer.fingerprint[:12]}) than the checkpoint was trained "
            f"with ({expected[:12]})",
            str(run_dir / "tokenizer.json"),
            "restore the run's own tokenizer.json",
        )


def check_model(checkpoint: Checkpoint, config: RunConfig, run_dir: Path) -> None:
    """Refuse settings of the model that are not those which the checkpoint was trained with.

    Many of them have no weights of their own, so the weights would fit and compute another thing.
    """
    facts = checkpoint.state["facts"]
    if "model" not in facts:
        return  # a model of the package, whose config.json has a checksum
    names = {field.name for field in dataclasses.fields(GPTConfig)}
    known = GPTConfig(**{name: facts["model"][name] for name in names & facts["model"].keys()})
    trained, found = (dataclasses.asdict(each.resolved()) for each in (known, config.model))
    changed = [
        f"{key} {trained.get(key)!r} -> {value!r}"
        for key, value in found.items()
        if trained.get(key) != value
    ]
    if changed:
        raise CheckpointError(
            f"changed since the checkpoint was trained: {', '.join(changed)}",
            str(run_dir / "config.json"),
            "write the old values back, or restore the run's own config.json",
        )


def load_weights(model: GPT, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into the model; names and shapes must fit."""
    own = own_state(model).keys()
    frozen = {name: weight for name, weight in model.state_dict().items() if name not in own}
    try:
        model.load_state_dict(frozen | checkpoint.model)
    except RuntimeError as error:
        raise CheckpointError(
            f"weights do not fit the settings: {str(error).splitlines()[-1].strip()}",
            str(checkpoint.path),
            "restore the run's own config.json",
        ) from None


def read_metrics(run_dir: Path) -> list[dict]:
    """Return the rows of metrics.jsonl; lines that are torn or of another program are left out."""
    return [json.loads(line) for line in metrics_lines(run_dir / "metrics.jsonl")]
