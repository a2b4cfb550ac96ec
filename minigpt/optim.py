"""Optimizers for `autograd.Tensor`, each one idea more than the one before; schedules; clipping.

An optimizer holds the parameters and moves them by their gradients. Each is equal to its namesake
in torch.optim. Knows nothing of models and losses. Parameters are replaced, never changed in
place: an array that was kept from an earlier step stays as it was.

Sources: named at each class; Goodfellow et al. 2016, "Deep Learning", chapter 8, tells them all.
"""

import math
from collections.abc import Iterable

import numpy as np

from minigpt.autograd import Tensor


class Optimizer:
    """Hold what all optimizers share: the parameters and the learning rate."""

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float):
        self.parameters = list(parameters)
        self.learning_rate = learning_rate

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for p in self.parameters:
            p.zero_grad()

    def zeros(self) -> list[np.ndarray]:
        """Return one array of zeros for each parameter, to remember something in."""
        return [np.zeros_like(p.data) for p in self.parameters]

    def step(self) -> None:
        """Move every parameter once."""
        raise NotImplementedError


class SGD(Optimizer):
    """Go downhill: move against the gradient, in proportion to its size."""

    def step(self) -> None:
        """Move every parameter by -learning_rate times its gradient."""
        for p in self.parameters:
            p.data = p.data - self.learning_rate * p.grad


class Momentum(Optimizer):
    """Roll downhill: move by a fading sum of all gradients so far.

    nesterov: step as if the next velocity, with this gradient in it, were known already.
    Sources: Polyak 1964; Sutskever et al. 2013, section 2.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        momentum: float = 0.9,
        nesterov: bool = False,
    ):
        super().__init__(parameters, learning_rate)
        self.momentum, self.nesterov = momentum, nesterov
        self.velocity = self.zeros()

    def step(self) -> None:
        """Update the velocities, and move every parameter by its own."""
        for i, p in enumerate(self.parameters):
            # Steady gradients add up to 1 / (1 - momentum) times one; alternating ones cancel.
            self.velocity[i] = self.momentum * self.velocity[i] + p.grad
            move = p.grad + self.momentum * self.velocity[i] if self.nesterov else self.velocity[i]
            p.data = p.data - self.learning_rate * move


class Adam(Optimizer):
    """Give each number a pace of its own: mean gradient over typical size of the gradient.

    betas: how much of the old mean, and of the old mean square, a step keeps. eps keeps the
    division from blowing up where all gradients were 0. Source: Kingma and Ba 2015, algorithm 1.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        super().__init__(parameters, learning_rate)
        self.betas, self.eps = betas, eps
        self.mean, self.square = self.zeros(), self.zeros()
        self.steps = 0

    def step(self) -> None:
        """Update the two running means, and move every parameter by their ratio."""
        self.steps += 1
        keep_mean, keep_square = self.betas
        for i, p in enumerate(self.parameters):
            self.mean[i] = keep_mean * self.mean[i] + (1 - keep_mean) * p.grad
            self.square[i] = keep_square * self.square[i] + (1 - keep_square) * p.grad**2
            # Both began at 0, so they are too small at first; these factors make up for it.
            mean = self.mean[i] / (1 - keep_mean**self.steps)
            square = self.square[i] / (1 - keep_square**self.steps)
            p.data = p.data - self.learning_rate * mean / (np.sqrt(square) + self.eps)


class AdamW(Adam):
    """Adam, and every step shrinks the parameters by a fixed share (decoupled weight decay).

    A penalty in the loss would go through Adam's division, which takes its size away again.
    Source: Loshchilov and Hutter 2019, algorithm 2.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(parameters, learning_rate, betas, eps)
        self.weight_decay = weight_decay

    def step(self) -> None:
        """Shrink every parameter, then move it as Adam does."""
        for p in self.parameters:
            # Times the rate, so that a schedule that ends at 0 also ends the shrinking.
            p.data = p.data * (1 - self.learning_rate * self.weight_decay)
        super().step()


# Schedules: by which factor to multiply the learning rate in step 0, 1, 2, ... max_steps - 1


def constant_factor(step: int, warmup_steps: int = 0) -> float:
    """Rise in equal parts to 1 in `warmup_steps` steps (warm-up), and stay there."""
    # step + 1: a first step with rate 0 would be wasted.
    return min(1.0, (step + 1) / max(1, warmup_steps))


def linear_factor(step: int, max_steps: int, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Warm up, then fall in a straight line to `final`, which step `max_steps` would have."""
    left = 1 - share_done(step, max_steps, warmup_steps)
    return constant_factor(step, warmup_steps) * (final + (1 - final) * left)


def cosine_factor(step: int, max_steps: int, warmup_steps: int = 0, final: float = 0.0) -> float:
    """Warm up, then fall to `final` along half a cosine wave: slowly, fast, slowly.

    Source: Loshchilov and Hutter 2017, equation 5 (without restarts).
    """
    left = (1 + math.cos(math.pi * share_done(step, max_steps, warmup_steps))) / 2
    return constant_factor(step, warmup_steps) * (final + (1 - final) * left)


def share_done(step: int, max_steps: int, warmup_steps: int) -> float:
    """Return which share, from 0 to 1, of the steps after the warm-up is done."""
    return min(max(0.0, (step - warmup_steps) / max(1, max_steps - warmup_steps)), 1.0)


def clip_gradients(parameters: Iterable[Tensor], largest: float) -> float:
    """Shorten the gradient of all parameters together to length `largest`; return what it was.

    Source: Pascanu et al. 2013, algorithm 1.
    """
    parameters = list(parameters)
    length = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters))
    if length > largest:
        for p in parameters:
            # One factor for all: clipping each number alone would turn the direction.
            p.grad = p.grad * (largest / length)
    return length
