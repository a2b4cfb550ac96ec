"""Checks of the serving exercises, each with an oracle of its own."""

import ast
import functools
import operator
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from minigpt.checks import exercise
from minigpt.checks.compare import call, integers, require, same_number, same_results, slip_hint

HAND = {
    "steps": [10.0, 8.0],
    "begins": [7.0, 5.0],
    "used": [0.7, 0.875],
    "memory": 7.86,
    "read": [20.0, 1.0],
    "characters": [1.0, 0.0, 2.0],
}
HAND_HINTS = {
    "steps": "Static: the longest of A and B, plus the longest of C and D. Continuous: draw it.",
    "begins": "Static: the step after the first batch. Continuous: the step after C's last.",
    "used": "14 tokens, divided by two slots times the number of steps.",
    "memory": "Keys and values, each 3 layers x 4 heads x 320 positions x 32 numbers x 4 bytes.",
    "read": "The prompt without the common beginning, but at least its last token.",
    "characters": "A character comes when its last byte is there.",
}
HAND_SLIPS = {
    ("steps", (10.0, 14.0)): "14 is one after the other; two slots work at the same time.",
    ("begins", (7.0, 4.0)): "C has steps 2 to 4; D comes after them.",
    ("used", (1.4, 1.75)): "There are two slots: divide by two as well.",
    ("read", (20.0, 0.0)): "The last token must be read again: its logits are needed.",
    ("read", (15.0, 1.0)): "Five of the 45 tokens in the slot are not those of the prompt.",
    ("characters", (1.0, 1.0, 1.0)): "Two of three bytes are no character yet.",
}
MEMORY_SLIPS = {
    3.93: "Keys and values: that is one of the two.",
    0.98: "That is one slot; there are eight.",
    1.97: "A float32 has four bytes.",
}


@exercise("serving.by_hand", "draw two rows of places, one per slot, and fill them step by step.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the six results of the exercise text."""
    same_results(answer, HAND, _hand_hint)


def _hand_hint(name: str, got: Any) -> str:
    if name == "memory" and isinstance(got, int | float):
        for wrong, sentence in MEMORY_SLIPS.items():
            if abs(got - wrong) < 0.01:
                return sentence
    return slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# A fair queue


def _fair(requests: list[tuple[str, int]]) -> list[int]:
    left, had = list(enumerate(requests)), dict.fromkeys((name for name, _ in requests), 0)
    order = []
    while left:
        first = min(left, key=lambda each: (had[each[1][0]], each[0]))
        left.remove(first)
        order.append(first[0])
        had[first[1][0]] += first[1][1]
    return order


@exercise("serving.fair_queue", "a count of tokens for each client; the smallest count is next.")
def fair_queue(answer: Callable, generator: Generator) -> None:
    """Expect fair_order(requests): the order in which they are served, as numbers from 0."""
    cases = [
        [("a", 5), ("a", 5), ("a", 5), ("b", 5)],
        [("a", 3), ("a", 3), ("b", 9), ("b", 1), ("a", 3), ("a", 3)],
        [("a", 4), ("b", 4), ("b", 4), ("a", 4)],
        [],
    ]
    for n in (6, 12, 20):
        names, sizes = integers(generator, 0, 3, n), integers(generator, 1, 9, n)
        cases.append([("abcd"[k], size) for k, size in zip(names, sizes, strict=True)])
    for requests in cases:
        case = f"{len(requests)} requests"
        got = call(answer, list(requests), case=case)
        require(isinstance(got, list | tuple), f"expected a list of numbers, got {got!r} ({case})")
        expected = _fair(requests)
        look = _fair_slip(list(got), requests)
        require(list(got) == expected, f"{requests} gives {list(got)}, not {expected}. {look}")


def _fair_slip(got: list, requests: list[tuple[str, int]]) -> str:
    n = len(requests)
    if sorted(map(repr, got)) != sorted(map(repr, range(n))):
        return "Every request is served once: return the numbers 0 to n - 1 in a new order."
    if got == list(range(n)):
        return "That is first come, first served."
    if got == _fair([(name, 1) for name, _ in requests]):
        return "Count tokens, not requests: a long answer costs more."
    if got == sorted(range(n), key=lambda k: requests[k][1]):
        return "The shortest first is fair to nobody who asks for much."
    for name in {name for name, _ in requests}:
        own = [k for k in got if requests[k][0] == name]
        if own != sorted(own):
            return f"The requests of {name} must stay in their order."
    return "Of clients with equal counts, the one whose request has waited longest is next."


# A rate limit


def _bucket(times: list[float], rate: float, burst: int) -> list[float]:
    permits, before, waits = float(burst), times[0] if times else 0.0, []
    for now in times:
        permits = min(float(burst), permits + rate * (now - before))
        before = now
        waits.append(0.0 if permits >= 1 else (1 - permits) / rate)
        permits -= permits >= 1
    return waits


@exercise("serving.rate_limit", "permits grow with the time since the last request, up to a limit.")
def rate_limit(answer: Callable, generator: Generator) -> None:
    """Expect waits(times, rate, burst): 0 where a request may go, or the seconds until it may."""
    cases = [
        ([0.0, 0.0, 0.0, 0.5, 1.0], 1.0, 2),
        ([10.0, 10.0, 100.0, 100.0, 100.0], 2.0, 2),
        ([0.0, 0.25, 0.5, 0.75, 1.0, 4.0], 0.5, 1),
    ]
    for burst in (1, 3, 4):
        # Eighths of a second, so that no rounding decides.
        gaps = [k / 8 for k in integers(generator, 0, 12, 14)]
        times = [sum(gaps[: k + 1]) for k in range(len(gaps))]
        cases.append((times, (0.5, 1.0, 2.0)[integers(generator, 0, 2)[0]], burst))
    for times, rate, burst in cases:
        case = f"{rate} a second, burst {burst}"
        got = call(answer, list(times), rate, burst, case=case)
        fits = isinstance(got, list | tuple) and len(got) == len(times)
        require(fits, f"expected a list of {len(times)} numbers, got {got!r} ({case})")
        for k, right in enumerate(_bucket(times, rate, burst)):
            look = _rate_slip(list(got), times, rate, burst)
            name = f"request {k} at {times[k]:g} s ({case}):"
            same_number(got[k], right, name, f"Expected {right:.4g}. {look}", 1e-6)


def _rate_slip(got: list, times: list[float], rate: float, burst: int) -> str:
    numbers = all(isinstance(x, int | float) for x in got)
    if numbers and got == _no_limit(times, rate, burst):
        return "A bucket that is full takes nothing more: after a long pause it holds `burst`."
    if numbers and got == _refused_pay(times, rate, burst):
        return "A request that is refused takes no permit."
    if numbers and [x > 0 for x in got] == [x > 0 for x in _bucket(times, rate, burst)]:
        return "The right ones are refused; the wait is (1 - permits) / rate."
    return "Add rate times the seconds since the last request, at most up to burst; then take 1."


def _no_limit(times: list[float], rate: float, burst: int) -> list[float]:
    permits, before, waits = float(burst), times[0], []
    for now in times:
        permits, before = permits + rate * (now - before), now
        waits.append(0.0 if permits >= 1 else (1 - permits) / rate)
        permits -= permits >= 1
    return waits


def _refused_pay(times: list[float], rate: float, burst: int) -> list[float]:
    permits, before, waits = float(burst), times[0], []
    for now in times:
        permits, before = min(float(burst), permits + rate * (now - before)), now
        waits.append(0.0 if permits >= 1 else (1 - permits) / rate)
        permits -= 1
    return waits


# Prefix reuse


@functools.cache
def _conversations() -> list[list[int]]:
    """Return the prompts of the exercise: three clients take turns, each with all its past."""
    rng = random.Random(24)
    system = [rng.randrange(1000) for _ in range(40)]
    pasts = [list(system) for _ in range(3)]
    prompts = []
    for _ in range(4):
        for past in pasts:
            past += [rng.randrange(1000) for _ in range(rng.randint(8, 20))]
            prompts.append(list(past))
            past += [rng.randrange(1000) for _ in range(rng.randint(20, 60))]
    return prompts


def _common(a: list[int], b: list[int]) -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def _reads(prompts: list[list[int]], n_slot: int, oldest: bool) -> int:
    slots: list[list[int]] = [[] for _ in range(n_slot)]
    used, total = [-1] * n_slot, 0
    for turn, prompt in enumerate(prompts):
        shared = [_common(prompt, slot) for slot in slots]
        best = shared.index(max(shared))
        total += len(prompt) - min(shared[best], len(prompt) - 1)
        taken = used.index(min(used)) if oldest else best
        slots[taken], used[taken] = prompt, turn
    return total


@functools.cache
def _measured() -> dict[str, Any]:
    """Return what the exercise measures, computed anew."""
    prompts = _conversations()
    return {
        "none": sum(map(len, prompts)),
        "best": _reads(prompts, 4, oldest=False),
        "oldest": _reads(prompts, 4, oldest=True),
        "two": _reads(prompts, 2, oldest=True),
        "why": "b",
    }


REUSE_HINTS = {
    "none": "The sum of the lengths of all prompts.",
    "best": "The new prompt replaces the slot with the longest common beginning (the first such).",
    "oldest": "Reuse from any slot; the new prompt goes where the longest unused one was.",
    "two": "The same as oldest, with two slots.",
    "why": "Print which slot is taken, turn by turn.",
}


@exercise("serving.prefix_reuse", "at least one token of every prompt is read.")
def prefix_reuse(answer: Any, generator: Generator) -> None:
    """Expect the tokens that are read under four rules, and why one of them reads so many."""
    same_results(answer, _measured(), _reuse_slip, slack=1e-6)


def _reuse_slip(name: str, got: Any) -> str:
    if name in ("best", "oldest") and got == _measured()["oldest" if name == "best" else "best"]:
        return "The two rules are exchanged."
    return REUSE_HINTS[name]


# Constrained choice

END = 0


def _choose(next_logits: Callable, choices: list[list[int]], end: int) -> list[int]:
    written: list[int] = []
    while True:
        logits = next_logits(list(written))
        n = len(written)
        allowed = {c[n] for c in choices if c[:n] == written and len(c) > n}
        allowed |= {end} if written in choices else set()
        token = max(sorted(allowed), key=lambda each: float(logits[each]))
        if token == end:
            return written
        written.append(token)


@exercise("serving.choice", "what may come next: the next ids of the choices that begin like this.")
def choice(answer: Callable, generator: Generator) -> None:
    """Expect choose(next_logits, choices, end): a choice, written greedily under a mask."""
    cases: list[tuple[list[list[int]], int]] = [
        ([[3, 4], [3, 5], [6, 7], [6, 8], [1, 2]], 9),
        ([[1], [1, 2], [1, 2, 3]], 7),
        ([[2, 2, 2], [2, 2], [5, 2]], 8),
        ([[4]], 6),
    ]
    for _ in range(6):
        sizes = integers(generator, 1, 4, 5)
        drawn = [integers(generator, 0, 2, size) for size in sizes]
        cases.append(([list(each) for each in sorted(set(map(tuple, drawn)))], 3))
    for choices, end in cases:
        for _ in range(5):
            seed = integers(generator, 0, 2**31 - 2)[0]
            next_logits = _model(seed, max(map(len, choices)))
            case = f"choices {choices}, end {end}"
            got = call(answer, next_logits, [list(c) for c in choices], end, case=case)
            got = got.tolist() if isinstance(got, Tensor) else got
            require(isinstance(got, list | tuple), f"expected ids, got {got!r} ({case})")
            right = _choose(next_logits, choices, end)
            look = _choice_slip(list(got), right, choices, next_logits, end)
            require(list(got) == right, f"expected {right}, got {list(got)} ({case}). {look}")


def _model(seed: int, longest: int) -> Callable[[list[int]], Tensor]:
    """Return a small model that looks at all that was written; token 9 is its favorite."""

    asked: list[list[int]] = []

    def next_logits(written: list[int]) -> Tensor:
        asked.append(list(written))
        stuck = len(asked) > 50 and all(each == written for each in asked[-50:])
        require(not stuck, f"next_logits is asked about {written[:9]} again and again")
        require(len(written) <= longest, f"{written[:9]} is longer than any choice: it must end")
        text = f"{seed} {written}"
        rng = random.Random(text)
        logits = torch.tensor([rng.gauss(0, 2) for _ in range(10)])
        logits[9] += 1  # what may not come is often what is likeliest
        return logits

    return next_logits


def _choice_slip(got: list, right: list, choices: list, next_logits: Callable, end: int) -> str:
    if end in got and got[:-1] in choices:
        return "The end is not part of the answer."
    if got not in choices:
        return "That is none of the choices: mask all other tokens, and end at complete ones only."
    shorter = min(len(got), len(right))
    if got[:shorter] == right[:shorter]:
        return "Where a choice is complete and another goes on, the model decides: end, or next id."
    scores = []
    for each in choices:
        path = [*each, end]
        rows = [next_logits(path[:k]).log_softmax(0)[path[k]] for k in range(len(path))]
        scores.append(float(sum(rows)))
    if got == choices[scores.index(max(scores))]:
        return "That is the likeliest choice as a whole; here each token is chosen greedily."
    return "At each step, of the allowed ids the one with the largest logit."


# A calculator

OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
GOOD = ["1+1", "12*3", "2*(3+4)-5", "7-10", "10*10*10", "(8)", "2+3*4", "100-1-1", "(2+3)*(4-6)"]
GOOD += ["999999+1", "1+" * 19 + "12"]  # the largest number, the longest expression
BAD = [
    "2**9",
    "7/2",
    "1+",
    "",
    "x+1",
    "__import__('os').getcwd()",
    "(1,2)",
    "1.5+1",
    "'a'*3",
    "len([1])",
    "True+1",
    "1000000-1",
    "9" * 30 + "*2",
    "1+" * 20 + "1",
    "(" * 3000 + "1" + ")" * 3000,
]
LONGEST = 40  # characters of an expression


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value < 10**6:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError


def _result(expression: str) -> str:
    try:
        require(len(expression) <= LONGEST, "too long")
        return str(_value(ast.parse(expression, mode="eval").body))
    except Exception:
        return "error"


@exercise("serving.calculator", "cut the call out, take it apart, append what it gives.")
def calculator(answer: Callable, generator: Generator) -> None:
    """Expect answer_with_calculator(write, most_calls): the whole text, results included."""
    a, b, c = integers(generator, 2, 99, 3)
    own = f"{a}*{b}-{c}"
    for expression in [*GOOD, own, *BAD]:
        script = [f"So <<{expression}>>", " it is."]
        text = _told(answer, script, 5, f"<<{expression[:LONGEST]}>>")
        right = f"So <<{expression}>>={_result(expression)} it is."
        require(text == right, _call_slip(text, right, expression))
    _check_loop(answer)


def _told(answer: Callable, script: list[str], most: int, case: str) -> str:
    seen: list[str] = []

    def write(text: str) -> str:
        seen.append(text)
        return script[len(seen) - 1] if len(seen) <= len(script) else ""

    got = call(answer, write, most, case=case)
    require(isinstance(got, str), f"expected a text, got {got!r} ({case})")
    require(seen and seen[0] == "", f"the first call is write('') ({case})")
    if len(seen) > 1 and len(seen) <= len(script):
        require(got.startswith(seen[-1]), f"write gets all of the text so far ({case})")
    return got


def _call_slip(got: str, right: str, expression: str) -> str:
    start = f"after <<{expression[:30]}>> the text is {got[-60:]!r}, not {right[-60:]!r}. "
    if _result(expression) == "error":
        return start + "Only whole numbers below 10^6, + - * and parentheses, 40 characters."
    if got == right.replace(f"={_result(expression)}", ""):
        return start + "The result is missing."
    return start + "Append = and the result, then let the model go on."


def _check_loop(answer: Callable) -> None:
    script = ["<<1+1>>", " and <<2*2>>", " and <<3*3>>", " end"]
    for most, right in (
        (3, "<<1+1>>=2 and <<2*2>>=4 and <<3*3>>=9 end"),
        (2, "<<1+1>>=2 and <<2*2>>=4 and <<3*3>>"),
        (0, "<<1+1>>"),
    ):
        got = _told(answer, script, most, f"at most {most} calls")
        look = f"With at most {most} calls the text ends at the mark of the next one."
        require(got == right, f"the text is {got!r}, not {right!r}. {look}")
    got = _told(answer, ["no call at all >> here", ""], 3, "no call")
    require(got == "no call at all >> here", f"a text without a call became {got!r}")
    got = _told(answer, ["<<1+1", ">>", "!"], 3, "a call in two pieces")
    require(got == "<<1+1>>=2!", f"a call that comes in two pieces gave {got!r}")
    got = _told(answer, ["a << b <<4-1>>", "."], 3, "two openings")
    require(got == "a << b <<4-1>>=3.", f"two openings gave {got!r}: the last one counts")
