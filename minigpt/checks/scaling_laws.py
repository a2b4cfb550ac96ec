"""Checks of the scaling-law exercises, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Generator

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    integers,
    number_slip,
    numpy_rng,
    require,
    same_number,
    same_results,
)
from minigpt.scaling import ScalingLaw, fit_scaling_law

HAND = {
    "exponent": math.log10(2),
    "next_loss": 0.4,
    "without_floor": 0.5 * 0.5 / 0.7,
    "tokens": 1e7,
    "times": 16.0,
}
HAND_HINTS = {
    "exponent": "Subtract the floor first; then ask what tenfold N does to the rest.",
    "next_loss": "The part above the floor halves once more; the floor stays.",
    "without_floor": "From the second run to the third the whole loss is multiplied by 0.5 / 0.7.",
    "tokens": "6 N D = compute.",
    "times": "k to the power -0.25 must be one half.",
}
HAND_SLIPS = {
    "exponent": {
        -math.log10(2): "The law has N to the power -a: a itself is positive.",
        math.log(2): "That is ln 2 for a decade; the exponent compares logarithms of one base.",
        math.log10(1.1 / 0.5) / 2: "That is the slope of the whole loss; subtract the floor.",
        2 * math.log10(2): "That is the fall over two decades.",
    },
    "next_loss": {0.1: "That is the part above the floor; add the floor."},
    "without_floor": {
        0.5 * math.sqrt(0.5 / 1.1): "That line goes through the first and the last run.",
        0.3: "That is a straight line through the losses, not through their logarithms.",
    },
    "tokens": {
        6e7: "Each weight takes 6 operations a token.",
        3e7: "2 forward and 4 backward.",
    },
    "times": {
        2.0: "That halves it only if the exponent is 1.",
        8.0: "That would be right for 1/3.",
    },
}


@exercise("scaling_laws.by_hand", "subtract the floor; a straight line on log paper is a power.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the five results of the exercise text."""
    same_results(answer, HAND, _hand_hint, slack=0.006)


def _hand_hint(name: str, got: Any) -> str:
    return number_slip(got, HAND_SLIPS[name]) or HAND_HINTS[name]


# Tokens for a budget


@exercise("scaling_laws.budget", "the optimum first; if its D is too much, D is what there is.")
def budget(answer: Callable, generator: Generator) -> None:
    """Expect plan(law, compute, most_tokens) -> (N, D), where law is (E, A, B, a, b)."""
    for number in range(6):
        law = _some_law(generator)
        compute = 10.0 ** integers(generator, 15, 22)[0]
        best_D = law.compute_optimal(compute)[1]
        most = best_D * (math.inf, 40.0, 1.5, 0.8, 0.3, 0.02)[number]
        case = f"compute {compute:.0e}, the optimum takes {best_D:.2e} of {most:.2e} tokens"
        numbers = (law.E, law.A, law.B, law.a, law.b)
        got = call(answer, numbers, compute, most, case=case)
        fits = isinstance(got, tuple | list) and len(got) == 2
        require(fits, f"expected the pair (N, D), got {got!r} ({case})")
        N, D = got
        for name, value in (("N", N), ("D", D)):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            require(is_number and 0 < value < math.inf, f"{name} is {value!r} ({case})")
        require(D <= most * (1 + 1e-9), f"D = {D:.3g} is more text than there is ({case})")
        spent = 6 * N * D / compute
        require(spent < 1.001, f"6 N D is {spent:.3g} times the budget ({case})")
        require(spent > 0.999, f"only {spent:.3g} of the budget is spent ({case}): N may grow")
        right_D = min(best_D, most)
        hint = "Set the derivative of the loss along 6 N D = C to zero: a A / N^a = b B / D^b."
        if most < best_D:
            hint = "There is too little text for the optimum: take all of it."
        require(abs(D / right_D - 1) < 1e-3, f"D is {D:.4g}, and {hint} ({case})")


def _some_law(generator: Generator) -> ScalingLaw:
    rng = numpy_rng(generator)
    a, b = rng.uniform(0.25, 0.6, 2).tolist()
    A, B = np.exp(rng.uniform(4, 8, 2)).tolist()
    return ScalingLaw(rng.uniform(0.2, 2), A, B, a, b)


# A sweep that leaks

HELD_OUT = 20  # texts


@exercise(
    "scaling_laws.repair",
    "write down which texts each run learns from, and which it is judged by.",
    travels=False,
)
def repair(answer: Callable, generator: Generator) -> None:
    """Expect sweep(texts, sizes, amounts, seeds, loss_after) -> {(size, amount): mean loss}."""
    rng = numpy_rng(generator)
    texts = [f"text {n}" for n in range(90)]
    copied = rng.choice(HELD_OUT, 5, replace=False)
    for which in copied:  # the web holds everything twice
        texts.insert(int(rng.integers(22, 60)), texts[int(which)])
    held_out, known = texts[:HELD_OUT], set(texts[:HELD_OUT])
    clean = [text for text in texts if text not in known]
    sizes, amounts, seeds = [3, 5], [10, 25, 60], [0, 1, 2]
    runs, noise = [], {}

    def loss_after(size: int, training: list, judged_by: list, seed: int) -> float:
        runs.append((size, list(training), list(judged_by), seed))
        key = (size, len(training), seed)
        return noise.setdefault(key, 1 / size + 1 / len(training) + rng.uniform(0, 0.2))

    table = call(answer, texts, sizes, amounts, seeds, loss_after, case="a sweep of six cells")
    for _, training, judged_by, _ in runs:
        _judge_run(training, judged_by, held_out, clean)
    wanted = {(size, amount) for size in sizes for amount in amounts}
    require(isinstance(table, dict), f"expected a dict, got {type(table).__name__}")
    require(set(table) == wanted, "expected one entry for each (size, amount), none left out")
    done = {(size, len(training), seed) for size, training, _, seed in runs}
    everything = {(*cell, seed) for cell in wanted for seed in seeds}
    require(done == everything, "every cell is trained once from each of the seeds")
    for size, amount in sorted(wanted):
        losses = [noise[size, amount, seed] for seed in seeds]
        name, hint = f"the loss of {size, amount}", "A cell's loss is the mean over its seeds."
        if table[size, amount] == min(losses):
            hint = "That is the best of the seeds: the more seeds, the better it looks."
        same_number(table[size, amount], sum(losses) / 3, name, hint, slack=1e-9)


def _judge_run(training: list, judged_by: list, held_out: list, clean: list) -> None:
    inside = len(set(training) & set(judged_by))
    require(
        judged_by == held_out,
        f"a run of {len(training)} texts is judged by {judged_by[:1]}...: every run by the same "
        f"{HELD_OUT} texts, the first ones",
    )
    require(not inside, f"{inside} of the held-out texts are also learned from: texts have copies")
    require(
        training == clean[: len(training)] and len(training) in (10, 25, 60),
        f"a run of {len(training)} texts: expected the first `amount` texts that are not held out",
    )


# Twenty tokens a parameter

PUBLISHED = ScalingLaw(1.69, 406.4, 410.7, 0.34, 0.28)  # Hoffmann et al. 2022
CORRECTED = ScalingLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658)  # Besiroglu et al. 2024
CHINCHILLA = 5.76e23  # operations


def _ratio(law: ScalingLaw, compute: float) -> float:
    N, D = law.compute_optimal(compute)
    return D / N


@exercise("scaling_laws.twenty", "compute_optimal gives N and D; which letters decide their ratio?")
def twenty(answer: Any, generator: Generator) -> None:
    """Expect the tokens per parameter of two laws, how one grows with compute, and the reason."""
    names = ["corrected", "growth", "published", "why"]
    named = isinstance(answer, dict) and sorted(answer) == names
    require(named, f"expected a dict of {names}")
    look = "Take compute_optimal of the law at 5.76e23 operations, then D / N."
    for name, law in (("published", PUBLISHED), ("corrected", CORRECTED)):
        right = _ratio(law, CHINCHILLA)
        hint = look
        if isinstance(answer[name], int | float) and abs(answer[name] * right - 1) < 0.02:
            hint = "That is N / D."
        same_number(answer[name], right, name, hint, slack=0.005 * right)
    growth = _ratio(PUBLISHED, 100 * CHINCHILLA) / _ratio(PUBLISHED, CHINCHILLA)
    hint = "The ratio at 100 times the compute, divided by the ratio before; both by `published`."
    same_number(answer["growth"], growth, "growth", hint, slack=0.005 * growth)
    letter = str(answer["why"]).strip().lower().strip("().")
    replies = {
        "a": "6 N D holds well for models of this size; it moves N and D together.",
        "b": "E is the same whatever N and D are: it moves no optimum.",
        "d": "Compute moves the ratio only where a and b differ. Which letters decide it?",
    }
    require(letter in {"a", "b", "c", "d"}, f"why should be one of a, b, c, d, got {letter!r}")
    require(letter == "c", f"why is not ({letter}). {replies.get(letter, '')}")


# Which runs to buy

BUDGET, TARGET = 2e15, (1e8, 2e9)  # operations of all runs; N and D of the run that is foreseen
TOLERANCE = 0.03


@exercise("scaling_laws.runs", "few sizes, but far apart, each with short and long runs.")
def runs(answer: Callable, generator: Generator) -> None:
    """Expect choose_runs(budget) -> [(N, D), ...] that foresee a run of 600 times the compute."""
    chosen = call(answer, BUDGET, case=f"budget {BUDGET:.0e}")
    fits = isinstance(chosen, list | tuple) and all(
        isinstance(run, list | tuple) and len(run) == 2 for run in chosen
    )
    require(fits, "expected a list of pairs (N, D)")
    require(5 <= len(chosen) <= 40, f"{len(chosen)} runs; between 5 and 40 are allowed")
    for N, D in chosen:
        require(1e4 <= N <= 1e7 and D >= 1e5, f"a run of N = {N:.2g}, D = {D:.2g} is not allowed")
    spent = sum(6 * N * D for N, D in chosen) / BUDGET
    require(spent <= 1 + 1e-9, f"the runs cost {spent:.3g} times the budget")
    Ns, Ds = ([run[axis] for run in chosen] for axis in (0, 1))
    require(len(set(Ns)) > 1 and len(set(Ds)) > 1, "vary both N and D, or a term stays unknown")
    rng, start = numpy_rng(generator), ScalingLaw(1.0, 300.0, 1000.0, 0.35, 0.35)
    errors = []
    for a, b in ((0.34, 0.37), (0.42, 0.33)):
        law = ScalingLaw(rng.uniform(1.4, 1.9), 3.0 * 1e5**a / 3, 4.0 * 1e6**b / 3, a, b)
        noise = np.exp(0.002 * rng.standard_normal(len(chosen)))
        losses = [law.loss(N, D) * e for (N, D), e in zip(chosen, noise, strict=True)]
        found = fit_scaling_law(Ns, Ds, losses, starts=[start])
        errors.append(found.loss(*TARGET) / law.loss(*TARGET) - 1)
    worst = max(errors, key=abs)
    require(
        abs(worst) <= TOLERANCE,
        f"the run of {TARGET[0]:.0e} parameters is foreseen {abs(worst):.1%} too "
        f"{'high' if worst > 0 else 'low'}; {TOLERANCE:.0%} are allowed. Spread the runs wider: "
        "the floor shows only where both terms have become small",
    )
