"""Fine-tune a model: teach it to answer from examples, in phases of the same `train()`.

A new model first learns all of the examples' text, prompts too; then it learns the answers alone.
A model from a checkpoint has read enough and begins with the answers. Each phase is a run in a
directory of its own: a stopped one goes on where it was, to the same bits.

An answer is text, written token by token; or, with `task="classify"`, one of the labels, which a
head on the model's body predicts (`classification.py`). A checkpoint may also learn from
preferences or rewards (`alignment/`): such a phase has another source and another objective.

Knows nothing of the command line, and does not grade: that is `evaluate.py`'s job.
"""

import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch

from minigpt.batching.conversations import OverLong
from minigpt.batching.examples import (
    MOST_LABELS,
    Example,
    ExampleConfig,
    Maker,
    compared,
    load_examples,
    overlap,
    own_tests,
    recognized,
    split_examples,
)
from minigpt.batching.messages import to_example
from minigpt.batching.packing import Bucketed, EvalPacked
from minigpt.batching.pairs import to_pair, to_prompt
from minigpt.batching.windows import Batch
from minigpt.chat import (
    SPECIAL,
    Encoded,
    Message,
    TrainOn,
    can_chat,
    chat_format,
    encode_chats,
    longest_answer,
)
from minigpt.classification import (
    Classifier,
    begin_with_best_head,
    encode_labeled,
    encode_texts,
    refuse_classifier,
    train_last,
)
from minigpt.data.corpora import GENERATED
from minigpt.data.decoding import ReadCounts
from minigpt.gpt import GPT, GPTConfig
from minigpt.lora import LoRAConfig
from minigpt.machine.device import choose_device, choose_dtype
from minigpt.pretrained import with_chat_tokens, with_more_tokens
from minigpt.quantize import refuse_quantized
from minigpt.recipe import TrainConfig
from minigpt.runs.adapters import adapt, begin_adapter, read_adapter
from minigpt.runs.checkpoint import checkpoint_paths
from minigpt.runs.goals import DPOConfig, GRPOConfig
from minigpt.runs.run import (
    RunConfig,
    build,
    check_resumable,
    fit_to_tokenizer,
    load_config,
    open_run,
    save_config,
)
from minigpt.runs.upgrades import FORMAT, upgrade
from minigpt.support.errors import CheckpointError, ConfigError, DataError, require
from minigpt.support.files import atomic_write, make_folder
from minigpt.support.settings import above, at_least, below, check_fields
from minigpt.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from minigpt.train import Source, TrainResult, train
from minigpt.validation import Objective, mean_loss, next_token_loss, sum_losses

SETTINGS = "finetune.json"
VALIDATION_EXAMPLES = 1000  # for the loss that is shown while training; all are answered at the end
USUAL_EPOCHS, LEAST_STEPS = 4, 1000  # of the answers; half as many of all of the text before
LONGEST_CONTEXT = 4096  # tokens that a published model is trained with, unless examples need more
LEAST_LABEL_STEPS = 100  # of a classifier, whose head is the best one from the first step on
CONTEXT_STEP = 64  # block_size is a multiple of it
LEAST_PAIR_STEPS = 100  # of preferences, which are read once
ANSWER_TOKENS = 100  # of an answer that is rewarded, where no row says how long one is
PRETRAINING_RATES = {"learning_rate": 3e-3, "muon_learning_rate": 0.02}

Task = Literal["instruct", "classify", "dpo", "grpo"]


@dataclass(frozen=True)
class FinetuneConfig:
    """Describe what is learned from which examples, and by which model."""

    data: str = ""
    """Examples: .jsonl, .json, .csv, .tsv, bAbI text, a folder, an archive, a pattern in quotes, or
    the name of a public data set."""
    checkpoint: Path | None = None
    """A run with the model to start from, little or little-base, or a published model: its folder
    or hf: and its name (None: start from nothing, which only instruct and classify can)."""
    held_out: str | None = None
    """Examples to be tested on (None: the data set's own test files, or else a part of --data)."""
    task: Task = "instruct"
    """Write answers as text (instruct), choose one of the labels with a head of its own (classify),
    prefer one answer to another (dpo; --beta), or earn more of a reward (grpo; --reward)."""
    train_blocks: Annotated[int | None, at_least(0)] = None
    """With classify: how many blocks learn, counted from the last (None: the whole model; 0: only
    the head)."""
    lora: bool = False
    """Train thin matrices beside those of the checkpoint, which stay as they are: the run's own
    weights are then some 100 kB."""
    lora_learning_rate: Annotated[float, above(0)] = 1e-2
    """Learning rate of the thin matrices, some ten times that of whole ones; AdamW trains them."""
    adapter: LoRAConfig = field(default_factory=LoRAConfig)
    preferences: DPOConfig = field(default_factory=DPOConfig)
    rewards: GRPOConfig = field(default_factory=GRPOConfig)
    validation_fraction: Annotated[float, above(0), below(1)] = 0.1
    """The part of --data that is kept for the test where there are no other examples for it."""
    epochs: Annotated[float | None, above(0)] = None
    """How often each answer is learned; --max-steps may end it sooner (None: 4 times or, where
    examples are few, as often as 1,000 steps allow)."""
    pretrain_epochs: Annotated[float | None, at_least(0)] = None
    """How often all of the text, prompts too, is learned before that (None: half as often; with
    --checkpoint not at all)."""
    pretrain_learning_rate: Annotated[float | None, at_least(0)] = None
    """Learning rate of AdamW in that phase (None: --learning-rate if given, else 0.003)."""
    pretrain_muon_learning_rate: Annotated[float | None, at_least(0)] = None
    """Learning rate of Muon in that phase (None: --muon-learning-rate if given, else 0.02)."""
    max_answer_tokens: Annotated[int | None, at_least(1)] = None
    """Most tokens of an answer in the test and, with grpo, in training (None: those of the longest
    answer in training; 100 where the rows have none)."""
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
        check_fields(self)
        classifies = self.task == "classify" or self.train_blocks is None
        wanted = "left out, or --task classify beside it"
        require(classifies, "train_blocks", self.train_blocks, wanted)
        has_base = self.checkpoint is not None and not self.pretrain_epochs
        wanted = "left out, or --checkpoint beside it and no --pretrain-epochs"
        require(has_base or not self.lora, "lora", self.lora, wanted)
        alone = not self.lora or self.train_blocks is None
        wanted = "left out beside --lora, which trains thin matrices of all blocks"
        require(alone, "train_blocks", self.train_blocks, wanted)

    def tuning(self) -> TrainConfig:
        """Return the settings of the phase that learns answers."""
        if not self.lora:
            return self.training
        rate = self.lora_learning_rate
        return dataclasses.replace(self.training, optimizer="adamw", learning_rate=rate)

    def pretraining(self) -> TrainConfig:
        """Return the settings of the first phase: its rates are its own."""
        rates = {
            name: usual if (given := getattr(self, f"pretrain_{name}")) is None else given
            for name, usual in PRETRAINING_RATES.items()
        }
        return dataclasses.replace(self.training, **rates)


def usual_settings(task: Task) -> FinetuneConfig:
    """Return the settings that a task has unless others are given.

    Preferences and rewards change a model that can answer already: their rates are lower, AdamW
    trains all, nothing decays, and nothing is dropped, as the log-probabilities of the same answer
    are compared.
    """
    usual = FinetuneConfig()
    if task in ("instruct", "classify"):
        return dataclasses.replace(usual, task=task)
    gentle = dataclasses.replace(
        usual.training, optimizer="adamw", learning_rate=5e-4, weight_decay=0.0, batch_size=16
    )
    if task == "grpo":
        gentle = dataclasses.replace(
            gentle, max_steps=100, batch_size=64, schedule="constant", save_interval=10
        )
    model = dataclasses.replace(usual.model, dropout=0.0)
    return dataclasses.replace(
        usual, task=task, model=model, training=gentle, lora_learning_rate=3e-3
    )


def check_task(config: FinetuneConfig) -> None:
    """Raise a ConfigError for settings that do not go together with the task."""
    task, training = config.task, config.training
    for name, part in (("dpo", config.preferences), ("grpo", config.rewards)):
        shared = ("world",) if task == "dpo" else ()
        for one in dataclasses.fields(part):
            value = getattr(part, one.name)
            if task != name and one.name not in shared and value != one.default:
                flag = "--" + one.name.replace("_", "-")
                what = f"{flag} {value} has no meaning with --task {task}"
                raise ConfigError(what, flag, f"leave it out, or give --task {name}")
    if task in ("instruct", "classify"):
        return
    if config.checkpoint is None:
        what = f"--task {task} without a model to begin with"
        raise ConfigError(what, "--checkpoint", "give a run that can answer, such as little")
    if config.pretrain_epochs:
        raise ConfigError(f"--pretrain-epochs with --task {task}", "--task", "leave it out")
    rows = 2 if task == "dpo" else config.rewards.group_size
    for name in ("batch_size", "micro_batch_size")[: 2 if task == "dpo" else 1]:
        value = getattr(training, name) or rows
        what = "two rows are a pair" if task == "dpo" else f"groups have {rows} answers"
        require(value % rows == 0, name, value, f"a multiple of {rows}: {what}")
    if task == "dpo" and (config.examples.prompt is None) != (config.preferences.rejected is None):
        raise ConfigError(
            "a part of a pair", "--rejected", "give --prompt, --answer and --rejected"
        )
    if task == "dpo" and config.examples.answers is not None:
        raise ConfigError("--answers gives one answer", "--task dpo", "give a file of pairs")


def save_settings(run_dir: Path, config: FinetuneConfig) -> None:
    """Write finetune.json, which a resumed run and an evaluation read."""
    content = {"format": FORMAT, **dataclasses.asdict(config)}
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    atomic_write(run_dir / SETTINGS, text + "\n")


def load_settings(run_dir: Path) -> FinetuneConfig:
    """Read finetune.json, in a run or by itself. Settings of an older format are upgraded."""
    path = run_dir if run_dir.is_file() else run_dir / SETTINGS
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        version = content.pop("format", 1)  # the first format had no number
        content = upgrade(SETTINGS, content, version, str(path))
        for name in ("out", "resume"):  # older versions stored the command's words as well
            content.pop(name, None)
        parts = {"examples": ExampleConfig, "adapter": LoRAConfig}
        parts |= {"model": GPTConfig, "training": TrainConfig}
        parts |= {"preferences": DPOConfig, "rewards": GRPOConfig}
        for name in ("adapter", "preferences", "rewards"):
            content.setdefault(name, {})  # older versions had none
        if content.get("task") == "answer":
            content["task"] = "instruct"  # older versions called it so
        content |= {name: build(kind, content.get(name), name) for name, kind in parts.items()}
        content["checkpoint"] = content["checkpoint"] and Path(content["checkpoint"])
        content["examples"] = dataclasses.replace(
            content["examples"], columns=tuple(content["examples"].columns)
        )
        return build(FinetuneConfig, content, SETTINGS)
    except FileNotFoundError:
        remedy = "give the directory that finetune wrote, or leave --resume out"
        raise CheckpointError(f"no {SETTINGS}", str(run_dir), remedy) from None
    except CheckpointError:
        raise
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        what = error.what if isinstance(error, ConfigError) else str(error)
        raise CheckpointError(
            f"not the settings of a run: {what}", str(path), "restore the file"
        ) from None


def answer_limit(run_dir: Path) -> int | None:
    """Return how long a fine-tuned run's answers may be, in tokens; None where it never learned."""
    return load_settings(run_dir).max_answer_tokens if (run_dir / SETTINGS).is_file() else None


# --- examples ---


@dataclass(frozen=True)
class Sides:
    """The examples to learn from and those to be tested on."""

    train: list[Example]
    held_out: list[Example]
    facts: dict[str, float]
    """What was found in the data, for the report."""
    about: str = ""
    """What was recognized, in a line."""


def read_sides(config: FinetuneConfig) -> Sides:
    """Read all examples and part them; warn where the test also stands in training."""
    counts = ReadCounts()
    make, noun = makers(config)
    train, skipped = load_examples(config.data, config.examples, counts=counts, make=make)
    about = recognized(train, counts, noun)
    said_tests = [example for example in train if example.split == "test"]
    if config.held_out:
        alone = dataclasses.replace(config.examples, answers=None)
        held_out, more = load_examples(config.held_out, alone, "test", make=make)
        skipped += more
    elif held_out := own_tests(config.data, config.examples, make=make):
        pass
    elif said_tests and len(said_tests) < len(train):
        train, held_out = [e for e in train if e.split != "test"], said_tests
    else:
        train, held_out = split_examples(train, config.validation_fraction)
    if not train or not held_out:
        raise DataError(
            f"{len(train)} examples to train on and {len(held_out)} held out",
            config.data,
            "give more examples, another --validation-fraction, or a file with --held-out",
        )
    if noun == "examples":
        refuse_other_labels(train, held_out, config.held_out or config.data)
    both = [*train, *held_out]
    facts = {
        "train": len(train),
        "held_out": len(held_out),
        "skipped": skipped,
        "repeated": len(both) - len({compared(example.messages) for example in both}),
        "overlap": overlap(train, held_out),
    }
    if facts["overlap"] > 0:
        warnings.warn(
            f"the prompts of {facts['overlap']:.1%} of the held-out examples also stand in "
            "training, so the scores look better than they are",
            stacklevel=2,
        )
    return Sides(train, held_out, facts, about)


def makers(config: FinetuneConfig) -> tuple[Maker, str]:
    """Return what makes a task's examples of records, and what such examples are called."""
    if config.data in GENERATED:
        what = f"{config.data} has no examples for --task {config.task}"
        raise ConfigError(what, "--data", "python -m minigpt train teaches it; or give a file")
    if config.task == "dpo":
        return partial(to_pair, config.preferences.rejected), "pairs"
    return (to_prompt, "prompts") if config.task == "grpo" else (to_example, "examples")


def refuse_other_labels(train: Sequence[Example], held_out: Sequence[Example], where: str) -> None:
    """Raise DataError where the two sides write the same numbers in other ways: 1 and 1.0."""
    taught, asked = (
        {example.messages[-1]["content"] for example in side} for side in (train, held_out)
    )
    if taught & asked or len(taught) > MOST_LABELS or len(asked) > MOST_LABELS:
        return
    try:
        same = {float(text) for text in taught} & {float(text) for text in asked}
    except ValueError:
        return
    if same:
        pair = f"{min(taught)!r} to learn from, {min(asked)!r} in the test"
        raise DataError(f"labels written in two ways: {pair}", where, "write them in one way")


def assistant_texts(examples: Sequence[Example]) -> Iterator[str]:
    """Yield all that the assistant says in some examples."""
    for example in examples:
        yield from (m["content"] for m in example.messages if m["role"] == "assistant")


def text_of(messages: Sequence[Message]) -> str:
    """Return all that stands before the answer: what a classifier reads."""
    return "\n".join(message["content"] for message in messages[:-1])


def labels_of(examples: Sequence[Example]) -> list[str]:
    """Return the labels of some examples in order; DataError where the answers are no labels."""
    labels = sorted({example.messages[-1]["content"] for example in examples})
    if len(labels) > len(examples) / 2:
        raise DataError(
            f"{len(labels):,} different answers in {len(examples):,} examples are no labels",
            examples[0].where,
            "leave --task classify out, so that answers are written as text",
        )
    return labels


# --- the model to begin with ---


def start(
    run_dir: Path,
    config: FinetuneConfig,
    examples: Sequence[Example],
    resume: bool = False,
    on_text: Callable[[], object] | None = None,
) -> tuple[GPT, Tokenizer]:
    """Return the model to begin with, a checkpoint's or a new one, and its tokenizer.

    A run that goes on finds its tokenizer in its directory, and needs the checkpoint no more.
    `on_text` is called for each text that a new tokenizer learns from.
    """
    path, device = run_dir / "tokenizer.json", config.training.device
    goes_on = resume and (run_dir / "config.json").exists()
    base = open_run(config.checkpoint, device) if config.checkpoint and not goes_on else None
    if resume and path.exists():
        tokenizer = load_tokenizer(path)
    elif base:
        tokenizer = base.tokenizer
        refuse_classifier(base.model, "be tuned further")
        refuse_quantized(base.model, "be trained")
        if base.is_published and not can_chat(tokenizer) and config.task == "instruct":
            if config.lora:
                what = "thin matrices alone cannot teach a base the marks of a conversation"
                raise ConfigError(what, "--lora", "leave it out, or take a base that can chat")
            tokenizer = with_chat_tokens(tokenizer)
        if config.task != "classify":
            chat_format(tokenizer)  # or else it cannot chat
    else:
        tokenizer = learn_tokenizer(config.model.vocab_size, examples, on_text)
    tokenizer.save(path)
    if config.checkpoint:
        kept = base.config.model if base else load_config(run_dir).model
        n_ids = max(kept.vocab_size, tokenizer.vocab_size)  # a tokenizer may have gained some
        kept = dataclasses.replace(kept, dropout=config.model.dropout, vocab_size=n_ids)
        model_config = shortened(kept, tokenizer, examples)
    else:
        encoded = encode_chats([example.messages for example in examples], tokenizer)
        model_config = fitting_model(config.model, tokenizer, encoded)
    torch.manual_seed(config.training.seed)
    model = GPT(model_config)
    if base:
        model.load_state_dict(with_more_tokens(base.model.state_dict(), model_config.vocab_size))
        if config.lora and config.checkpoint:
            model = begin_adapter(model, config.adapter, config.checkpoint, run_dir)
    elif config.lora:
        model = open_adapter(run_dir, model, device)
    if config.task == "classify":
        model = Classifier(model, labels_of(examples))
    return model, tokenizer


def shortened(model: GPTConfig, tokenizer: Tokenizer, examples: Sequence[Example]) -> GPTConfig:
    """Return a model's settings with a context that can be trained.

    Published models reach 100,000 tokens. Each row of a batch would take the memory for all of
    them, so the context becomes LONGEST_CONTEXT, or what the longest example needs.
    """
    if model.block_size <= LONGEST_CONTEXT or model.positions != "rotary":
        return model
    needed = 0  # a classifier cuts what is longer
    if can_chat(tokenizer):
        encoded = encode_chats([example.messages for example in examples], tokenizer)
        needed = max(len(ids) for ids, _ in encoded)
    block_size = min(model.block_size, max(needed, LONGEST_CONTEXT))
    return dataclasses.replace(model, block_size=block_size)


def open_adapter(run_dir: Path, model: GPT, device: str) -> GPT:
    """Return the model of a run of an adapter that goes on: its base, and thin matrices."""
    adapter = read_adapter(run_dir)
    if adapter is None:
        raise CheckpointError("no adapter.json", str(run_dir), "restore it, or start anew")
    base = open_run(adapter.base_path(run_dir), device)
    model.load_state_dict(base.model.state_dict())
    return adapt(model, adapter, run_dir)


def learn_tokenizer(
    vocab_size: int, examples: Sequence[Example], on_text: Callable[[], object] | None = None
) -> Tokenizer:
    """Train a tokenizer on both sides of the examples."""

    def texts() -> Iterator[str]:
        for example in examples:
            for message in example.messages:
                yield message["content"]
                if on_text:
                    on_text()

    return BPETokenizer.train(texts(), vocab_size, SPECIAL)


def fitting_model(model: GPTConfig, tokenizer: Tokenizer, encoded: Sequence[Encoded]) -> GPTConfig:
    """Return the model's settings with the tokenizer's vocabulary, and no more context than needed.

    Short rows are cheaper, so block_size shrinks to what the longest example needs.
    """
    needed = -(-max(len(ids) for ids, _ in encoded) // CONTEXT_STEP) * CONTEXT_STEP
    block_size = min(model.block_size, needed)
    return dataclasses.replace(fit_to_tokenizer(model, tokenizer), block_size=block_size)


# --- learning ---


class Phase:
    """One run of training in a directory of its own: what is read, and how it becomes a loss."""

    def __init__(
        self,
        name: str,
        run_dir: Path,
        config: RunConfig,
        model: GPT,
        tokenizer: Tokenizer,
        source: Source,
        validation: Collection[Batch] | EvalPacked | None,
        objective: Objective = next_token_loss,
    ):
        self.name, self.run_dir, self.config = name, run_dir, config
        self.model, self.tokenizer = model, tokenizer
        self.source, self.validation, self.objective = source, validation, objective

    def describe(self) -> str:
        """Say in a line what will be learned."""
        raise NotImplementedError

    def facts(self) -> dict:
        """Return what a run that goes on must share, beside its settings."""
        return {"tokenizer_sha256": self.tokenizer.fingerprint}

    def begin(self) -> None:
        """Prepare the model for a run that begins or goes on."""

    def check_resumable(self) -> None:
        """Refuse settings that are not those of the run that goes on, if there is one."""
        if (self.run_dir / "config.json").exists():
            check_resumable(load_config(self.run_dir), self.config, self.run_dir)

    def run(
        self,
        resume: bool = False,
        on_log: Callable[[dict], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> TrainResult:
        """Write the run's settings and train; `on_log` gets each row of metrics.jsonl."""
        make_folder(self.run_dir)
        save_config(self.run_dir, self.config)
        self.tokenizer.save(self.run_dir / "tokenizer.json")
        self.begin()
        return train(
            self.model,
            self.source,
            self.config.training,
            self.run_dir,
            validation=self.validation,
            resume=resume,
            on_log=on_log,
            should_stop=should_stop,
            manifest=self.facts(),
            objective=self.objective,
        )

    def val_loss(self) -> float:
        """Return the loss on what was held out, in nats a target that counts."""
        assert self.validation is not None, self.name
        device = choose_device(self.config.training.device)
        dtype = choose_dtype(device, self.config.training.dtype)
        sums = sum_losses(self.model, self.validation, device, dtype, self.objective)
        return mean_loss(*sums)


class ExamplePhase(Phase):
    """One run over the examples: all of their text ("all"), or the answers alone ("answers")."""

    def __init__(
        self,
        run_dir: Path,
        config: FinetuneConfig,
        model: GPT,
        tokenizer: Tokenizer,
        sides: Sides,
        train_on: TrainOn,
    ):
        name = "pre-training" if train_on == "all" else "training"
        training = config.pretraining() if train_on == "all" else config.tuning()
        epochs = config.pretrain_epochs if train_on == "all" else config.epochs
        rows = training.batch_size, model.config.block_size
        taught, held_out = (
            encode_side(side, model, tokenizer, config.task, train_on)
            for side in (sides.train, sides.held_out[:VALIDATION_EXAMPLES])
        )
        places = [example.where for example in sides.train]
        eot = tokenizer.eot_id
        self.bucketed = Bucketed(taught, *rows, training.seed, config.over_long, eot, places)
        validation = EvalPacked(held_out, *rows, "cut", eot)
        least = LEAST_LABEL_STEPS if isinstance(model, Classifier) else LEAST_STEPS
        steps = steps_of(self.bucketed.n_batches, epochs, train_on, least)
        run = run_config(config, model, training, steps)
        super().__init__(name, run_dir, run, model, tokenizer, self.bucketed, validation)
        self.sides, self.train_blocks = sides, config.train_blocks

    def describe(self) -> str:
        """Say in a line what will be learned."""
        flat, source = self.bucketed.flat, self.bucketed
        long = f"; {flat.n_over_long:,} were too long" if flat.n_over_long else ""
        return (
            f"{len(flat):,} examples of {flat.lengths.mean():.0f} tokens on average, in "
            f"{source.n_batches:,} batches; {self.config.training.max_steps:,} steps{long}"
        )

    def facts(self) -> dict:
        """Return what a run that goes on must share, beside its settings."""
        ids = self.bucketed.flat.ids
        facts = super().facts() | {"train_sha256": hashlib.sha256(ids.tobytes()).hexdigest()}
        return facts | (self.model.facts() if isinstance(self.model, Classifier) else {})

    def begin(self) -> None:
        """Say what learns and, in a new run of a classifier, begin with the body's best head."""
        model = self.model
        if not isinstance(model, Classifier):
            return
        train_last(model, self.train_blocks)
        if checkpoint_paths(self.run_dir):
            return
        texts = [text_of(example.messages) for example in self.sides.train]
        targets = [example.messages[-1]["content"] for example in self.sides.train]
        model.to(choose_device(self.config.training.device))
        rows = encode_texts(texts, self.tokenizer, model.config.block_size)
        begin_with_best_head(model, rows, targets)


def run_config(config: FinetuneConfig, model: GPT, training: TrainConfig, steps: int) -> RunConfig:
    """Return the settings of a phase as those of a run; it takes `steps`, or fewer if wanted."""
    run = RunConfig(
        config.data,
        tokenizer=str(config.checkpoint or "bpe"),
        model=model.config,
        training=dataclasses.replace(training, max_steps=min(steps, training.max_steps)),
    )
    return dataclasses.replace(run, world=config.rewards.world) if run.data in GENERATED else run


def encode_side(
    examples: Sequence[Example],
    model: GPT,
    tokenizer: Tokenizer,
    task: Task,
    train_on: TrainOn,
) -> list[Encoded]:
    """Return examples as ids and what is trained on: conversations, or texts with their labels.

    A label that the classifier does not know is no target, so its text is left out.
    """
    conversations = [example.messages for example in examples]
    if task != "classify":
        return encode_chats(conversations, tokenizer, train_on)
    if isinstance(model, Classifier):
        conversations = [m for m in conversations if m[-1]["content"] in model.labels]
    texts = [text_of(messages) for messages in conversations]
    rows = encode_texts(texts, tokenizer, model.config.block_size)
    if isinstance(model, Classifier):
        targets = [messages[-1]["content"] for messages in conversations]
        return encode_labeled(rows, targets, model.labels)
    return [([*ids, tokenizer.eot_id], [True] * (len(ids) + 1)) for ids in rows]


def steps_of(
    n_batches: int, epochs: float | None, train_on: TrainOn, least: int = LEAST_STEPS
) -> int:
    """Return the steps that some epochs take; None means the usual number of them."""
    if epochs is not None:
        return math.ceil(epochs * n_batches)
    usual = max(USUAL_EPOCHS * n_batches, least)
    return usual // 2 if train_on == "all" else usual


def phases(
    run_dir: Path, config: FinetuneConfig, model: GPT, tokenizer: Tokenizer, sides: Sides
) -> list[ExamplePhase]:
    """Return what is still to be learned: all of the text, if that is wanted, then the answers."""
    parts = run_dir, config, model, tokenizer, sides
    found = [ExamplePhase(*parts, "answers")]
    epochs = config.pretrain_epochs
    has_read = epochs == 0 or (epochs is None and config.checkpoint is not None)
    if not has_read and not checkpoint_paths(run_dir):
        reader = model.reader() if isinstance(model, Classifier) else model
        first = run_dir / "pretrained", config, reader, tokenizer, sides
        found.insert(0, ExamplePhase(*first, "all"))
    return found


def with_answer_limit(
    config: FinetuneConfig, tokenizer: Tokenizer, examples: Sequence[Example]
) -> FinetuneConfig:
    """Settle how long an answer may be: as given, or as the longest of the training examples.

    Stored with the run, so that every later evaluation gives the same room, and none of them has
    to look at the right answers of the test.
    """
    if config.max_answer_tokens is not None:
        return config
    texts = [text for text in assistant_texts(examples) if text]
    longest = longest_answer(texts, tokenizer) if texts else ANSWER_TOKENS
    return dataclasses.replace(config, max_answer_tokens=longest)
