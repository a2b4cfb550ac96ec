"""Turn raw files into clean training and validation documents, and count what each step removes.

The steps: read, remove exact repeats, clean (Unicode form, line ends, control characters), remove
what has become equal or empty, remove near repeats, split so that nothing stands on both sides.

All documents are held in memory. A record (an object of a .jsonl, a row of a table) keeps all its
fields; a plain text becomes {"text": ...}.
"""

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from typing import Annotated, Any, Literal

import regex

from minigpt.data import splitting
from minigpt.data.corpus import HTML, Piece, check_documents, plain_documents
from minigpt.data.decoding import Errors, ReadCounts
from minigpt.data.dedup import exact_repeats, near_repeats
from minigpt.data.discovery import Word, find_files
from minigpt.data.formats import FORMATS, DataFile, ReadConfig, column_names, format_of
from minigpt.data.records import read_records, record_text
from minigpt.support.errors import ConfigError, DataError, require
from minigpt.support.settings import above, at_least, at_most, below, check_fields

CONTROL = regex.compile(r"[\p{Cc}\ufeff--[\n\t]]", regex.V1)
LINE_END = regex.compile(r"\r\n?|\u2028|\u0085")
PARAGRAPH_END = "\u2029"
GUTENBERG = regex.compile(r"(?m)^\*\*\* ?(START|END) OF (?:THE|THIS) PROJECT GUTENBERG.*\n?")
GUTENBERG_END = regex.compile(r"\n *End of (?:the )?Project Gutenberg[^\n]*\s*$")

Record = dict[str, Any]
Form = Literal["NFC", "NFKC", "none"]  # of Unicode


@dataclass(frozen=True)
class CleanConfig:
    """Say how documents are read, cleaned and split."""

    field: tuple[str, ...] = ("text",)
    """Where the document stands in each record (of a table without header line: the column's
    number); of several fields the first decides the split."""
    columns: tuple[str, ...] = ()
    """Names of a table's columns, where its first line does not give them."""
    format: str = "auto"
    """How to read the files: text, jsonl, json, csv, tsv; auto goes by their names."""
    separator: str = ""
    """What parts the documents of a plain text, such as '\\n\\n'; empty: a file is one document, or
    lines of <|endoftext|> part it."""
    encoding: str = ""
    """Encoding of the files, such as gb18030 or cp1252 (empty: UTF-8)."""
    errors: Errors = "strict"
    """What to do with bytes that are not UTF-8: stop, or put a replacement character."""
    skip_bad: bool = False
    """Leave out bad records, up to one in a hundred."""
    unicode: Form = "NFC"
    """Unicode form: NFC joins accents; NFKC also maps wide letters, ligatures and ½ to plain."""
    min_characters: Annotated[int, at_least(1)] = 1
    """Remove shorter documents."""
    near: Annotated[float, at_least(0), at_most(1)] = 0.8
    """Remove documents this much like an earlier one (Jaccard similarity); 0: keep them."""
    validation_fraction: Annotated[float, above(0), below(1)] = 0.1
    """Share of the documents that is kept for validation."""

    def __post_init__(self):
        check_fields(self)
        require(bool(self.field) and all(self.field), "field", self.field, "the name of a field")
        known = ("auto", *FORMATS)
        require(self.format in known, "format", self.format, f"one of {', '.join(known)}")
        require(self.near == 0 or self.near >= 0.3, "near", self.near, "0, or 0.3 to 1")


@dataclass(frozen=True)
class Step:
    """What one step left over."""

    name: str
    documents: int
    characters: int
    changed: int = 0  # documents that stayed, but not as they were


@dataclass(frozen=True)
class Cleaned:
    """The documents of both sides, and how they came about."""

    train: list[Record]
    validation: list[Record]
    steps: list[Step]
    counts: ReadCounts
    overlap: float  # share of validation characters in lines that training has too


def clean_files(
    data: Word | Sequence[Word],
    config: CleanConfig,
    watch: Callable[[list[Record]], Iterable[Record]] = iter,
) -> Cleaned:
    """Read and clean files, remove repeats, and split; raise DataError where nothing is left.

    `watch` wraps the records of the longest step, so that a caller can show its progress.
    """
    counts = ReadCounts()
    files = find_files(data, encoding=config.encoding, counts=counts)
    records = [record for file in files for record in input_records(file, config, counts)]
    steps = [measure("read", records, config)]
    records = without(records, exact_repeats(keys(records, config)))
    steps.append(measure("without exact repeats", records, config))
    cleaned = [clean_record(record, config.unicode) for record in records]
    changed = sum(old != new for old, new in zip(records, cleaned, strict=True))
    steps.append(measure("cleaned", cleaned, config, changed))
    lengths = (len(document(record, config).strip()) for record in cleaned)
    records = without(cleaned, [length < config.min_characters for length in lengths])
    steps.append(measure("without too short ones", records, config))
    records = without(records, exact_repeats(keys(records, config)))
    steps.append(measure("without repeats after cleaning", records, config))
    if config.near:
        texts = (document(record, config) for record in watch(records))
        records = without(records, near_repeats(texts, config.near))
        steps.append(measure("without near repeats", records, config))
    train, validation = split_records(records, config)
    if not train or not validation:
        raise DataError(
            f"{len(records)} documents are left: too few to train and to validate",
            ", ".join(file.place for file in files[:3]),
            "give more text, or part it into documents with --separator",
        )
    return Cleaned(train, validation, steps, counts, measure_overlap(train, validation, config))


def without(records: list[Record], removed: Sequence[object]) -> list[Record]:
    """Return the records whose mark is False or None."""
    return [
        record
        for record, mark in zip(records, removed, strict=True)
        if mark is None or mark is False
    ]


def measure(name: str, records: list[Record], config: CleanConfig, changed: int = 0) -> Step:
    """Count what is there after a step."""
    characters = sum(len(document(record, config)) for record in records)
    return Step(name, len(records), characters, changed)


# --- reading ---


def input_records(file: DataFile, config: CleanConfig, counts: ReadCounts) -> Iterator[Record]:
    """Yield the records of one file; raise DataError naming line and mistake."""
    if config.format != "auto":
        file = file._replace(format=config.format)
    check_documents(file)
    if format_of(file) == "text":
        separator = config.separator.replace("\\n", "\n").replace("\\t", "\t")
        whole = file._replace(separator="") if separator else file
        for text in whole_texts(plain_documents(whole, config.errors, counts)):
            parts = unify_lines(text).split(separator) if separator else [text]
            yield from ({"text": without_tags(part)} for part in parts if part.strip())
    else:
        columns = column_names(config.field, config.columns)
        reading = ReadConfig(config.field, columns, config.errors, config.skip_bad)
        check = partial(check_record, config=config, counts=counts)
        yield from read_records(file, reading, counts, check)


def whole_texts(pieces: Iterable[Piece]) -> Iterator[str]:
    """Join the pieces of each document."""
    held: list[str] = []
    for piece in pieces:
        held.append(piece.text)
        if piece.ends_document:
            yield "".join(held)
            held = []


def without_tags(text: str) -> str:
    """Return the text of an HTML page without its tags, scripts and styles; others as they are."""
    if not HTML.match(text):
        return text
    page = Page()
    page.feed(text)
    page.close()
    lines = (" ".join(line.split()) for line in "".join(page.parts).splitlines())
    return "\n".join(line for line in lines if line)


class Page(HTMLParser):
    """Collect what a reader of an HTML page sees."""

    HIDDEN = frozenset({"script", "style", "head", "template", "noscript"})
    INLINE = frozenset("a abbr b cite code em i mark q s small span strong sub sup u".split())  # noqa: SIM905

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in self.HIDDEN:
            self.hidden.append(tag)
        elif tag not in self.INLINE:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self.hidden and tag in self.hidden:
            del self.hidden[self.hidden.index(tag) :]
        elif tag not in self.INLINE:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(" ".join(data.split("\n")))


def check_record(record: object, where: str, config: CleanConfig, counts: ReadCounts) -> Record:
    """Return a record whose fields hold text; an empty text may stand in it."""
    row: Any = {"text": record} if isinstance(record, str) else record
    for name in config.field:
        value = row.get(name) if isinstance(row, dict) else None
        empty = isinstance(value, str) and not value.strip()
        if not empty:  # an empty one is counted and removed later
            record_text(row, name, where, config.errors, counts)
    return clean_surrogates(row)


# --- cleaning ---


def document(record: Record, config: CleanConfig) -> str:
    """Return the text of a record that is compared: its fields, one below the other."""
    for name in config.field:
        if name not in record:
            remedy = f"leave it out, or give one of {', '.join(map(str, record))}"
            raise ConfigError(f"no field {name!r} in what is read", "--field", remedy)
    return "\n".join(field_text(record[name]) for name in config.field)


def field_text(value: Any) -> str:
    """Return a text, or a list of texts joined by newlines."""
    return value if isinstance(value, str) else "\n".join(value)


def keys(records: list[Record], config: CleanConfig) -> Iterator[str]:
    """Yield the text by which each record counts as a repeat of another one."""
    return (document(record, config) for record in records)


def clean_record(value: Any, form: Form) -> Any:
    """Clean every text inside a record."""
    if isinstance(value, str):
        return clean_text(value, form)
    if isinstance(value, list):
        return [clean_record(item, form) for item in value]
    if isinstance(value, dict):
        return {key: clean_record(item, form) for key, item in value.items()}
    return value


def clean_surrogates(value: Any) -> Any:
    """Replace half characters, which no file can hold, inside a record."""
    if isinstance(value, str):
        return regex.sub(r"\p{Cs}", "\ufffd", value)
    if isinstance(value, list):
        return [clean_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {key: clean_surrogates(item) for key, item in value.items()}
    return value


def clean_text(text: str, form: Literal["NFC", "NFKC", "none"] = "NFC") -> str:
    """Return a text in one Unicode form, with LF line ends and without control characters.

    Spaces at line ends go, and so do blank lines at both ends, a byte-order mark anywhere, and
    what Project Gutenberg puts around a book. Tabs, joiners and emoji stay.

    >>> clean_text("cafe\\u0301 \\r\\n\\x00ok\\n")
    'café\\nok'
    """
    text = inside_gutenberg(unify_lines(text))
    text = CONTROL.sub("", text)
    text = unicodedata.normalize(form, text) if form != "none" else text
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def unify_lines(text: str) -> str:
    """Return a text whose lines all end in a line feed."""
    return LINE_END.sub("\n", text).replace(PARAGRAPH_END, "\n\n")


def inside_gutenberg(text: str) -> str:
    """Return what stands between Project Gutenberg's two marks, or all of it without them."""
    marks = list(GUTENBERG.finditer(text))
    if [mark[1] for mark in marks] != ["START", "END"]:
        return text
    return GUTENBERG_END.sub("", text[marks[0].end() : marks[1].start()])


# --- training and validation ---


def split_records(records: list[Record], config: CleanConfig) -> tuple[list[Record], list[Record]]:
    """Part the records into training and validation.

    Plain texts go by `splitting.split_documents`, which may cut one of few. Other records stay
    whole and are chosen by a hash of their first field: equal ones come to the same side.
    """
    plain = all(list(record) == ["text"] for record in records)
    texts = [field_text(record[config.field[0]]) for record in records]
    many = len(records) * config.validation_fraction >= splitting.MANY_DOCUMENTS
    sides: tuple[list[Record], list[Record]] = ([], [])
    if plain or many:
        counts = ReadCounts(len(texts), sum(map(len, texts)))
        pieces = (Piece(text, True) for text in texts)
        pairs = splitting.split_documents(pieces, counts, config.validation_fraction)
        for number, (piece, validates) in enumerate(pairs):
            sides[validates].append({"text": piece.text} if plain else records[number])
        return sides
    chosen = few_by_hash(texts, config.validation_fraction)
    for record, text in zip(records, texts, strict=True):
        sides[text in chosen].append(record)
    return sides


def few_by_hash(texts: list[str], fraction: float) -> set[str]:
    """Return the texts with the smallest hashes, `fraction` of them but at least one."""
    ranked = sorted(set(texts), key=splitting.hash64)
    return set(ranked[: max(1, round(fraction * len(ranked)))])


def measure_overlap(train: list[Record], validation: list[Record], config: CleanConfig) -> float:
    """Return the share of validation characters in lines that training has too."""
    overlap = splitting.Overlap()
    for record in validation:
        overlap.add_validation(document(record, config))
    for record in train:
        overlap.add_training(document(record, config))
    return overlap.share


def to_lines(records: list[Record]) -> str:
    """Return records as JSON Lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
