"""Open what a run learns from: text of the user's own, or a corpus that this package makes.

A corpus that is made knows more than its text: which documents validate, the least loss that is
possible on them, conversations, and an exam. Whoever trains asks a `Corpus` and never its name. The
code that makes one is imported when it is named, and costs nothing otherwise.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from minigpt.data.corpus import read_documents, read_pieces
from minigpt.data.decoding import Errors

# Names that --data knows, and the modules that make them: each has `open_corpus()`.
MADE = {"storyworld": "minigpt.storyworld.corpus"}
TOKENIZER_CHARACTERS = 20_000_000  # of the user's text; more does not change the merges much

Messages = list[dict[str, str]]
Exam = Callable[..., dict[str, Any]]


class HeldOut(NamedTuple):
    """Documents to validate on, which training never shows, and the least loss possible on them."""

    texts: list[str]
    floor_nats: float | None  # of all of them together; None: not known


class Talks(NamedTuple):
    """Conversations about a corpus: short ones, and whole ones."""

    short: Iterator[Messages]
    whole: Iterator[Messages]


class Corpus(Protocol):
    """What a run learns from, and what is known of it."""

    @property
    def exam(self) -> Exam | None:
        """The exam: exam(model, tokenizer, seen, per_task, n_stories, ...) -> part of a report."""

    def texts(self) -> Iterator[str]:
        """Yield text for a tokenizer to learn from: enough of it, not always all."""
        ...

    def documents(self) -> Iterator[str]:
        """Yield documents to train on; those of a corpus that is made have no end."""
        ...

    def held_out(self) -> HeldOut | None:
        """Return documents to validate on; None: a part of `documents` has to be kept for it."""

    def conversations(self, count: int) -> Talks | None:
        """Return conversations to train on, `count` in all; None: there are none."""


@dataclass(frozen=True)
class OwnText:
    """Text of the user's own: files, folders, patterns, archives, or a public data set."""

    data: str
    field: str = "text"
    errors: Errors = "strict"
    exam: Exam | None = None

    def texts(self) -> Iterator[str]:
        """Yield pieces of the text, up to TOKENIZER_CHARACTERS."""
        left = TOKENIZER_CHARACTERS
        for piece in read_pieces(self.data, self.field, self.errors):
            yield piece.text
            left -= len(piece.text)
            if left <= 0:
                return

    def documents(self) -> Iterator[str]:
        """Yield the documents, whole."""
        return read_documents(self.data, self.field, self.errors)

    def held_out(self) -> None:
        """Return None: `batching.prepare` keeps a part of the documents for validation."""

    def conversations(self, count: int) -> None:
        """Return None: conversations of one's own are what `finetune` is for."""


def open_corpus(data: str, field: str = "text", errors: Errors = "strict") -> Corpus:
    """Return the corpus of a name in MADE, or of the files that `data` stands for."""
    if data in MADE:
        return importlib.import_module(MADE[data]).open_corpus()
    return OwnText(data, field, errors)
