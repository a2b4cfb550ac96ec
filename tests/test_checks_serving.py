"""Wrong answers about serving fail, each with a word on what to look at."""

import ast

import pytest
from solved import answer_of, fails, passes_always

from minigpt.checks import judge
from minigpt.checks.serving import (
    HAND,
    _bucket,
    _choose,
    _fair,
    _measured,
    _no_limit,
    _refused_pay,
    _result,
)

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": [10, 14]}, "one after the other"),
        ({"steps": [9, 8]}, "the longest of C and D"),
        ({"begins": [7, 4]}, "D comes after them"),
        ({"begins": [6, 5]}, "after the first batch"),
        ({"used": [1.4, 1.75]}, "divide by two"),
        ({"memory": 3.93}, "one of the two"),
        ({"memory": 0.98}, "one slot"),
        ({"memory": 1.97}, "four bytes"),
        ({"memory": 5}, "320 positions"),
        ({"read": [20, 0]}, "logits are needed"),
        ({"read": [15, 1]}, "Five of the 45"),
        ({"characters": [1, 1, 1]}, "no character yet"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_serving_by_hand(change, words):
    assert judge("serving.by_hand", HAND) == ("passed", "passed")
    fails("serving.by_hand", HAND | change, words)


def by_count(requests):
    return _fair([(name, 1) for name, _ in requests])


def newest_first(requests):
    """Fair, but of one client the newest request."""
    order = _fair(requests)
    places = {}
    for name, _ in requests:
        own = [k for k in order if requests[k][0] == name]
        places |= dict(zip(own, reversed(own), strict=True))
    return [places[k] for k in order]


def latest_of_equals(requests):
    had, left, order = dict.fromkeys((n for n, _ in requests), 0), list(range(len(requests))), []
    while left:
        least = min(had[requests[k][0]] for k in left)
        heads = {requests[k][0]: k for k in reversed(left)}
        k = max(k for name, k in heads.items() if had[name] == least)
        left.remove(k)
        order.append(k)
        had[requests[k][0]] += requests[k][1]
    return order


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda requests: list(range(len(requests))), "first come"),
        (by_count, "Count tokens"),
        (lambda requests: sorted(range(len(requests)), key=lambda k: requests[k][1]), "first"),
        (lambda requests: [name for name, _ in requests], "numbers 0 to n - 1"),
        (lambda requests: _fair(requests)[:-1], "served once"),
        (newest_first, "must stay in their order"),
        (latest_of_equals, "waited longest"),
        (lambda requests: 3, "expected a list"),
    ],
)
def test_wrong_fair_queue(answer, words):
    assert judge("serving.fair_queue", lambda requests: _fair(requests)) == ("passed", "passed")
    fails("serving.fair_queue", answer, words)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *given: _no_limit(*given), "holds `burst`"),
        (lambda *given: _refused_pay(*given), "takes no permit"),
        (
            lambda t, rate, burst: [x * rate for x in _bucket(t, rate, burst)],
            "(1 - permits) / rate",
        ),
        (lambda t, rate, burst: _bucket(t, rate, burst + 1), "at most up to burst"),
        (lambda t, rate, burst: [0.0], "expected a list"),
    ],
)
def test_wrong_rate_limit(answer, words):
    assert judge("serving.rate_limit", lambda *given: _bucket(*given)) == ("passed", "passed")
    fails("serving.rate_limit", answer, words)


def test_wrong_prefix_reuse():
    right = _measured()
    assert judge("serving.prefix_reuse", right) == ("passed", "passed")
    assert right["oldest"] < right["best"] < right["none"]
    exchanged = {"best": right["oldest"], "oldest": right["best"]}
    for change, words in (
        (exchanged, "exchanged"),
        ({"none": right["none"] + 1}, "lengths of all prompts"),
        ({"best": right["best"] - 12}, "longest common beginning"),
        ({"two": right["oldest"]}, "two slots"),
        ({"why": "d"}, "which slot is taken"),
        ({"more": 1}, "expected a dict"),
    ):
        fails("serving.prefix_reuse", right | change, words)


def scores(next_logits, path):
    return sum(float(next_logits(path[:k]).log_softmax(0)[path[k]]) for k in range(len(path)))


def likeliest(next_logits, choices, end):
    return max(choices, key=lambda each: scores(next_logits, [*each, end]))


def never_longer(next_logits, choices, end):
    """Stop at the first choice that is complete."""
    written = []
    while written not in choices:
        n = len(written)
        allowed = sorted({c[n] for c in choices if c[:n] == written and len(c) > n})
        logits = next_logits(list(written))
        written.append(max(allowed, key=lambda each: float(logits[each])))
    return written


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (likeliest, "greedily"),
        (never_longer, "the model decides"),
        (lambda f, choices, end: [*_choose(f, choices, end), end], "not part of the answer"),
        (lambda f, choices, end: [int(f([]).argmax())] * 7, "none of the choices"),
        (lambda f, choices, end: 4, "expected ids"),
    ],
)
def test_wrong_choice(answer, words):
    assert judge("serving.choice", lambda *given: _choose(*given)) == ("passed", "passed")
    fails("serving.choice", answer, words)


def calculator(result=_result, sign="=", counts=True, last=True, whole=True):
    """Return an answer to the last exercise, with what is asked for changed."""

    def answer(write, most_calls):
        text, calls = "", 0
        while piece := write(text if whole else text[-3:]):
            text += piece
            if text.endswith(">>") and "<<" in text:
                if counts and calls == most_calls:
                    return text
                calls += 1
                start = text.rindex("<<") if last else text.index("<<")
                text += sign + result(text[start + 2 : -2])
        return text

    return answer


def unsafe(expression):
    """What the exercise warns of."""
    try:
        return str(eval(expression))
    except Exception:
        return "error"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (calculator(unsafe), "below 10^6"),
        (calculator(sign=""), "Append ="),
        (calculator(lambda expression: "0"), "let the model go on"),
        (calculator(counts=False), "at most 2 calls"),
        (calculator(last=False), "<<"),
        (calculator(whole=False), "all of the text"),
        (lambda write, most: write("") + write("x"), "all of the text"),
        (calculator(lambda expression: "", sign=""), "result is missing"),
        (lambda write, most: 7, "expected a text"),
    ],
)
def test_wrong_calculator(answer, words):
    assert judge("serving.calculator", calculator()) == ("passed", "passed")
    fails("serving.calculator", answer, words)


def test_results_are_whole_numbers_or_errors():
    assert _result("2*(3+4)-5") == "9"
    assert _result("1" * 6) == "111111"
    for bad in ("9" * 7, "2**9", "f(1)", "True", "1+1" + " " * 40):
        assert _result(bad) == "error"
    assert isinstance(ast.parse("1", mode="eval"), ast.Expression)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fair_queue", "rate_limit", "choice", "calculator"])
def test_every_student_can_pass(name, monkeypatch):
    assert answer_of(f"serving.{name}")
    passes_always(f"serving.{name}", monkeypatch, students=10)
