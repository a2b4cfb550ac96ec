"""Wrong answers about generation fail, each with a word on what to look at."""

import math

import pytest
import torch
from solved import answer_of, fails, passes_always, solution

from minigpt.checks import exercises, judge
from minigpt.checks.generation import banned, best_score, chain_score, walk

pytestmark = pytest.mark.usefixtures("student")

CHOICES = {
    "cold": [0.533, 0.3, 0.133, 0.033],
    "top_p": [0.571, 0.429, 0, 0],
    "min_p": [0.444, 0.333, 0.222, 0],
    "draw": 2,
    "draw_cold": 1,
    "passes": 5050,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cold": [0.32, 0.28, 0.23, 0.16]}, "took roots"),
        ({"cold": [0.16, 0.09, 0.04, 0.01]}, "scaled"),
        ({"cold": [0.5, 0.3, 0.2]}, "4 numbers"),
        ({"top_p": [1, 0, 0, 0]}, "short of 0.65"),
        ({"top_p": [0.4, 0.3, 0, 0]}, "scaled"),
        ({"top_p": [0.444, 0.333, 0.222, 0]}, "has reached 0.65"),
        ({"min_p": [0.571, 0.429, 0, 0]}, "at least 0.5 times"),
        ({"min_p": [1, 0, 0, 0]}, "relative to the likeliest"),
        ({"draw": 3}, "The first token is number 0"),
        ({"draw_cold": 2}, "cold probabilities"),
        ({"passes": 100}, "1 + 2"),
        ({"passes": 4950}, "1 + 2"),
        ({"draw": "2"}, "should be a number"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_choices_by_hand(change, words):
    assert judge("generation.by_hand", CHOICES) == ("passed", "passed")
    fails("generation.by_hand", CHOICES | change, words)


def ban_in_place(logits, ids, n):
    logits[banned(logits, ids, n) == -math.inf] = -math.inf
    return logits


def ban_softly(logits, ids, n):
    return logits.masked_fill(banned(logits, ids, n) == -math.inf, 0.0)


def ban_and_append(logits, ids, n):
    result = banned(logits, ids, n)
    ids.append(0)
    return result


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, ids, n: banned(x, ids, n + 1), "the last n - 1"),
        (lambda x, ids, n: banned(x, ids, max(1, n - 1)), "the last n - 1"),
        (lambda x, ids, n: banned(x, ids, n, only_last=True), "every earlier place"),
        (lambda x, ids, n: banned(x, ids, 1), "token 1 is banned"),
        (lambda x, ids, n: x, "is not banned"),
        (ban_softly, "is not banned"),
        (ban_in_place, "changed in place"),
        (ban_and_append, "list of ids was changed"),
        (lambda x, ids, n: banned(x, ids, n).softmax(dim=-1), "is not banned"),
        (lambda x, ids, n: banned(x, ids, n) + 1, "stay as they are"),
    ],
)
def test_wrong_ban(answer, words):
    assert judge("generation.ban_repeats", lambda *a: banned(*a)) == ("passed", "passed")
    fails("generation.ban_repeats", answer, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"turn_query": False}, "by its own position"),
        ({"turn_key": False}, "before they are stored"),
        ({"own": False}, "must see itself"),
        ({"window": 8}, "dropped"),
        ({"turn_query": False, "turn_key": False}, "More than one fault"),
    ],
)
def test_each_fault_left_in_the_cache_is_named(options, words):
    assert judge("generation.repair", answer_of("generation.repair")) == ("passed", "passed")
    fails("generation.repair", lambda *a: walk(*a, **options), words)


def test_the_planted_cache_fails_as_it_is():
    fails("generation.repair", solution("generation.repair").names["broken"], "")


def test_the_oracle_of_the_cache_is_the_chapters_attention():
    from minigpt.attention import apply_rotary, attend, causal_mask, rotary_table

    torch.manual_seed(0)
    x, w = torch.randn(7, 6), {name: torch.randn(6, 6) for name in "qkv"}
    rotary = rotary_table(7, 6, 50.0)
    q, k = (apply_rotary(x @ w[name], *rotary) for name in "qk")
    expected = attend(q, k, x @ w["v"], causal_mask(7))
    torch.testing.assert_close(walk(x, w, *rotary), expected, atol=1e-4, rtol=1e-4)


def gumbel_noise(uniforms):
    return -(-uniforms.log()).log()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, u, n: (x - gumbel_noise(u)).topk(n).indices, "is ADDED"),
        (lambda x, u, n: (x + u.log()).topk(n).indices, "Two logarithms"),
        (lambda x, u, n: (x.softmax(-1) + gumbel_noise(u)).topk(n).indices, "probabilities"),
        (lambda x, u, n: x.topk(n).indices, "noise is missing"),
        (lambda x, u, n: (x + gumbel_noise(u)).argsort()[:n], "best first"),
        (lambda x, u, n: (x + gumbel_noise(u)).topk(n).values, "dtype"),
        (lambda x, u, n: (x + gumbel_noise(u)).argmax(), "shape"),
        (lambda x, u, n: (x + gumbel_noise(u)).topk(n).indices.tolist(), "expected a tensor"),
    ],
)
def test_wrong_gumbel(answer, words):
    fails("generation.gumbel", answer, words)


FLOOD = {"perplexity": 6.7, "kept": 6, "kept_warm": 119, "temperature": 1.77, "why": "b"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"perplexity": 1.9}, "e to the entropy"),
        ({"kept": 5}, "reach 0.9"),
        ({"kept_warm": 6}, "Temperature 1.5 first"),
        ({"temperature": 1.0}, "the aim is 100"),
        ({"temperature": 3.0}, "the aim is 100"),
        ({"temperature": -1.0}, "which is none"),
        ({"why": "a"}, "explanation"),
        ({"why": "c"}, "explanation"),
        ({"why": "d"}, "explanation"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_flood(change, words):
    assert judge("generation.flood", FLOOD) == ("passed", "passed")
    fails("generation.flood", FLOOD | change, words)


def greedy_with(log_p, start, length, wanted):
    ids = []
    for _ in range(length - 1):
        ids.append(log_p[ids[-1] if ids else start].argmax().item())
    return [*ids, wanted]


def without_the_word(log_p, start, length, wanted):
    ids = greedy_with(log_p, start, length, wanted)
    return [token if token != wanted else (wanted + 1) % len(log_p) for token in ids]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (greedy_with, "Greedy steps and beams are not enough"),
        (without_the_word, "not in the text"),
        (lambda *a: greedy_with(*a)[1:], "ids, expected"),
        (lambda *a: torch.tensor(greedy_with(*a)), "list of whole numbers"),
        (lambda p, s, n, w: [w] * n, "the best has"),
        (lambda p, s, n, w: [len(p)] * n, "is not from 0"),
    ],
)
def test_wrong_text_with_a_word(answer, words):
    fails("generation.wanted", answer, words)


def test_the_best_score_is_that_of_trying_all_texts():
    import itertools

    generator = torch.Generator().manual_seed(0)
    for V, length in [(3, 1), (3, 4), (4, 3)]:
        log_p = torch.randn(V, V, generator=generator).log_softmax(dim=-1)
        texts = [list(ids) for ids in itertools.product(range(V), repeat=length) if 1 in ids]
        best = max(chain_score(log_p, 0, ids) for ids in texts)
        assert math.isclose(best_score(log_p, 0, length, 1), best, abs_tol=1e-5)


# Right numbers, but not by the way that the exercise is about


def without_cache(x, w, cos, sin):
    return torch.cat([walk(x[: t + 1], w, cos[: t + 1], sin[: t + 1])[-1:] for t in range(len(x))])


@pytest.mark.parametrize("answer", [lambda *a: walk(*a), without_cache])
def test_a_walk_that_keeps_nothing(answer):
    fails("generation.repair", answer, "at once")


def anew_one_by_one(x, w, cos, sin):
    outputs = []
    for t in range(len(x)):
        k = torch.cat([x[s : s + 1] @ w["k"] for s in range(t + 1)])
        v = torch.cat([x[s : s + 1] @ w["v"] for s in range(t + 1)])
        q = x[t : t + 1] @ w["q"]
        q, k = (
            z * c + z.roll(z.size(-1) // 2, dims=-1) * s
            for z, c, s in ((q, cos[t : t + 1], sin[t : t + 1]), (k, cos[: t + 1], sin[: t + 1]))
        )
        outputs.append((q @ k.T / x.size(-1) ** 0.5).softmax(dim=-1) @ v)
    return torch.cat(outputs)


def test_a_walk_that_computes_the_past_anew():
    fails("generation.repair", anew_one_by_one, "keep what was")


def narrow_beams(log_p, start, length, wanted, width=30):
    beams = {False: [(0.0, [start])], True: []}
    for _ in range(length):
        longer = {False: [], True: []}
        for seen, some in beams.items():
            for score, ids in some:
                for token, log in enumerate(log_p[ids[-1]].tolist()):
                    longer[seen or token == wanted].append((score + log, [*ids, token]))
        beams = {seen: sorted(some, reverse=True)[:width] for seen, some in longer.items()}
    return beams[True][0][1][1:]


def test_beams_are_not_exact():
    fails("generation.wanted", narrow_beams, "beams are not enough")


@pytest.mark.slow
@pytest.mark.parametrize("name", exercises("generation"))
def test_right_answers_never_fail(name, monkeypatch):
    passes_always(name, monkeypatch)
