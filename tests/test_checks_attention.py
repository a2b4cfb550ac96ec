"""Wrong answers about attention fail, each with a word on what to look at."""

import math

import pytest
import torch
from solved import fails, passes_always, solution
from torch.nn import functional as F

from minigpt import attention
from minigpt.attention import attend, causal_mask
from minigpt.checks import exercises, judge

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (([0.79, 0.11, 0.11, 0.0], 5.1), "without dividing by √D"),
        (([0.0003, 0.0, 0.0001, 0.9995], 99.9), "future"),
        (([2.0, 1.0, 1.0, 0.0], 26.0), "sum to 1"),
        (([0.58, 0.21, 0.21, 0.0], 7.12), "the output"),
        (([0.21, 0.21, 0.58, 0.0], 6.1), "dot products"),
        (([0.58, 0.21, "0.21", 0.0], 6.1), "should be a number"),
        (([0.58, 0.21, 0.21], 6.1), "expected a pair"),
        (([0.58, float("nan"), 0.21, 0.0], 6.1), "position 1"),
    ],
)
def test_wrong_by_hand(answer, words):
    fails("attention.by_hand", answer, words)


def distances(T):
    return torch.arange(T)[:, None] - torch.arange(T)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda T, w: (distances(T) >= 0) & (distances(T) <= w), "window - 1"),
        (lambda T, w: ((distances(T) >= 0) & (distances(T) < w)).T, "swapped"),
        (lambda T, w: distances(T) < w, "future"),
        (lambda T, w: distances(T).abs() < w, "t - s"),
        (lambda T, w: ~((distances(T) >= 0) & (distances(T) < w)), "opposite"),
        (lambda T, w: ((distances(T) >= 0) & (distances(T) < w)).float(), "dtype"),
        (lambda T, w: ((distances(T) >= 0) & (distances(T) < w))[None], "shape"),
        (lambda T, w: causal_mask(T), "window"),
        (lambda T, w: None, "return missing"),
        (lambda T, w: [[True]], "expected a tensor"),
    ],
)
def test_wrong_window_mask(answer, words):
    fails("attention.window_mask", answer, words)


def multi_head(x, q, k, v, o, n_head, width=None, dim=-1, diagonal=0, hidden=-math.inf, cut=True):
    B, T, C = x.shape
    D = C // n_head
    q, k, v = (
        (x @ w).view(B, T, n_head, D).transpose(1, 2) if cut else (x @ w).view(B, n_head, T, D)
        for w in (q, k, v)
    )
    scores = q @ k.transpose(-2, -1) / math.sqrt(width or D)
    past = torch.ones(T, T).tril(diagonal) == 1
    weights = scores.masked_fill(~past, hidden).softmax(dim=dim)
    return (weights @ v).transpose(1, 2).reshape(B, T, C) @ o


def shout(x, *rest):
    x *= 2
    return multi_head(x, *rest)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, *w: multi_head(x, *w, width=x.size(-1)), "D = C / n_head"),
        (lambda x, *w: multi_head(x, *w, dim=-2), "axis"),
        (lambda x, *w: multi_head(x, *w, diagonal=-1), "diagonal"),
        (lambda x, *w: multi_head(x, *w, diagonal=-1, hidden=-1e9), "mask"),
        (lambda x, *w: multi_head(x, *w, cut=False), "heads are cut"),
        (lambda x, *w: multi_head(x, *w, diagonal=1), "changes earlier outputs"),
        (lambda x, *w: multi_head(x, *w).double(), "dtype"),
        (lambda x, *w: multi_head(x, *w)[0], "shape"),
        (shout, "changed in place"),
    ],
)
def test_wrong_repair(answer, words):
    fails("attention.repair", answer, words)


def test_the_planted_function_fails_as_it_is():
    fails("attention.repair", solution("attention.repair").names["broken"], "earlier outputs")


def unshrunk(q, k, v, chunk):
    total, mixed = 0, 0
    for start in range(0, len(k), chunk):
        scores = q @ k[start : start + chunk].T / math.sqrt(q.size(1))
        weights = (scores - scores.max(dim=1, keepdim=True).values).exp()
        total, mixed = (
            total + weights.sum(1, keepdim=True),
            mixed + weights @ v[start : start + chunk],
        )
    return mixed / total


def naive(q, k, v, chunk, scale=None):
    total, mixed = 0, 0
    for start in range(0, len(k), chunk):
        weights = (q @ k[start : start + chunk].T / (scale or math.sqrt(q.size(1)))).exp()
        total, mixed = (
            total + weights.sum(1, keepdim=True),
            mixed + weights @ v[start : start + chunk],
        )
    return mixed / total


def whole_chunks(q, k, v, chunk):
    keep = len(k) // chunk * chunk
    return attend(q, k[:keep], v[:keep])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda q, k, v, chunk: attend(q, k, v), "not streaming"),
        (unshrunk, "largest"),
        (naive, "overflows"),
        (lambda q, k, v, chunk: naive(q, k, v, chunk, scale=1.0), "scale"),
        (whole_chunks, "last, shorter chunk"),
        (
            lambda q, k, v, chunk: attend(
                q, k, v, causal_mask(max(len(q), len(k)))[: len(q), : len(k)]
            ),
            "",
        ),
    ],
)
def test_wrong_streaming(answer, words):
    fails("attention.streaming", answer, words)


def test_wrong_streaming_in_place():
    def spoil(q, k, v, chunk):
        q /= math.sqrt(q.size(1))
        return attend(q * math.sqrt(q.size(1)), k, v)

    fails("attention.streaming", spoil, "changed in place")


RIGHT = {"largest_16": 0.247, "largest_4096": 0.0059, "factor": 3.3, "why": "b"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"largest_16": 0.9}, "variance 1"),
        ({"largest_4096": 0.25}, "largest_4096"),
        ({"largest_4096": "small"}, "should be a number"),
        ({"factor": 1.0}, "A larger factor gives a larger weight"),
        ({"factor": 16.0}, "with scores 16 times"),
        ({"factor": -1}, "factor is -1"),
        ({"why": "a"}, "explanation"),
        ({"why": "c"}, "explanation"),
        ({"why": "d"}, "explanation"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_long_text(change, words):
    assert judge("attention.long_text", RIGHT)[0] == "passed"
    fails("attention.long_text", RIGHT | change, words)


def pattern(ids, V, attend, sure=1000.0, mask=True, shift=1, looks=2):
    T, words, places = len(ids), F.one_hot(ids, V).float(), torch.eye(len(ids))
    allowed = causal_mask(T) if mask else None
    before = torch.cat((torch.zeros(shift, T), places[:-shift])) if shift else places
    previous = attend(sure * before, places, words, allowed)
    previous[0] = 0.0
    for _ in range(looks - 1):
        result = attend(sure * words, previous, words, allowed)
    return result


def by_dictionary(ids, V, attend):
    scores, seen = torch.zeros(len(ids), V), {}
    for t, word in enumerate(ids.tolist()):
        if t:
            seen[ids[t - 1].item()] = word
        if word in seen:
            scores[t, seen[word]] = 1
    return scores


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *a: pattern(*a, sure=1.0), "too soft"),
        (lambda *a: pattern(*a, shift=0), "previous word"),
        (lambda *a: pattern(*a, shift=2), "previous word"),
        (lambda *a: pattern(*a, looks=3), "3 times"),
        (by_dictionary, "0 times"),
        (lambda ids, V, attend: pattern(ids, V, attend)[:-1], "shape"),
        (lambda ids, V, attend: pattern(ids, V, attend) * math.nan, "NaN"),
        (lambda ids, V, attend: pattern(ids, V, attend) + ids[-1], "earlier predictions"),
    ],
)
def test_wrong_pattern(answer, words):
    fails("attention.pattern", answer, words)


# Right numbers, but not by the way that the exercise is about


def by_chunks_of_queries(q, k, v, chunk):
    return torch.cat([attend(some, k, v) for some in q.split(chunk)])


def query_by_query(q, k, v, chunk):
    return torch.cat([attend(q[t : t + 1], k, v) for t in range(len(q))])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (by_chunks_of_queries, "not over the queries"),
        (query_by_query, "not over the queries"),
        (lambda q, k, v, chunk: F.scaled_dot_product_attention(q, k, v), "streams for you"),
    ],
)
def test_what_only_looks_like_streaming(answer, words):
    fails("attention.streaming", answer, words)


def looks_thrown_away(ids, V, attend):
    pattern(ids, V, attend)
    return by_dictionary(ids, V, attend)


def second_look_thrown_away(ids, V, attend):
    return pattern(ids, V, attend) * 0 + by_dictionary(ids, V, attend)


@pytest.mark.parametrize("answer", [looks_thrown_away, second_look_thrown_away])
def test_looks_that_are_thrown_away(answer):
    fails("attention.pattern", answer, "use what attend returns")


def by_the_package(x, q, k, v, o, n_head):
    layer = attention.Attention(x.size(-1), n_head)
    parts = (layer.query, layer.key, layer.value, layer.output)
    for part, weight in zip(parts, (q, k, v, o), strict=True):
        part.weight.data = weight.T
    return layer(x)


def test_the_packages_layer_is_no_answer():
    fails("attention.repair", by_the_package, "minigpt's own Attention")
    fails("attention.repair", lambda *a: by_the_package(*a), "minigpt's own Attention")


@pytest.mark.slow
@pytest.mark.parametrize("name", exercises("attention"))
def test_right_answers_never_fail(name, monkeypatch):
    passes_always(name, monkeypatch)
