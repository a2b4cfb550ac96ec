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
    pair_counts, pair_words = index_pairs(words, counts)
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
        touched = set()
        # Only words with this pair change; in them, only the pairs beside it.
        for word in pair_words.pop(pair):
            words[word], gone, made = merge_pair(words[word], pair, new_id)
            for neighbors in gone:
                pair_counts[neighbors] -= counts[word]
            for neighbors in made:
                pair_counts[neighbors] += counts[word]
                pair_words[neighbors].add(word)
            touched.update(made)
        # Fallen counts are corrected when their pair is taken. Risen ones must be pushed, or
        # the pair would be found too late.
        for neighbors in touched:
            if pair_counts[neighbors] > 0:
                heapq.heappush(heap, (-pair_counts[neighbors], neighbors))
    return merges


def index_pairs(
    words: list[list[int]], counts: list[int]
) -> tuple[dict[Pair, int], dict[Pair, set[int]]]:
    """Count each pair of neighbors over all words, and note the words in which it stands."""
    pair_counts: dict[Pair, int] = defaultdict(int)
    pair_words: dict[Pair, set[int]] = defaultdict(set)
    for word, ids in enumerate(words):
        for pair in pairwise(ids):
            pair_counts[pair] += counts[word]
            pair_words[pair].add(word)
    return pair_counts, pair_words


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


def merge_pair(ids: list[int], pair: Pair, new_id: int) -> tuple[list[int], list[Pair], list[Pair]]:
    """Replace every occurrence of `pair`, left to right; also say which neighbors this parts.

    [5, 1, 2, 6], (1, 2), 9 -> [5, 9, 6], gone [(5, 1), (2, 6)], made [(5, 9), (9, 6)]
    """
    first, second = pair
    merged: list[int] = []
    gone: list[Pair] = []
    made: list[Pair] = []
    i, last = 0, len(ids) - 1
    while i <= last:
        if ids[i] != first or i == last or ids[i + 1] != second:
            merged.append(ids[i])
            i += 1
            continue
        # The neighbor on the left may itself be a pair that was just joined: look in `merged`.
        if merged:
            gone.append((merged[-1], first))
            made.append((merged[-1], new_id))
        if i + 1 < last:
            gone.append((second, ids[i + 2]))
            made.append((new_id, ids[i + 2]))
        merged.append(new_id)
        i += 2
    return merged, gone, made


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
