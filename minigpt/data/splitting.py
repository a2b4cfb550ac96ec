"""Split text into training and validation, and measure what the two sides share."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from minigpt.data.corpus import Piece, safe_cut
from minigpt.data.decoding import ReadCounts
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
    """Send a document to validation where the hash of its first piece is small."""
    begins, validation = True, False
    for piece in pieces:
        if begins:
            validation = in_validation(piece.text, fraction)
        yield piece, validation
        begins = piece.ends_document


def in_validation(key: str, fraction: float) -> bool:
    """Tell whether a document with this key validates: its hash, in [0, 1), is small."""
    return hash64(key) < fraction * 2**64


def hash64(key: str) -> int:
    """Return the first 64 bits of a text's SHA-256: as good as random, the same on every system."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big")


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


def text_lines(text: str) -> list[str]:
    """Return the lines of a text without the blank ones and without spaces around them."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


class Overlap:
    """Measure how much of the validation text is also, line by line, in training.

    Show every text of validation first, then every text of training; `share` is the share of
    validation characters in lines that training has too. Only hashes of validation are kept.
    With other `parts` and `weigh` it measures the share of something else, such as of prompts.
    """

    def __init__(
        self,
        parts: Callable[[str], Sequence[str]] = text_lines,
        weigh: Callable[[str], int] = len,
    ) -> None:
        self._parts, self._weigh = parts, weigh
        self._noted: dict[int, int] = {}
        self._total = self._shared = 0

    def add_validation(self, text: str) -> None:
        """Note the lines of a validation text."""
        for part in self._parts(text):
            weight = self._weigh(part)
            self._noted[hash(part)] = self._noted.get(hash(part), 0) + weight
            self._total += weight

    def add_training(self, text: str) -> None:
        """Cross off the lines that a training text also has."""
        for part in self._parts(text):
            self._shared += self._noted.pop(hash(part), 0)

    @property
    def share(self) -> float:
        """Overlap from 0 to 1."""
        return self._shared / max(self._total, 1)
