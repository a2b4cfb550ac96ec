"""Cut chunks of Chinese further, where no merge can reach across: the ids stay the same.

Encoding remembers the ids of every chunk that it has met. English words come again and again, but
a chunk of Chinese is a whole clause, and hardly one comes twice. The pieces between two characters
that no merge joins do: of 54,000 different clauses in a novel 5,500 pieces remain with a vocabulary
of 512, and 16,500 with one of 8,000. Encoding then takes about a third of the time.

Why the ids are the same: the first merge across a boundary joins a token that ends there with one
that begins there. So where no merge's first token ends like the character on the left while its
second begins like the one on the right, nothing ever joins the two sides, and each side is merged
as if it stood alone. Tokens may hold parts of characters, so ends and beginnings are bytes.

Knows merges as pairs of bytes; nothing of ids.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

CODE_POINTS = 0x110000
PLACES = 1 << 20  # of the table of joined neighbors; two that share one only make a piece longer


def is_inside(byte: int) -> bool:
    """Tell whether a byte of UTF-8 continues a character."""
    return 0x80 <= byte < 0xC0


def last_part(token: bytes) -> bytes:
    """Return a token's last character, or of one whose beginning it lacks, what it has."""
    start = len(token) - 1
    while start > 0 and is_inside(token[start]):
        start -= 1
    return token[start:]


def first_part(token: bytes) -> bytes:
    """Return a token's first character, or of one whose end it lacks, what it has."""
    end = 1
    while end < len(token) and is_inside(token[end]):
        end += 1
    return token[:end]


class PieceCutter:
    """Cut text between neighbors that no merge joins.

    Characters that end alike, as far as the merges care, share a number, and so do those that
    begin alike; both are found when a character is met for the first time.
    """

    def __init__(self, merges: Iterable[tuple[bytes, bytes]]):
        self.heads_after: dict[bytes, set[bytes]] = defaultdict(set)
        self.tails_before: dict[bytes, set[bytes]] = defaultdict(set)
        for first, second in merges:
            if not is_inside(second[0]):  # else the two parts meet inside a character
                tail, head = last_part(first), first_part(second)
                self.heads_after[tail].add(head)
                self.tails_before[head].add(tail)
        self.endings: dict[tuple[bytes, ...], int] = {}
        self.beginnings: dict[tuple[bytes, ...], int] = {}
        self.ending_of = np.full(CODE_POINTS, -1, np.int32)
        self.beginning_of = np.full(CODE_POINTS, -1, np.int32)
        self.with_tail: dict[bytes, list[int]] = defaultdict(list)
        self.with_head: dict[bytes, list[int]] = defaultdict(list)
        self.joined = np.zeros(PLACES, bool)

    def cut(self, text: str, chunks: Sequence[str]) -> list[str]:
        """Return the pieces of a text that is already cut into chunks without a gap."""
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        new = codes[self.ending_of[codes] < 0]
        for code in np.unique(new).tolist():
            self._meet(code)
        joined = self.joined[place(self.ending_of[codes[:-1]], self.beginning_of[codes[1:]])]
        joined[np.cumsum([len(chunk) for chunk in chunks])[:-1] - 1] = False
        ends = [0, *(np.flatnonzero(~joined) + 1).tolist(), len(text)]
        return [text[start:end] for start, end in pairwise(ends)]

    def _meet(self, code: int) -> None:
        """Number a new character's ending and beginning, and note which neighbors are joined."""
        data = chr(code).encode("utf-8")
        tails = tuple(data[n:] for n in range(len(data)) if data[n:] in self.heads_after)
        heads = tuple(data[:n] for n in range(1, len(data) + 1) if data[:n] in self.tails_before)
        if tails not in self.endings:
            ending = self.endings[tails] = len(self.endings)
            for tail in tails:
                self.with_tail[tail].append(ending)
                for head in self.heads_after[tail]:
                    self.joined[place(ending, np.array(self.with_head[head], np.int32))] = True
        if heads not in self.beginnings:
            beginning = self.beginnings[heads] = len(self.beginnings)
            for head in heads:
                self.with_head[head].append(beginning)
                for tail in self.tails_before[head]:
                    self.joined[place(np.array(self.with_tail[tail], np.int32), beginning)] = True
        self.ending_of[code] = self.endings[tails]
        self.beginning_of[code] = self.beginnings[heads]


def place(ending: np.ndarray | int, beginning: np.ndarray | int) -> Any:
    """Return the place in the table of neighbors."""
    return (ending * 8191 + beginning) % PLACES
