"""Find texts that stand twice in a collection: exactly the same, or nearly so (MinHash and LSH).

The likeness of two texts is the Jaccard similarity of their sets of shingles (short runs of words,
or of characters in Chinese and other scripts without spaces): |A and B| / |A or B|. MinHash
estimates it from short signatures, banding finds the few pairs worth a look without comparing all
with all, and each such pair is then compared exactly.

Sources: A. Broder, On the Resemblance and Containment of Documents (1997); J. Leskovec,
A. Rajaraman and J. Ullman, Mining of Massive Datasets, chapter 3.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import regex

WORDS = 3  # words in a shingle
CHARACTERS = 5  # characters in a shingle, in scripts without spaces between words
HASHES = 128  # numbers in a signature: the estimate's standard error is at most 0.5 / sqrt(128)
RECALL = 0.99  # share of the pairs just at the threshold that banding has to find
BLOCK = 4096  # shingles that are hashed at a time, so that a long text needs little memory

WITHOUT_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
TOKEN = regex.compile(rf"[{WITHOUT_SPACES}]|[\p{{L}}\p{{M}}\p{{N}}--[{WITHOUT_SPACES}]]+", regex.V1)
SINGLE = regex.compile(rf"[{WITHOUT_SPACES}]")


# --- likeness ---


def shingles(text: str) -> np.ndarray:
    """Return the set of shingles of a text as sorted 32-bit hashes, (N,) of uint32.

    Case and punctuation do not count. A text shorter than a shingle is one shingle by itself; one
    without any letter or digit is compared as it stands.
    """
    tokens = TOKEN.findall(text.casefold()) or [text]
    many_single = 2 * sum(1 for token in tokens if SINGLE.match(token)) > len(tokens)
    width = min(CHARACTERS if many_single else WORDS, len(tokens))
    runs = {" ".join(tokens[i : i + width]) for i in range(len(tokens) - width + 1)}
    digests = (hashlib.blake2b(run.encode("utf-8"), digest_size=4).digest() for run in runs)
    return np.unique(np.frombuffer(b"".join(digests), dtype="<u4")).astype(np.uint32)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share that two sets of shingles have in common: {1, 2}, {2, 3} -> 1/3."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


class MinHash:
    """Turn sets of shingles into signatures whose agreement estimates the Jaccard similarity."""

    def __init__(self, n_hashes: int = HASHES, seed: int = 0):
        draw = np.random.default_rng(seed)
        bits = draw.integers(0, 2**64, size=(2, n_hashes, 1), dtype=np.uint64)
        self.factors, self.offsets = bits[0] | np.uint64(1), bits[1]

    def signature(self, items: np.ndarray) -> np.ndarray:
        """Return the least value of each hash function over the items: (N,) -> (n_hashes,).

        Two sets have the same least value with a probability equal to their similarity, since
        each item of their union is equally likely to be the least. The functions are the upper
        halves of a * x + b modulo 2**64 (Dietzfelbinger's multiply-shift).
        """
        least = np.full(len(self.factors), 2**32 - 1, dtype=np.uint32)
        for start in range(0, len(items), BLOCK):
            block = items[start : start + BLOCK].astype(np.uint64)
            values = (self.factors * block + self.offsets) >> np.uint64(32)  # (n_hashes, block)
            least = np.minimum(least, values.min(axis=1).astype(np.uint32))
        return least


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Estimate the Jaccard similarity of two sets from their signatures."""
    return float(np.mean(a == b))


def rows_per_band(threshold: float, n_hashes: int = HASHES) -> int:
    """Return the longest bands that still find pairs at the threshold with RECALL.

    A band of r rows agrees with probability s**r, and one of n // r bands has to.
    """
    good = [
        rows
        for rows in range(1, n_hashes + 1)
        if 1 - (1 - threshold**rows) ** (n_hashes // rows) >= RECALL
    ]
    return max(good, default=1)


# --- repeats ---


def exact_repeats(texts: Iterable[str]) -> list[bool]:
    """Return for each text whether the very same came before it: a, b, a -> no, no, yes."""
    seen: set[bytes] = set()
    repeats = []
    for text in texts:
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        repeats.append(digest in seen)
        seen.add(digest)
    return repeats


def near_repeats(texts: Iterable[str], threshold: float) -> list[int | None]:
    """Return for each text the number of an earlier one like it that stays, or None.

    Only texts that stay are compared with, so that a chain of small changes is not cut down to
    its first link. Pairs below the threshold are never reported; of those at it, 1 % are missed.
    """
    minhash, rows = MinHash(), rows_per_band(threshold)
    sets = [shingles(text) for text in texts]
    signatures = np.array([minhash.signature(items) for items in sets]).reshape(len(sets), HASHES)
    least = threshold - 4 * (threshold * (1 - threshold) / HASHES) ** 0.5  # four standard errors
    buckets: dict[tuple[int, bytes], list[int]] = {}
    found: list[int | None] = []
    for number, signature in enumerate(signatures):
        keys = list(bands(signature, rows))
        others = np.array(sorted({n for key in keys for n in buckets.get(key, ())}), dtype=int)
        close = others[(signatures[others] == signature).mean(axis=1) >= least]
        like = (int(n) for n in close if jaccard(sets[number], sets[n]) >= threshold)
        found.append(next(like, None))
        if found[-1] is None:
            for key in keys:
                buckets.setdefault(key, []).append(number)
    return found


def bands(signature: np.ndarray, rows: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of each band of a signature."""
    for band in range(len(signature) // rows):
        yield band, signature[band * rows : (band + 1) * rows].tobytes()
