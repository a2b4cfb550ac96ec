"""Measure training: time to a loss on Tiny Shakespeare, and the share of the processor's peak.

The yardstick is nanoGPT's documented recipe for CPUs: 2,000 steps of 12 x 64 characters, 4 layers,
128 wide (github.com/karpathy/nanoGPT, README, "I only have a macbook"). Our settings were chosen on
the last tenth of the training text; the validation text is looked at here alone.
"""

import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.pairs import PairGPT
from benchmarks.peers import nanogpt_model, nanogpt_optimizer
from benchmarks.timing import Row, clock, take_turns
from minigpt.batching.token_files import TokenFile, write_tokens
from minigpt.batching.windows import EvalWindows, Windows
from minigpt.counts import flops_per_token
from minigpt.gpt import GPT, GPTConfig
from minigpt.machine.device import autocast, can_compile, choose_device, choose_dtype, matmul_flops
from minigpt.recipe import TrainConfig
from minigpt.train import train
from minigpt.trainer import Trainer
from minigpt.validation import mean_loss, sum_losses

T = 64  # context of the recipe
PART = "training"
# Learns sooner than the default form here; a little smaller than nanoGPT's.
FORM: dict[str, Any] = {
    "n_embd": 128,
    "n_head": 4,
    "n_hidden": 256,
    "qk_norm": False,
    "tie_embeddings": False,
}


@dataclass(frozen=True)
class Recipe:
    """A model and its training, whose number of steps may be set by the time that there is."""

    model: GPTConfig
    training: TrainConfig
    kind: type[GPT] = GPT


def same_size(vocab_size: int, steps: int) -> Recipe:
    """Return our settings for a transformer of nanoGPT's size, without tables of token pairs."""
    return Recipe(GPTConfig(vocab_size, T, n_layer=4, **FORM), sprint(steps, 0.02, 0.04))


def with_bigrams(vocab_size: int, steps: int) -> Recipe:
    """Return our settings with a table of token pairs and a single layer."""
    return Recipe(GPTConfig(vocab_size, T, n_layer=1, **FORM), sprint(steps, 0.04, 0.06), PairGPT)


def sprint(steps: int, learning_rate: float, muon_learning_rate: float) -> TrainConfig:
    """Return how to train for some hundred steps: short memory, high rates, 32 rows a step."""
    return TrainConfig(
        max_steps=steps,
        batch_size=32,
        learning_rate=learning_rate,
        muon_learning_rate=muon_learning_rate,
        muon_momentum=0.8,
        cooldown_fraction=0.8,
        final_learning_rate_fraction=0.1,
        **QUIET,
    )


def patient(vocab_size: int, steps: int) -> Recipe:
    """Return our settings for all of nanoGPT's time: three layers, pairs, twice the context."""
    config = GPTConfig(
        vocab_size,
        2 * T,
        n_layer=3,
        n_head=4,
        n_embd=128,
        tie_embeddings=False,
    )
    training = TrainConfig(
        max_steps=steps,
        batch_size=16,
        learning_rate=0.02,
        muon_learning_rate=0.028,
        muon_momentum=0.9,
        weight_decay=0.1,
        **QUIET,
    )
    return Recipe(config, training, PairGPT)


NEVER = 10**9
QUIET: dict[str, Any] = {
    "warmup_steps": 0,
    "save_interval": NEVER,
    "eval_interval": NEVER,
    "log_interval": NEVER,
}
# The recipes that race nanoGPT, and how many times sooner each is to be there: just over its goal.
RACES = {"same": (same_size, 10.5), "any": (with_bigrams, 25.0)}
GROWTH = 1.25  # what a run that was not there gets next, in times of its time
TRIAL = 60  # steps of a trial: so many that making the model hardly counts


@dataclass(frozen=True)
class Characters:
    """A text as characters: 90 % to train on, 10 % to validate."""

    train: TokenFile
    validation: TokenFile


def by_characters(text: str, folder: Path) -> Characters:
    """Number the characters of a text as nanoGPT does, and split it as nanoGPT does.

    The validation text ends with a whole window, as nanoGPT's loss knows no padding.
    """
    characters = sorted(set(text))
    numbers = {character: number for number, character in enumerate(characters)}
    ids = np.array([numbers[character] for character in text])
    cut = int(0.9 * len(ids))
    end = cut + (len(ids) - cut - 1) // T * T + 1
    parts = {"train": ids[:cut], "validation": ids[cut:end]}
    return Characters(
        **{
            name: write_tokens(folder / f"{name}.bin", [part.tolist()], len(characters), None)
            for name, part in parts.items()
        }
    )


def train_nanogpt(peer: ModuleType, ids: np.ndarray, vocab_size: int, steps: int, seed: int):
    """Train by nanoGPT's recipe; return its model. Nothing is logged, saved or evaluated."""
    torch.manual_seed(seed)
    config = GPTConfig(vocab_size, T, n_layer=4, n_head=4, n_embd=128)
    model, tokens = nanogpt_model(peer, config), torch.from_numpy(ids.astype(np.int64))
    optimizer = nanogpt_optimizer(model, torch.device("cpu"))
    for step in range(steps):
        fall = 0.5 * (1 + math.cos(math.pi * max(step - 100, 0) / max(steps - 100, 1)))
        rate = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + fall * 9e-4
        for group in optimizer.param_groups:
            group["lr"] = rate
        places = torch.randint(len(tokens) - T, (12,))[:, None] + torch.arange(T + 1)
        rows = tokens[places]  # (B, T + 1)
        _, loss = model(rows[:, :-1], rows[:, 1:].contiguous())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def train_ours(recipe: Recipe, tokens: TokenFile, seed: int) -> GPT:
    """Train by one of our recipes, with everything that `train` does; return the model."""
    torch.manual_seed(seed)
    model = recipe.kind(recipe.model)
    source = Windows(tokens, recipe.training.batch_size, recipe.model.block_size, seed)
    with tempfile.TemporaryDirectory() as folder:
        train(model, source, recipe.training, Path(folder))
    return model


def full_loss(model: Any, tokens: TokenFile, block_size: int = T) -> float:
    """Return the mean loss over all of a text, each token predicted once."""
    device = next(model.parameters()).device
    windows = EvalWindows(tokens, 64, block_size)
    # The peer's forward takes a batch (idx, targets) and nothing else.
    sums = sum_losses(
        model, windows, device, torch.float32, lambda forward, batch: forward(*batch)[1]
    )
    return mean_loss(*sums)


def measure_shakespeare(peer: ModuleType, text: str, quick: bool) -> list[Row]:
    """Train nanoGPT and our recipes on some seeds, in turns; compare time and loss.

    A recipe first gets as little of nanoGPT's time as its goal allows, then more until it is there.
    """
    steps, seeds = (3, 1) if quick else (2000, 3)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        data = by_characters(text[:20_000] if quick else text, Path(folder))
        V = data.train.vocab_size
        for seed in range(seeds):
            taken, model = clock(lambda s=seed: train_nanogpt(peer, data.train.tokens, V, steps, s))
            aim = full_loss(model, data.validation)
            found["nanogpt"].append((taken, aim))
            for name, (recipe_of, times) in RACES.items():
                runs = race(
                    lambda seconds, of=recipe_of, s=seed: run_within(of, data, seconds, s, quick),
                    taken / times,
                    aim,
                    0 if quick else taken,
                )
                found[f"{name}, in time"].append(runs[0])
                found[name].append(runs[-1])
            found["long"].append(run_within(patient, data, 0.95 * taken, seed, quick))
    return shakespeare_rows(found)


def race(
    run: Callable[[float], tuple[float, float]], seconds: float, aim: float, most: float
) -> list[tuple[float, float]]:
    """Run again and again, each time longer, until the loss is there or would come too late.

    run: is told how many seconds it has; returns those it took, and its loss.
    most: seconds that no further run may be given.
    """
    runs = [run(seconds)]
    while runs[-1][1] > aim and runs[-1][0] * GROWTH < most:
        runs.append(run(runs[-1][0] * GROWTH))
    return runs


def run_within(
    recipe_of: Callable[[int, int], Recipe],
    data: Characters,
    seconds: float,
    seed: int,
    quick: bool,
) -> tuple[float, float]:
    """Train by a recipe for about so long; return the seconds and the full validation loss."""
    V = data.train.vocab_size
    recipe = recipe_of(V, 3 if quick else steps_within(recipe_of, data.train, seconds))
    taken, model = clock(lambda: train_ours(recipe, data.train, seed))
    return taken, full_loss(model, data.validation, recipe.model.block_size)


def steps_within(recipe_of: Callable[[int, int], Recipe], tokens: TokenFile, seconds: float) -> int:
    """Return how many steps of a recipe take so long here, from a short trial."""
    trial = recipe_of(tokens.vocab_size, TRIAL)
    times = [clock(lambda: train_ours(trial, tokens, 0))[0] for _ in range(3)]
    return max(int(seconds / statistics.median(times) * TRIAL), 1)


def shakespeare_rows(found: dict[str, list[tuple[float, float]]]) -> list[Row]:
    """Compare the medians; a run whose loss is above nanoGPT's has not come as far."""
    middle = {
        name: tuple(statistics.median(column) for column in zip(*runs, strict=True))
        for name, runs in found.items()
    }
    seconds, loss = middle["nanogpt"]
    rows = [
        Row(
            PART,
            "nanoGPT's recipe: full validation loss",
            loss,
            "nats",
            None,
            True,
            f"{seconds:.1f} s",
        )
    ]
    for name, what, goal in (("same", "same size", 10), ("any", "any architecture", 15)):
        own_seconds, own_loss = middle[name]
        reached = own_loss <= loss
        soon_seconds, soon_loss = middle[f"{name}, in time"]
        note = f"{own_seconds:.2f} s, loss {own_loss:.3f}"
        if soon_seconds < own_seconds:
            note += f"; {soon_loss:.3f} after {soon_seconds:.2f} s"
        rows.append(
            Row(
                PART,
                f"nanoGPT's loss sooner, {what}",
                seconds / own_seconds * reached,
                "x",
                goal,
                note=note + ("" if reached else ": not reached"),
            )
        )
    long_seconds, long_loss = middle["long"]
    note = f"{long_seconds / seconds:.2f} of its time, context {2 * T}"
    return [*rows, Row(PART, "loss in nanoGPT's time", long_loss, "nats", 1.54, True, note)]


# ---- the share of the peak

# Of nanoGPT's size, in the form whose steps take the least time between matrix products.
LEAN: dict[str, Any] = {"n_head": 6, "mlp": "relu2", "positions": "learned", "qk_norm": False}


def measure_throughput(peer: ModuleType | None, quick: bool) -> list[Row]:
    """Take steps of wide models, in turns with nanoGPT and with plain matrix products.

    One is of the default form, as it is; the other lean, and compiled where that is possible.
    """
    device = choose_device("cpu")
    dtype = choose_dtype(device)
    width, B, length, rounds = (96, 2, 32, 1) if quick else (768, 16, 256, 5)
    sizes: dict[str, Any] = {"vocab_size": 65, "block_size": length, "n_layer": 4, "n_embd": width}
    default = GPTConfig(**sizes, n_head=max(width // 64, 1))
    lean = GPTConfig(**sizes, **LEAN)
    idx = torch.randint(65, (B, length + 1))
    batch = idx[:, :-1], idx[:, 1:].contiguous()
    compiles = not quick and can_compile(device)
    ways = {"default": step_of_ours(default, batch), "lean": step_of_ours(lean, batch, compiles)}
    if peer is not None:
        ways["nanogpt"] = step_of_nanogpt(peer, default, batch, dtype)
    peaks = []
    ways["peak"] = lambda: peaks.append(matmul_flops(device, dtype, 256 if quick else 4096, 0.1))
    seconds, _ = take_turns(ways, rounds)
    peak, name = max(peaks), str(dtype).removeprefix("torch.")
    rows = [
        Row(
            PART,
            f"measured peak of matrix products, {name}",
            peak / 1e9,
            "GFLOP/s",
            note=f"{torch.get_num_threads()} threads",
        )
    ]
    # In float32 nanoGPT does the same products, at the peak's speed: there is no goal.
    goals = {"default": (None, None), "lean": (45, None if dtype == torch.float32 else 2)}
    for form, config in (("default", default), ("lean", lean)):
        compiled = ", compiled" if compiles and form == "lean" else ""
        what, (share_goal, speed_goal) = f"width {width}, {form} form{compiled}", goals[form]
        tokens = B * length / seconds[form]  # a second
        share = 3 * flops_per_token(config) * tokens / peak
        rows.append(
            Row(
                PART,
                f"{what}: share of that peak",
                100 * share,
                "%",
                share_goal,
                note=f"{tokens:,.0f} tokens a second",
            )
        )
        if peer is not None:
            ratio = seconds["nanogpt"] / seconds[form]
            rows.append(
                Row(PART, f"{what}: beside nanoGPT in {name}", ratio, "x faster", speed_goal)
            )
    return rows


def step_of_ours(config: GPTConfig, batch: tuple, compile: bool = False):
    """Return a function that takes one training step: AdamW, as nanoGPT's."""
    torch.manual_seed(0)
    settings = TrainConfig(
        optimizer="adamw", batch_size=len(batch[0]), device="cpu", compile=compile
    )
    trainer = Trainer(GPT(config), settings, Path(), {})
    return lambda: trainer.train_step(batch)


def step_of_nanogpt(peer: ModuleType, config: GPTConfig, batch: tuple, dtype: torch.dtype):
    """Return a function that takes one training step of nanoGPT with autocast."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    model = nanogpt_model(peer, config)
    optimizer = nanogpt_optimizer(model, device)

    def step() -> None:
        with autocast(device, dtype):
            _, loss = model(*batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
