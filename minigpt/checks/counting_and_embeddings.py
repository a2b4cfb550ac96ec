"""Checks of the exercises on counting and word vectors, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from minigpt.checks import exercise
from minigpt.checks.compare import (
    call,
    number_slip,
    numpy_rng,
    require,
    same_array,
    same_number,
    same_tensor,
)

# By hand: the numbers of the exercise text.
TRUTH, BELIEF = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8]), np.array([1 / 8, 1 / 8, 1 / 4, 1 / 2])
HAND_KEYS = {"entropy", "cross_entropy", "perplexity", "added", "pot"}


@exercise(
    "counting_and_embeddings.by_hand", "1/8 is three halvings: 3 bits. Write the four surprises."
)
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect entropy, cross-entropy, perplexity; two numbers of a smoothed bigram."""
    fits = isinstance(answer, dict) and set(answer) == HAND_KEYS
    require(fits, f"expected a dict of {sorted(HAND_KEYS)}")
    entropy = float(-(TRUTH * np.log2(TRUTH)).sum())
    crossed = float(-(TRUTH * np.log2(BELIEF)).sum())
    rows: list[tuple[str, float, dict[float, str], str]] = [
        (
            "entropy",
            entropy,
            {
                entropy * math.log(2): "That is in nats; the question asks for bits.",
                2.25: "That is the plain mean of the surprises; weight each by its probability.",
            },
            "The sum of probability times surprise: 1/2 · 1 + 1/4 · 2 + ...",
        ),
        (
            "cross_entropy",
            crossed,
            {
                float(
                    -(BELIEF * np.log2(TRUTH)).sum()
                ): "Truth and belief are exchanged: the truth "
                "says how often, the belief says how surprising.",
                crossed
                - entropy: "That is the excess over the entropy; the cross-entropy is the sum.",
                crossed * math.log(2): "That is in nats; the question asks for bits.",
            },
            "Weight by the truth, take the surprise -log2 of the belief.",
        ),
        (
            "perplexity",
            2**entropy,
            {
                math.exp(entropy): "The entropy is in bits here, so the base is 2, not e.",
                2**crossed: "That is the perplexity of the belief; asked is who knows the truth.",
            },
            "2 to the power of the entropy in bits.",
        ),
        (
            "added",
            3 / 7,
            {
                2 / 4: "Here 1 was added to nothing, or to one word only; the total grows by 3.",
                3 / 5: "Each of the three words gets 1 more, so the total grows by 3.",
            },
            "(count of the pair + 1) / (count of 'up' + number of words).",
        ),
        (
            "pot",
            0.375,
            {
                0.125: "Something is taken off EACH of the words that followed 'up'.",
                1.5: "That is what was taken; as a share, divide by how often 'up' was followed.",
            },
            "Number of different words after 'up', times 0.5, over how often 'up' was followed.",
        ),
    ]
    for name, right, slips, otherwise in rows:
        same_number(answer[name], right, name, number_slip(answer[name], slips) or otherwise, 0.006)


# Smoothing by variety


def smooth_rows(counts: np.ndarray, shorter: np.ndarray, variety: Callable | None = None) -> Any:
    """Return Witten and Bell's probabilities (V, V); `variety` plants another pot."""
    kinds = (counts > 0).sum(axis=1, keepdims=True) if variety is None else variety(counts)
    totals = counts.sum(axis=1, keepdims=True)
    whole = totals + kinds
    smoothed = (counts + kinds * shorter) / np.maximum(whole, 1)
    return np.where(whole > 0, smoothed, shorter)


@exercise("counting_and_embeddings.witten_bell", "T is (counts > 0).sum(axis=1, keepdims=True).")
def witten_bell(answer: Callable, generator: Generator) -> None:
    """Expect witten_bell(counts (V, V), shorter (V,)): probabilities (V, V)."""
    rng = numpy_rng(generator)
    for V, empty in [(3, 0), (5, 1), (8, 3)]:
        counts = rng.integers(0, 5, (V, V)) * rng.integers(0, 2, (V, V))
        counts[np.arange(V), rng.permutation(V)] += 1
        counts[:empty] = 0
        shorter = rng.dirichlet(np.ones(V))
        case = f"V = {V}" + f", {empty} rows without any count" * (empty > 0)
        with np.errstate(all="ignore"):
            got = call(answer, counts, shorter, case=case)
        slips = {
            "T is the number of DIFFERENT words that followed, here it is how many followed.": (
                lambda c: c.sum(axis=1, keepdims=True)
            ),
            "T counts the words that did follow, here those that did not.": (
                lambda c: (c == 0).sum(axis=1, keepdims=True)
            ),
            "T is counted down the columns; a row is a context.": (
                lambda c: (c > 0).sum(axis=0, keepdims=True)
            ),
            "The shorter context has no effect.": lambda c: np.zeros((len(c), 1)),
        }
        hint = "Does each row sum to 1? (count + T · shorter) / (total + T)."
        if isinstance(got, np.ndarray) and got.shape == counts.shape:
            if empty and np.isnan(got[:empty].astype(float)).any():
                require(
                    False,
                    f"a row without any count became NaN ({case}): 0 / 0. All that is "
                    f"known there is the shorter context",
                )
            seen = counts.sum(axis=1) > 0
            for sentence, variety in slips.items():
                if np.allclose(got[seen], smooth_rows(counts, shorter, variety)[seen]):
                    hint = sentence
            if np.allclose(got, smooth_rows(counts, np.full(V, 1 / V))):
                hint = "The pot is given out evenly here; the shorter context should decide."
        same_array(got, smooth_rows(counts, shorter), case, hint)


# Skip-gram by counting


def association(counts: np.ndarray, k: float, log: Callable = np.log) -> np.ndarray:
    """Return max(0, ln(p(a, b) / (p(a) p(b))) - ln k), 0 where nothing was counted."""
    total = counts.sum()
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / total
    with np.errstate(all="ignore"):
        scores = log(counts / expected) - log(k)
    return np.where(counts > 0, np.maximum(scores, 0), 0.0)


@exercise(
    "counting_and_embeddings.association", "count · total / (row sum · column sum), then its ln."
)
def pmi(answer: Callable, generator: Generator) -> None:
    """Expect shifted_ppmi(counts (V, V), k): a matrix (V, V) without NaN."""
    rng = numpy_rng(generator)
    for V, k, absent in [(4, 1.0, 0), (6, 2.0, 0), (7, 5.0, 0), (6, 1.0, 2)]:
        counts = rng.poisson(1.5, (V, V)) * rng.integers(1, 9, (V, 1)) + np.eye(V, dtype=int) * 9
        counts[:absent] = counts[:, :absent] = 0
        case = f"V = {V}, k = {k:g}" + f", {absent} words that never occur" * (absent > 0)
        with np.errstate(all="ignore"):
            got = call(answer, counts, k, case=case)
        with np.errstate(all="ignore"):
            slips = association_slips(counts, k)
        hint = "By hand, one cell: count · total / (row sum · column sum), ln, minus ln k."
        if isinstance(got, np.ndarray) and got.dtype.kind == "f" and got.shape == counts.shape:
            missing = "where nothing was counted, ln 0 is not a number: the result there is 0"
            require(np.isfinite(got).all(), f"the result is not finite ({case}): {missing}")
            for sentence, wrong in slips.items():
                if np.allclose(got, wrong) and not np.allclose(wrong, association(counts, k)):
                    hint = sentence
        same_array(got, association(counts, k), case, hint)


def association_slips(counts: np.ndarray, k: float) -> dict[str, np.ndarray]:
    """Return what typical slips give, by the sentence that names them."""
    return {
        "The logarithm is to base 2; take the natural one.": association(counts, k, np.log2),
        "The shift is missing: subtract ln k.": association(counts, 1.0),
        "k itself is subtracted; subtract its logarithm.": association(counts, math.exp(k)),
        "Negative values should become 0.": _raw(counts, k),
        "ln k is subtracted after the cut at 0; cut last.": association(counts, 1) - math.log(k),
        "Row sums were used for both words; the matrix need not be symmetric.": _rows(counts, k),
        "Rows and columns are exchanged.": association(counts, k).T,
    }


def _raw(counts: np.ndarray, k: float) -> np.ndarray:
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    return np.log(np.maximum(counts, 1e-300) / expected / k) * (counts > 0)


def _rows(counts: np.ndarray, k: float) -> np.ndarray:
    rows = counts.sum(axis=1)
    scores = np.log(np.maximum(counts, 1e-300) * counts.sum() / np.outer(rows, rows) / k)
    return np.maximum(scores, 0) * (counts > 0)


# A repair


def noise_loss(
    v: Tensor,
    c: Tensor,
    noise: Tensor,
    dot: Callable = Tensor.sum,
    sign: float = -1.0,
    together: Callable = Tensor.sum,
) -> Tensor:
    """Return the loss of negative sampling; the options plant one of the faults each."""
    right = dot(v * c, dim=-1)
    wrong = dot(v.unsqueeze(1) * noise, dim=-1)
    return -(F.logsigmoid(right) + together(F.logsigmoid(sign * wrong), dim=-1)).mean()


@exercise(
    "counting_and_embeddings.repair", "one pair, one noise word, two dimensions: do it on paper."
)
def repair(answer: Callable, generator: Generator) -> None:
    """Expect repaired(v (B, C), c (B, C), noise (B, K, C)): the loss, one number."""
    for B, K, C, size in [(1, 1, 2, 1.0), (5, 3, 4, 1.0), (3, 6, 5, 0.5), (4, 2, 7, 40.0)]:
        v, c = (torch.randn(B, C, generator=generator) * size for _ in range(2))
        noise = torch.randn(B, K, C, generator=generator) * size
        case = f"B = {B}, K = {K}, C = {C}, numbers of about {size:g}"
        got = call(answer, v, c, noise, case=case)
        expected = noise_loss(v, c, noise)
        hint = "More than one fault may be left: real pairs yes, each made-up one no."
        if isinstance(got, Tensor) and got.shape == expected.shape:
            finite = "ln of a sigmoid that is 0: torch has logsigmoid, which survives"
            require(got.isfinite(), f"the loss is not finite ({case}): {finite}")
            slips = {
                "A score is the dot product: the SUM of the products.": {"dot": Tensor.mean},
                "Made-up pairs should be refused: look at the sign of their score.": {"sign": 1.0},
                "The made-up pairs add up, all K of them.": {"together": Tensor.mean},
            }
            for sentence, fault in slips.items():
                if torch.allclose(got, noise_loss(v, c, noise, **fault), rtol=1e-4):
                    hint = sentence
        same_tensor(got, expected, case, hint)


# Small samples


@exercise(
    "counting_and_embeddings.small_samples", "np.bincount(throws) / n, entropy, 2,000 times, mean."
)
def small_samples(answer: Any, generator: Generator) -> None:
    """Expect the mean entropy of counted frequencies for samples of 10 and of 100, and why."""
    keys = {"bits_10", "bits_100", "throws", "why"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    rng = numpy_rng(generator)
    # The entropies of samples scatter by 0.243 bits at 10 throws and by 0.023 at 100: six standard
    # errors of the difference between 2,000 repeats and our 4,000 are 0.040 and 0.004.
    for n, slack in ((10, 0.04), (100, 0.006)):
        right, name = counted_entropy(rng, n), f"bits_{n}"
        slips = {
            right * math.log(2): "That is in nats.",
            math.log2(6): "That is the true entropy; asked is the mean of what the samples give.",
        }
        hint = "Count each sample's own frequencies, take their entropy, then the mean."
        same_number(answer[name], right, name, number_slip(answer[name], slips) or hint, slack)
    enough = "the mean must lie within 0.01 bits of log2 6, and for the smaller number it does not"
    same_number(answer["throws"], 1000, "throws", f"Try 10, 100, 1000, 10000: {enough}.", 0)
    require(
        answer["why"] == "c",
        "the explanation does not fit: the die is fair and the logarithm exact. For which belief "
        "is a sample least surprising?",
    )


def counted_entropy(rng: np.random.Generator, n: int, repeats: int = 4000) -> float:
    """Return the mean entropy (bits) of the frequencies in samples of n throws of a die."""
    shares = rng.multinomial(n, np.full(6, 1 / 6), size=repeats) / n
    surprises = -np.log2(np.where(shares > 0, shares, 1.0))
    return float((shares * surprises).sum(axis=1).mean())


# A mixture


@exercise("counting_and_embeddings.mixture", "who deserves the credit for each word? Then repeat.")
def mixture(answer: Callable, generator: Generator) -> None:
    """Expect best_mixture(probabilities (M, N)): weights (M,) of the lowest loss.

    The proof needs no second solution: weights w are best if no model has a mean ratio p / mix
    above 1, and the excess of the loss is at most that mean less 1 (the logarithm is concave).
    """
    rng = numpy_rng(generator)
    for M, N, zeros in [(2, 60, 0.0), (3, 200, 0.0), (4, 300, 0.2), (3, 150, 0.5)]:
        probabilities = rng.beta(0.7, 1.5, (M, N)) * rng.uniform(0.3, 1, (M, 1))
        holes = rng.random((M, N)) < zeros
        holes[rng.integers(M, size=N), np.arange(N)] = False  # somebody knows each word
        probabilities = np.clip(probabilities, 1e-4, 1) * ~holes
        case = f"{M} models, {N} words" + ", some probabilities 0" * (zeros > 0)
        got = call(answer, probabilities, case=case)
        require(isinstance(got, np.ndarray), f"expected an array, got {type(got).__name__}")
        require(got.shape == (M,), f"the shape is {got.shape}, expected ({M},) ({case})")
        require(
            got.dtype.kind == "f" and np.isfinite(got).all(), f"expected finite numbers ({case})"
        )
        low = f"a weight is {got.min():.3g} ({case}); weights are not negative"
        require(got.min() >= 0, low)
        total = f"the weights sum to {got.sum():.4f}, not to 1 ({case})"
        require(abs(got.sum() - 1) < 1e-6, total)
        mixed = got @ probabilities
        require((mixed > 0).all(), f"a word that one model knew has the probability 0 ({case})")
        ratios = (probabilities / mixed).mean(axis=1)
        best = int(ratios.argmax())
        require(
            ratios[best] < 1.001,
            f"the loss is {-np.log(mixed).mean():.4f} and can be lower ({case}): model {best} "
            f"deserves more weight than {got[best]:.3f}. More rounds, or smaller steps?",
        )
