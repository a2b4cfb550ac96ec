"""Scaling laws: fit the loss of a few small runs, and foresee that of a larger one.

The law is L(N, D) = E + A / N^a + B / D^b, in nats per token: the floor E, what a model of N
parameters lacks, and what D tokens of text do not tell. Knows nothing of models, texts or training:
it is given numbers of parameters, numbers of tokens and losses.

Sources: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.3 and
appendix D.3 (arXiv:2203.15556); Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt"
(intervals by bootstrap, arXiv:2404.10102).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minigpt.support.errors import DataError

DELTA = 1e-3  # relative error of a loss up to which a misfit counts by its square


@dataclass(frozen=True)
class ScalingLaw:
    """Predict a loss from model and text size.

    >>> law = ScalingLaw(E=1.0, A=100.0, B=1000.0, a=0.5, b=0.5)
    >>> law.loss(1e4, 1e6)
    3.0
    """

    E: float  # nats per token that are left however large model and text are
    A: float  # nats per token of a model of one parameter, above the rest
    B: float  # nats per token after one token of text, above the rest
    a: float
    b: float

    def loss(self, N: float, D: float) -> float:
        """Return the loss of N parameters trained on D tokens, none of them twice."""
        return self.E + self.A / N**self.a + self.B / D**self.b

    def compute_optimal(self, compute: float) -> tuple[float, float]:
        """Return the N and D of least loss among all with 6 N D = `compute` operations.

        At the optimum one percent more parameters win what one percent fewer tokens lose:
        a A / N^a = b B / D^b.
        """
        product = compute / 6  # N D
        balance = (self.a * self.A / (self.b * self.B)) ** (1 / (self.a + self.b))
        N = balance * product ** (self.b / (self.a + self.b))
        return N, product / N


def fit_scaling_law(
    N: Sequence[float],
    D: Sequence[float],
    losses: Sequence[float],
    *,
    has_floor: bool = True,
    starts: Sequence[ScalingLaw] | None = None,
) -> ScalingLaw:
    """Fit the law to runs: the best end of L-BFGS from each of the starts (None: a grid of them).

    has_floor=False leaves E out (it is 0). Raises DataError (a ValueError) for fewer runs than the
    law has numbers, lists of different lengths, and values that are not positive.
    """
    runs = log_runs(N, D, losses, least=5 if has_floor else 4)
    ends = []
    for start in grid_of_starts(N, D, losses) if starts is None else starts:
        x = torch.tensor([start.E, start.A, start.B, start.a, start.b], dtype=torch.float64)
        x[:3] = x[:3].log()  # logarithms keep E, A and B positive
        x[0] = x[0] if has_floor else -math.inf
        ends.append(minimize_misfit(x, *runs))
    _, best = min(ends, key=lambda end: end[0])
    return ScalingLaw(*best[:3].exp().tolist(), *best[3:].tolist())


def minimize_misfit(
    x: Tensor, log_N: Tensor, log_D: Tensor, log_losses: Tensor
) -> tuple[float, Tensor]:
    """Minimize the misfit from x = (ln E, ln A, ln B, a, b); return its least value and where.

    A and a can hardly be told apart at N = 1, far from all runs, and L-BFGS creeps along a narrow
    valley. So N and D are counted in units of a typical run while it descends.
    """
    typical = torch.stack([log_N.mean(), log_D.mean()])
    x = torch.cat([x[:1], x[1:3] - x[3:] * typical, x[3:]]).requires_grad_()
    runs = (log_N - typical[0], log_D - typical[1], log_losses)
    optimizer = torch.optim.LBFGS(
        [x],
        max_iter=200,
        tolerance_grad=1e-8,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = misfit(x, *runs)
        value.backward()
        return value

    optimizer.step(closure)
    x = x.detach()
    value = misfit(x, *runs).item()
    x = torch.cat([x[:1], x[1:3] + x[3:] * typical, x[3:]])
    return (value if math.isfinite(value) else math.inf), x


def misfit(x: Tensor, log_N: Tensor, log_D: Tensor, log_losses: Tensor) -> Tensor:
    """Return the Huber loss of ln L, summed over the runs, in units of DELTA squared.

    Beyond DELTA it grows linearly, so a run that went wrong pulls no harder than one a bit off.
    """
    log_E, log_A, log_B, a, b = x
    terms = [log_E.expand_as(log_N), log_A - a * log_N, log_B - b * log_D]
    predicted = torch.logsumexp(torch.stack(terms), dim=0)  # ln(E + A / N^a + B / D^b)
    return F.huber_loss(predicted / DELTA, log_losses / DELTA, reduction="sum")


def grid_of_starts(
    N: Sequence[float], D: Sequence[float], losses: Sequence[float]
) -> Iterator[ScalingLaw]:
    """Yield laws that pass through the best run: with much or little floor, steep or flat."""
    best = int(np.argmin(losses))
    for share, a, b in itertools.product((0.2, 0.8), (0.3, 1.0), (0.3, 1.0)):
        rest = (1 - share) * losses[best] / 2  # nats of each of the two other terms at that run
        yield ScalingLaw(share * losses[best], rest * N[best] ** a, rest * D[best] ** b, a, b)


def log_runs(
    N: Sequence[float], D: Sequence[float], losses: Sequence[float], least: int
) -> list[Tensor]:
    """Return the logarithms of the three columns (runs,) as float64, or raise DataError."""
    if not len(N) == len(D) == len(losses) >= least:
        raise DataError(
            f"{len(N)} sizes N, {len(D)} sizes D, {len(losses)} losses",
            "fit of a scaling law",
            f"give one of each for every run, and at least {least} runs",
        )
    columns = torch.tensor([list(N), list(D), list(losses)], dtype=torch.float64)
    if not ((columns > 0) & columns.isfinite()).all():
        raise DataError(
            "a value that is not positive and finite",
            "fit of a scaling law",
            "leave out runs that failed, and say so",
        )
    return list(columns.log())


def bootstrap_fits(
    N: Sequence[float],
    D: Sequence[float],
    losses: Sequence[float],
    *,
    draws: int = 100,
    seed: int = 0,
    has_floor: bool = True,
) -> list[ScalingLaw]:
    """Fit the law to `draws` resamples of the runs, drawn with replacement.

    Each fit starts from the law of all runs, and from that law with a high floor: where E has gone
    to 0, its gradient has, too, and nothing leads back. Give the mean over seeds as one run: the
    seeds of one cell share whatever the law gets wrong there.
    """
    whole = fit_scaling_law(N, D, losses, has_floor=has_floor)
    starts = (whole, replace(whole, E=0.8 * min(losses)))
    rng = np.random.default_rng(seed)
    columns = [np.asarray(column, dtype=float) for column in (N, D, losses)]
    fits = []
    for _ in range(draws):
        chosen = rng.integers(len(N), size=len(N))
        runs = [column[chosen].tolist() for column in columns]
        fits.append(fit_scaling_law(*runs, has_floor=has_floor, starts=starts))
    return fits
