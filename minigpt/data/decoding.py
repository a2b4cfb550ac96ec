"""Turn the bytes of a user's file into text, and name the place of every byte that is wrong.

Bytes are decoded as UTF-8, or as the encoding that is given, and otherwise kept as they are: line
ends, NUL, Unicode form. Only a byte-order mark at the beginning goes. Knows nothing of formats.
"""

import codecs
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import regex

from minigpt.data.foreign import foreign_kind
from minigpt.support.errors import ConfigError, DataError

REPLACE = "replace invalid bytes with --errors replace, or save the file as UTF-8"
MOST_REPLACED = 0.01  # of a file's characters; more are another encoding, not damage
ALWAYS_REPLACED = 10  # characters, however short the file is
SAMPLE = 1 << 16  # bytes by which an encoding is guessed
VALID_UTF8 = regex.compile(
    rb"[\xc3-\xdf][\x80-\xbf]|[\xe1-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
SPELLED = regex.compile(r"<\|[a-z_]+\|>")  # how special tokens are written

Errors = Literal["strict", "replace"]
Line = tuple[str, str | DataError]  # a line's place, and its text or what is wrong with it


@dataclass
class ReadCounts:
    """What reading has met so far; pass one to a reader and look at it afterwards."""

    documents: int = 0
    characters: int = 0
    replaced: int = 0  # U+FFFD put in place of invalid bytes (errors="replace")
    skipped: int = 0  # bad records left out (skip_bad=True)
    spelled: int = 0  # places where a text spells a special token; they stay plain text
    layouts: Counter[str] = field(default_factory=Counter)  # how records were understood
    notes: Counter[str] = field(default_factory=Counter)  # what else a user should know, how often


def open_bytes(
    path: Path, place: str, encoding: str = "", errors: Errors = "strict"
) -> BufferedReader:
    """Open a file for reading, as UTF-8 whatever its encoding is.

    Raises DataError where it cannot be read, is no text, or is UTF-16 or UTF-32 and not said to be.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        remedy = "check the file and its rights"
        raise DataError(f"cannot be read: {error.strerror}", place, remedy) from None
    try:
        head = stream.peek(4096)[:4096]
        if kind := foreign_kind(path, head):
            raise DataError(kind.name, place, kind.remedy)
        if is_utf8(encoding):
            refuse_other_encodings(head, place)
            return stream
        return BufferedReader(Recoded(stream, encoding, errors, place))  # type: ignore[arg-type]
    except (DataError, ConfigError):
        stream.close()
        raise


def is_utf8(encoding: str) -> bool:
    """Tell whether a name means UTF-8; raise ConfigError where it means no encoding of texts."""
    try:
        info = codecs.lookup(encoding or "utf-8")
        "".encode(encoding or "utf-8")
    except (LookupError, ValueError):
        remedy = "give a name such as utf-16, gb18030, big5, shift_jis, cp1252 or latin-1"
        raise ConfigError(f"no encoding is called {encoding!r}", "--encoding", remedy) from None
    return info.name in ("utf-8", "utf-8-sig")


class Recoded(io.RawIOBase):
    """Read a file of another encoding as UTF-8, a part at a time."""

    def __init__(self, stream: BufferedReader, encoding: str, errors: Errors, place: str):
        self.stream, self.place, self.encoding = stream, place, encoding
        self.decoder = codecs.getincrementaldecoder(encoding)(errors)
        self.ready, self.offset, self.ended = b"", 0, False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.stream.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self.ready and not self.ended:
            raw = self.stream.read(SAMPLE)
            self.ended = not raw
            self.ready = self.decoded(raw).encode("utf-8", errors="surrogatepass")
            self.offset += len(raw)
        part, self.ready = self.ready[: len(buffer)], self.ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def decoded(self, raw: bytes) -> str:
        held = self.decoder.getstate()[0]  # bytes of a character that the last part cut in two
        try:
            return self.decoder.decode(raw, final=not raw)
        except UnicodeError as error:
            place = max(self.offset - len(held) + getattr(error, "start", 0), 0)
            what = f"no text in {self.encoding} ({getattr(error, 'reason', error)})"
            remedy = "give its true --encoding, or --errors replace"
            raise DataError(what, f"{self.place}, byte {place}", remedy) from None


def read_lines(
    path: Path, place: str, errors: Errors, counts: ReadCounts, encoding: str = ""
) -> Iterator[Line]:
    """Yield place and text of each line, its end included, or a DataError in place of the text.

    Only a line feed ends a line. One line is in memory at a time.
    """
    offset, check = 0, ReplacedCheck(path, place, counts)
    with open_bytes(path, place, encoding, errors) as stream:
        for number, raw in enumerate(stream, start=1):
            where = f"{place}, line {number}"
            try:
                text = decode_utf8(raw, errors, counts, where, offset)
                check.add(text)
                yield where, text.removeprefix("\ufeff") if number == 1 else text
            except DataError as error:
                yield where, with_encoding(error, path)
            offset += len(raw)
    check.finish()


class ReplacedCheck:
    """Refuse a file of which more than 1 % had to be replaced: it has another encoding."""

    def __init__(self, path: Path, place: str, counts: ReadCounts):
        self.path, self.place, self.counts = path, place, counts
        self.before, self.characters = counts.replaced, 0

    def add(self, text: str) -> None:
        """Count the characters of a text that was read."""
        self.characters += len(text)

    def finish(self) -> None:
        """Raise DataError where too many were replaced."""
        replaced = self.counts.replaced - self.before
        if replaced <= max(ALWAYS_REPLACED, MOST_REPLACED * self.characters):
            return
        what = f"{replaced:,} of {self.characters:,} characters are not UTF-8"
        name = likely_encoding(self.path)
        remedy = f"it looks like {name}: add --encoding {name}" if name else NAME_IT
        raise DataError(what, self.place, remedy)


NAME_IT = "name its encoding, such as --encoding cp1252"


def with_encoding(error: DataError, path: Path) -> DataError:
    """Add to an error about invalid UTF-8 which encoding the file seems to have."""
    name = likely_encoding(path) if error.what.startswith("invalid UTF-8") else ""
    if not name:
        return error
    return DataError(error.what, error.where, f"read it with --encoding {name}, or {REPLACE}")


def likely_encoding(path: Path) -> str:
    """Return the encoding that a file's beginning seems to have, or "" where it is unclear.

    Each is known by the bytes that its commonest letters have: level 1 of GB2312, kana of Shift
    JIS, Cyrillic letters of cp1251; what is left, with few high bytes, is Western.
    """
    with path.open("rb") as stream:
        raw = stream.read(SAMPLE)
    high = sum(byte >= 0x80 for byte in raw)
    broken = sum(byte >= 0x80 for byte in VALID_UTF8.sub(b"", raw))
    if broken < 4 or broken * 5 < high:
        return ""  # UTF-8 with some damage
    common = 2 * len(regex.findall(rb"[\xb0-\xd7][\xa1-\xfe]|[\xa1-\xa3][\xa1-\xfe]", raw))
    kana = 2 * len(regex.findall(rb"\x82[\x9f-\xf1]|\x83[\x40-\x96]", raw))
    cyrillic = sum(0xC0 <= byte for byte in raw)
    letters = len(regex.findall(rb"(?<=[A-Za-z])[\xc0-\xff\x91-\x97]|[\xc0-\xff](?=[a-z])", raw))
    if kana > 0.4 * high:
        return "shift_jis"
    if letters > 0.5 * high:
        return "cp1252"
    if cyrillic > 0.9 * high:
        return "cp1251"
    if common > 0.7 * high:
        return "gb18030"
    return "cp1252" if high * 5 < len(raw) else ""


def decode_utf8(raw: bytes, errors: Errors, counts: ReadCounts, where: str, offset: int = 0) -> str:
    """Decode UTF-8; raise DataError naming the byte, or replace and count what is invalid."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if errors == "replace":
            text = raw.decode("utf-8", errors="replace")
            counts.replaced += text.count("\ufffd") - raw.count("\ufffd".encode())
            return text
        what = f"invalid UTF-8: byte 0x{raw[error.start]:02X} ({error.reason})"
        raise DataError(what, f"{where}, byte {offset + error.start}", REPLACE) from None


def complete_length(raw: bytes) -> int:
    """Return how many bytes end with a complete character: b"a\\xe4\\xb8" -> 1."""
    for back in range(1, min(4, len(raw) + 1)):
        byte = raw[-back]
        if byte >= 0xC0:  # the first byte of a character of 2, 3 or 4 bytes
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(raw) - back if length > back else len(raw)
        if byte < 0x80:
            break
    return len(raw)


def refuse_other_encodings(raw: bytes, place: str) -> None:
    """Raise DataError for UTF-16 and UTF-32, recognized by their mark or by their zero bytes."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "UTF-32"),
        (codecs.BOM_UTF32_BE, "UTF-32"),
        (codecs.BOM_UTF16_LE, "UTF-16"),
        (codecs.BOM_UTF16_BE, "UTF-16"),
    ):
        if raw.startswith(mark):
            remedy = f"read it with --encoding {name.lower()}, or save the file as UTF-8"
            raise DataError(f"{name} text", f"{place}, byte 0", remedy)
    even, odd = raw[::2].count(0), raw[1::2].count(0)
    if min(even, odd) == 0 and max(even, odd) * 4 > len(raw):
        what = "UTF-16 text (every other byte is zero)"
        name = "utf-16-be" if even else "utf-16-le"
        remedy = f"read it with --encoding {name}, or save the file as UTF-8"
        raise DataError(what, f"{place}, byte 0", remedy)


def check_characters(text: str, where: str, errors: Errors, counts: ReadCounts) -> str:
    """Refuse a text without characters, and half surrogate pairs (or replace and count them)."""
    if not text.strip():
        raise DataError("empty text", where, "remove the record, or leave it out with --skip-bad")
    lone = len(regex.findall(r"\p{Cs}", text))
    if lone and errors == "strict":
        raise DataError(f"{lone} lone surrogates (half characters)", where, REPLACE)
    counts.replaced += lone
    return regex.sub(r"\p{Cs}", "\ufffd", text) if lone else text
