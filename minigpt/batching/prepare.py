"""Turn text into token files: read in pieces, split, encode, and say what the two sides share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt.batching.token_files import TokenFile, TokenWriter, open_tokens
from minigpt.data.corpus import Piece, read_pieces
from minigpt.data.decoding import Errors, ReadCounts
from minigpt.data.discovery import Word, find_files
from minigpt.data.splitting import Overlap, split_documents
from minigpt.support.errors import DataError
from minigpt.tokenizer import Tokenizer

GROUP = 1 << 20  # characters encoded at a time


@dataclass(frozen=True, eq=False)
class Prepared:
    """What `prepare` made: two token files, what was read, and how much the two share."""

    train: TokenFile
    validation: TokenFile
    counts: ReadCounts
    overlap: float  # share of validation text whose lines also stand in training


def prepare(
    data: Word | Sequence[Word],
    tokenizer: Tokenizer,
    out_dir: Path,
    *,
    field: str = "text",
    errors: Errors = "strict",
    skip_bad: bool = False,
    encoding: str = "",
    separator: str = "",
    validation_fraction: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Write the text of files, folders or data sets as out_dir/train.bin and out_dir/val.bin.

    <|endoftext|> follows each document. The text is read three times, never held whole: to check
    and count it, to encode it (`on_progress` gets characters done and in all), and to compare
    the two sides. Raises DataError where a side stays empty; nothing is then written.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    counts = ReadCounts()
    files = find_files(data, encoding=encoding, separator=separator, counts=counts)
    for _ in read_pieces(files, field, errors, skip_bad, counts):
        pass

    def read() -> Iterator[tuple[Piece, bool]]:
        pieces = read_pieces(files, field, errors, skip_bad)
        return split_documents(pieces, counts, validation_fraction)

    facts = (tokenizer.vocab_size, tokenizer.eot_id, tokenizer.fingerprint)
    overlap, done = Overlap(), 0
    with (
        TokenWriter(out_dir / "train.bin", *facts) as train,
        TokenWriter(out_dir / "val.bin", *facts) as validation,
    ):
        for piece, is_validation, ids in encode_pieces(read(), tokenizer):
            (validation if is_validation else train).write(ids)
            if is_validation:
                overlap.add_validation(piece.text)
            done += len(piece.text)
            if on_progress:
                on_progress(done, counts.characters)
        check_sides(train.count, validation.count, files[0].place)
    for piece, is_validation in read():
        if not is_validation:
            overlap.add_training(piece.text)
    return Prepared(
        train=open_tokens(out_dir / "train.bin"),
        validation=open_tokens(out_dir / "val.bin"),
        counts=counts,
        overlap=overlap.share,
    )


def encode_pieces(
    pieces: Iterable[tuple[Piece, bool]], tokenizer: Tokenizer
) -> Iterator[tuple[Piece, bool, list[int]]]:
    """Add each piece's ids, <|endoftext|> after a document.

    Pieces are encoded together, few at first, so that who wants little need not wait, then about
    a million characters at a time.
    """
    limit = 1 << 14
    pieces = iter(pieces)
    while group := take_characters(pieces, limit):
        texts = [piece.text for piece, _ in group]
        for (piece, is_validation), ids in zip(group, tokenizer.encode_batch(texts), strict=True):
            end = [tokenizer.eot_id] if piece.ends_document else []
            yield piece, is_validation, ids + end
        limit = min(2 * limit, GROUP)


def take_characters(pieces: Iterator[tuple[Piece, bool]], least: int) -> list[tuple[Piece, bool]]:
    """Take pieces until they have `least` characters together, or none is left."""
    group = []
    while least > 0 and (marked := next(pieces, None)) is not None:
        group.append(marked)
        least -= len(marked[0].text)
    return group


def document_ids(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Yield each document's ids with <|endoftext|> at the end, ready for `write_tokens`."""
    pieces = ((Piece(document, True), False) for document in documents)
    for _, _, ids in encode_pieces(pieces, tokenizer):
        yield ids


def check_sides(train: int, validation: int, place: str) -> None:
    """Raise DataError where training or validation got no tokens."""
    if train == 0 or validation == 0:
        raise DataError(
            f"{train} training and {validation} validation tokens: one side is empty",
            place,
            "give more (or more varied) text, or another --validation-fraction",
        )
