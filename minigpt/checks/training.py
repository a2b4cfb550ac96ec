"""Checks of the training exercises, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from minigpt.batching.windows import IGNORE
from minigpt.checks import exercise
from minigpt.checks.compare import (
    LargestTensor,
    call,
    integers,
    require,
    same_number,
    same_results,
    same_tensor,
    slip_hint,
)

HAND = {
    "gradient": [3.0, 4.0],
    "clipped": [1.5, 2.0],
    "rates": [0.1, 0.2, 0.15],
    "steps": 250,
    "lost": 49,
}
HAND_HINTS = {
    "gradient": "Four fifths of the first piece and one fifth of the second.",
    "clipped": "Divide by the length, multiply by the limit.",
    "rates": "Rise from 0.1 in two steps; then a straight line to 0 at step 10.",
    "steps": "Tokens of one step first: rows times tokens.",
    "lost": "Which step is the last with a checkpoint?",
}
HAND_SLIPS = {  # (key, what was written) -> what to look at
    ("gradient", (4.5, 2.5)): "That is the mean of the two; the first piece has 4 of 5 targets.",
    ("gradient", (15.0, 20.0)): "A mean over the targets divides by their number.",
    ("clipped", (0.6, 0.8)): "That has length 1; the limit is 2.5.",
    ("clipped", (2.5, 2.5)): "Cut the vector, not each number: the direction stays.",
    ("rates", (0.0, 0.2, 0.15)): "Warm-up begins with a step that moves: (step + 1) / warm-up.",
}


@exercise("training.by_hand", "weigh by targets, then the length, then the schedule's two lines.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the five results of the exercise text."""
    same_results(answer, HAND, _hand_hint)


def _hand_hint(name: str, got: Any) -> str:
    if name == "lost" and got == 50:
        return "The step that was saved is not lost."
    return slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# Every row once


@exercise("training.epoch", "epoch = place // n; shuffle 0 to n - 1 by (seed, epoch); cut.")
def epoch(answer: Callable, generator: Generator) -> None:
    """Expect epoch_batch(n, batch_size, seed, step): each row exactly once in an epoch."""
    for n, batch_size in [(7, 3), (12, 4), (5, 8), (40, 7)]:
        seed = integers(generator, 0, 10**6)[0]
        case = f"n = {n}, batch_size = {batch_size}"
        steps = 3 * n // math.gcd(n, batch_size)
        batches = [_ids(answer, n, batch_size, seed, step, case) for step in range(steps)]
        order = torch.randperm(steps, generator=generator).tolist()
        again = {step: _ids(answer, n, batch_size, seed, step, case) for step in order}
        require(
            all(again[step] == batches[step] for step in range(steps)),
            f"asked in another order, a step gives another batch ({case}): nothing may be "
            "remembered, and no random source may go on from call to call",
        )
        rows = [row for batch in batches for row in batch]
        epochs = [rows[i : i + n] for i in range(0, len(rows), n)]
        for number, each in enumerate(epochs):
            require(
                sorted(each) == list(range(n)),
                f"rows {number * n} to {number * n + n - 1} of the run should be 0 to {n - 1} in "
                f"some order, each once, got {each[:12]} ({case}). A batch may cross the border "
                "of two epochs",
            )
        _shuffled(answer, epochs, n, batch_size, seed, case)


def _ids(answer: Callable, n: int, batch_size: int, seed: int, step: int, case: str) -> list[int]:
    got = call(answer, n, batch_size, seed, step, case=case)
    got = got.tolist() if isinstance(got, Tensor) else got
    fits = isinstance(got, list) and all(type(row) is int for row in got)
    require(fits, f"expected a list of whole numbers, got {got!r} ({case})")
    require(len(got) == batch_size, f"{len(got)} rows in a batch of {batch_size} ({case})")
    return got


def _shuffled(
    answer: Callable, epochs: list[list[int]], n: int, batch_size: int, seed: int, case: str
) -> None:
    if n < 12:
        return  # with few rows two orders may be equal by chance
    require(epochs[0] != list(range(n)), f"the rows come in their own order ({case}): shuffle")
    require(epochs[0] != epochs[1], f"two epochs have the same order ({case}): shuffle by epoch")
    jumps = {(after - before) % n for before, after in zip(epochs[0], epochs[0][1:], strict=False)}
    require(
        len(jumps) > 2,
        f"the rows follow one another at the same distance ({case}): that is no shuffle, each row "
        "always has the same neighbor",
    )
    steps = range(-(-n // batch_size))
    other = [i for step in steps for i in _ids(answer, n, batch_size, seed + 1, step, case)][:n]
    require(other != epochs[0], f"another seed gives the same order ({case})")
    require(
        other != epochs[1],
        f"seed {seed + 1}, epoch 0 is seed {seed}, epoch 1 ({case}): do not add them up",
    )
    for far in (10, 100, 1000, 10_000):
        first = far * n // batch_size
        later = [
            i
            for step in range(first, first + len(steps) + 1)
            for i in _ids(answer, n, batch_size, seed, step, case)
        ]
        skip = far * n - first * batch_size
        require(
            later[skip : skip + n] != other,
            f"seed {seed}, epoch {far} is seed {seed + 1}, epoch 0 ({case}): two numbers that are "
            "made one may meet; seed with the pair",
        )


# Three planted faults


@exercise("training.repair", "compare with the gradient of the whole batch; try uneven pieces.")
def repair(answer: Callable, generator: Generator) -> None:
    """Expect repaired(w, x, targets, size, limit): the clipped gradient of the mean loss."""
    for B, T, C, V, size, limit in [
        (4, 3, 5, 7, 4, 1e9),
        (6, 3, 4, 5, 2, 1e9),
        (5, 4, 3, 6, 2, 1e9),
        (4, 3, 5, 7, 2, 0.05),
        (4, 3, 5, 7, 4, 1e9),
    ]:
        w = torch.randn(C, V, generator=generator)
        x = torch.randn(B, T, C, generator=generator)
        targets = torch.randint(V, (B, T), generator=generator)
        if size < B:
            targets[: B // 2, 1:] = IGNORE
            targets[size : 2 * size, 0] = IGNORE if B == 6 else targets[size : 2 * size, 0]
        case = f"{B} rows, {size} at once, limit {limit:g}"
        got = call(answer, w, x, targets, size, limit, case=case)
        expected = clipped_gradient(w, x, targets, limit)
        same_tensor(got, expected, case, _repair_hint(got, w, x, targets, size, limit))
    _piece_by_piece(answer, generator)


def _piece_by_piece(answer: Callable, generator: Generator) -> None:
    """Require that no more than `size` rows go through the model at once."""
    B, T, C, V, size = 12, 3, 2, 30, 2
    w, x = torch.randn(C, V, generator=generator), torch.randn(B, T, C, generator=generator)
    targets = torch.randint(V, (B, T), generator=generator)
    with LargestTensor() as largest:
        answer(w, x, targets, size, 1e9)
    require(
        largest.numbers < 2 * size * T * V,
        f"right, but not in pieces: with {B} rows, {size} at once, a tensor of shape "
        f"{largest.shape} was made; the logits of {size} rows are {size} x {T} x {V}",
    )


def clipped_gradient(w: Tensor, x: Tensor, targets: Tensor, limit: float) -> Tensor:
    """Return the gradient (C, V) of the mean loss of all targets that count, at most this long."""
    grad = _gradient(w, x, targets)
    return grad * min(1.0, limit / grad.norm().item())


def _gradient(w: Tensor, x: Tensor, targets: Tensor) -> Tensor:
    """Compute it by formula: x^T (p - y) / number of targets."""
    counts = targets != IGNORE
    errors = (x @ w).softmax(dim=-1)[counts] - F.one_hot(targets[counts], w.size(1))
    return x[counts].mT @ errors / max(int(counts.sum()), 1)


def _repair_hint(got: Any, w: Tensor, x: Tensor, targets: Tensor, size: int, limit: float) -> str:
    pieces = [(x[i : i + size], targets[i : i + size]) for i in range(0, len(x), size)]
    grads = [_gradient(w, *piece) for piece in pieces]
    shares = [(t != IGNORE).sum() / (targets != IGNORE).sum() for _, t in pieces]

    def cut(grad: Tensor) -> Tensor:
        return grad * min(1.0, limit / max(grad.norm().item(), 1e-12))

    added = torch.stack(grads).sum(dim=0)
    weighted = [s * g for s, g in zip(shares, grads, strict=True)]
    total = torch.stack(weighted).sum(dim=0)
    slips = {
        "That is the last piece alone: gradients add up.": cut(shares[-1] * grads[-1]),
        "The pieces' means are averaged: a piece weighs by its targets that count.": cut(
            added / len(grads)
        ),
        "The pieces' gradients are added without weights.": cut(added),
        "Each number is cut by itself: the direction changes.": total.clamp(-limit, limit),
        "Each piece is clipped by itself: clip once, at the end.": sum(
            (cut(each) for each in weighted), torch.zeros_like(w)
        ),
        "Nothing is clipped.": total,
        "A short gradient was made longer: clipping only shortens.": total / total.norm() * limit,
    }
    is_matrix = isinstance(got, Tensor) and got.shape == w.shape
    for hint, slip in slips.items():
        if is_matrix and torch.allclose(got, slip, rtol=1e-3, atol=1e-5):
            return hint
    return "Weigh each piece by its share of the targets, add up, clip the sum."


# The doctor


@exercise(
    "training.doctor",
    "three tests, each sees one fault; collect the names of those that fail.",
    travels=False,
)
def doctor(answer: Callable, generator: Generator) -> None:
    """Expect diagnose(batch, logits_of, evaluate): the set of faults of a training set-up."""
    for number in [7, *torch.randperm(8, generator=generator).tolist(), 0]:
        faults = {name for bit, name in enumerate(("targets", "mask", "mode")) if number >> bit & 1}
        batch, logits_of, evaluate = patient(faults, generator)
        got = call(answer, batch, logits_of, evaluate, case="a set-up")
        require(isinstance(got, set), f"expected a set, got {type(got).__name__}")
        odd = got - {"targets", "mask", "mode"}
        require(not odd, f"only targets, mask and mode are names of faults, got {sorted(odd)}")
        for name, missed, invented in (
            (
                "targets",
                "the targets are not the next tokens: compare them with idx, one further",
                "targets[:, t] should be idx[:, t + 1]; the last target has nothing beside it, and "
                "-100 marks padding: such a target is not wrong",
            ),
            (
                "mask",
                "the logits of an earlier position move when a later token changes; it need "
                "not be the last one that is seen",
                "only logits BEFORE the changed token must stay; allow for rounding, 1e-4",
            ),
            (
                "mode",
                "two evaluations of the same model differ: call evaluate more than once",
                "two evaluations agree, but for rounding of 1e-6",
            ),
        ):
            require(name in got or name not in faults, f"{name!r} was missed: {missed}")
            require(name not in got or name in faults, f"{name!r} is fine here: {invented}")


def patient(faults: set[str], generator: Generator) -> tuple[tuple, Callable, Callable]:
    """Return (idx, targets), idx -> logits and () -> loss of a set-up with these faults."""
    B, T, V = 3, 8, 11
    rows = torch.randint(V, (B, T + 1), generator=generator)
    rows[:, 1::2] = (rows[:, ::2][:, : rows[:, 1::2].size(1)] + 1) % V  # neighbors differ
    idx, targets = rows[:, :-1], rows[:, 1:].clone()
    if "targets" in faults:
        targets = idx.clone() if integers(generator, 0, 1)[0] else rows.roll(-2, 1)[:, :-1].clone()
    targets[0, T - 3 :] = IGNORE
    table = torch.randn(V, V, generator=generator)
    reach = integers(generator, 1, 3)[0]

    def logits_of(some: Tensor) -> Tensor:
        past = table[some].cumsum(dim=1)
        past = past + 1e-6 * table[some].sum(dim=1, keepdim=True)  # rounding
        if "mask" in faults:  # looks `reach` places ahead
            past[:, :-reach] += table[some][:, reach:]
        return past

    count = [0]

    def evaluate() -> float:
        count[0] += 1
        return 1.5 + 1e-7 * count[0] + ("mode" in faults) * 0.01 * count[0]

    return (idx, targets), logits_of, evaluate


class SetUp(NamedTuple):
    """A training run of the chapter: a model, where its batches come from, and how it is judged."""

    model: nn.Module
    source: Any
    batches: list[tuple[Tensor, Tensor]]
    evaluates: bool  # in evaluation mode, without dropout

    @torch.no_grad()
    def evaluate(self) -> float:
        """Return the mean loss of the batches, as this set-up measures it."""
        self.model.train(not self.evaluates)
        return sum(self.model(*batch)[1].item() for batch in self.batches) / len(self.batches)


class Copies:
    """Batches whose targets are the inputs."""

    def __init__(self, source: Any):
        self.source = source

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return idx twice, (B, T) each."""
        idx, _ = self.source.batch(step)
        return idx, idx


class SeesAll(nn.Module):
    """An attention layer that lets every position look at every other."""

    def __init__(self, attention: nn.Module):
        super().__init__()
        self.attention = attention

    def forward(self, x, rotary=None, cache=None, layer=0, mask=None):
        """Map x (B, T, C) to (B, T, C)."""
        T = x.size(1)
        everything = torch.ones(1, 1, T, T, dtype=torch.bool, device=x.device)
        return self.attention(x, rotary, cache, layer, everything)


def set_up(name: str, new_model: Callable, source: Any, batches: list) -> SetUp:
    """Return one of the chapter's runs: A, B and C have a planted fault each."""
    if name == "A":  # the target is the token itself
        return SetUp(new_model(), Copies(source), [(idx, idx) for idx, _ in batches], True)
    if name == "B":  # no mask
        model = new_model()
        for block in model.blocks:
            block.attention = SeesAll(block.attention)
        return SetUp(model, source, batches, True)
    if name == "C":  # dropout is on while it is judged
        return SetUp(new_model(dropout=0.3), source, batches, False)
    return SetUp(new_model(), source, batches, True)


# Sixteen bits


@exercise("training.bits", "torch.tensor(value, dtype=torch.float16) shows what is left of it.")
def bits(answer: Any, generator: Generator) -> None:
    """Expect the four measured figures and the explanation."""
    expected = {"least_scale": 32, "largest_scale": 16384, "frozen": 1.0, "float32": 2.0}
    names = {*expected, "why"}
    require(
        isinstance(answer, dict) and set(answer) == names, f"expected a dict of {sorted(names)}"
    )
    hints = {
        "least_scale": "The smallest power of two whose product with 1e-9 is above 0 in float16.",
        "largest_scale": "The largest power of two whose product with 3 is finite in float16.",
        "frozen": "Keep the sum in bfloat16 at every addition.",
        "float32": "Add 0.001 a thousand times, in float32.",
    }
    for name, right in expected.items():
        same_number(answer[name], right, name, hints[name], 0.004)
    wrong = {
        "a": "0.001 itself is represented well: print it in bfloat16.",
        "c": "The range of bfloat16 is that of float32.",
        "d": "Nothing overflows here: the sum is near 1.",
    }
    letter = answer["why"]
    require(letter == "b", f"why = {letter!r}. {wrong.get(letter, 'Give one letter, a to d.')}")


# A schedule for a noisy valley

STEEPNESS = [i**-1.5 for i in range(1, 21)]  # of the valley's twenty directions
AIMS = {50: 0.29, 150: 0.114}  # steps of a run -> loss to end below; the best known: 0.262, 0.101


@exercise(
    "training.schedule", "draw mean_losses for a constant rate, high and low; then let it fall."
)
def schedule(answer: Callable, generator: Generator) -> None:
    """Expect rate(step, steps): learning rates that end low in runs of 50 and of 150 steps."""
    for steps, aim in AIMS.items():
        rates = [call(answer, step, steps, case=f"step {step} of {steps}") for step in range(steps)]
        for step, rate in enumerate(rates):
            is_rate = isinstance(rate, int | float) and math.isfinite(rate) and rate >= 0
            require(is_rate, f"rate({step}, {steps}) should be a number from 0 on, got {rate!r}")
        losses = valley(rates)
        climbs = next((step for step, loss in enumerate(losses) if loss > losses[0] + 1e-9), None)
        require(
            climbs is None,
            f"after {climbs} of {steps} steps the loss is above {losses[0]:.2f}, where it began, "
            "and the run is stopped: the steepest direction does not bear such a rate",
        )
        way = valley(rates, noise=0.0)[-1]
        trembling = losses[-1] - way
        look_at = (
            "keep the rate high for longer"
            if way > trembling
            else "let it fall further, or earlier"
        )
        require(
            losses[-1] < aim,
            f"{steps} steps end at a loss of {losses[-1]:.3f}, the aim is {aim}. Of it {way:.3f} "
            f"are way that is not yet walked, and {trembling:.3f} trembling: {look_at}",
        )


def valley(rates: list[float], noise: float = 1.0) -> list[float]:
    """Return the mean loss of the exercise's valley before a run and after each of its steps.

    Without noise it is the way that is left; the rest is trembling, since the two add up.
    """
    squares = [4.0] * len(STEEPNESS)
    losses = [sum(h * square for h, square in zip(STEEPNESS, squares, strict=True)) / 2]
    for rate in rates:
        squares = [
            (1 - rate * h) ** 2 * square + noise * rate**2 * h
            for h, square in zip(STEEPNESS, squares, strict=True)
        ]
        losses.append(sum(h * square for h, square in zip(STEEPNESS, squares, strict=True)) / 2)
    return losses
