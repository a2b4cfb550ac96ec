"""Wrong answers about speed and memory fail, each with a word on what to look at."""

import statistics

import pytest
import torch
from solved import answer_of, fails, passes_always, solution
from torch.utils.flop_counter import FlopCounterMode

from minigpt.checks import judge
from minigpt.checks.gpu import PHONE_MODEL, PretendDevice, rows_and_pieces
from minigpt.counts import flops_per_token
from minigpt.gpt import GPT

pytestmark = pytest.mark.usefixtures("student")

HAND = {
    "memory": [4, 4, 8, 8],
    "rows": 12,
    "intensity": 4.17,
    "microseconds": 2.4,
    "two_bytes": 2.0,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": [4, 4, 4, 8]}, "two averages"),
        ({"memory": [1, 1, 2, 2]}, "each has 4 bytes"),
        ({"memory": [4, 4, 8, 2]}, "four texts"),
        ({"memory": [4, 4, 8]}, "4 numbers"),
        ({"rows": 20}, "16 MB of the 40"),
        ({"rows": 16}, "not 8"),
        ({"intensity": 2.083}, "two operations"),
        ({"intensity": 16.667}, "Bytes, not numbers"),
        ({"intensity": 5.0}, "as well as the weights"),
        ({"microseconds": 2.0}, "arithmetic alone"),
        ({"microseconds": 4.4}, "not the sum"),
        ({"two_bytes": 1.2}, "units are slower"),
        ({"two_bytes": 1.0}, "only the bytes"),
        ({"rows": "12"}, "should be a number"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_sums_by_hand(change, words):
    assert judge("gpu.by_hand", HAND) == ("passed", "passed")
    fails("gpu.by_hand", HAND | change, words)


def largest_whatever(parameters, row_bytes, batch_size, free):
    rows = min((free - 16 * parameters) // row_bytes, batch_size)
    return (rows, -(-batch_size // rows)) if rows > 0 else (0, 0)


def powers_of_two(parameters, row_bytes, batch_size, free):
    rows = batch_size
    while rows and 16 * parameters + rows * row_bytes > free:
        rows //= 2
    return (rows, batch_size // rows) if rows else (0, 0)


def exclusive(parameters, row_bytes, batch_size, free):
    return rows_and_pieces(parameters, row_bytes, batch_size, free - 1)


def at_least_one(parameters, row_bytes, batch_size, free):
    rows, pieces = rows_and_pieces(parameters, row_bytes, batch_size, free)
    return max(rows, 1), pieces or batch_size


def as_one(parameters, row_bytes, batch_size, free):
    rows, pieces = rows_and_pieces(parameters, row_bytes, batch_size, free)
    return rows, min(pieces, 1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (largest_whatever, "must divide"),
        (powers_of_two, ""),
        (exclusive, "More rows would fit"),
        (as_one, "rows times pieces"),
        (lambda *case: rows_and_pieces(*case, state=4), "16 bytes a parameter"),
        (lambda *case: rows_and_pieces(*case, state=0), "16 bytes a parameter"),
        (at_least_one, "not even one row"),
        (lambda *case: rows_and_pieces(*case)[::-1], ""),
        (lambda *case: rows_and_pieces(*case)[0], "two whole numbers"),
        (lambda p, r, b, f: (0.0, 0), "two whole numbers"),
        (lambda p, r, b, f: None, "returned None"),
    ],
)
def test_wrong_batches(answer, words):
    assert judge("gpu.batch_that_fits", lambda *case: rows_and_pieces(*case)) == (
        "passed",
        "passed",
    )
    fails("gpu.batch_that_fits", answer, words)


def bench(warm=1, wait_first=True, wait_last=True, middle=statistics.median, in_turns=True):
    """Return a benchmark; each option leaves one fault in."""

    def compare(device, works, rounds):
        times = {work: [] for work in works}
        order = [(n, work) for n in range(warm + rounds) for work in works]
        if not in_turns:
            order.sort(key=lambda pair: works.index(pair[1]))
        for number, work in order:
            if wait_first:
                device.wait()
            start = device.now()
            device.ask(work)
            if wait_last:
                device.wait()
            if number >= warm:
                times[work].append(device.now() - start)
        return {work: middle(seconds) for work, seconds in times.items()}

    return compare


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (bench(wait_first=False, wait_last=False), "asks does not wait"),
        (bench(wait_last=False), "asks does not wait"),
        (bench(warm=0), "nothing warmed it up"),
        (bench(warm=5), "and a warm-up"),
        (bench(middle=statistics.mean), "median"),
        (bench(middle=max), "seventh"),
        (bench(in_turns=False), "take turns"),
        (bench(middle=lambda seconds: str(seconds)), "should be a number"),
        (bench(middle=lambda seconds: 1000 * statistics.median(seconds)), "does not wait"),
        (lambda device, works, rounds: {"a": 1.0}, "one number for each"),
    ],
)
def test_each_lie_that_is_left_is_named(answer, words):
    assert judge("gpu.lying_benchmark", bench()) == ("passed", "passed")
    fails("gpu.lying_benchmark", answer, words)


def test_the_planted_benchmark_fails_as_it_is():
    fails("gpu.lying_benchmark", solution("gpu.lying_benchmark").names["lying"], "")


def test_a_pretend_device_works_while_its_user_goes_on():
    device = PretendDevice({"a": 2.0}, first=5.0, queued=1.0)
    device.ask("a")
    assert device.now() == pytest.approx(1e-6)
    device.wait()
    assert device.now() == pytest.approx(8.0)
    device.ask("a")
    device.wait()
    assert device.now() == pytest.approx(10.0, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"operations": 3 * 1.7e9}, "not a training step"),
        ({"writing": 37.0}, "one byte each"),
        ({"writing": 18.5}, "one byte each"),
        ({"writing": 1200.0}, "the road is slower"),
        ({"reading": 397.0}, "nothing is trained"),
        ({"reading": 38_000.0}, "units are slower"),
        ({"texts": 1}, "fetches the weights once"),
        ({"why": "a"}, "explanation"),
        ({"why": "c"}, "explanation"),
        ({"why": "d"}, "explanation"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_phones(change, words):
    right = answer_of("gpu.phone")
    assert judge("gpu.phone", right) == ("passed", "passed")
    fails("gpu.phone", right | change, words)


def test_the_oracle_of_the_phone_is_torchs_counter():
    for T in (1, 512):
        with torch.device("meta"):
            model, idx = GPT(PHONE_MODEL), torch.zeros(1, T, dtype=torch.long)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(idx)
        expected = T * flops_per_token(PHONE_MODEL, T)
        assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layer": 24}, "95 to 100 million"),
        ({"n_head": 7}, "no such model"),
        ({"micro_batch_size": 12}, "do not divide"),
        ({"batch_size": 64}, "131,072"),
        ({"batch_size": 1024}, "131,072"),
        ({"micro_batch_size": 32}, "14 may be used"),
        ({"micro_batch_size": 1}, "fill the card"),
        ({"max_steps": 5_000}, "tokens a parameter"),
        ({"max_steps": 8_000}, "may end at the first"),
        ({"hours": 4.8}, "Three times"),
        ({"hours": 1.0}, "in hours"),
        ({"max_steps": 0}, "no count"),
        ({"max_steps": 7442.0}, "no count"),
        ({"more": 1}, "expected a dict"),
    ],
)
def test_wrong_cards(change, words):
    right = answer_of("gpu.card")
    assert judge("gpu.card", right) == ("passed", "passed")
    fails("gpu.card", right | change, words)


@pytest.mark.parametrize("name", ["gpu.batch_that_fits", "gpu.lying_benchmark"])
def test_the_solutions_pass_for_every_student(name, monkeypatch):
    passes_always(name, monkeypatch, students=60)
