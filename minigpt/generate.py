"""Write with a trained model: choose one next token after the other, from a cache of the past.

Holds greedy choice, temperature, top-k, top-p and min-p sampling, beam search, batches of unequal
prompts, streaming and stop strings. Knows token ids only: text belongs to the tokenizer.

Past the window: when the model's `block_size` positions are full, the context hops to its newest
half, which then grows again. So a token costs one step nearly always, however long the text.

Shapes: B rows, T time, V vocab_size.

Sources: Fan et al. 2018, "Hierarchical Neural Story Generation" (top-k); Holtzman et al. 2020,
"The Curious Case of Neural Text Degeneration" (top-p); Nguyen et al. 2024, "Turning Up the Heat"
(min-p).
"""

import contextlib
import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from minigpt.attention import KVCache
from minigpt.errors import ConfigError, TrainingError, require
from minigpt.gpt import GPT

FILL_ROWS = 16  # prompts that go through the model at once
FEW = 64  # tokens among which top-p looks first


@dataclass(frozen=True)
class SampleConfig:
    """Say how next tokens are chosen; the filters act in this order, each on what is left."""

    max_new_tokens: int = 200
    """Most tokens to write after the prompt."""
    temperature: float = 1.0
    """Divides the logits: 0 is greedy, below 1 bolder than the model, above 1 more varied."""
    top_k: int | None = None
    """Choose among this many most likely tokens (None: all)."""
    top_p: float = 1.0
    """Choose among the fewest most likely tokens that together have this probability."""
    min_p: float = 0.0
    """Choose among tokens at least this probable, relative to the most likely one."""
    seed: int = 0
    """The same seed gives the same text; each row of a batch has its own random numbers."""
    truncate: Literal["no", "left"] = "no"
    """Prompts longer than the context: "no" refuses them, "left" forgets their beginning."""

    def __post_init__(self):
        whole, real = (int,), (int, float)
        self.check("max_new_tokens", whole, lambda value: value >= 0, "a whole number >= 0")
        self.check("temperature", real, lambda value: 0 <= value < math.inf,
                   "a finite number >= 0 (0 is greedy)")  # fmt: skip
        self.check("top_k", (int, type(None)), lambda value: value is None or value >= 1,
                   "a whole number >= 1, or None for all tokens")  # fmt: skip
        self.check("top_p", real, lambda value: 0 < value <= 1, "a number above 0, up to 1")
        self.check("min_p", real, lambda value: 0 <= value < 1, "a number from 0 to below 1")
        self.check("seed", whole, lambda value: value >= 0, "a whole number >= 0")
        self.check("truncate", (str,), lambda value: value in ("no", "left"), '"no" or "left"')

    def check(self, name: str, types: tuple[type, ...], holds, wanted: str) -> None:
        """Raise a ConfigError that shows the value unless its type and range are right."""
        value = getattr(self, name)
        require(type(value) in types and holds(value), name, value, wanted)


def next_probabilities(logits: Tensor, config: SampleConfig) -> Tensor:
    """Turn logits (B, V) into the probabilities (B, V) that the next token is drawn from."""
    logits = relative_logits(logits)
    if config.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    temperature = min(max(config.temperature, 1e-30), 1e30)  # float32 knows no 1e-300
    probabilities = (logits / temperature).softmax(dim=-1)
    if config.top_k is not None:
        probabilities = keep_top_k(probabilities, config.top_k)
    if config.top_p < 1:
        probabilities = keep_top_p(probabilities, config.top_p)
    if config.min_p > 0:
        probabilities = keep_min_p(probabilities, config.min_p)
    return probabilities


def relative_logits(logits: Tensor) -> Tensor:
    """Subtract each row's largest logit, so that no temperature can make any of them overflow.

    Raises TrainingError where the largest is not finite: such a model predicts nothing.
    """
    logits = logits.float()
    largest = logits.amax(dim=-1, keepdim=True)  # (B, 1), NaN if any logit is
    if not largest.isfinite().all():
        raise TrainingError(
            "the model's logits are not finite (NaN or infinity)", "next token",
            "its weights are damaged: use an earlier checkpoint, or train with a lower "
            "learning rate",
        )  # fmt: skip
    return logits - largest


def keep_top_k(probabilities: Tensor, top_k: int) -> Tensor:
    """Keep the `top_k` most likely tokens of each row (B, V); a larger `top_k` keeps all."""
    values, ids = probabilities.topk(min(top_k, probabilities.size(-1)))
    return normalise(torch.zeros_like(probabilities).scatter(-1, ids, values))


def keep_top_p(probabilities: Tensor, top_p: float) -> Tensor:
    """Keep the most likely tokens until they reach `top_p` together; at least one always stays.

    Few tokens nearly always suffice, and few are found much faster than all are sorted.
    """
    values, ids = probabilities.topk(min(FEW, probabilities.size(-1)))
    kept = torch.zeros_like(probabilities).scatter(-1, ids, nucleus(values, top_p))
    for row in (values.sum(dim=-1) < top_p).nonzero()[:, 0]:
        values, ids = probabilities[row].sort(descending=True, stable=True)
        kept[row] = kept[row].scatter(-1, ids, nucleus(values, top_p))
    return normalise(kept)


def nucleus(values: Tensor, top_p: float) -> Tensor:
    """Set to 0 what is not needed of falling probabilities (..., K) to reach `top_p`."""
    before = values.cumsum(dim=-1) - values  # what the more likely ones have together
    surplus = before >= top_p
    surplus[..., 0] = False  # a tiny top_p is 0 in float32
    return values.masked_fill(surplus, 0.0)


def keep_min_p(probabilities: Tensor, min_p: float) -> Tensor:
    """Keep the tokens that are at least `min_p` times as likely as the most likely one."""
    least = min_p * probabilities.amax(dim=-1, keepdim=True)  # (B, 1)
    return normalise(probabilities.masked_fill(probabilities < least, 0.0))


def normalise(weights: Tensor) -> Tensor:
    """Scale each row (..., V) to the sum 1."""
    return weights / weights.sum(dim=-1, keepdim=True)


def draw(probabilities: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Draw one token id a row, (B, V) -> (B,), where a uniform number in [0, 1) hits its share.

    The tokens' probabilities, laid end to end, fill the line from 0 to 1.
    """
    ends = probabilities.cumsum(dim=-1)  # (B, V)
    hits = torch.tensor(uniforms, dtype=ends.dtype, device=ends.device)[:, None] * ends[:, -1:]
    return torch.searchsorted(ends, hits, right=True).squeeze(-1)


def window_start(length: int, block_size: int) -> int:
    """Return which token the context begins with when `length` tokens exist.

    0 while all fit; then the context hops, each time keeping the newest half (rounded up).

    >>> [window_start(length, 4) for length in (4, 5, 6, 7, 8)]
    [0, 3, 3, 3, 6]
    """
    hop = block_size + 1 - (block_size + 1) // 2
    return max(0, -(-(length - block_size) // hop) * hop)


class Rows:
    """Token rows that grow together, with the logits (B, V) of each row's next token."""

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], max_new_tokens: int):
        self.model, self.block_size = model, model.config.block_size
        self.windows = [
            [int(token) for token in prompt[window_start(len(prompt), self.block_size) :]]
            for prompt in prompts
        ]
        longest = max(len(window) for window in self.windows)
        self.cache = model.new_cache(len(prompts), longest + max_new_tokens)
        self.logits = fill(model, self.cache, self.windows)

    def append(self, rows: list[int], tokens: Sequence[int]) -> None:
        """Keep these rows, add one token to each, and compute the next logits."""
        if rows != list(range(len(self.windows))):
            self.windows = [list(self.windows[row]) for row in rows]
            self.cache.select(rows)
        full = [row for row, window in enumerate(self.windows) if len(window) == self.block_size]
        if full:
            self.hop(full)
        for window, token in zip(self.windows, tokens, strict=True):
            window.append(token)
        idx = torch.tensor(tokens, device=self.logits.device)[:, None]  # (B, 1)
        self.logits = self.model(idx, cache=self.cache)[0][:, -1]

    def hop(self, rows: list[int]) -> None:
        """Let full rows forget their older half, so that the next token completes the half kept."""
        keep = (self.block_size + 1) // 2 - 1
        for row in rows:
            del self.windows[row][: self.block_size - keep]
        fresh = self.model.new_cache(len(rows), keep)
        if keep:
            fill(self.model, fresh, [self.windows[row] for row in rows])
        self.cache.keys[:, rows, :, :keep] = fresh.keys
        self.cache.values[:, rows, :, :keep] = fresh.values
        self.cache.positions[rows], self.cache.last[rows] = keep, fresh.last
        self.cache.measure()  # some other row may now be the longest


def fill(model: GPT, cache: KVCache, windows: Sequence[Sequence[int]]) -> Tensor:
    """Store rows of tokens in an empty cache; return the logits (B, V) after each row's last.

    A few rows at a time: what fits into the processor's own memory is faster, and the padding
    reaches only to the longest of these few.
    """
    logits = []
    for start in range(0, len(windows), FILL_ROWS):
        group = windows[start : start + FILL_ROWS]
        part = cache.part(start, start + len(group))
        lengths = torch.tensor([len(window) for window in group], device=cache.positions.device)
        T = max(len(window) for window in group)
        idx = torch.tensor([[*window, *[0] * (T - len(window))] for window in group])  # (B, T)
        logits.append(model(idx.to(lengths.device), cache=part, lengths=lengths)[0])  # (B, 1, V)
    cache.measure()
    return torch.cat(logits)[:, -1]


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for a while; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def generate(
    model: GPT, prompts: Sequence[Sequence[int]], config: SampleConfig | None = None,
    stop_ids: Collection[int] = (),
) -> list[list[int]]:  # fmt: skip
    """Continue every prompt; return the new ids alone, without the stop id that ended a row.

    What row i gets depends on its prompt, the seed and i, not on the other rows (but for rounding).
    Raises ConfigError for a prompt that is empty, too long, or holds an unknown id.
    """
    config = config or SampleConfig()
    check_prompts(model, prompts, config.truncate)
    answers: list[list[int]] = [[] for _ in prompts]
    for row, token in decode(model, prompts, config, stop_ids):
        answers[row].append(token)
    return answers


def stream(
    model: GPT, prompt: Sequence[int], config: SampleConfig | None = None,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:  # fmt: skip
    """Return an iterator over the ids that `generate` gives for this prompt, each as it is made.

    The model stays in evaluation mode until the iterator ends or is closed.
    """
    config = config or SampleConfig()
    check_prompts(model, [prompt], config.truncate)
    return (token for _, token in decode(model, [prompt], config, stop_ids))


@torch.inference_mode()
def decode(
    model: GPT, prompts: Sequence[Sequence[int]], config: SampleConfig, stop_ids: Collection[int]
) -> Iterator[tuple[int, int]]:
    """Yield (row, token) for every token that is made; rows that ended cost nothing any more."""
    if len(prompts) == 0 or config.max_new_tokens == 0:
        return
    generators = [random.Random(f"{config.seed} {row}") for row in range(len(prompts))]
    growing = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))  # behind the rows
    with evaluating(model):
        rows = Rows(model, [prompts[row] for row in growing], config.max_new_tokens)
        for left in reversed(range(config.max_new_tokens)):
            # 24 bits fit a float32 exactly: none is rounded up to 1, beyond the last token.
            uniforms = [generators[row].getrandbits(24) / 2**24 for row in growing]
            tokens = draw(next_probabilities(rows.logits, config), uniforms).tolist()
            going = close_gaps([i for i, token in enumerate(tokens) if token not in stop_ids])
            yield from ((growing[i], tokens[i]) for i in going)
            growing = [growing[i] for i in going]
            if not growing or not left:
                return
            rows.append(going, [tokens[i] for i in going])


def close_gaps(going: list[int]) -> list[int]:
    """Order the rows that go on (rising) so that few must move: the last ones fill the gaps.

    >>> close_gaps([0, 2, 4, 5])
    [0, 5, 2, 4]
    """
    staying, movers = set(going), [row for row in going if row >= len(going)]
    return [row if row in staying else movers.pop() for row in range(len(going))]


@torch.inference_mode()
def beam_search(
    model: GPT, prompt: Sequence[int], n_beam: int, max_new_tokens: int,
    stop_ids: Collection[int] = (), truncate: Literal["no", "left"] = "no",
) -> list[tuple[list[int], float]]:  # fmt: skip
    """Return up to `n_beam` likely continuations and their log-probabilities in nats, best first.

    Each step keeps the `n_beam` best of all one-token extensions and of the ended continuations.
    The log-probability counts the stop id that ended a continuation; the ids leave it out.
    """
    config = SampleConfig(max_new_tokens=max_new_tokens, truncate=truncate)
    if type(n_beam) is not int or n_beam < 1:
        raise ConfigError(f"n_beam = {n_beam!r} is not possible", "--n-beam", "give 1 or more")
    check_prompts(model, [prompt], truncate)
    ended: list[tuple[list[int], float]] = []
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    if config.max_new_tokens == 0:
        return beams
    with evaluating(model):
        rows = Rows(model, [prompt], max_new_tokens)
        for left in reversed(range(config.max_new_tokens)):
            candidates = [(*beam, -1, -1) for beam in ended] + extensions(rows, beams, n_beam)
            best = sorted(candidates, key=lambda candidate: -candidate[1])[:n_beam]
            is_over = [token < 0 or token in stop_ids for _, _, _, token in best]
            ended = [best[i][:2] for i in range(len(best)) if is_over[i]]
            grown = [best[i] for i in range(len(best)) if not is_over[i]]
            beams = [([*ids, token], score) for ids, score, _, token in grown]
            if not grown or not left:
                break
            rows.append([parent for _, _, parent, _ in grown], [token for *_, token in grown])
    return sorted(ended + beams, key=lambda beam: -beam[1])


def extensions(
    rows: Rows, beams: list[tuple[list[int], float]], n_beam: int
) -> list[tuple[list[int], float, int, int]]:
    """Return the best one-token extensions: (ids before, new log-probability, parent, token)."""
    scores = torch.tensor([score for _, score in beams], device=rows.logits.device)
    totals = scores[:, None] + relative_logits(rows.logits).log_softmax(dim=-1)  # (B, V)
    values, places = totals.flatten().topk(min(n_beam, totals.numel()))
    found = []
    for total, place in zip(values.tolist(), places.tolist(), strict=True):
        parent, token = divmod(place, totals.size(1))
        found.append((beams[parent][0], total, parent, token))
    return found


def check_prompts(model: GPT, prompts: Sequence[Sequence[int]], truncate: str) -> None:
    """Raise a ConfigError for a prompt that the model cannot continue."""
    vocab_size, block_size = model.config.vocab_size, model.config.block_size
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ConfigError(
                "the prompt is empty", f"prompt {row}",
                "give at least one token: <|endoftext|> begins a new text",
            )  # fmt: skip
        if len(prompt) > block_size and truncate == "no":
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens and the context {block_size}",
                f"prompt {row}",
                f"shorten it, or use --truncate left to forget its first "
                f"{window_start(len(prompt), block_size)}",
            )  # fmt: skip
        for position, token in enumerate(prompt):
            if not 0 <= token < vocab_size:
                raise ConfigError(
                    f"token id {token} is outside of the vocabulary of {vocab_size}",
                    f"prompt {row}, token {position}",
                    "encode the text with the tokenizer that this model was trained with",
                )  # fmt: skip


class StopStrings:
    """Cut streamed text before the stop string that is complete first, whatever pieces arrive.

    Text that could still become a stop string is held back until more arrives.

    >>> stop = StopStrings(["END"])
    >>> stop.push("the E"), stop.push("N"), stop.push("D of it"), stop.found
    ('the ', '', '', True)
    """

    def __init__(self, strings: Collection[str]):
        if isinstance(strings, str) or not all(strings):
            raise ConfigError(f"stop strings {strings!r} are not possible", "--stop",
                              "give a list of strings that are not empty")  # fmt: skip
        self.strings = tuple(strings)
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take the next piece of text; return what is safe to show."""
        if self.found:
            return ""
        text = self.held + text
        places = [(text.find(string), string) for string in self.strings]
        ends = [(place + len(string), place) for place, string in places if place >= 0]
        self.found = bool(ends)
        safe = min(ends)[1] if ends else self.safe_length(text)
        self.held = "" if self.found else text[safe:]
        return text[:safe]

    def safe_length(self, text: str) -> int:
        """Return where the longest ending begins that is the beginning of a stop string."""
        longest = max(map(len, self.strings), default=1)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(string.startswith(text[start:]) for string in self.strings):
                return start
        return len(text)

    def flush(self) -> str:
        """Return what was held back, once no more text comes."""
        text, self.held = self.held, ""
        return text
