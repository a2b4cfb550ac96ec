"""Find test items that stand in a training text, whole or nearly: by the n-grams that they share.

Exact copies alone are found by `scoring.contamination`, from hashes; here a changed beginning, a
lost comma or another case hides nothing. A translation or a paraphrase does.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from minigpt.metrics import characters, language_of, rouge_words
from minigpt.support.errors import ConfigError

N = 13  # words of a run, as in GPT-3's report
FEWEST = 4  # units of an item; a shorter one stands everywhere by chance
LEAKED = 0.5  # from this share of its n-grams on an item counts as seen


def units(text: str) -> list[str]:
    """Cut a text into what is compared: words in lower case, of Chinese characters.

    >>> units("The kite, red."), units("红风筝。")
    (['the', 'kite', 'red'], ['红', '风', '筝'])
    """
    if language_of(text) == "en":
        return rouge_words(text)
    return [letter for letter in characters(text.lower()) if letter.isalnum()]


def overlaps(items: Sequence[str], training: Iterable[str], n: int = N) -> np.ndarray:
    """Return for each item (N,) the share of its n-grams that stand in the training texts.

    An item of fewer than n words is looked for as a whole; one of fewer than 4 is never found.
    Memory grows with the items, not with the training texts, which may be an iterator. Brown et
    al. 2020 (GPT-3), appendix C.

    >>> overlaps(["a b c d e", "v w x y z"], ["so: A, b c d f"], n=4).tolist()
    [0.5, 0.0]
    """
    if n < FEWEST:
        raise ConfigError(f"n = {n}", "contamination", f"give {FEWEST} or more words")
    owners: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for place, item in enumerate(items):
        for run in word_runs(units(item), n):
            owners[run].add(place)
    lengths = sorted({len(run) for run in owners})
    found: set[tuple[str, ...]] = set()
    for text in training:
        words = units(text)
        for length in lengths:
            found.update(
                run
                for start in range(len(words) - length + 1)
                if (run := tuple(words[start : start + length])) in owners
            )
    total, seen = np.zeros(len(items)), np.zeros(len(items))
    for run, places in owners.items():
        total[list(places)] += 1
        seen[list(places)] += run in found
    return np.divide(seen, total, out=np.zeros(len(items)), where=total > 0)


def word_runs(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    """Return the different runs of n words, or all words where they are fewer, but at least 4."""
    n = min(n, len(words))
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} if n >= FEWEST else ()
