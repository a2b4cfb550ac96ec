"""Train micrograd's moons classifier with minigpt's autograd and, where given, with micrograd.

    python tools/benchmark_autograd.py
    python tools/benchmark_autograd.py --micrograd FOLDER --steps 10    # a checkout of micrograd

The demo: 100 points in two half moons, a network of 2-16-16-1 ReLU units, hinge loss with an L2
penalty, gradient descent on all points at once. Both start from the same weights; the losses are
compared step by step, so both compute the same thing; then the times are.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from minigpt.autograd import Tensor
from minigpt.nn import MLP, sum_of_squares
from minigpt.optim import SGD

SIZES, PENALTY = [2, 16, 16, 1], 1e-4


def moons(rng: np.random.Generator, count: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return points (count, 2) of two interlocking half circles, and their classes -1 or 1."""
    angle, classes = rng.uniform(0, np.pi, count), np.arange(count) % 2
    x = np.where(classes == 0, np.cos(angle), 1 - np.cos(angle))
    y = np.where(classes == 0, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], axis=1) + rng.normal(0, 0.1, (count, 2)), 2.0 * classes - 1


def learning_rate(step: int) -> float:
    """Return the demo's rate, which falls to a tenth in 100 steps."""
    return 1.0 - 0.9 * min(step, 99) / 100


def train_minigpt(network: MLP, x: np.ndarray, y: np.ndarray, steps: int) -> list[float]:
    """Train with minigpt and return the losses."""
    optimizer, losses = SGD(network.parameters(), 1.0), []
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
    folder: Path, start: list[Tensor], x: np.ndarray, y: np.ndarray, steps: int
) -> list[float]:
    """Train with micrograd, number by number as its demo does, and return the losses."""
    sys.path.insert(0, str(folder))
    from micrograd.engine import Value
    from micrograd.nn import MLP as Network

    network = Network(SIZES[0], SIZES[1:])
    for layer, weight, bias in zip(network.layers, start[::2], start[1::2], strict=True):
        for neuron, column, b in zip(layer.neurons, weight.data.T, bias.data, strict=True):
            neuron.w, neuron.b = [Value(float(w)) for w in column], Value(float(b))
    inputs, losses = [list(map(Value, row)) for row in x.tolist()], []
    for step in range(steps):
        scores = list(map(network, inputs))
        hinge = [(1 + -yi * score).relu() for yi, score in zip(y.tolist(), scores, strict=True)]
        loss = sum(hinge) * (1.0 / len(hinge)) + PENALTY * sum(p * p for p in network.parameters())
        network.zero_grad()
        loss.backward()
        for p in network.parameters():
            p.data -= learning_rate(step) * p.grad
        losses.append(loss.data)
    return losses


def main() -> None:
    """Print the seconds a step of each, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micrograd", type=Path, help="folder of a micrograd checkout")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    x, y = moons(np.random.default_rng(0))
    start = MLP(SIZES, np.random.default_rng(1)).parameters()
    seconds, ours = [], []
    for _ in range(5):  # the median of five runs: one takes hundredths of a second
        network = MLP(SIZES, np.random.default_rng(1))
        begin = time.perf_counter()
        ours = train_minigpt(network, x, y, options.steps)
        seconds.append(time.perf_counter() - begin)
    own = sorted(seconds)[2]
    print(f"minigpt:   {own:8.3f} s, {options.steps} steps, loss {ours[0]:.4f} -> {ours[-1]:.4f}")
    if options.micrograd:
        begin = time.perf_counter()
        theirs = train_micrograd(options.micrograd, start, x, y, options.steps)
        other = time.perf_counter() - begin
        print(f"micrograd: {other:8.3f} s, largest difference of a loss "
              f"{np.abs(np.subtract(ours, theirs)).max():.1e}")  # fmt: skip
        print(f"minigpt is {other / own:,.0f} times faster")


if __name__ == "__main__":
    main()
