"""Open what a run learns from: the user's own text, or a corpus that this package generates.

A generated corpus knows more than its text: which documents validate, the lowest possible loss on
them, conversations, and an exam. Training code asks the `Corpus` and never checks a name. The code
that generates one is imported only when it is named.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from minigpt.data.corpus import read_documents, read_pieces
from minigpt.data.decoding import Errors
from minigpt.data.discovery import find_files
from minigpt.data.formats import DataFile

# Names that --data accepts, and the modules behind them: each has an `open_corpus(world)`.
GENERATED = {"storyworld": "minigpt.storyworld.corpus"}
TOKENIZER_CHARACTERS = 20_000_000  # of the user's text; more does not change the merges much

Messages = list[dict[str, str]]
Exam = Callable[..., dict[str, Any]]


class HeldOut(NamedTuple):
    """Documents that only validate, and the lowest possible loss on them."""

    texts: list[str]
    floor_nats: float | None  # summed over all of them; None: unknown


class Corpus(Protocol):
    """What a run learns from, and what is known of it."""

    @property
    def exam(self) -> Exam | None:
        """The exam: exam(model, tokenizer, seen, per_task, n_stories, ...) -> part of a report."""

    def texts(self) -> Iterator[str]:
        """Yield text for a tokenizer to learn from: enough of it, not always all."""
        ...

    def documents(self) -> Iterator[str]:
        """Yield documents to train on; a generated corpus never ends."""
        ...

    def held_out(self) -> HeldOut | None:
        """Return documents that only validate; None: part of `documents` must be held out."""

    def conversations(self, count: int) -> Iterator[Messages] | None:
        """Return conversations to train on, `count` in all; None: there are none."""


@dataclass(frozen=True)
class OwnText:
    """The user's own text: files, folders, patterns, archives, or a public data set."""

    data: str
    field: str = "text"
    errors: Errors = "strict"
    exam: Exam | None = None
    separator: str = ""
    encoding: str = ""
    skip_bad: bool = False

    def files(self) -> list[DataFile]:
        """Return the files of the text, with what is known of them."""
        return find_files(self.data, encoding=self.encoding, separator=self.separator)

    def texts(self) -> Iterator[str]:
        """Yield pieces of the text, up to TOKENIZER_CHARACTERS."""
        left = TOKENIZER_CHARACTERS
        for piece in read_pieces(self.files(), self.field, self.errors, self.skip_bad):
            yield piece.text
            left -= len(piece.text)
            if left <= 0:
                return

    def documents(self) -> Iterator[str]:
        """Yield the documents, whole."""
        return read_documents(self.files(), self.field, self.errors)

    def held_out(self) -> None:
        """Return None: `batching.prepare` holds out part of the documents."""

    def conversations(self, count: int) -> None:
        """Return None: to learn from conversations of your own, use `finetune`."""


def open_corpus(
    data: str,
    field: str = "text",
    errors: Errors = "strict",
    world: str = "full",
    *,
    separator: str = "",
    encoding: str = "",
    skip_bad: bool = False,
) -> Corpus:
    """Return the generated corpus of that name, or the text of the files behind `data`.

    `world` is the size of a generated corpus; files have none.
    """
    if data in GENERATED:
        return importlib.import_module(GENERATED[data]).open_corpus(world)
    return OwnText(data, field, errors, separator=separator, encoding=encoding, skip_bad=skip_bad)
