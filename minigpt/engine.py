"""Answer many requests at once: continuous batching over the rows of one key-value cache.

Every row of the cache is a *slot*. A request waits in a queue until a slot is free; its prompt is
read (prefill), and from then on it gets one token with each step that all slots take together. Who
has ended leaves between two steps, and the next in the queue takes the slot at once. A *static*
batch would wait for its longest answer first.

Knows models, tokenizers and threads. HTTP belongs to `serve.py`: whatever is done with a piece of
text must not wait here, or one slow reader would hold up everybody.

Shapes: B slots in use, V vocab_size.

Source: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative
Models", section 3 (scheduling by iteration).
"""

import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from minigpt.classification import refuse_classifier
from minigpt.generate import check_prompts, decode_step, evaluating, prefill
from minigpt.gpt import GPT
from minigpt.sampling import History, SampleConfig, next_tokens
from minigpt.streaming import StopStrings, TextStream
from minigpt.support.errors import ConfigError, MinigptError, TrainingError, require
from minigpt.tokenizer import Tokenizer

Finish = Literal["stop", "length"]


class BusyError(MinigptError, RuntimeError):
    """The queue is full: ask again later."""


class ClosingError(MinigptError, RuntimeError):
    """The engine takes no more requests, as it is about to end."""


@dataclass(frozen=True)
class Request:
    """What somebody asks for: a prompt in ids, how to choose, and where to stop."""

    prompt: tuple[int, ...]
    sampling: SampleConfig = field(default_factory=SampleConfig)
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    top_logprobs: int | None = None  # of each token; 0: of the chosen one alone; None: of none


@dataclass(frozen=True)
class TokenScore:
    """A token of an answer, with its log-probability in nats and those of the likeliest ones."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """The next part of an answer; the last one has a `finish` or an `error`."""

    text: str = ""
    tokens: tuple[TokenScore, ...] = ()
    n_tokens: int = 0  # of the whole answer so far
    finish: Finish | None = None
    error: MinigptError | None = None

    @property
    def is_last(self) -> bool:
        """Tell whether no other piece follows."""
        return self.finish is not None or self.error is not None


Deliver = Callable[[Piece], object]


class Answer:
    """A request while it is answered: its random numbers, what was written, what was delivered."""

    def __init__(self, request: Request, tokenizer: Tokenizer, deliver: Deliver):
        self.request, self.deliver = request, deliver
        # As row 0 of `generate`: the same seed gives the same text, whoever else is served.
        self.generator = random.Random(f"{request.sampling.seed} 0")
        self.text, self.stop = TextStream(tokenizer), StopStrings(request.stop)
        self.history: History | None = None
        self.held: list[TokenScore] = []  # tokens whose text is not complete yet
        self.token, self.n_tokens = -1, 0  # the newest, and how many there are
        self.is_over = self.is_cancelled = False

    def cancel(self) -> None:
        """Give the slot back before the next step; nothing is delivered any more."""
        self.is_cancelled = True

    def choose(self, logits: Tensor) -> None:
        """Choose the next token from logits (V) and deliver what text it completes."""
        config = self.request.sampling
        if config.reads_history and self.history is None:
            self.history = History([self.request.prompt], logits.size(0), logits.device)
        uniform = self.generator.getrandbits(24) / 2**24  # as in `generate.decode`
        token = int(next_tokens(logits[None], config, [uniform], self.history))
        if token in self.request.stop_ids:
            self.end("stop")
            return
        if self.history is not None:
            self.history.append([0], [token])
        if self.request.top_logprobs is not None:
            self.held.append(score_token(logits, token, self.request.top_logprobs))
        self.token, self.n_tokens = token, self.n_tokens + 1
        text = self.stop.push(self.text.push(token))
        if self.stop.found:
            self.end("stop", text)
        elif self.n_tokens == config.max_new_tokens:
            self.end("length", text)
        elif text:
            self.send(Piece(text, tuple(self.held), self.n_tokens))

    def end(self, finish: Finish, text: str = "") -> None:
        """Deliver the last piece, with what was held back."""
        if not self.stop.found:
            text += self.stop.push(self.text.flush())
            text += self.stop.flush()
        self.send(Piece(text, tuple(self.held), self.n_tokens, finish))

    def fail(self, error: MinigptError) -> None:
        """Deliver an error as the last piece."""
        self.send(Piece(n_tokens=self.n_tokens, error=error))

    def send(self, piece: Piece) -> None:
        """Hand a piece over, unless nobody wants it any more."""
        self.held = []
        self.is_over = piece.is_last
        if not self.is_cancelled:
            self.deliver(piece)


def score_token(logits: Tensor, token: int, count: int) -> TokenScore:
    """Return what the model itself thought of a token: before penalties, bias and temperature."""
    logprobs = logits.float().log_softmax(dim=-1)  # (V)
    values, ids = logprobs.topk(min(count, logits.size(0)))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenScore(token, float(logprobs[token]), top)


class Engine:
    """One model, `n_slot` slots and a queue; `step` is one turn, `start` takes them in a thread.

    `active[row]` is the answer that grows in row `row` of the cache: rows in use lie in front, so
    that a step computes nothing for slots that are free.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, n_slot: int = 8, n_waiting: int = 32):
        require(n_slot >= 1, "slots", n_slot, "1 or more")
        require(n_waiting >= 1, "queue", n_waiting, "1 or more")
        refuse_classifier(model, "write")
        self.model, self.tokenizer = model, tokenizer
        self.n_slot, self.n_waiting = n_slot, n_waiting
        self.cache = model.new_cache(n_slot)
        weight = model.embedding.weight
        # Of each slot's next token, (B, V)
        self.logits = torch.zeros(n_slot, model.config.vocab_size).to(weight)
        self.active: list[Answer] = []
        self.waiting: deque[Answer] = deque()
        self.changed = threading.Condition()
        self.closes_at: float | None = None  # from when on nothing more is written
        self.is_stopped = False
        self.n_steps = self.n_tokens = 0  # since the start

    def submit(self, request: Request, deliver: Deliver) -> Answer:
        """Queue a request; `deliver` gets its pieces, in the engine's thread, and must not wait.

        Raises ConfigError for what the model cannot do, BusyError where the queue is full, and
        ClosingError after `close`.
        """
        check_request(self.model, request)
        answer = Answer(request, self.tokenizer, deliver)
        with self.changed:
            if self.closes_at is not None:
                raise ClosingError("the server is shutting down", "queue", "ask it after it is up")
            n_ahead = sum(not other.is_cancelled for other in self.waiting)
            if n_ahead >= self.n_waiting:
                raise BusyError(f"{n_ahead} requests are waiting", "queue", "ask again later")
            self.waiting.append(answer)
            self.changed.notify()
        return answer

    @torch.inference_mode()
    def step(self) -> None:
        """Fill free slots, choose one token for each, let go who has ended, and read the tokens."""
        self.leave()
        self.admit()
        for row, answer in enumerate(self.active):
            try:
                answer.choose(self.logits[row])
            except MinigptError as error:  # such as logits that are not finite: this answer's end
                answer.fail(error)
        self.n_steps, self.n_tokens = self.n_steps + 1, self.n_tokens + len(self.active)
        self.leave()
        self.read()

    def admit(self) -> None:
        """Let requests out of the queue into free slots, the oldest first."""
        while len(self.active) < self.n_slot:
            with self.changed:
                if not self.waiting:
                    return
                answer = self.waiting.popleft()
                row = len(self.active)
                self.active.append(answer)
            if answer.is_cancelled:
                self.active.pop()
                continue
            slot = self.cache.part(row, row + 1)
            slot.positions.zero_()  # else it would read on in the text of a stranger
            slot.measure()
            self.logits[row] = prefill(self.model, slot, [answer.request.prompt])[0]

    def leave(self) -> None:
        """Take answers that ended, or that nobody wants, from their slots; close the gaps."""
        if self.closes_at is not None and time.monotonic() > self.closes_at:
            self.give_up()
        for row in reversed(range(len(self.active))):
            if self.active[row].is_over or self.active[row].is_cancelled:
                self.close_gap(row)

    def close_gap(self, row: int) -> None:
        """Move the last row in use into this one."""
        last = len(self.active) - 1
        if row != last:
            length = int(self.cache.positions[last])
            for stored in (*self.cache.keys, *self.cache.values):  # (B, G, S, D)
                stored[row, :, :length] = stored[last, :, :length]
            self.cache.positions[row] = self.cache.positions[last]
            self.logits[row] = self.logits[last]
            self.active[row] = self.active[last]
        self.active.pop()

    def read(self) -> None:
        """Let the model read the newest token of every slot: one step for all of them."""
        n = len(self.active)
        if n:
            idx = torch.tensor([[answer.token] for answer in self.active])  # (B, 1)
            rows = self.cache.part(0, n)
            self.logits[:n] = decode_step(self.model, idx.to(self.logits.device), rows)

    # ---- its thread

    def start(self) -> threading.Thread:
        """Take steps in a thread of its own, whenever there is something to do, until `stop`."""
        thread = threading.Thread(target=self.run, name="engine", daemon=True)
        thread.start()
        return thread

    def run(self) -> None:
        """Take steps until `stop`. A fault ends the answers at hand, never the engine."""
        with evaluating(self.model):
            while self.has_work():
                try:
                    self.step()
                except Exception as error:
                    traceback.print_exc()
                    self.fail_all(error)
        self.give_up()

    def has_work(self) -> bool:
        """Wait for something to do; return whether there is, and no end instead."""
        with self.changed:
            self.changed.wait_for(lambda: self.active or self.waiting or self.is_stopped)
            return not self.is_stopped

    def fail_all(self, error: Exception) -> None:
        """End all answers in slots with an error that tells their readers nothing of the inside."""
        what, hint = f"the engine failed: {type(error).__name__}", "look at what the server printed"
        for answer in self.active:
            answer.fail(TrainingError(what, "step", hint))
        self.active.clear()

    def close(self, seconds: float = 0.0) -> None:
        """Take no more requests, and give up on unfinished answers after some seconds.

        Only sets a number: safe in a signal handler.
        """
        self.closes_at = time.monotonic() + seconds

    def give_up(self) -> None:
        """End all that is unfinished or waiting with an error."""
        with self.changed:
            left = [*self.active, *self.waiting]
            self.waiting.clear()
        for answer in left:
            if not answer.is_over:
                answer.fail(ClosingError("the server shut down", "answer", "ask again"))

    def stop(self) -> None:
        """End the thread after its step."""
        if self.closes_at is None:
            self.close()
        with self.changed:
            self.is_stopped = True
            self.changed.notify_all()


def check_request(model: GPT, request: Request) -> None:
    """Raise a ConfigError for a prompt that the model cannot continue as far as it was asked."""
    check_prompts(model, [request.prompt], request.sampling)
    n, wanted = len(request.prompt), request.sampling.max_new_tokens
    block_size = model.config.block_size
    require(wanted >= 1, "max_new_tokens", wanted, "1 or more")
    if n + wanted > block_size:
        raise ConfigError(
            f"the prompt has {n} tokens, the answer may have {wanted}, and the context is "
            f"{block_size} tokens long",
            "prompt",
            f"shorten the prompt, or ask for at most {max(block_size - n, 0)} tokens",
        )
