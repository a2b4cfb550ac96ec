"""Answer Ctrl-C and requests to end: at once with a line, then at a good moment.

Work that can be done again ends at once (`end_on_signals`); training finishes its step first
(`stop_on_signals`). Signals reach Python's main thread only; in any other thread nothing here does
anything.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


class StopFlag:
    """Tell whether a signal asked to stop: `flag()`; its `exit_code` is then 130 or 143, else 0."""

    def __init__(self):
        self.number = 0

    def __call__(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        return 128 + self.number if self.number else 0


@contextlib.contextmanager
def stop_on_signals(promise: str = "") -> Iterator[StopFlag]:
    """Let the first SIGINT or SIGTERM raise a flag, and the second end the program at once.

    promise: what happens next, said as soon as the first one comes.

    >>> with stop_on_signals("stopping after this step") as stop:
    ...     result = train(..., should_stop=stop)
    >>> sys.exit(stop.exit_code)
    """
    flag = StopFlag()

    def ask(number: int, frame: object) -> None:
        if flag():
            raise SystemExit(128 + number)
        flag.number = number
        acknowledge(number, promise)

    with handled({signal.SIGINT: ask, signal.SIGTERM: ask}):
        yield flag


@contextlib.contextmanager
def end_on_signals(promise: str = "") -> Iterator[None]:
    """Let SIGINT and SIGTERM end the program at once, with exit code 130 or 143.

    promise: what happens next, said before that. `stop_on_signals` inside it takes over.
    """

    def end(number: int, frame: object) -> None:
        acknowledge(number, promise)
        raise SystemExit(128 + number)

    with handled({signal.SIGINT: end, signal.SIGTERM: end}):
        yield


def acknowledge(number: int, promise: str) -> None:
    """Say that a signal came and what happens next, below a progress bar that may be there."""
    if not promise:
        return
    name = "Ctrl-C" if number == signal.SIGINT else "request to end"
    line = f"\n{name}: {promise}\n"
    try:  # past Python's buffer, which the signal may have interrupted in the middle of a write
        os.write(sys.stderr.fileno(), line.encode("utf-8"))
    except (OSError, ValueError):  # a notebook's stream has no file
        sys.stderr.write(line)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done; then let it do what it would have done."""
    came = []
    before = signal.getsignal(signal.SIGINT)
    with handled({signal.SIGINT: lambda number, frame: came.append((number, frame))}):
        yield
    if came and callable(before):
        before(*came[-1])


def ignore_ctrl_c() -> None:
    """Leave Ctrl-C to the parent: a terminal sends it to every process that the parent started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def handled(handlers: dict) -> Iterator[None]:
    """Install signal handlers for the length of a block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
