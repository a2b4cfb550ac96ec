"""Turn Ctrl-C and requests to end into something that training can answer at a good moment.

Signals reach Python's main thread only; in any other thread both functions do nothing.
"""

import contextlib
import signal
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
def stop_on_signals() -> Iterator[StopFlag]:
    """Let the first SIGINT or SIGTERM raise a flag, and the second end the program at once.

    >>> with stop_on_signals() as stop:
    ...     result = train(..., should_stop=stop)
    >>> sys.exit(stop.exit_code)
    """
    flag = StopFlag()

    def ask(number: int, frame: object) -> None:
        if flag():
            raise SystemExit(128 + number)
        flag.number = number

    with handled({signal.SIGINT: ask, signal.SIGTERM: ask}):
        yield flag


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done; then let it do what it would have done."""
    came = []
    before = signal.getsignal(signal.SIGINT)
    with handled({signal.SIGINT: lambda number, frame: came.append((number, frame))}):
        yield
    if came and callable(before):
        before(*came[-1])


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
