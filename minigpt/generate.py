"""Write with a trained model: choose one next token after the other, from a cache of the past.

Holds batches of unequal prompts, streams of ids, and beam search. How a token is chosen is
`sampling.py`'s affair. Knows token ids only: text belongs to the tokenizer and to `streaming.py`.

Past the window: when the model's `block_size` positions are full, a *context shift* forgets the
older half, and the newer half grows again. So nearly every token costs one step, however long the
text.

Shapes: B rows, T time, V vocab_size.
"""

import contextlib
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from minigpt.cache import KVCache
from minigpt.classification import refuse_classifier
from minigpt.gpt import GPT
from minigpt.sampling import Constraint, History, SampleConfig, next_tokens, relative_logits
from minigpt.support.errors import ConfigError

PREFILL_ROWS = 16  # prompts that go through the model at once


def window_start(length: int, block_size: int) -> int:
    """Return which token the context begins with when `length` tokens exist.

    0 while all fit; then the context shifts, each time keeping the newest half (rounded up).

    >>> [window_start(length, 4) for length in (4, 5, 6, 7, 8)]
    [0, 3, 3, 3, 6]
    """
    shift = block_size + 1 - (block_size + 1) // 2
    return max(0, -(-(length - block_size) // shift) * shift)


class DecodingState:
    """Token rows that grow together, with the logits (B, V) of each row's next token."""

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        compile: bool = False,
    ):
        refuse_classifier(model, "write")
        self.model, self.block_size = model, model.config.block_size
        self.windows = [
            [int(token) for token in prompt[window_start(len(prompt), self.block_size) :]]
            for prompt in prompts
        ]
        length = min(max(map(len, self.windows)) + max_new_tokens, self.block_size)
        # One place stays free: a compiled step would need a second program for a full cache.
        self.cache = model.new_cache(len(prompts), length + compile)
        self.step = decode_step
        if compile:
            # Here, as torch's compiler is slow to import.
            from minigpt.machine.compiling import cache_to_compile, compile_step

            self.step = compile_step(decode_step, model)
            self.cache = cache_to_compile(self.cache)
        self.logits = prefill(model, self.cache, self.windows)

    def append(self, rows: list[int], tokens: Sequence[int]) -> None:
        """Keep these rows, add one token to each, and compute the next logits."""
        if rows != list(range(len(self.windows))):
            self.windows = [list(self.windows[row]) for row in rows]
            self.cache.select(rows)
        full = [row for row, window in enumerate(self.windows) if len(window) == self.block_size]
        if full:
            self.shift_context(full)
        for window, token in zip(self.windows, tokens, strict=True):
            window.append(token)
        idx = torch.tensor(tokens, device=self.logits.device)[:, None]  # (B, 1)
        self.logits = self.step(self.model, idx, self.cache)

    def shift_context(self, rows: list[int]) -> None:
        """Let full rows forget their older half, so that the next token completes the half kept."""
        keep = (self.block_size + 1) // 2 - 1
        for row in rows:
            del self.windows[row][: self.block_size - keep]
        fresh = self.model.new_cache(len(rows), keep)
        if keep:
            prefill(self.model, fresh, [self.windows[row] for row in rows])
        for layer in range(len(fresh.keys)):
            self.cache.keys[layer][rows, :, :keep] = fresh.keys[layer]
            self.cache.values[layer][rows, :, :keep] = fresh.values[layer]
        self.cache.positions[rows] = keep
        self.cache.measure()  # some other row may now be the longest


def decode_step(model: GPT, idx: Tensor, cache: KVCache) -> Tensor:
    """Store one new token of each row (B, 1); return the logits (B, V) of the next."""
    return model(idx, cache=cache)[0][:, -1]


def prefill(model: GPT, cache: KVCache, windows: Sequence[Sequence[int]]) -> Tensor:
    """Store rows of tokens in an empty cache; return the logits (B, V) after each row's last.

    A few rows at a time: what fits into the processor's own memory is faster, and the padding
    reaches only to the longest of these few.
    """
    logits = []
    for start in range(0, len(windows), PREFILL_ROWS):
        group = windows[start : start + PREFILL_ROWS]
        part = cache.part(start, start + len(group))
        lengths = torch.tensor([len(window) for window in group], device=cache.positions.device)
        T = max(len(window) for window in group)
        idx = torch.tensor([[*window, *[0] * (T - len(window))] for window in group])  # (B, T)
        x = model.hidden(idx.to(lengths.device), part)  # (B, T, C)
        part.advance(lengths)
        last = x[torch.arange(len(group), device=x.device), lengths - 1]  # (B, C)
        logits.append(model.head(model.norm(last)))  # (B, V), not those of every position
    cache.measure()
    return torch.cat(logits)


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
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig | None = None,
    stop_ids: Collection[int] = (),
    constraint: Constraint | None = None,
) -> list[list[int]]:
    """Continue every prompt; return the new ids alone, without the stop id that ended a row.

    What row i gets depends on its prompt, the seed and i, not on the other rows (but for rounding).
    constraint: changes the logits before each choice (`sampling.Constraint`).
    Raises ConfigError for a prompt that is empty, too long, or holds an unknown id.
    """
    config = config or SampleConfig()
    check_prompts(model, prompts, config)
    answers: list[list[int]] = [[] for _ in prompts]
    for row, token in decode(model, prompts, config, stop_ids, constraint):
        answers[row].append(token)
    return answers


def stream(
    model: GPT,
    prompt: Sequence[int],
    config: SampleConfig | None = None,
    stop_ids: Collection[int] = (),
    constraint: Constraint | None = None,
) -> Iterator[int]:
    """Return an iterator over the ids that `generate` gives for this prompt, each as it is made.

    The model stays in evaluation mode until the iterator ends or is closed.
    """
    config = config or SampleConfig()
    check_prompts(model, [prompt], config)
    return (token for _, token in decode(model, [prompt], config, stop_ids, constraint))


@torch.inference_mode()
def decode(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    config: SampleConfig,
    stop_ids: Collection[int],
    constraint: Constraint | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield (row, token) for every token that is made; rows that ended cost nothing any more."""
    if len(prompts) == 0 or config.max_new_tokens == 0:
        return
    generators = [random.Random(f"{config.seed} {row}") for row in range(len(prompts))]
    growing = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))  # behind the rows
    with evaluating(model):
        chosen = [prompts[row] for row in growing]
        rows = DecodingState(model, chosen, config.max_new_tokens, config.compile)
        history = None
        if config.reads_history or constraint is not None:
            history = History(chosen, rows.logits.size(1), rows.logits.device)
        for left in reversed(range(config.max_new_tokens)):
            # 24 bits fit a float32 exactly: none is rounded up to 1, beyond the last token.
            uniforms = [generators[row].getrandbits(24) / 2**24 for row in growing]
            tokens = next_tokens(rows.logits, config, uniforms, history, constraint).tolist()
            going = close_gaps([i for i, token in enumerate(tokens) if token not in stop_ids])
            yield from ((growing[i], tokens[i]) for i in going)
            growing = [growing[i] for i in going]
            if not growing or not left:
                return
            added = [tokens[i] for i in going]
            rows.append(going, added)
            if history is not None:
                history.append(going, added)


def close_gaps(going: list[int]) -> list[int]:
    """Order the rows that go on (rising) so that few must move: the last ones fill the gaps.

    >>> close_gaps([0, 2, 4, 5])
    [0, 5, 2, 4]
    """
    staying, movers = set(going), [row for row in going if row >= len(going)]
    return [row if row in staying else movers.pop() for row in range(len(going))]


@torch.inference_mode()
def beam_search(
    model: GPT,
    prompt: Sequence[int],
    n_beam: int,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    truncate: Literal["no", "left"] = "no",
) -> list[tuple[list[int], float]]:
    """Return up to `n_beam` likely continuations and their log-probabilities in nats, best first.

    Each step keeps the `n_beam` best that grow, and apart from them the `n_beam` best that have
    ended: one that has ended loses its place to better ended ones alone.
    The log-probability counts the stop id that ended a continuation; the ids leave it out.
    """
    config = SampleConfig(max_new_tokens=max_new_tokens, truncate=truncate)
    if type(n_beam) is not int or n_beam < 1:
        raise ConfigError(f"n_beam = {n_beam!r} is not possible", "--n-beam", "give 1 or more")
    check_prompts(model, [prompt], config)
    ended: list[tuple[list[int], float]] = []
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    if config.max_new_tokens == 0:
        return beams
    with evaluating(model):
        rows = DecodingState(model, [prompt], max_new_tokens)
        for left in reversed(range(config.max_new_tokens)):
            found = extensions(rows, beams, n_beam + len(beams) * len(stop_ids))
            stopped = [beam[:2] for beam in found[:n_beam] if beam[3] in stop_ids]
            ended = sorted(ended + stopped, key=lambda beam: -beam[1])[:n_beam]
            grown = [beam for beam in found if beam[3] not in stop_ids][:n_beam]
            beams = [([*ids, token], score) for ids, score, _, token in grown]
            # Scores only fall, so what is no better than all that ended cannot become better.
            can_win = grown and (len(ended) < n_beam or beams[0][1] > ended[-1][1])
            if not can_win or not left:
                break
            rows.append([parent for _, _, parent, _ in grown], [token for *_, token in grown])
    return sorted(ended + beams, key=lambda beam: -beam[1])[:n_beam]


def extensions(
    rows: DecodingState, beams: list[tuple[list[int], float]], count: int
) -> list[tuple[list[int], float, int, int]]:
    """Return the best one-token extensions: (ids before, new log-probability, parent, token)."""
    scores = torch.tensor([score for _, score in beams], device=rows.logits.device)
    totals = scores[:, None] + relative_logits(rows.logits).log_softmax(dim=-1)  # (B, V)
    values, places = totals.flatten().topk(min(count, totals.numel()))
    found = []
    for total, place in zip(values.tolist(), places.tolist(), strict=True):
        parent, token = divmod(place, totals.size(1))
        found.append((beams[parent][0], total, parent, token))
    return found


def check_prompts(model: GPT, prompts: Sequence[Sequence[int]], config: SampleConfig) -> None:
    """Raise a ConfigError for a prompt that the model cannot continue, or a bias it cannot take."""
    vocab_size, block_size = model.config.vocab_size, model.config.block_size
    for token, _ in config.logit_bias:
        if token >= vocab_size:
            raise ConfigError(
                f"token id {token} is outside of the vocabulary of {vocab_size}",
                "--logit-bias",
                f"give ids up to {vocab_size - 1}",
            )
    for row, prompt in enumerate(prompts):
        if len(prompt) == 0:
            raise ConfigError(
                "the prompt is empty",
                f"prompt {row}",
                "give at least one token: <|endoftext|> begins a new text",
            )
        if len(prompt) > block_size and config.truncate == "no":
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens and the context {block_size}",
                f"prompt {row}",
                f"shorten it, or use --truncate left to forget its first "
                f"{window_start(len(prompt), block_size)}",
            )
        for position, token in enumerate(prompt):
            if not 0 <= token < vocab_size:
                raise ConfigError(
                    f"token id {token} is outside of the vocabulary of {vocab_size}",
                    f"prompt {row}, token {position}",
                    "encode the text with the tokenizer that this model was trained with",
                )
