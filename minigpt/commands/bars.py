"""Progress bars that several commands show."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


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
            self.bar = tqdm(total=total, desc=stage, leave=False)
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
    name: str, max_steps: int, floor: float | None = None, silent: bool = False
) -> Iterator[Callable[[dict], None]]:
    """Show a bar of a training's steps; yields the function that takes rows of metrics.jsonl.

    Beside the bar stand loss, validation loss and, where it is known, the floor.
    """
    shown = {} if floor is None else {"floor": f"{floor:.3f}"}
    with tqdm(total=max_steps, desc=name, unit="step", disable=silent) as bar:

        def show(row: dict) -> None:
            shown.update({k: f"{row[k]:.3f}" for k in ("loss", "val_loss") if k in row})
            bar.set_postfix(shown, refresh=False)
            bar.update(row["step"] - bar.n)

        yield show
