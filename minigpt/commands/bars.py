"""Progress bars that several commands show.

On a terminal they move, one at a time, and leave nothing behind. Elsewhere, such as in a log file,
a line tells now and then how far the work is, and short work says nothing.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

SECONDS_A_LINE = 30.0  # between two lines of a bar that no terminal shows


class Bar(tqdm):
    """A bar on stderr: see tqdm."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.moves = sys.stderr.isatty()
        if self.moves:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            options |= {"dynamic_ncols": True} if width else {"ncols": 80}  # some do not tell it
        else:
            slow = {"mininterval": SECONDS_A_LINE, "maxinterval": 2 * SECONDS_A_LINE}
            options |= slow | {"delay": SECONDS_A_LINE, "ncols": 0}
        super().__init__(*args, **{"leave": False} | options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar where it stands, or print it as a line."""
        if self.moves:
            super().display(msg, pos)
        elif msg != "":  # so tqdm clears a bar
            print(str(self) if msg is None else msg, file=sys.stderr, flush=True)


class Bars:
    """Shows one progress bar after the other: call it with a stage, how many are done, of how many.

    >>> with Bars() as show:
    ...     show("answering", 128, 2400)
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if self.bar is None or self.bar.desc.removesuffix(": ") != stage:
            self.close()
            self.bar = Bar(total=total, desc=stage)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@contextmanager
def training_bar(
    name: str,
    max_steps: int,
    floor: float | None = None,
    silent: bool = False,
    first_step: int = 0,
) -> Iterator[Callable[[dict], None]]:
    """Show a bar of a training's steps; yields the function that takes rows of metrics.jsonl.

    Beside the bar stand loss, validation loss, reward and floor, where they are known. The time
    left follows from all steps since `first_step`, at which a resumed run begins, and validations.
    """
    shown = {} if floor is None else {"floor": f"{floor:.3f}"}
    steps = {"total": max_steps, "initial": first_step, "unit": "step", "smoothing": 0}
    with Bar(desc=name, disable=silent, **steps) as bar:

        def show(row: dict) -> None:
            shown.update({k: f"{row[k]:.3f}" for k in ("loss", "val_loss", "reward") if k in row})
            bar.set_postfix(shown, refresh=False)
            bar.update(row["step"] - bar.n)

        yield show
