"""The phases of `finetune`: in each a model learns from examples, in a run directory of its own."""

import dataclasses
import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from minigpt.batching.examples import Example
from minigpt.batching.packing import Bucketed, EvalPacked
from minigpt.chat import SPECIAL, Encoded, TrainOn, encode_chats, special_ids
from minigpt.commands.pipeline import check_fits
from minigpt.commands.settings import FinetuneCommand
from minigpt.gpt import GPT, GPTConfig
from minigpt.machine.device import choose_device, choose_dtype
from minigpt.recipe import TrainConfig
from minigpt.runs.run import (
    RunConfig,
    check_resumable,
    fit_to_tokenizer,
    load_config,
    open_run,
    save_config,
)
from minigpt.tokenizer import BPETokenizer, Tokenizer, load_tokenizer
from minigpt.train import TrainResult, train
from minigpt.validation import evaluate_loss

VALIDATION_EXAMPLES = 1000  # for the loss that is shown while training; all are answered at the end
USUAL_EPOCHS, LEAST_STEPS = 4, 1000  # of the answers; half as many of all of the text before
CONTEXT_STEP = 64  # block_size is a multiple of it


def start(command: FinetuneCommand, examples: Sequence[Example]) -> tuple[GPT, Tokenizer]:
    """Return the model to begin with, a checkpoint's or a new one, and its tokenizer.

    A run that goes on finds its tokenizer in its directory, and needs the checkpoint no more.
    """
    path, device = command.out / "tokenizer.json", command.training.device
    goes_on = command.resume and (command.out / "config.json").exists()
    base = open_run(command.checkpoint, device) if command.checkpoint and not goes_on else None
    if command.resume and path.exists():
        tokenizer = load_tokenizer(path)
    elif base:
        tokenizer = base.tokenizer
        special_ids(tokenizer)  # or else it cannot chat
    else:
        tokenizer = learn_tokenizer(command.model.vocab_size, examples)
    tokenizer.save(path)
    if command.checkpoint:
        kept = base.config.model if base else load_config(command.out).model
        config = dataclasses.replace(kept, dropout=command.model.dropout)
    else:
        encoded = encode_chats([example.messages for example in examples], tokenizer)
        config = fitting_model(command.model, tokenizer, encoded)
    torch.manual_seed(command.training.seed)
    model = GPT(config)
    if base:
        model.load_state_dict(base.model.state_dict())
    return model, tokenizer


def learn_tokenizer(vocab_size: int, examples: Sequence[Example]) -> Tokenizer:
    """Train a tokenizer on both sides of the examples."""
    texts = (message["content"] for example in examples for message in example.messages)
    with tqdm(texts, desc="learning a vocabulary", unit=" texts", leave=False) as bar:
        return BPETokenizer.train(bar, vocab_size, SPECIAL)


def fitting_model(model: GPTConfig, tokenizer: Tokenizer, encoded: Sequence[Encoded]) -> GPTConfig:
    """Return the model's settings with the tokenizer's vocabulary, and no more context than needed.

    Short rows are cheaper, so block_size shrinks to what the longest example needs.
    """
    needed = -(-max(len(ids) for ids, _ in encoded) // CONTEXT_STEP) * CONTEXT_STEP
    block_size = min(model.block_size, needed)
    return dataclasses.replace(fit_to_tokenizer(model, tokenizer), block_size=block_size)


class Phase:
    """Let a model learn from examples, each `epochs` times, in a run directory of its own."""

    def __init__(
        self,
        command: FinetuneCommand,
        run_dir: Path,
        model: GPT,
        tokenizer: Tokenizer,
        sides: tuple[Sequence[Example], Sequence[Example]],
        train_on: TrainOn,
        epochs: float | None,
        training: TrainConfig,
    ):
        rows = training.batch_size, model.config.block_size
        taught, held_out = (
            encode_chats([example.messages for example in side], tokenizer, train_on)
            for side in (sides[0], sides[1][:VALIDATION_EXAMPLES])
        )
        places = [example.where for example in sides[0]]
        eot = tokenizer.eot_id
        self.source = Bucketed(taught, *rows, training.seed, command.over_long, eot, places)
        self.validation = EvalPacked(held_out, *rows, "cut", eot)
        usual = max(USUAL_EPOCHS * self.source.n_batches, LEAST_STEPS)
        usual = usual // 2 if train_on == "all" else usual
        steps = usual if epochs is None else math.ceil(epochs * self.source.n_batches)
        self.config = RunConfig(
            command.data,
            str(command.checkpoint or "bpe"),
            model=model.config,
            training=dataclasses.replace(training, max_steps=min(steps, training.max_steps)),
        )
        self.model, self.tokenizer, self.run_dir = model, tokenizer, run_dir
        self.resume = command.resume

    def describe(self) -> None:
        """Print what will be learned."""
        flat, source = self.source.flat, self.source
        long = f"; {flat.n_over_long:,} were too long" if flat.n_over_long else ""
        print(
            f"{len(flat):,} examples of {flat.lengths.mean():.0f} tokens on average, in "
            f"{source.n_batches:,} batches; {self.config.training.max_steps:,} steps{long}",
            file=sys.stderr,
        )

    def check(self) -> None:
        """Refuse settings that are not those of the run that goes on."""
        if self.resume and (self.run_dir / "config.json").exists():
            check_resumable(load_config(self.run_dir), self.config, self.run_dir)

    def store(self) -> None:
        """Write the run's settings."""
        self.run_dir.mkdir(exist_ok=True)
        save_config(self.run_dir, self.config)
        self.tokenizer.save(self.run_dir / "tokenizer.json")

    def run(self, name: str, stop: Callable[[], bool]) -> TrainResult:
        """Train with a progress bar that shows the loss, and that of what was held out."""
        self.describe()
        check_fits(self.config)
        self.store()
        training, shown = self.config.training, {}
        facts = {
            "tokenizer_sha256": self.tokenizer.fingerprint,
            "train_sha256": hashlib.sha256(self.source.flat.ids).hexdigest(),
        }
        with tqdm(total=training.max_steps, desc=name, unit="step") as bar:

            def show(row: dict) -> None:
                shown.update({k: f"{row[k]:.3f}" for k in ("loss", "val_loss") if k in row})
                bar.set_postfix(shown, refresh=False)
                bar.update(row["step"] - bar.n)

            return train(
                self.model,
                self.source,
                training,
                self.run_dir,
                validation=self.validation,
                resume=self.resume,
                on_log=show,
                should_stop=stop,
                manifest=facts,
            )

    def val_loss(self) -> float:
        """Return the loss on what was held out, in nats a token."""
        device = choose_device(self.config.training.device)
        dtype = choose_dtype(device, self.config.training.dtype)
        return evaluate_loss(self.model, self.validation, device, dtype)
