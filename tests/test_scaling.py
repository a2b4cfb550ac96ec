"""The law of loss against size and text: what is planted is found, and E is told from nothing."""

import itertools
import math

import numpy as np
import pytest
import torch

from minigpt import scaling
from minigpt.scaling import ScalingLaw, bootstrap_fits, fit_scaling_law, misfit
from minigpt.support.errors import DataError

LAW = ScalingLaw(E=0.31, A=60.0, B=3000.0, a=0.55, b=0.65)
CELLS = list(itertools.product((1e4, 3e4, 8e4, 2e5), (2e4, 5e4, 1.2e5, 3e5, 7e5)))
N, D = ([cell[axis] for cell in CELLS] for axis in (0, 1))
EXACT = [LAW.loss(*cell) for cell in CELLS]


def numbers(law: ScalingLaw) -> list[float]:
    return [law.E, law.A, law.B, law.a, law.b]


def noisy(size: float, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, size, len(EXACT))
    return [loss * math.exp(error) for loss, error in zip(EXACT, noise, strict=True)]


def test_a_planted_law_is_found_from_every_start():
    for start in scaling.grid_of_starts(N, D, EXACT):
        found = fit_scaling_law(N, D, EXACT, starts=[start])
        assert numbers(found) == pytest.approx(numbers(LAW), rel=1e-3)


def test_a_law_without_a_floor_is_found_without_one():
    law = ScalingLaw(0.0, 60.0, 3000.0, 0.55, 0.65)
    found = fit_scaling_law(N, D, [law.loss(*cell) for cell in CELLS], has_floor=False)
    assert found.E == 0
    assert numbers(found) == pytest.approx(numbers(law), rel=1e-3)


def test_leaving_the_floor_out_flattens_the_law_and_foresees_too_little():
    found = fit_scaling_law(N, D, EXACT, has_floor=False)
    assert found.a < LAW.a
    assert found.b < LAW.b
    assert found.loss(1e9, 1e10) < LAW.E < LAW.loss(1e9, 1e10)


def test_the_misfit_is_hubers_on_logarithms():
    x = torch.tensor([math.log(LAW.E), math.log(LAW.A), math.log(LAW.B), LAW.a, LAW.b])
    columns = [torch.tensor(column).log() for column in (N, D, noisy(0.002))]
    errors = [
        math.log(loss / exact) / 1e-3 for loss, exact in zip(noisy(0.002), EXACT, strict=True)
    ]
    assert any(abs(e) < 1 for e in errors)
    assert any(abs(e) > 1 for e in errors)
    expected = sum(e * e / 2 if abs(e) < 1 else abs(e) - 0.5 for e in errors)
    assert misfit(x, *columns).item() == pytest.approx(expected, rel=1e-2)


def test_the_fit_is_as_good_as_scipys():
    from scipy.optimize import minimize

    losses = noisy(0.01)
    columns = [np.log(column) for column in (N, D, losses)]

    def objective(x):
        terms = [np.full(len(N), x[0]), x[1] - x[3] * columns[0], x[2] - x[4] * columns[1]]
        errors = np.abs(np.logaddexp.reduce(terms, axis=0) - columns[2]) / 1e-3
        return np.where(errors < 1, errors**2 / 2, errors - 0.5).sum()

    ours = fit_scaling_law(N, D, losses)
    at = [math.log(ours.E), math.log(ours.A), math.log(ours.B), ours.a, ours.b]
    options = {"maxiter": 4000, "maxfev": 4000, "xatol": 1e-9, "fatol": 1e-9}
    theirs = minimize(objective, at, method="Nelder-Mead", options=options)
    truth = [math.log(LAW.E), math.log(LAW.A), math.log(LAW.B), LAW.a, LAW.b]
    assert objective(at) <= theirs.fun + 1e-3  # no better place nearby
    assert objective(at) < objective(truth)


def test_one_bad_run_hardly_moves_the_law():
    losses = noisy(0.0005)
    before = fit_scaling_law(N, D, losses)
    losses[7] *= 1.5
    after = fit_scaling_law(N, D, losses)
    assert numbers(after)[3:] == pytest.approx(numbers(before)[3:], rel=0.02)
    assert after.E == pytest.approx(before.E, rel=0.02)


@pytest.mark.parametrize("compute", [1e10, 3e14])
def test_the_optimum_is_the_least_loss_of_equal_compute(compute):
    best_N, best_D = LAW.compute_optimal(compute)
    assert 6 * best_N * best_D == pytest.approx(compute)
    sizes = best_N * np.geomspace(0.1, 10, 2001)
    losses = [LAW.loss(size, compute / 6 / size) for size in sizes]
    assert sizes[int(np.argmin(losses))] == pytest.approx(best_N, rel=0.003)


def test_the_bootstrap_repeats_by_seed_and_widens_with_noise():
    few = bootstrap_fits(N, D, noisy(0.01), draws=6, seed=1)
    assert few == bootstrap_fits(N, D, noisy(0.01), draws=6, seed=1)
    assert few != bootstrap_fits(N, D, noisy(0.01), draws=6, seed=2)
    calm = bootstrap_fits(N, D, noisy(0.001), draws=6, seed=1)
    assert np.std([law.b for law in calm]) < 0.5 * np.std([law.b for law in few])
    assert 0 < np.std([law.b for law in calm])
    none = bootstrap_fits(N, D, EXACT, draws=2, has_floor=False)
    assert [law.E for law in none] == [0, 0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ((N[:4], D[:4], EXACT[:4]), "at least 5 runs"),
        ((N, D[:-1], EXACT), "19 sizes D"),
        ((N, D, [*EXACT[:-1], math.nan]), "not positive and finite"),
        ((N, [*D[:-1], 0.0], EXACT), "not positive and finite"),
    ],
)
def test_runs_that_cannot_be_fitted_are_refused(columns, words):
    with pytest.raises(DataError, match=words):
        fit_scaling_law(*columns)


def test_four_runs_are_enough_without_a_floor():
    law = fit_scaling_law(N[:1] * 2 + N[5:7], [2e4, 5e4, 2e4, 5e4], EXACT[:4], has_floor=False)
    assert law.E == 0


def test_resamples_find_a_floor_where_the_fit_of_all_runs_has_none():
    """Where E is 0 its gradient is 0, too: a start with a floor leads back."""
    rows = [(n, d) for n in (1e4, 3e4, 8e4) for d in (2e4, 5e4, 1.2e5, 3e5)]
    losses = [0.02 + 60 / n**0.55 + 3000 / d**0.65 for n, d in rows]
    losses[-1] *= 0.85
    assert fit_scaling_law(*zip(*rows, strict=True), losses).E < 1e-3
    fits = bootstrap_fits(*zip(*rows, strict=True), losses, draws=12)
    assert max(law.E for law in fits) > 0.01
