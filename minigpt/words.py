"""Cut Chinese into words by counting: it has no spaces, and byte-pair encoding then joins phrases.

Plain byte-pair encoding joins what is frequent. In a Chinese text that is soon a verb with its
object, or a full stop with the name after it, and one thing then has many tokens: 雨伞 (umbrella)
is also part of 把雨伞 and of 带着雨伞. A model learns each of them by itself. Here two pieces are
joined only where the rarer one has the other beside it in a good part of its places, as 伞 has 雨.

Knows nothing of ids or files: counted chunks go in, counted pieces of them come out.

Source of the idea, cohesion of neighbours by counts: Sproat and Shih 1990, "A statistical method
for finding word boundaries in Chinese text".
"""

import heapq
from collections import Counter

from minigpt.bpe import index_pairs, merge_pair, pop_most_frequent


def cut_words(chunks: Counter[str], cohesion: float) -> Counter[str]:
    """Cut counted chunks into pieces that are words; chunks of ASCII stay whole.

    Letters of scripts without spaces are joined, the most frequent neighbours first, where these
    stand together in at least the share `cohesion` of the places of the rarer one. Nothing else is
    joined to them: punctuation stays by itself.

    >>> chunks = Counter({"把雨伞": 2, "有雨伞": 1, "把灯笼": 2, "有灯笼": 1, " lamp": 1})
    >>> sorted(cut_words(chunks, 0.8).items())
    [(' lamp', 1), ('把', 4), ('有', 2), ('灯笼', 3), ('雨伞', 3)]
    """
    pieces: Counter[str] = Counter()
    texts, counts = [], []
    for chunk, count in chunks.items():
        if chunk.isascii():
            pieces[chunk] += count
        else:
            texts.append(chunk)
            counts.append(count)
    names = sorted(set("".join(texts)))  # of each id: a character, later a piece
    ids = {name: number for number, name in enumerate(names)}
    words = [[ids[character] for character in text] for text in texts]
    join_neighbours(words, counts, names, cohesion)
    for word, count in zip(words, counts, strict=True):
        for number in word:
            pieces[names[number]] += count
    return pieces


def join_neighbours(
    words: list[list[int]], counts: list[int], names: list[str], cohesion: float
) -> None:
    """Join cohesive neighbours in the words, in place; `names` gets the new pieces.

    A pair that is turned down once, when it is the most frequent, stays apart.
    """
    seen: Counter[int] = Counter()
    for word, count in zip(words, counts, strict=True):
        for number in word:
            seen[number] += count
    pair_counts, pair_words = index_pairs(words, counts)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    while (pair := pop_most_frequent(heap, pair_counts)) is not None:
        first, second = pair
        rarer = min(seen[first], seen[second])
        if pair_counts[pair] < cohesion * rarer or not is_spaceless(names[first] + names[second]):
            continue
        new, touched = len(names), set()
        names.append(names[first] + names[second])
        for word in pair_words.pop(pair):
            before = len(words[word])
            words[word], gone, made = merge_pair(words[word], pair, new)
            joined = (before - len(words[word])) * counts[word]
            seen.update({first: -joined, new: joined})
            seen[second] -= joined
            for neighbours in gone:
                pair_counts[neighbours] -= counts[word]
            for neighbours in made:
                pair_counts[neighbours] += counts[word]
                pair_words[neighbours].add(word)
            touched.update(made)
        for neighbours in touched:
            if pair_counts[neighbours] > 0:
                heapq.heappush(heap, (-pair_counts[neighbours], neighbours))


def is_spaceless(text: str) -> bool:
    """Tell whether a text is of letters beyond ASCII alone."""
    return text.isalpha() and not any(character.isascii() for character in text)
