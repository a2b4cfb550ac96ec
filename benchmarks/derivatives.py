"""Measure autograd: micrograd's demo, with our tensors and, where its clone is named, with it.

The demo: 100 points in two half moons, a network of 2-16-16-1 ReLU units, hinge loss with an L2
penalty, gradient descent on all points at once. Both start from the same weights, and the losses
are compared step by step, so both compute the same thing.
"""

from types import ModuleType

import numpy as np

from benchmarks.timing import Row, clock, take_turns
from minigpt.autograd import Tensor
from minigpt.nn import MLP, sum_of_squares
from minigpt.optim import SGD

PART, SIZES, PENALTY = "autograd", [2, 16, 16, 1], 1e-4


def measure_autograd(
    engine: ModuleType | None, layers: ModuleType | None, quick: bool
) -> list[Row]:
    """Train the demo's classifier; engine and layers are micrograd's two modules."""
    steps = 2 if quick else 100
    x, y = moons(np.random.default_rng(0))
    ways = {"minigpt": lambda: train_minigpt(x, y, steps)}
    seconds, losses = take_turns(ways, rounds=5)
    own = seconds["minigpt"]
    rows = [Row(PART, f"micrograd's demo, {steps} steps", own, "s")]
    if engine is not None and layers is not None:
        theirs, other = clock(lambda: train_micrograd(engine, layers, x, y, steps))
        apart = np.abs(np.subtract(losses["minigpt"], other)).max()
        note = f"{theirs:.1f} s; largest difference of a loss {apart:.0e}"
        rows.append(
            Row(PART, "the same beside micrograd (once)", theirs / own, "x faster", note=note)
        )
    return rows


def moons(rng: np.random.Generator, count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return points (count, 2) of two interlocking half circles, and their classes -1 or 1."""
    angle, classes = rng.uniform(0, np.pi, count), np.arange(count) % 2
    x = np.where(classes == 0, np.cos(angle), 1 - np.cos(angle))
    y = np.where(classes == 0, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], axis=1) + rng.normal(0, 0.1, (count, 2)), 2.0 * classes - 1


def learning_rate(step: int) -> float:
    """Return the demo's rate, which falls to a tenth in 100 steps."""
    return 1.0 - 0.9 * min(step, 99) / 100


def first_network() -> MLP:
    """Return the network before training."""
    return MLP(SIZES, np.random.default_rng(1))


def train_minigpt(x: np.ndarray, y: np.ndarray, steps: int) -> list[float]:
    """Train with minigpt and return the losses."""
    network, losses = first_network(), []
    optimizer = SGD(network.parameters(), 1.0)
    for step in range(steps):
        margin = network(x).reshape(-1) * y
        loss = (1 - margin).relu().mean() + PENALTY * sum_of_squares(network.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.learning_rate = learning_rate(step)
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_micrograd(
    engine: ModuleType, layers: ModuleType, x: np.ndarray, y: np.ndarray, steps: int
) -> list[float]:
    """Train with micrograd, number by number as its demo does, and return the losses."""
    network = micrograd_network(engine, layers, first_network().parameters())
    inputs, losses = [list(map(engine.Value, row)) for row in x.tolist()], []
    for step in range(steps):
        scores = list(map(network, inputs))
        hinge = [(1 + -yi * score).relu() for yi, score in zip(y.tolist(), scores, strict=True)]
        penalty = sum((p * p for p in network.parameters()), engine.Value(0.0))
        loss = sum(hinge, engine.Value(0.0)) * (1.0 / len(hinge)) + penalty * PENALTY
        network.zero_grad()
        loss.backward()
        for p in network.parameters():
            p.data -= learning_rate(step) * p.grad
        losses.append(loss.data)
    return losses


def micrograd_network(engine: ModuleType, layers: ModuleType, start: list[Tensor]):
    """Return micrograd's network with our first weights."""
    network = layers.MLP(SIZES[0], SIZES[1:])
    for layer, weight, bias in zip(network.layers, start[::2], start[1::2], strict=True):
        for neuron, column, b in zip(layer.neurons, weight.data.T, bias.data, strict=True):
            neuron.w, neuron.b = [engine.Value(float(w)) for w in column], engine.Value(float(b))
    return network
