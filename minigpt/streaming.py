"""Streaming: show text while its tokens arrive one by one.

Holds what turns ids into text without breaking a character, and what cuts text before a stop
string. Knows nothing of models.
"""

import codecs
from collections.abc import Collection

from minigpt.support.errors import ConfigError
from minigpt.tokenizer import Tokenizer


class TextStream:
    """Turn ids into text one by one, holding back a character until all its bytes are there.

    The pieces joined, `flush()` included, equal `tokenizer.decode(ids)`.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Return the text that is complete after this id; often a word, sometimes nothing."""
        # Bytes, not text: a token may end inside a character (most Chinese ones have 3 bytes).
        return self._decoder.decode(self.tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """Return what is still held back, as U+FFFD, and start anew."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class StopStrings:
    """Cut streamed text before the stop string that is complete first, whatever pieces arrive.

    Text that could still become a stop string is held back until more arrives.

    >>> stop = StopStrings(["END"])
    >>> stop.push("the E"), stop.push("N"), stop.push("D of it"), stop.found
    ('the ', '', '', True)
    """

    def __init__(self, strings: Collection[str]):
        if isinstance(strings, str) or not all(strings):
            raise ConfigError(
                f"stop strings {strings!r} are not possible",
                "--stop",
                "give a list of strings that are not empty",
            )
        self.strings = tuple(strings)
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take the next piece of text; return what is safe to show."""
        if self.found:
            return ""
        text = self.held + text
        places = [(text.find(string), string) for string in self.strings]
        # The one that is complete first wins, not the one that begins first: the result must not
        # depend on how the text was cut into pieces.
        ends = [(place + len(string), place) for place, string in places if place >= 0]
        self.found = bool(ends)
        safe = min(ends)[1] if ends else self.safe_length(text)
        self.held = "" if self.found else text[safe:]
        return text[:safe]

    def safe_length(self, text: str) -> int:
        """Return where the longest ending begins that is the beginning of a stop string."""
        longest = max(map(len, self.strings), default=1)
        for start in range(max(0, len(text) - longest + 1), len(text)):
            if any(string.startswith(text[start:]) for string in self.strings):
                return start
        return len(text)

    def flush(self) -> str:
        """Return what was held back, once no more text comes."""
        text, self.held = self.held, ""
        return text
