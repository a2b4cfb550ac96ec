"""Wrong answers about compression fail, each with a word on what to look at."""

import numpy as np
import pytest
import torch
from solved import fails

from minigpt.checks import judge
from minigpt.checks.compression import HAND, _draws, _first_above, _groups, _mixed
from minigpt.quantize import pack_int4
from minigpt.speculative import accept_or_replace

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codes": [2, -4, 3, 1, -1]}, "2^(3-1) - 1"),
        ({"codes": [1, -3, 1, 0, 0]}, "nearest"),
        ({"codes": [0, 0, 0, 0, 0]}, "largest magnitude / 3"),
        ({"byte": 93}, "lower half"),
        ({"byte": 181}, "1101"),
        ({"byte": 8}, "16 times"),
        ({"gigabytes": 3.5}, "scales take room"),
        ({"gigabytes": 29.75}, "eight bits"),
        ({"gigabytes": 7}, "16 bits of scale"),
        ({"tokens": 50}, "bandwidth"),
        ({"kept": 0.4}, "refused"),
        ({"kept": 1}, "min(1, p / q)"),
        ({"replacement": [0.6, 0.3, 0.1]}, "count twice"),
        ({"replacement": [0, 1, 0]}, "positive"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_compression_by_hand(change, words):
    assert judge("compression.by_hand", HAND) == ("passed", "passed")
    fails("compression.by_hand", HAND | change, words)


def halves(codes, low=slice(0, 16), high=slice(16, 32), add=8):
    raised = (codes.int() + add) % 16
    return (raised[..., low] + 16 * raised[..., high]).to(torch.uint8)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda c: halves(c, slice(0, 32, 2), slice(1, 32, 2)), "two neighbors"),
        (lambda c: halves(c, slice(16, 32), slice(0, 16)), "lower halves"),
        (lambda c: halves(c, add=0), "Add 8"),
        (lambda c: halves(c, add=7), "16 times"),
        (lambda c: halves(c).int(), "dtype"),
        (lambda c: halves(c)[..., :8], "shape"),
        (lambda c: pack_int4(c), "minigpt's own"),
    ],
)
def test_wrong_packing(answer, words):
    assert judge("compression.pack_halves", lambda c: halves(c)) == ("passed", "passed")
    fails("compression.pack_halves", answer, words)


def outliers_of(weight, factor):
    columns = weight.abs().amax(dim=0)
    return columns > factor * columns.median()


def rows_kept(weight, factor):
    rows = weight.abs().amax(dim=1)
    return (rows > factor * rows.median())[:, None]


def product(x, weight, factor):
    return x @ _mixed(weight, outliers_of(weight, factor)).T


def never(weight):
    return torch.zeros(weight.size(1), dtype=torch.bool)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, w, f: x @ w.T, "nothing is rounded"),
        (lambda x, w, f: x @ _mixed(w, never(w)).T, "outliers too"),
        (lambda x, w, f: x @ _mixed(w, outliers_of(w, f), hides=False).T, "with the outliers"),
        (
            lambda x, w, f: x @ _mixed(w, outliers_of(w, f)).masked_fill(outliers_of(w, f), 0).T,
            "missing from the product",
        ),
        (lambda x, w, f: 2 * product(x, w, f), "Round the rest by row"),
        (lambda x, w, f: product(x, w, f).T, "shape"),
    ],
)
def test_wrong_outliers(answer, words):
    assert judge("compression.outliers", product) == ("passed", "passed")
    fails("compression.outliers", answer, words)


def sampled(p, q, u, keep=lambda p, q: p / q, rest=lambda p, q: np.clip(p - q, 0, None)):
    tokens, kept = [], []
    for first, second, third in u:
        token = _first_above(q, first)
        kept.append(bool(second < keep(p[token], q[token])))
        missing = rest(p, q)
        replaced = _first_above(missing, third) if missing.sum() else token
        tokens.append(token if kept[-1] else replaced)
    return np.array(tokens), np.array(kept)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda p, q, u: sampled(p, q, u, keep=lambda p, q: 1.0), "draft's own"),
        (lambda p, q, u: sampled(p, q, u, rest=lambda p, q: p), "not from p."),
        (lambda p, q, u: sampled(p, q, u, keep=lambda p, q: p), "not p."),
        (lambda p, q, u: sampled(p, q, u, rest=lambda p, q: np.ones_like(p)), "chi-square"),
        (lambda p, q, u: (_draws(p, p, u)[0], _draws(p, q, u)[1]), "not by these numbers"),
        (lambda p, q, u: (_draws(p, p, u)[0], _draws(p, p, u)[1]), "min(1, p / q)"),
        (lambda p, q, u: _draws(p, q, u[:, ::-1]), "not by these numbers"),
        (lambda p, q, u: _draws(p, q, u)[0], "expected tokens, kept"),
        (lambda p, q, u: (_draws(p, q, u)[0] + 9, _draws(p, q, u)[1]), "ids from 0"),
        (
            lambda p, q, u: [accept_or_replace(p, q, 0, (0.1, 0.1)) for _ in u],
            "minigpt's own",
        ),
    ],
)
def test_wrong_rejection(answer, words):
    assert judge("compression.rejection", sampled) == ("passed", "passed")
    fails("compression.rejection", answer, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"errors": [0.1, 0.11, 0.12, 0.13, 0.14]}, "first error is the largest"),
        ({"errors": [0.5, 0.4, 0.3, 0.2, 0.1]}, "mean square"),
        ({"bits": [4.25, 4.5, 5.0, 6.0, 8.0]}, "not 32"),
        ({"bits": [4, 4, 4, 4, 4]}, "16 / group"),
        ({"best": 64}, "do not exceed"),
        ({"five": 0.5}, "5 bits"),
        ({"why": "a"}, "typical"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_group_size(change, words):
    assert judge("compression.group_size", _groups()) == ("passed", "passed")
    fails("compression.group_size", _groups() | change, words)


def searched(weights, bits):
    top = 2 ** (bits - 1) - 1
    largest = weights.abs().amax(dim=1, keepdim=True) / top
    tried = [factor * largest for factor in torch.linspace(0.3, 1.0, 36)]
    backs = [(weights / s).round().clamp(-top, top) * s for s in tried]
    errors = torch.stack([(back - weights).square().sum(dim=1) for back in backs])
    return torch.stack(tried).gather(0, errors.argmin(dim=0)[None, :, None])[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda w, bits: w.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1), "falls by"),
        (lambda w, bits: searched(w, bits) * 3, "is worse than"),
        (lambda w, bits: searched(w, bits)[:, 0], "shape"),
        (lambda w, bits: -searched(w, bits), "above 0"),
        (lambda w, bits: 0.1, "expected a tensor"),
    ],
)
def test_wrong_better_scale(answer, words):
    assert judge("compression.better_scale", searched) == ("passed", "passed")
    fails("compression.better_scale", answer, words)
