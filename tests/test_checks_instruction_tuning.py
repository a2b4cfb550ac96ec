"""Wrong answers about instruction tuning fail, each with a word on what to look at."""

from types import FunctionType

import pytest
from solved import answer_of, fails, passes_always

from minigpt.checks import judge
from minigpt.checks.instruction_tuning import DRIFT, HAND, SPECIAL, template

pytestmark = pytest.mark.usefixtures("student")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": 12}, "texts alone"),
        ({"ids": 17}, "two, not one"),
        ({"trained": 4}, "trained on as well"),
        ({"trained": 8}, "not trained on"),
        ({"first": 11}, "shifted by one"),
        ({"first": 9}, "<|assistant|> itself"),
        ({"rows": 4}, "longest goes first"),
        ({"precisions": [1, 0.6, 0.5, 0.333]}, "counts once"),
        ({"bleu": 0.567}, "fourth root"),
        ({"rouge_l": 0.667}, "leave words out"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_instruction_tuning_by_hand(change, words):
    assert judge("instruction_tuning.by_hand", HAND) == ("passed", "passed")
    fails("instruction_tuning.by_hand", HAND | change, words)


def row_of(conversations, length, separator, shift=1, gap=1, ignore=-100, cut=1, fill=1):
    ids, flags, numbers = [], [], []
    for number, (own, trained) in enumerate(conversations):
        between = gap if number else 0
        ids += [separator] * between + own
        flags += [False] * between + trained
        numbers += [number] * (between + len(own))
    left = length - len(ids)
    ids, flags = ids + [separator] * left, flags + [False] * left
    numbers += [len(conversations) if fill else len(conversations) - 1] * left
    moved = flags[shift:] + [False] * shift
    targets = [t if flag else ignore for t, flag in zip(ids[1:], moved, strict=False)]
    return ids[: length - cut], targets, numbers[: length - cut]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift": 0}, "NEXT id"),
        ({"shift": 2}, "NEXT id"),
        ({"gap": 0}, "one separator between two"),
        ({"ignore": 0}, "No target is -100"),
        ({"cut": 0}, "one input and one target fewer"),
        ({"fill": 0}, "the filling is one more"),
    ],
)
def test_wrong_packed_row(options, words):
    assert judge("instruction_tuning.packed_row", row_of) == ("passed", "passed")
    fails("instruction_tuning.packed_row", lambda *a: row_of(*a, **options), words)


def test_packed_row_wants_three_lists_of_numbers():
    fails("instruction_tuning.packed_row", lambda *a: row_of(*a)[:2], "three lists")
    as_text = lambda *a: (*row_of(*a)[:2], ["0"] * (a[1] - 1))  # noqa: E731
    fails("instruction_tuning.packed_row", as_text, "whole numbers")


def rows_of(messages, parse=False, shift=1, end=1, role=0, users=False):
    ids, flags = [], []
    for message in messages:
        text = list(message["content"].encode())
        if parse:  # as if the whole string were encoded with special tokens allowed
            text = parsed(message["content"])
        is_answer = users or message["role"] == "assistant"
        ids += [SPECIAL[f"<|{message['role']}|>"], *text, SPECIAL["<|end|>"]]
        flags += [bool(role) and is_answer] + [is_answer] * len(text) + [bool(end) and is_answer]
    moved = flags[shift:] + [False] * shift
    return ids[:-1], [t if f else -100 for t, f in zip(ids[1:], moved, strict=False)]


def parsed(text):
    for name, token in SPECIAL.items():
        if name in text:
            before, after = text.split(name, 1)
            return [*parsed(before), token, *parsed(after)]
    return list(text.encode())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parse": True}, "a text became special tokens"),
        ({"shift": 0}, "the targets are not right"),
        ({"shift": 2}, "the targets are not right"),
        ({"end": 0}, "never stop"),
        ({"role": 1}, "<|assistant|> is trained on"),
        ({"users": True}, "more is trained on"),
    ],
)
def test_wrong_template(options, words):
    assert judge("instruction_tuning.template", rows_of) == ("passed", "passed")
    fails("instruction_tuning.template", lambda m: rows_of(m, **options), words)


def test_the_broken_template_of_the_exercise_fails():
    assert template.__doc__
    answer = answer_of("instruction_tuning.template")
    assert isinstance(answer, FunctionType)
    broken = answer.__globals__["broken_rows"]
    verdict, message = judge("instruction_tuning.template", broken)
    assert verdict == "failed"
    assert "targets" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"worst": "no end"}, "fewest"),
        ({"worst": "no role"}, "fewest"),
        ({"why": "a"}, "in every conversation"),
        ({"space": 0.875}, "right place"),
        ({"no end": "few"}, "should be a share"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_drift(change, words):
    assert judge("instruction_tuning.drift", DRIFT) == ("passed", "passed")
    fails("instruction_tuning.drift", DRIFT | change, words)


def round_robin(draw, n, wanted, budget, double=False, reject=False, over=0):
    found = {prompt: [] for prompt in range(n)}
    budget += over
    while budget > 0:
        for prompt, texts in found.items():
            if (len(texts) < wanted or over) and budget > 0:
                budget -= 1
                text, ok = draw(prompt)
                if (ok or reject) and (double or text not in texts) and len(texts) < wanted:
                    texts.append(text)
        if all(len(texts) >= wanted for texts in found.values()) and not over:
            break
    return found


def one_after_the_other(draw, n, wanted, budget):
    found = {prompt: [] for prompt in range(n)}
    for prompt, texts in found.items():
        while len(texts) < wanted and budget > 0:
            budget -= 1
            text, ok = draw(prompt)
            if ok and text not in texts:
                texts.append(text)
    return found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (one_after_the_other, "Where do your draws go"),
        (lambda *a: round_robin(*a, double=True), "is there twice"),
        (lambda *a: round_robin(*a, reject=True), "did not accept"),
        (lambda *a: round_robin(*a, over=1), "the budget is"),
        (lambda *a: {}, "of the texts wanted"),
        (lambda *a: [], "expected a dict"),
    ],
)
def test_wrong_rejection_sampling(answer, words):
    fails("instruction_tuning.rejection_sampling", answer, words)


def test_going_round_always_meets_the_aim(monkeypatch):
    passes_always("instruction_tuning.rejection_sampling", monkeypatch, students=40)
