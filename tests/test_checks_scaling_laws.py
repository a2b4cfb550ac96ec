"""Wrong answers about scaling laws fail, each with a word on what to look at."""

import math

import pytest
from solved import answer_of, fails, passes_always

from minigpt.checks import judge
from minigpt.scaling import ScalingLaw

pytestmark = pytest.mark.usefixtures("student")

HAND = {
    "exponent": 0.3,
    "next_loss": 0.4,
    "without_floor": 0.36,
    "tokens": 10_000_000,
    "times": 16,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"exponent": -0.3}, "a itself is positive"),
        ({"exponent": 0.69}, "logarithms of one base"),
        ({"exponent": 0.17}, "subtract the floor"),
        ({"exponent": 0.6}, "two decades"),
        ({"exponent": 2}, "what tenfold N does"),
        ({"next_loss": 0.1}, "add the floor"),
        ({"next_loss": 0.3}, "halves once more"),
        ({"without_floor": 0.34}, "first and the last"),
        ({"without_floor": 0.3}, "not through their logarithms"),
        ({"without_floor": 0.4}, "multiplied by"),
        ({"tokens": 6e7}, "6 operations a token"),
        ({"tokens": 3e7}, "2 forward and 4 backward"),
        ({"tokens": 1e8}, "6 N D"),
        ({"times": 2}, "only if the exponent is 1"),
        ({"times": 8}, "right for 1/3"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_scaling_by_hand(change, words):
    assert judge("scaling_laws.by_hand", HAND) == ("passed", "passed")
    fails("scaling_laws.by_hand", HAND | change, words)


def planned(law, compute, most, six=6, swap=False, cap=True, keep=False):
    E, A, B, a, b = law
    A, B, a, b = (B, A, b, a) if swap else (A, B, a, b)
    N, D = ScalingLaw(E, A, B, a, b).compute_optimal(compute * 6 / six)
    if cap and most < D:
        return (N if keep else compute / six / most), most
    return N, D


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: planned(*a, cap=False), "more text than there is"),
        (lambda *a: planned(*a, keep=True), "of the budget is spent"),
        (lambda *a: planned(*a, six=1), "times the budget"),
        (lambda *a: planned(*a, six=12), "of the budget is spent"),
        (lambda *a: planned(*a, swap=True), "a A / N^a = b B / D^b"),
        (lambda law, C, most: (math.sqrt(C / 6), math.sqrt(C / 6)), "is"),
        (lambda law, C, most: (C / 6 / min(1e5, most), min(1e5, most)), "is"),
        (lambda *a: planned(*a)[0], "expected the pair"),
        (lambda *a: (math.nan, 1.0), "N is nan"),
    ],
)
def test_wrong_budget(answer, words):
    assert judge("scaling_laws.budget", planned) == ("passed", "passed")
    fails("scaling_laws.budget", answer, words)


def swept(texts, sizes, amounts, seeds, run, held=None, clean=True, take=None, merge=None):
    held_out = texts[:20] if held is None else held(texts)
    others = [text for text in texts[20:] if not clean or text not in held_out]
    table = {}
    for size in sizes:
        for amount in amounts:
            training = others[:amount] if take is None else take(others, amount)
            losses = [run(size, training, held_out, seed) for seed in seeds]
            table[size, amount] = sum(losses) / len(losses) if merge is None else merge(losses)
    return table


def without_one(*arguments):
    table = swept(*arguments)
    table.pop(max(table))
    return table


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: swept(*a, clean=False), "texts have copies"),
        (lambda *a: swept(*a, held=lambda texts: texts[-20:]), "by the same"),
        (lambda *a: swept(*a, merge=min), "best of the seeds"),
        (lambda *a: swept(*a, merge=max), "the mean over its seeds"),
        (lambda *a: swept(*a, take=lambda others, n: others[1 : n + 1]), "the first `amount`"),
        (lambda *a: swept(*a, take=lambda others, n: others[: n - 1]), "the first `amount`"),
        (lambda t, s, n, seeds, run: swept(t, s, n, seeds[:1], run), "each of the seeds"),
        (without_one, "none left out"),
        (lambda *a: list(swept(*a).values()), "expected a dict"),
    ],
)
def test_wrong_sweep(answer, words):
    assert judge("scaling_laws.repair", lambda *a: swept(*a)) == ("passed", "passed")
    fails("scaling_laws.repair", answer, words)


TWENTY = {"published": 92.6, "corrected": 18.4, "growth": 1.56, "why": "c"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"published": 1 / 92.65}, "N / D"),
        ({"published": 20}, "then D / N"),
        ({"corrected": 92.6}, "then D / N"),
        ({"growth": 0.64}, "divided by the ratio before"),
        ({"why": "a"}, "moves N and D together"),
        ({"why": "(b)"}, "moves no optimum"),
        ({"why": "d"}, "only where a and b differ"),
        ({"why": "none"}, "one of a, b, c, d"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_twenty(change, words):
    assert judge("scaling_laws.twenty", TWENTY) == ("passed", "passed")
    fails("scaling_laws.twenty", TWENTY | change, words)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([(1e5, 1e6)] * 3, "between 5 and 40"),
        ([(1e3, 1e6)] * 6, "is not allowed"),
        ([(1e5, 1e4)] * 6, "is not allowed"),
        ([(1e6, 1e9)] * 6, "times the budget"),
        ([(1e5, 1e6 * 2**k) for k in range(6)], "vary both"),
        ([(1e4 * 2**k, 1e6) for k in range(6)], "vary both"),
        ([(N, D) for N in (1e4, 1.2e4) for D in (1e5, 1.2e5, 1.4e5)], "Spread the runs wider"),
        (3, "list of pairs"),
    ],
)
def test_wrong_runs(runs, words):
    fails("scaling_laws.runs", lambda budget: runs, words)


def test_the_chosen_runs_pass_whatever_the_noise(monkeypatch):
    assert judge("scaling_laws.runs", answer_of("scaling_laws.runs")) == ("passed", "passed")
    passes_always("scaling_laws.runs", monkeypatch, students=8)


def test_every_student_gets_laws_that_can_be_solved(monkeypatch):
    passes_always("scaling_laws.budget", monkeypatch)
    passes_always("scaling_laws.repair", monkeypatch)
