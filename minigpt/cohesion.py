"""Cut Chinese into words by counting: it has no spaces, and byte-pair encoding then joins phrases.

Plain byte-pair encoding joins what is frequent. In a Chinese text that is soon a verb with its
object, or a full stop with the name after it, and one thing then has many tokens: 雨伞 (umbrella)
is also part of 把雨伞 and of 带着雨伞. A model learns each of them by itself. Here two pieces are
joined only where the rarer one has the other beside it in a good part of its places, as 伞 has 雨.

Knows nothing of ids or files: counted chunks go in, counted pieces of them come out.

Source of the idea, cohesion of neighbors by counts: Sproat and Shih 1990, "A statistical method
for finding word boundaries in Chinese text".
"""

from collections import Counter

import regex

from minigpt.bpe import Pair, learn_merges

# Scripts without spaces. A chunk's other letters stay together, each other character is by itself.
SPACELESS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
OTHER = rf"(?:(?![{SPACELESS}])[\s\p{{L}}\p{{M}}\p{{N}}])+"
RUN = regex.compile(rf"[{SPACELESS}]+|{OTHER}|.", regex.DOTALL)
MANY = 1 << 40  # new ids: more than there can be merges


def cut_words(chunks: Counter[str], cohesion: float) -> Counter[str]:
    """Cut counted chunks into pieces that are words; chunks of ASCII stay whole.

    Letters of scripts without spaces are joined, the most frequent neighbors first, where these
    stand together in at least the share `cohesion` of the places of the rarer one. Nothing else is
    joined to them: punctuation stays by itself. A pair that was turned down stays apart.

    >>> chunks = Counter({"把雨伞": 2, "有雨伞": 1, "把灯笼": 2, "有灯笼": 1, " lamp": 1})
    >>> sorted(cut_words(chunks, 0.8).items())
    [(' lamp', 1), ('把', 4), ('有', 2), ('灯笼', 3), ('雨伞', 3)]
    """
    pieces: Counter[str] = Counter()
    runs: Counter[str] = Counter()  # of letters without spaces
    for chunk, count in chunks.items():
        for run in [chunk] if chunk.isascii() else RUN.findall(chunk):
            (runs if regex.match(f"[{SPACELESS}]", run) else pieces)[run] += count
    names = dict(enumerate(sorted(set("".join(runs)))))  # of each id: a character, later a piece
    ids = {name: number for number, name in names.items()}
    words = [[ids[character] for character in run] for run in runs]
    seen: Counter[int] = Counter()
    for word, count in zip(words, runs.values(), strict=True):
        for number in word:
            seen[number] += count

    def coheres(pair: Pair, count: int, new: int) -> bool:
        first, second = pair
        if count < cohesion * min(seen[first], seen[second]):
            return False
        names[new], seen[new] = names[first] + names[second], count
        seen[first] -= count
        seen[second] -= count
        return True

    learn_merges(words, list(runs.values()), range(len(names), MANY), coheres)
    for word, count in zip(words, runs.values(), strict=True):
        for number in word:
            pieces[names[number]] += count
    return pieces
