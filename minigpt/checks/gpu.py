"""Checks of the exercises on speed and memory, each with an oracle of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator

from minigpt.checks import exercise
from minigpt.checks.compare import (
    Wrong,
    call,
    integers,
    number_slip,
    require,
    same_number,
    same_results,
    slip_hint,
)
from minigpt.counts import count_parameters, flops_per_token
from minigpt.gpt import GPTConfig
from minigpt.runs.planning import training_memory
from minigpt.support.errors import ConfigError

# By hand

HAND = {
    "memory": [4.0, 4.0, 8.0, 8.0],
    "rows": 12,
    "intensity": 4.167,
    "microseconds": 2.4,
    "two_bytes": 2.0,
}
HAND_HINTS = {
    "memory": "In MB: weights, gradients, AdamW's two averages, activations; 4 bytes a number.",
    "rows": "From 40 MB take weights, gradients and averages; one text of 100 tokens takes 2 MB.",
    "intensity": "2 x 10 x 100 x 100 operations; inputs, weights, outputs move once each.",
    "microseconds": "Operations / peak and bytes / bandwidth: the GREATER of the two.",
    "two_bytes": "The bytes are halved, the operations are not: which of the two is greater?",
}
HAND_SLIPS = {  # (key, what was written) -> what to look at
    ("memory", (4, 4, 4, 8)): "AdamW keeps two averages for each weight.",
    ("memory", (1, 1, 2, 2)): "These are millions of numbers; each has 4 bytes.",
    ("memory", (4, 4, 8, 2)): "The batch has four texts, not one.",
}
NUMBER_SLIPS = {
    "rows": {20: "Weights, gradients and averages take 16 MB of the 40.", 16: "All 16 MB, not 8."},
    "intensity": {
        2.083: "A multiplication and an addition: two operations for each weight and row.",
        16.667: "Bytes, not numbers: each number has 4.",
        5.0: "Inputs and outputs are moved as well as the weights.",
    },
    "microseconds": {
        2.0: "That is the arithmetic alone; the road is slower here.",
        4.4: "Units and road work at the same time: the greater of the two, not the sum.",
    },
    "two_bytes": {
        1.2: "That is the road alone; now the units are slower.",
        1.0: "The operations stay the same: only the bytes are halved.",
    },
}


@exercise("gpu.by_hand", "4 bytes a number; then operations / peak against bytes / bandwidth.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect a dict of a list of four sizes and four numbers."""

    def hint(name: str, got: Any) -> str:
        slip = number_slip(got, NUMBER_SLIPS.get(name, {})) or slip_hint(name, got, HAND_SLIPS)
        return slip or HAND_HINTS[name]

    same_results(answer, HAND, hint, slack=0.01, list_slack=0.006)


# The batch that fits


@exercise("gpu.batch_that_fits", "try the divisors of batch_size, the largest one first.")
def batch_that_fits(answer: Callable, generator: Generator) -> None:
    """Expect batch_that_fits(parameters, row_bytes, batch_size, free) -> (rows, pieces)."""
    cases = [
        (1000, 500, 8, 20_000),  # room for all of them
        (1000, 500, 8, 18_000),  # exactly four
        (1000, 500, 8, 17_999),  # a byte too few for four
        (1000, 500, 12, 18_900),  # room for five, which is no divisor
        (1000, 500, 7, 19_000),  # only 1 and 7 divide 7
        (1000, 500, 8, 16_400),  # not even one row
        (1000, 500, 8, 9_000),  # not even the weights
        (1000, 500, 1, 16_500),
    ]
    for _ in range(6):
        parameters, row_bytes, batch = integers(generator, 1, 60, 3)
        free = 16 * parameters * 10 + integers(generator, 0, row_bytes * 10 * batch)[0]
        cases.append((parameters * 10, row_bytes * 10, batch, free))
    for case in cases:
        parameters, row_bytes, batch_size, free = case
        text = (
            f"parameters = {parameters:,}, row_bytes = {row_bytes}, batch_size = {batch_size}, "
            f"free = {free:,}"
        )
        got = call(answer, *case, case=text)
        pair = isinstance(got, tuple | list) and len(got) == 2
        whole = pair and all(isinstance(n, int) and not isinstance(n, bool) for n in got)
        require(whole, f"expected two whole numbers (rows, pieces), got {got!r} ({text})")
        expected = rows_and_pieces(*case)
        if tuple(got) != expected:
            raise Wrong(f"got {tuple(got)}, expected {expected} ({text}). {_fit_hint(got, case)}")


def rows_and_pieces(
    parameters: int, row_bytes: int, batch_size: int, free: int, state: int = 16
) -> tuple[int, int]:
    """Return the most rows at once that fit and divide the batch, and the number of pieces."""
    room = (free - state * parameters) // row_bytes
    fitting = [n for n in range(1, batch_size + 1) if batch_size % n == 0 and n <= room]
    return (fitting[-1], batch_size // fitting[-1]) if fitting else (0, 0)


def _fit_hint(got: Any, case: tuple[int, int, int, int]) -> str:
    parameters, row_bytes, batch_size, free = case
    rows, pieces = got
    if rows == 0 or rows_and_pieces(*case) == (0, 0):
        return "Where not even one row fits, the answer is (0, 0), and only there."
    if rows < 1 or batch_size % rows:
        return "The rows must divide the batch: all pieces are equally large."
    if 16 * parameters + rows * row_bytes > free:
        return "That does not fit: 16 bytes a parameter, and row_bytes for each row."
    if rows * pieces != batch_size:
        return "rows times pieces is the batch."
    return "More rows would fit."


# A benchmark that lies


class PretendDevice:
    """Be a device with a clock of its own: orders queue up, and nothing takes real time.

    seconds: what each piece of work takes. first: added to the first order of each piece of work.
    hiccup: every 7th order takes this much longer. drift: by which share each order is slower than
    the one before.
    """

    def __init__(
        self,
        seconds: dict[str, float],
        first: float = 0.0,
        hiccup: float = 0.0,
        drift: float = 0.0,
        queued: float = 0.0,
    ):
        self.seconds, self.first, self.hiccup, self.drift = seconds, first, hiccup, drift
        self.time, self.busy_until = 0.0, queued
        self.orders: list[str] = []

    def ask(self, work: str) -> None:
        """Put an order into the queue, and return at once."""
        is_first, number = work not in self.orders, len(self.orders) + 1
        taken = self.seconds[work] * (1 + self.drift) ** number
        taken += self.first * is_first + self.hiccup * (number % 7 == 0)
        self.time += 1e-6
        self.busy_until = max(self.busy_until, self.time) + taken
        self.orders.append(work)

    def wait(self) -> None:
        """Wait until all orders are done."""
        self.time = max(self.time, self.busy_until)

    def now(self) -> float:
        """Return what the clock shows, in seconds."""
        return self.time


@exercise(
    "gpu.lying_benchmark",
    "when is the clock read, what has been waited for, and in which order do the works come?",
    travels=False,
)
def lying_benchmark(answer: Callable, generator: Generator) -> None:
    """Expect compare(device, works, rounds) -> seconds by work, fair on every pretend device."""
    a, b, c = (n / 100 for n in integers(generator, 20, 60, 3))
    truth = {"a": a, "b": b, "c": c}
    ask, warm = "It returns before the work is done.", "The first order of each work"
    scenes = [
        ({}, 5, f"Who asks does not wait. {ask} Wait before the clock is read again."),
        ({"first": 40.0}, 1, f"{warm} takes 40 s longer here: do it once, and wait, unmeasured."),
        ({"queued": 90.0}, 1, "An order from before was still in the queue when the clock began."),
        ({"hiccup": 30.0}, 9, "Every seventh order is disturbed here: the median does not mind."),
    ]
    for options, rounds, hint in scenes:
        found = measured(answer, truth, rounds, options)
        for work, seconds in truth.items():
            near = abs(found[work] / seconds - 1) < 0.05
            require(near, f"{work} takes {seconds:.2f} s and you say {found[work]:.3g} s. {hint}")
    found = measured(answer, {"a": a, "b": a, "c": a}, 9, {"drift": 0.02})
    ratio = max(found.values()) / min(found.values())
    require(
        ratio < 1.1,
        f"three equal works on a device that gets slower: you say that one takes {ratio:.2f} "
        f"times as long as another. Let them take turns",
    )


def measured(
    answer: Callable, seconds: dict[str, float], rounds: int, options: dict[str, float]
) -> dict[str, float]:
    """Let an answer measure on a fresh pretend device; return its figures, checked for form."""
    device, works = PretendDevice(seconds, **options), list(seconds)
    case = f"works = {works}, rounds = {rounds}"
    found = call(answer, device, works, rounds, case=case)
    named = isinstance(found, dict) and set(found) == set(works)
    require(named, f"expected a dict with one number for each of {works} ({case})")
    for work in works:
        is_number = isinstance(found[work], int | float) and not isinstance(found[work], bool)
        require(is_number, f"{work} should be a number of seconds, got {found[work]!r} ({case})")
        count = device.orders.count(work)
        require(
            count > rounds,
            f"{work} was ordered {count} times for {rounds} rounds: nothing warmed it up ({case})",
        )
        require(
            count <= rounds + 2,
            f"{work} was ordered {count} times for {rounds} rounds and a warm-up ({case})",
        )
    return found


# A phone

PHONE_MODEL = GPTConfig(
    vocab_size=32_768, block_size=2048, n_layer=16, n_head=16, n_kv_head=8, n_embd=2048
)
PHONE_PEAK, PHONE_BANDWIDTH = 2e12, 60e9


@exercise("gpu.phone", "one token needs every weight once; a long prompt shares them.")
def phone(answer: Any, generator: Generator) -> None:
    """Expect a dict of four numbers and a letter."""
    keys = {"operations", "writing", "reading", "texts", "why"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    weights = count_parameters(PHONE_MODEL)
    one, many = (flops_per_token(PHONE_MODEL, T) for T in (1, 512))
    look_at = "FlopCounterMode around one forward pass of one token; not a training step."
    same_number(answer["operations"], one, "operations", look_at, 0.5)
    writing = PHONE_BANDWIDTH / weights
    slips = {
        PHONE_PEAK / one: "That is what the units could do; the road is slower.",
        writing / 2: "The weights have one byte each.",
        writing / 4: "The weights have one byte each.",
    }
    same_number(
        answer["writing"],
        writing,
        "writing",
        _near(answer["writing"], slips) or "Every token fetches all weights: bandwidth / bytes.",
        0.5,
    )
    reading = PHONE_PEAK / many
    slips = {
        PHONE_PEAK / (3 * many): "Reading is a forward pass; nothing is trained.",
        512 * PHONE_BANDWIDTH / weights: "The road could do that; the units are slower here.",
    }
    same_number(
        answer["reading"],
        reading,
        "reading",
        _near(answer["reading"], slips) or "peak / operations of one token among 512.",
        0.6,
    )
    texts = PHONE_PEAK / one * weights / PHONE_BANDWIDTH
    same_number(
        answer["texts"],
        texts,
        "texts",
        "With n texts a step does n times the operations and fetches the weights once.",
        0.6,
    )
    require(
        answer["why"] == "b",
        "the explanation does not fit: which of the two was limited by the units?",
    )


def _near(got: Any, slips: dict[float, str]) -> str:
    """Return the sentence of the wrong number that `got` nearly is, or nothing."""
    if isinstance(got, int | float) and not isinstance(got, bool):
        return next((s for wrong, s in slips.items() if abs(got / wrong - 1) < 0.05), "")
    return ""


# A run for a card of 16 GB

CARD = 14e9  # bytes that a run may take
USEFUL = 26e12  # operations per second: 40 % of 65 TFLOP/s


@exercise("gpu.card", "training_memory and flops_per_token say what a choice costs.")
def card(answer: Any, generator: Generator) -> None:
    """Expect a dict of six sizes that keep to the limits of the exercise text, and the hours."""
    model_keys = ("n_layer", "n_head", "n_embd")
    run_keys = ("batch_size", "micro_batch_size", "max_steps")
    keys = {*model_keys, *run_keys, "hours"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    for key in run_keys:
        is_count = isinstance(answer[key], int) and not isinstance(answer[key], bool)
        require(is_count and answer[key] > 0, f"{key} is {answer[key]!r}, which is no count")
    sizes = {key: answer[key] for key in model_keys}
    try:
        config = GPTConfig(vocab_size=16_384, block_size=1024, **sizes).resolved()
    except ConfigError as error:
        raise Wrong(f"no such model: {error}") from None
    batch, micro, steps = (answer[key] for key in run_keys)
    size = count_parameters(config)
    require(95e6 <= size <= 100e6, f"{size:,} parameters; 95 to 100 million are asked for")
    require(batch % micro == 0, f"{micro} rows at once do not divide a batch of {batch}")
    tokens = batch * config.block_size
    require(2**17 <= tokens <= 2**19, f"{tokens:,} tokens a step; 131,072 to 524,288 are asked for")
    memory = training_memory(config, micro, torch.bfloat16)
    require(
        memory <= CARD,
        f"that takes {memory / 1e9:.1f} GB; 14 may be used. Fewer rows at once give the same "
        f"gradient",
    )
    need = training_memory(config, 2 * micro, torch.bfloat16)
    require(
        need > CARD,
        f"twice as many rows at once would take {need / 1e9:.1f} GB and fit: fill the card",
    )
    require(
        steps * tokens >= 20 * size,
        f"{steps * tokens / size:.1f} tokens a parameter; at least 20 are asked for",
    )
    require(
        (steps - 1) * tokens < 20 * size,
        f"{steps * tokens / size:.2f} tokens a parameter: the run may end at the first "
        f"step that reaches 20",
    )
    hours = 3 * flops_per_token(config) * steps * tokens / USEFUL / 3600
    look_at = "Three times the forward operations of all tokens, by 26e12 a second, in hours."
    same_number(answer["hours"], hours, "hours", look_at, 0.4)
