"""Learn and apply byte-pair encoding: cut text into chunks, then join frequent pairs of neighbors.

Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) starts from the 256 bytes and keeps
joining the pair of neighbors that occurs most often. Text is cut into chunks first (words, digits,
punctuation, spaces); no merge crosses a chunk.

The pattern that cuts is a choice, and every published model made its own; three stand here.

This module knows ids and pairs of ids, but no vocabularies, special tokens or files.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import regex

from minigpt.support.errors import DataError

# The published pattern of Qwen2: GPT-4's with one digit at a time. In order: English
# contractions; letters with one leading mark or space; a digit; punctuation; line ends; spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4_PATTERN = PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")  # of Llama 3, too: digits in threes
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Pair = tuple[int, int]
NO_MERGE = 1 << 62  # above every number of a merge
BORDER, GONE = -1, -2  # in place of an id: between two words; joined to its left neighbor
AS_NUMBERED = range(NO_MERGE)  # the id of merge 300 is 300
SHORT = 48  # bytes of a chunk up to which looking again is faster than a linked list


# --- cutting text into chunks ---


def split_chunks(text: str, pattern: str = PATTERN) -> list[str]:
    """Cut text where no merge may cross: "I'm 42!" -> ["I", "'m", " ", "4", "2", "!"]."""
    return regex.findall(pattern, text)


def byte_symbols() -> dict[int, str]:
    """Return a printable character for each byte, so that merges can be stored as JSON text.

    Radford et al. 2019 (GPT-2): a printable byte stands for itself, the others move past 255;
    the space becomes "Ġ". The order is that of the symbols' code points: the order of ids.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    moved = {byte: chr(256 + n) for n, byte in enumerate(others)}
    return {byte: chr(byte) for byte in printable} | moved


BYTE_SYMBOLS = byte_symbols()


def check_surrogates(text: str) -> None:
    """Raise DataError at the first lone surrogate: half of a pair, which UTF-8 cannot store."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"lone surrogate U+{ord(text[error.start]):04X}",
            f"text, index {error.start}",
            'remove it, or replace it: text.encode("utf-8", "replace").decode("utf-8")',
        ) from None


# --- learning merges ---


def count_chunks(
    texts: Iterable[str], split: Callable[[str], list[str]] = split_chunks
) -> Counter[str]:
    """Count every distinct chunk: a corpus has few distinct words, and each is merged once."""
    counts: Counter[str] = Counter()
    for text in texts:
        check_surrogates(text)
        counts.update(split(text))
    return counts


def learn_merges(
    words: list[list[int]],
    counts: list[int],
    new_ids: range,
    may_join: Callable[[Pair, int, int], bool] | None = None,
) -> dict[Pair, int]:
    """Join the most frequent pair of neighbors again and again; one merge for each new id.

    `words[i]` are the ids of a distinct chunk that occurs `counts[i]` times; the words are merged
    in place. Between equally frequent pairs the smaller pair of ids wins. Where no pair is left,
    fewer merges than `new_ids` come back. `may_join(pair, count, new_id)` can turn a pair down.
    """
    linked = LinkedWords(words, counts)
    pair_counts = linked.pair_counts
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    merges: dict[Pair, int] = {}
    for new_id in new_ids:
        pair = pop_most_frequent(heap, pair_counts)
        if pair is None:
            break
        if may_join is not None and not may_join(pair, pair_counts[pair], new_id):
            continue
        merges[pair] = new_id
        # Fallen counts are corrected when their pair is taken. Risen ones must be pushed, or
        # the pair would be found too late.
        for made in linked.join(pair, new_id):
            if pair_counts[made] > 0:
                heapq.heappush(heap, (-pair_counts[made], made))
    words[:] = linked.words()
    return merges


class LinkedWords:
    """All words in one linked list of ids, with the counts and the places of all pairs.

    Each place knows its neighbors, so joining two costs the same in a word of any length. Before,
    between and behind the words stands BORDER, which no pair holds.
    """

    def __init__(self, words: list[list[int]], counts: list[int]) -> None:
        self.ids, self.counts = [BORDER], [0]  # at each place: an id, how often its word occurs
        for word, count in zip(words, counts, strict=True):
            self.ids += [*word, BORDER]
            self.counts += [count] * (len(word) + 1)
        end = len(self.ids)
        self.before, self.after = list(range(-1, end - 1)), list(range(1, end + 1))
        self.pair_counts: dict[Pair, int] = defaultdict(int)
        self.places: dict[Pair, list[int]] = defaultdict(list)  # of the first of the two
        for left, pair in enumerate(pairwise(self.ids)):
            if BORDER not in pair:
                self.pair_counts[pair] += self.counts[left]
                self.places[pair].append(left)

    def join(self, pair: Pair, new_id: int) -> set[Pair]:
        """Replace every occurrence of `pair`, left to right; return the pairs that this makes.

        5 1 2 6 becomes 5 9 6: (5, 1) and (2, 6) are counted out, (5, 9) and (9, 6) in.
        """
        ids, pair_counts = self.ids, self.pair_counts
        first, second = pair
        made: set[Pair] = set()
        for left in sorted(self.places.pop(pair)):
            right = self.after[left]
            if ids[left] != first or ids[right] != second:
                continue  # one of the two has been joined to something else since
            before, after = self.before[left], self.after[right]
            ids[left], ids[right] = new_id, GONE
            self.after[left], self.before[after] = after, left
            outer_left, outer_right = ids[before], ids[after]
            for place, parted, new in (
                (before, (outer_left, first), (outer_left, new_id)),
                (left, (second, outer_right), (new_id, outer_right)),
            ):
                if BORDER not in new:
                    pair_counts[parted] -= self.counts[left]
                    pair_counts[new] += self.counts[left]
                    self.places[new].append(place)
                    made.add(new)
        del pair_counts[pair]
        return made

    def words(self) -> list[list[int]]:
        """Return the words as they are now."""
        words: list[list[int]] = []
        for token in self.ids[:-1]:
            if token == BORDER:
                words.append([])
            elif token != GONE:
                words[-1].append(token)
        return words


def pop_most_frequent(heap: list[tuple[int, Pair]], pair_counts: dict[Pair, int]) -> Pair | None:
    """Take the most frequent pair; an entry whose count has fallen meanwhile goes back."""
    while heap:
        negative_count, pair = heapq.heappop(heap)
        count = pair_counts[pair]
        if count == -negative_count:
            return pair
        # The heap cannot change an entry in place, so the true count is pushed when it matters.
        if count > 0:
            heapq.heappush(heap, (-count, pair))
    return None


# --- applying merges ---
#
# `merges` gives each pair the number of its merge: the smaller, the earlier. `new_ids` gives the
# id that a merge makes. What `learn_merges` returns has ids for numbers, so they are the same;
# in a published vocabulary two merges can make one token, and ids need not follow the order.


def merge_chunk(
    ids: list[int], merges: dict[Pair, int], new_ids: Sequence[int] = AS_NUMBERED
) -> list[int]:
    """Apply the merges to one chunk, the earliest first; both ways give the same ids."""
    merge = merge_short if len(ids) <= SHORT else merge_long
    return merge(ids, merges, new_ids)


def merge_short(
    ids: list[int], merges: dict[Pair, int], new_ids: Sequence[int] = AS_NUMBERED
) -> list[int]:
    """Apply the earliest merge that is there, and look again; the time is quadratic in the length.

    `found` has the merge of each pair of neighbors; a merge changes only those beside it.
    """
    ids = list(ids)
    found = [merges.get(pair, NO_MERGE) for pair in pairwise(ids)]
    while found and (number := min(found)) != NO_MERGE:
        left = found.index(number)
        ids[left] = new_id = new_ids[number]
        del ids[left + 1], found[left]
        if left > 0:
            found[left - 1] = merges.get((ids[left - 1], new_id), NO_MERGE)
        if left < len(found):
            found[left] = merges.get((new_id, ids[left + 1]), NO_MERGE)
    return ids


def merge_long(
    ids: list[int], merges: dict[Pair, int], new_ids: Sequence[int] = AS_NUMBERED
) -> list[int]:
    """Apply the merges to a chunk of any length; the look-ups grow in proportion to it.

    The ids form a linked list, so joining two costs nothing. Every possible merge waits in a heap,
    the earliest in front; of the same merge, the place furthest left.
    """
    ids, end = list(ids), len(ids)
    before, after = list(range(-1, end - 1)), list(range(1, end + 1))
    heap: list[tuple[int, int]] = []
    for left, pair in enumerate(pairwise(ids)):
        number = merges.get(pair, NO_MERGE)
        if number != NO_MERGE:
            heap.append((number, left))
    heapq.heapify(heap)
    while heap:
        number, left = heapq.heappop(heap)
        right = after[left]
        # A neighbor may have been merged since: then this entry is out of date.
        if right == end or merges.get((ids[left], ids[right])) != number:
            continue
        ids[left], ids[right] = new_ids[number], -1
        after[left] = right = after[right]
        if right < end:
            before[right] = left
        for first, second in ((before[left], left), (left, right)):
            if first >= 0 and second < end:
                number = merges.get((ids[first], ids[second]), NO_MERGE)
                if number != NO_MERGE:
                    heapq.heappush(heap, (number, first))
    return [token for token in ids if token >= 0]
