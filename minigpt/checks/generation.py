"""Checks of the generation exercises, each with an oracle of its own."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import (
    LargestTensor,
    RowsThrough,
    call,
    integers,
    require,
    same_number,
    same_results,
    same_tensor,
    slip_hint,
)

HAND = {
    "cold": [0.533, 0.3, 0.133, 0.033],
    "top_p": [0.571, 0.429, 0.0, 0.0],
    "min_p": [0.444, 0.333, 0.222, 0.0],
    "draw": 2,
    "draw_cold": 1,
    "passes": 5050,
}
HAND_HINTS = {
    "cold": "Temperature 1/2 raises each probability to the power 2; then scale to the sum 1.",
    "top_p": "Keep the likeliest until their sum has reached 0.65; then scale to the sum 1.",
    "min_p": "Keep what is at least 0.5 times as likely as the likeliest, 0.2; scale to the sum 1.",
    "draw": "Lay 0.4, 0.3, 0.2, 0.1 end to end: where does 0.75 lie? The first token is number 0.",
    "draw_cold": "Lay the cold probabilities end to end: where does 0.75 lie?",
    "passes": "To write token n the model reads the n tokens before it: 1 + 2 + ... + 100.",
}
HAND_SLIPS = {
    ("cold", (0.322, 0.279, 0.228, 0.161)): "You took roots, which is temperature 2.",
    ("cold", (0.16, 0.09, 0.04, 0.01)): "The powers must be scaled to the sum 1.",
    ("top_p", (1.0, 0.0, 0.0, 0.0)): "One token has 0.4 only, which is short of 0.65.",
    ("top_p", (0.4, 0.3, 0.0, 0.0)): "What is kept must be scaled to the sum 1.",
    ("min_p", (0.4, 0.3, 0.2, 0.0)): "What is kept must be scaled to the sum 1.",
    ("min_p", (1.0, 0.0, 0.0, 0.0)): "min-p is relative to the likeliest: the limit is 0.5 x 0.4.",
}


@exercise(
    "generation.by_hand", "raise to a power, or drop; then divide by the sum of what is left."
)
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the six results of the exercise text, to two decimals."""
    same_results(answer, HAND, _hand_hint, each="token", first=0)


def _hand_hint(name: str, got: Any) -> str:
    return slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# No group of tokens twice


@exercise(
    "generation.ban_repeats", "the last n - 1 ids: where did they stand before, what followed?"
)
def ban_repeats(answer: Callable, generator: Generator) -> None:
    """Expect ban_repeats(logits, ids, n): -inf for what would complete a group of n once more."""
    cases = [
        ([3, 1, 2, 3, 1], 2, 5),
        ([3, 1, 2, 3, 1], 3, 5),
        ([1, 2], 3, 4),
        ([0, 0, 0], 2, 3),
        ([2, 4, 2], 1, 6),
        ([1], 2, 3),
        ([], 2, 4),
        ([1, 2, 3, 1, 2, 0, 1, 2], 3, 5),
    ]
    cases += [(integers(generator, 0, 3, 25), n, 4) for n in (2, 3, 4)]
    for ids, n, V in cases:
        logits = torch.randn(V, generator=generator)
        case = f"ids = {ids}, n = {n}, V = {V}"
        before = list(ids)
        got = call(answer, logits, ids, n, case=case)
        require(ids == before, f"the list of ids was changed ({case})")
        expected = banned(logits, ids, n)
        fits = isinstance(got, Tensor) and got.shape == expected.shape
        if fits and got.is_floating_point():
            require(not got.isnan().any(), f"the result holds NaN ({case})")
            hint = _ban_hint(got, logits, ids, n)
            too_much = ((got == -math.inf) & (expected != -math.inf)).nonzero()
            require(not len(too_much), f"token {too_much[:1].sum()} is banned ({case}). {hint}")
            missing = ((got != -math.inf) & (expected == -math.inf)).nonzero()
            require(not len(missing), f"token {missing[:1].sum()} is not banned ({case}). {hint}")
        same_tensor(got, expected, case, "Logits that are not banned stay as they are.")


def banned(logits: Tensor, ids: list[int], n: int, only_last: bool = False) -> Tensor:
    """Return the logits with -inf at each token that would complete a group of n once more."""
    groups = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    groups = groups[-1:] if only_last else groups
    start = tuple(ids[len(ids) - n + 1 :]) if n > 1 else ()
    fits = [group[-1] for group in groups if group[:-1] == start and len(start) == n - 1]
    result = logits.clone()
    result[fits] = -math.inf
    return result


def _ban_hint(got: Tensor, logits: Tensor, ids: list[int], n: int) -> str:
    slips = {
        "A group of n is n - 1 old tokens and the new one: compare the last n - 1.": [
            banned(logits, ids, m) for m in (n - 1, n + 1) if m
        ],
        "Look at every earlier place, not at the latest alone.": [
            banned(logits, ids, n, only_last=True)
        ],
        "A token that occurred may come again; only the GROUP may not.": [banned(logits, ids, 1)],
    }
    for sentence, wrong in slips.items():
        if any(torch.equal(got, each) for each in wrong):
            return sentence
    return "Which tokens followed the last n - 1 ids wherever these stood before?"


# Repair


@exercise("generation.repair", "compare with attention over the whole text, position by position.")
def repair(answer: Callable, generator: Generator) -> None:
    """Expect a walk with a cache, (T, C), equal to causal attention with rotary positions."""
    for T, C in [(1, 4), (5, 6), (12, 4), (20, 2)]:
        x = torch.randn(T, C, generator=generator)
        w = {name: torch.randn(C, C, generator=generator) for name in "qkv"}
        angles = torch.outer(torch.arange(T), 0.7 ** torch.arange(C // 2))
        cos = torch.cat((angles.cos(), angles.cos()), dim=-1)
        sin = torch.cat((-angles.sin(), angles.sin()), dim=-1)
        case = f"T = {T}, C = {C}"
        got = call(answer, x, w, cos, sin, case=case)
        hint = "More than one fault may be left. Which output is the first that differs?"
        for sentence, options in REPAIR_SLIPS.items():
            wrong = walk(x, w, cos, sin, **options)
            if isinstance(got, Tensor) and _equal(got, wrong):
                hint = sentence
        same_tensor(got, walk(x, w, cos, sin), case, hint)
    _keeps_the_past(answer, x, w, cos, sin)


def _keeps_the_past(answer: Callable, x: Tensor, w: dict, cos: Tensor, sin: Tensor) -> None:
    """Require that each position's key and value are computed once, when the position comes."""
    T = len(x)
    for name in "kv":
        with RowsThrough(w[name]) as rows:
            answer(x, w, cos, sin)
        require(
            rows.most <= 1,
            f"right, but {rows.most} positions are multiplied by w['{name}'] at once: the tokens "
            "come one by one, and the text ahead is not known yet",
        )
        require(
            rows.total <= T,
            f"right, but w['{name}'] meets {rows.total} rows for {T} positions: keep what was "
            "computed, that is what the cache is for",
        )
    with LargestTensor() as largest:
        answer(x, w, cos, sin)
    require(
        largest.numbers < T * T / 2,
        f"right, but a tensor of shape {largest.shape} was made: at each step there is one query, "
        f"and at most {T} scores",
    )


def walk(
    x: Tensor,
    w: dict[str, Tensor],
    cos: Tensor,
    sin: Tensor,
    turn_query: bool = True,
    turn_key: bool = True,
    own: bool = True,
    window: int | None = None,
) -> Tensor:
    """Attend with all positions at once; each option plants one of the faults."""

    def turned(z: Tensor) -> Tensor:
        return z * cos + z.roll(z.size(-1) // 2, dims=-1) * sin

    q, k, v = (x @ w[name] for name in "qkv")
    q, k = turned(q) if turn_query else q, turned(k) if turn_key else k
    distance = torch.arange(len(x))[:, None] - torch.arange(len(x))
    mask = distance >= (0 if own else 1)
    if window is not None:
        mask &= distance < window
    scores = (q @ k.T / math.sqrt(x.size(-1))).masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1).nan_to_num() @ v


REPAIR_SLIPS = {
    "The new query must be turned by its own position, not by position 0.": {"turn_query": False},
    "Keys are turned before they are stored.": {"turn_key": False},
    "The new token must see itself: store its key and value first, then attend.": {"own": False},
    "Old keys and values are dropped: all of the past must be kept.": {"window": 8},
}


def _equal(got: Tensor, wrong: Tensor) -> bool:
    return got.shape == wrong.shape and torch.allclose(got.float(), wrong, atol=1e-4)


# Several different tokens at one draw


@exercise("generation.gumbel", "one number a token, logit - ln(-ln u); take the largest.")
def gumbel(answer: Callable, generator: Generator) -> None:
    """Expect gumbel_draw(logits, uniforms, count): ids (count,), best first."""
    for V, count, size in [(7, 3, 1.0), (5, 5, 4.0), (40, 1, 2.0), (12, 6, 0.1)]:
        logits = size * torch.randn(V, generator=generator)
        uniforms = torch.rand(V, generator=generator).clamp(1e-4, 1 - 1e-4)
        case = f"V = {V}, count = {count}"
        got = call(answer, logits, uniforms, count, case=case)
        noise = -(-uniforms.log()).log()
        expected = (logits + noise).topk(count).indices
        hint = "Add -ln(-ln u) to each logit and take the ids of the largest, best first."
        for sentence, scores in {
            "The sign: the noise -ln(-ln u) is ADDED.": logits - noise,
            "Two logarithms: -ln(-ln u).": logits + uniforms.log(),
            "The noise goes to the logits (logarithms), not to the probabilities.": (
                logits.softmax(dim=-1) + noise
            ),
            "This takes no chance at all: the noise is missing.": logits,
        }.items():
            if isinstance(got, Tensor) and torch.equal(got, scores.topk(count).indices):
                hint = sentence
        if isinstance(got, Tensor) and torch.equal(got, (logits + noise).topk(V).indices[-count:]):
            hint = "These are the smallest; the largest are asked for."
        same_tensor(got, expected, case, hint)


# Measure


@exercise("generation.flood", "softmax at the temperature, sort, cumsum; entropy = -sum p ln p.")
def flood(answer: Any, generator: Generator) -> None:
    """Expect a perplexity, two counts, a temperature and a letter."""
    keys = {"perplexity", "kept", "kept_warm", "temperature", "why"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    logits = flood_logits()
    right = perplexity(logits, 1.0)
    look_at = "e to the entropy, and the entropy is -sum p ln p with the natural logarithm."
    same_number(answer["perplexity"], right, "perplexity", look_at, 0.01 * right)
    for key, temperature in (("kept", 1.0), ("kept_warm", 1.5)):
        expected = nucleus_size(logits, temperature)
        look_at = f"Temperature {temperature} first; then count the tokens needed to reach 0.9."
        same_number(answer[key], expected, key, look_at, 0.5)
    temperature = answer["temperature"]
    is_size = isinstance(temperature, int | float) and 0 < temperature < 100
    require(is_size, f"temperature is {temperature!r}, which is none")
    reached = perplexity(logits, float(temperature))
    require(
        abs(reached - 100) < 3,
        f"at temperature {temperature:.3g} the perplexity is {reached:.0f}; the aim is 100. A "
        f"higher temperature flattens, and raises it",
    )
    require(
        answer["why"] == "b",
        "the explanation does not fit: the limit of 0.9 is the same at both temperatures. What "
        "happened to the many small probabilities together?",
    )


def flood_logits() -> Tensor:
    """Return the logits (1000,) of the exercise text."""
    return 3 * torch.randn(1000, generator=torch.Generator().manual_seed(0))


def perplexity(logits: Tensor, temperature: float) -> float:
    """Return e to the entropy of the probabilities at a temperature."""
    log_p = (logits.double() / temperature).log_softmax(dim=-1)
    return math.exp(-(log_p.exp() * log_p).sum().item())


def nucleus_size(logits: Tensor, temperature: float) -> int:
    """Return how many of the likeliest tokens reach 0.9 together."""
    p = (logits.double() / temperature).softmax(dim=-1).sort(descending=True).values
    return int((p.cumsum(dim=-1) < 0.9).sum()) + 1


# The likeliest text with a word in it


@exercise(
    "generation.wanted",
    "keep the best text for each (last token, wanted seen or not), step by step.",
)
def wanted(answer: Callable, generator: Generator) -> None:
    """Expect likeliest_with(log_p, start, length, wanted): the best list of ids with it."""
    for V, length in [(3, 1), (4, 5), (5, 4), (25, 12)]:
        for _ in range(3):
            log_p = (2 * torch.randn(V, V, generator=generator)).log_softmax(dim=-1)
            start, token = integers(generator, 0, V - 1, 2)
            log_p[:, token] -= 3  # it seldom comes by itself
            _is_best(answer, log_p.log_softmax(dim=-1), start, length, token)
    _is_best(answer, *road_behind_a_door(generator), length=12, token=1)


def _is_best(answer: Callable, log_p: Tensor, start: int, length: int, token: int) -> None:
    """Require a text with the token that has the largest probability of all such texts."""
    V = len(log_p)
    case = f"V = {V}, length = {length}, start = {start}, wanted = {token}"
    got = call(answer, log_p, start, length, token, case=case)
    is_list = isinstance(got, list) and all(type(each) is int for each in got)
    require(is_list, f"expected a list of whole numbers ({case})")
    require(len(got) == length, f"{len(got)} ids, expected {length} ({case})")
    inside = all(0 <= each < V for each in got)
    require(inside, f"an id is not from 0 to {V - 1} ({case})")
    require(token in got, f"the wanted token is not in the text ({case})")
    best, score = best_score(log_p, start, length, token), chain_score(log_p, start, got)
    require(
        score > best - 1e-3,
        f"ln p of your text is {score:.2f}, the best has {best:.2f} ({case}). Greedy steps and "
        f"beams are not enough: a likely text may have to begin with the unlikeliest token",
    )


def road_behind_a_door(generator: Generator, V: int = 80) -> tuple[Tensor, int]:
    """Return (log_p, start) of a chain in which the best text begins with the unlikeliest token.

    Most tokens follow each other about equally. Some seldom come, but each of these leads nearly
    surely to the next one. A beam that is narrower than V forgets them in the first step.
    """
    logits = 0.1 * torch.randn(V, V, generator=generator)
    road = [0, *(2 + torch.randperm(V - 2, generator=generator)[:12]).tolist()]
    road[5] = 1  # the wanted token lies on it
    logits[:, road] = -3.0
    for here, there in itertools.pairwise(road):
        logits[here, there] = 12.0
    return logits.log_softmax(dim=-1), road[-1]


def chain_score(log_p: Tensor, start: int, ids: list[int]) -> float:
    """Return ln p of the ids after `start`."""
    pairs = zip([start, *ids[:-1]], ids, strict=True)
    return sum(log_p[before, after].item() for before, after in pairs)


def best_score(log_p: Tensor, start: int, length: int, token: int) -> float:
    """Return the best ln p of a text with the token at any one place, by max-plus products."""
    after = torch.full((len(log_p),), -math.inf)
    after[start] = 0.0
    forward = [after]  # forward[n][v]: best of n steps that end in v
    for _ in range(length):
        forward.append((forward[-1][:, None] + log_p).amax(dim=0))
    backward = [torch.zeros(len(log_p))]  # backward[n][v]: best of n further steps from v
    for _ in range(length):
        backward.append((log_p + backward[-1]).amax(dim=1))
    places = range(1, length + 1)
    return max((forward[n][token] + backward[length - n][token]).item() for n in places)
