"""Split text into training and validation, and measure what the two sides share."""

import hashlib
from collections.abc import Iterable, Iterator

from minigpt.data.corpus import Piece, ReadCounts, safe_cut
from minigpt.support.errors import ConfigError

MANY_DOCUMENTS = 20  # validation documents, from which on whole documents are split off


def split_documents(
    pieces: Iterable[Piece], counts: ReadCounts, fraction: float
) -> Iterator[tuple[Piece, bool]]:
    """Yield each piece and whether it belongs to validation.

    `counts` are those of a first reading of the same pieces. Where there are many documents, whole
    ones are chosen by a hash of their beginning, so that equal documents never stand on both
    sides. Few documents are taken as one long text, whose last `fraction` validates.
    """
    if not 0 < fraction < 1:
        raise ConfigError(
            f"validation fraction {fraction}", "--validation-fraction", "give one between 0 and 1"
        )
    if counts.documents * fraction >= MANY_DOCUMENTS:
        yield from split_by_hash(pieces, fraction)
    else:
        yield from split_by_position(pieces, round(counts.characters * (1 - fraction)))


def split_by_hash(pieces: Iterable[Piece], fraction: float) -> Iterator[tuple[Piece, bool]]:
    """Send a document to validation where the hash of its first piece, in [0, 1), is small."""
    begins = True
    for piece in pieces:
        if begins:
            digest = hashlib.sha256(piece.text.encode("utf-8")).digest()
            validation = int.from_bytes(digest[:8], "big") < fraction * 2**64
        yield piece, validation
        begins = piece.ends_document


def split_by_position(pieces: Iterable[Piece], boundary: int) -> Iterator[tuple[Piece, bool]]:
    """Send everything from the character `boundary` on to validation; both sides end a document.

    The cut moves back to a place that no token crosses.
    """
    position = 0
    for piece in pieces:
        end = position + len(piece.text)
        if position < boundary < end:
            inside = boundary - position
            cut = safe_cut(piece.text, inside)
            yield Piece(piece.text[:cut], True), False
            yield Piece(piece.text[cut:], piece.ends_document), True
        elif position < boundary == end:
            yield piece._replace(ends_document=True), False
        else:
            yield piece, position >= boundary
        position = end


class Overlap:
    """Measure how much of the validation text also stands, line by line, in training.

    Show every piece of validation first, then every piece of training; `share` is the share of
    validation characters in lines that training has too. Only hashes of validation are kept.
    """

    def __init__(self) -> None:
        self._lines: dict[int, int] = {}
        self._total = self._shared = 0

    def add_validation(self, text: str) -> None:
        """Note the lines of a validation text."""
        for line in text_lines(text):
            self._lines[hash(line)] = self._lines.get(hash(line), 0) + len(line)
            self._total += len(line)

    def add_training(self, text: str) -> None:
        """Cross off the lines that a training text also has."""
        for line in text_lines(text):
            self._shared += self._lines.pop(hash(line), 0)

    @property
    def share(self) -> float:
        """Overlap from 0 to 1."""
        return self._shared / max(self._total, 1)


def text_lines(text: str) -> list[str]:
    """Return the lines of a text without the blank ones and without spaces around them."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]
