"""Wrong answers about training fail, each with a word on what to look at."""

import math

import pytest
import torch
from solved import answer_of, fails, passes_always, solution

from minigpt.checks import exercises, judge
from minigpt.checks.training import STEEPNESS, clipped_gradient, valley

pytestmark = pytest.mark.usefixtures("student")

HAND = {
    "gradient": [3, 4],
    "clipped": [1.5, 2],
    "rates": [0.1, 0.2, 0.15],
    "steps": 250,
    "lost": 49,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gradient": [4.5, 2.5]}, "4 of 5 targets"),
        ({"gradient": [15, 20]}, "divides by their number"),
        ({"gradient": [3, 5]}, "Four fifths"),
        ({"gradient": [3]}, "list of 2 numbers"),
        ({"clipped": [0.6, 0.8]}, "limit is 2.5"),
        ({"clipped": [2.5, 2.5]}, "direction stays"),
        ({"rates": [0, 0.2, 0.15]}, "a step that moves"),
        ({"rates": [0.1, 0.2, 0.12]}, "straight line"),
        ({"steps": 32000}, "rows times tokens"),
        ({"lost": 50}, "is not lost"),
        ({"lost": 299}, "last with a checkpoint"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_training_by_hand(change, words):
    assert judge("training.by_hand", HAND) == ("passed", "passed")
    fails("training.by_hand", HAND | change, words)


def rows_of(n, seed, epoch):
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator).tolist()


def laid_out(n, batch_size, seed, step, order=rows_of, shift=0):
    places = range(step * batch_size + shift, (step + 1) * batch_size + shift)
    return [order(n, seed, place // n)[place % n] for place in places]


def with_replacement(n, batch_size, seed, step):
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return torch.randint(n, (batch_size,), generator=generator).tolist()


def shorter_last(n, batch_size, seed, step):
    per_epoch = -(-n // batch_size)
    start = step % per_epoch * batch_size
    return rows_of(n, seed, step // per_epoch)[start : start + batch_size]


class Iterating:
    """Keep a random source from call to call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, n, batch_size, seed, step):
        self.calls += 1
        return laid_out(n, batch_size, seed + self.calls, step)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (with_replacement, "each once"),
        (shorter_last, "rows in a batch of"),
        (Iterating(), "asked in another order"),
        (lambda *a: laid_out(*a, order=lambda n, *_: list(range(n))), "shuffle"),
        (lambda *a: laid_out(*a, order=lambda n, s, e: rows_of(n, s, 0)), "same order"),
        (lambda *a: laid_out(*a, order=lambda n, s, e: rows_of(n, 0, e)), "another seed"),
        (lambda *a: laid_out(*a, order=lambda n, s, e: rows_of(n, 0, s + e)), "add them up"),
        (lambda *a: laid_out(*a, shift=1), "each once"),
        (lambda *a: tuple(laid_out(*a)), "expected a list"),
    ],
)
def test_wrong_epoch(answer, words):
    assert judge("training.epoch", lambda *a: laid_out(*a)) == ("passed", "passed")
    fails("training.epoch", answer, words)


def in_pieces(w, x, targets, size, limit, weigh=None, add=True, cut="whole"):
    pieces = [(x[i : i + size], targets[i : i + size]) for i in range(0, len(x), size)]
    total = torch.zeros_like(w)
    for some, wanted in pieces:
        share = (wanted != -100).sum() / (targets != -100).sum()
        piece = clipped_gradient(w, some, wanted, 1e12) * (
            share if weigh is None else weigh(x, size)
        )
        piece = piece * min(1, limit / piece.norm().clamp_min(1e-12)) if cut == "pieces" else piece
        total = total + piece if add else piece
    if cut == "numbers":
        return total.clamp(-limit, limit)
    if cut == "longer":
        return total / total.norm() * limit
    return total * min(1, limit / total.norm()) if cut == "whole" else total


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"add": False}, "last piece alone"),
        ({"weigh": lambda x, size: 1 / -(-len(x) // size)}, "by its targets"),
        ({"weigh": lambda x, size: 1.0}, "without weights"),
        ({"cut": "numbers"}, "cut by itself"),
        ({"cut": "pieces"}, "clip once"),
        ({"cut": "no"}, "Nothing is clipped"),
        ({"cut": "longer"}, "only shortens"),
        ({"weigh": lambda x, size: -1.0}, "Weigh each piece"),
    ],
)
def test_wrong_repair(options, words):
    assert judge("training.repair", lambda *a: in_pieces(*a)) == ("passed", "passed")
    fails("training.repair", lambda *a: in_pieces(*a, **options), words)


def test_the_planted_function_of_chapter_10_fails_as_it_is():
    fails("training.repair", lambda *a: solution("training.repair").names["broken"](*a), "shortens")


def examined(batch, logits_of, evaluate, shift=1, padding=True, last=True, times=2, slack=1e-3):
    idx, targets = batch
    T, faults = idx.size(1), set()
    wrong = targets[:, : T - shift] != idx[:, shift:]
    if padding:
        wrong &= targets[:, : T - shift] != -100
    if wrong.any():
        faults.add("targets")
    for t in range(1, T) if last else [1]:
        other = idx.clone()
        other[:, t] = (idx[:, t] + 1) % 11
        if (logits_of(other) - logits_of(idx))[:, : t + (slack < 0)].abs().max() > abs(slack):
            faults.add("mask")
    losses = [evaluate() for _ in range(times)]
    if max(losses) - min(losses) > 1e-5:
        faults.add("mode")
    return faults


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift": 2}, "one further"),
        ({"padding": False}, "-100 marks padding"),
        ({"times": 1}, "more than once"),
        ({"slack": -1e-3}, "BEFORE the changed token"),
        ({"slack": 1e-12}, "allow for rounding"),
        ({"slack": 1e9}, "'mask' was missed"),
    ],
)
def test_wrong_doctor(options, words):
    assert judge("training.doctor", lambda *a: examined(*a)) == ("passed", "passed")
    fails("training.doctor", lambda *a: examined(*a, **options), words)


def test_wrong_doctor_answers_of_another_kind():
    fails("training.doctor", lambda *a: list(examined(*a)), "expected a set")
    fails("training.doctor", lambda *a: {"flu"}, "names of faults")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"least_scale": 64}, "smallest power"),
        ({"largest_scale": 32768}, "largest power"),
        ({"frozen": 2.0}, "at every addition"),
        ({"float32": 1.0}, "in float32"),
        ({"why": "a"}, "represented well"),
        ({"why": "c"}, "range"),
        ({"why": "d"}, "overflows"),
        ({"why": 2}, "one letter"),
    ],
)
def test_wrong_bits(change, words):
    fails("training.bits", answer_of("training.bits") | change, words)


def bent(step, steps, high=1.7, power=1.5):
    return high * (1 - step / steps) ** power


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda step, steps: 0.6, "let it fall further"),
        (lambda step, steps: 0.01, "keep the rate high"),
        (lambda step, steps: bent(step, steps, high=0.3), "keep the rate high"),
        (lambda step, steps: bent(step, steps, power=1), "150 steps end at a loss of 0.126"),
        (lambda step, steps: bent(step, steps, high=2.5), "after 1 of 50 steps the loss is above"),
        (lambda step, steps: 1.7 * step / steps, "let it fall"),
        (lambda step, steps: bent(steps - step, steps), "let it fall"),
        (lambda step, steps: bent(step, 50), "a number from 0 on"),
        (lambda step, steps: -bent(step, steps), "a number from 0 on"),
        (lambda step, steps: [bent(step, steps)], "a number from 0 on"),
        (lambda step, steps: float("nan"), "a number from 0 on"),
        (lambda step, steps: None, "is a return missing"),
    ],
)
def test_wrong_schedule(answer, words):
    assert judge("training.schedule", lambda *a: bent(*a)) == ("passed", "passed")
    fails("training.schedule", answer, words)


@pytest.mark.parametrize(
    "answer",
    [
        lambda step, steps: 1.5 if step < steps / 5 else 1.9 * (1 - step / steps) ** 1.7,
        lambda step, steps: 1.7 * (1 - step / steps) / (1 + step / steps),
    ],
)
def test_other_schedules_are_solutions_too(answer):
    assert judge("training.schedule", answer) == ("passed", "passed")


def test_the_valley_is_the_mean_of_many_walks():
    """What the check computes is what dice give: 20,000 walks with drawn noise."""
    rates, h = [bent(step, 20) for step in range(20)], torch.tensor(STEEPNESS)
    w, generator = torch.full((20_000, 20), 2.0), torch.Generator().manual_seed(0)
    for rate in rates:
        w -= rate * (h * w + h.sqrt() * torch.randn(w.shape, generator=generator))
    drawn = (h * w**2).sum(dim=1).mean().item() / 2
    assert abs(drawn / valley(rates)[-1] - 1) < 0.02


def steps_of_one_length(n, seed, epoch):
    jump = next(j for j in (7, 11, 13) if math.gcd(j, n) == 1)
    start = rows_of(n, seed, epoch)[0]
    return [(start + jump * place) % n for place in range(n)]


def seeds_that_meet(n, seed, epoch):
    generator = torch.Generator().manual_seed(seed * 1000 + epoch)
    return torch.randperm(n, generator=generator).tolist()


@pytest.mark.parametrize(
    ("order", "words"), [(steps_of_one_length, "same distance"), (seeds_that_meet, "may meet")]
)
def test_orders_that_are_no_shuffle_of_their_own(order, words):
    fails("training.epoch", lambda *a: laid_out(*a, order=order), words)


def test_the_whole_batch_at_once_is_no_accumulation():
    def at_once(w, x, targets, size, limit):
        return clipped_gradient(w, x, targets, limit)

    fails("training.repair", at_once, "not in pieces")


@pytest.mark.slow
@pytest.mark.parametrize("name", exercises("training"))
def test_right_answers_never_fail(name, monkeypatch):
    passes_always(name, monkeypatch)
