"""Splitting: whole documents, no overlap, the end of a long text."""

import pytest

from minigpt.bpe import split_chunks
from minigpt.data.corpus import Piece
from minigpt.data.decoding import ReadCounts
from minigpt.data.splitting import Overlap, split_by_position, split_documents
from minigpt.support.errors import ConfigError


def split(texts: list[str], fraction: float) -> tuple[list[str], list[str]]:
    pieces = [Piece(text, True) for text in texts]
    counts = ReadCounts(documents=len(texts), characters=sum(map(len, texts)))
    marked = list(split_documents(pieces, counts, fraction))
    assert all(piece.ends_document for piece, _ in marked)
    train = [piece.text for piece, is_validation in marked if not is_validation]
    return train, [piece.text for piece, is_validation in marked if is_validation]


@pytest.mark.slow
def test_many_documents_are_split_whole_and_without_duplicates():
    texts = [f"document {n % 1500}" for n in range(3000)]  # each stands twice
    train, validation = split(texts, 0.1)
    assert sorted(train + validation) == sorted(texts)
    assert set(train).isdisjoint(validation)
    assert 200 < len(validation) < 400
    assert set(split(texts[::-1], 0.1)[1]) == set(validation)  # the order does not matter


def test_a_long_document_is_never_split_between_the_sides():
    pieces = [Piece(f"{n} {part}", part == 2) for n in range(1000) for part in range(3)]
    counts = ReadCounts(documents=1000, characters=sum(len(piece.text) for piece in pieces))
    sides = [is_validation for _, is_validation in split_documents(pieces, counts, 0.2)]
    assert sides[0::3] == sides[1::3] == sides[2::3]
    assert 100 < sum(sides[0::3]) < 300


@pytest.mark.parametrize("documents", [1, 2, 7])
def test_a_long_text_gives_its_end_to_validation(documents):
    texts = [f"story {n}: " + "words and words " * 100 for n in range(documents)]
    train, validation = split(texts, 0.25)
    assert "".join(train + validation) == "".join(texts)
    share = len("".join(validation)) / len("".join(texts))
    assert 0.24 < share < 0.27
    assert split_chunks("".join(train)) + split_chunks("".join(validation)) == split_chunks(
        "".join(texts)
    )


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_impossible_fraction_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"validation fraction.*give one between 0 and 1"):
        split(["abc"], fraction)


def test_overlap_is_measured_by_lines():
    overlap = Overlap()
    overlap.add_validation("same line\n\nnew one..\n")
    overlap.add_training("same line \nsomething else\n")
    overlap.add_training("same line\n")
    assert overlap.share == 0.5
    assert Overlap().share == 0.0


def test_overlap_of_other_parts_and_weights():
    overlap = Overlap(parts=str.split, weigh=lambda word: 1)
    for text in ("a b", "a ccccc"):
        overlap.add_validation(text)
    overlap.add_training("a x")
    assert overlap.share == 0.5


@pytest.mark.parametrize("boundary", [4, 5, 6])
def test_training_ends_a_document_wherever_in_the_pieces_the_boundary_falls(boundary):
    """Also where a piece, but not its document, ends just there: else both sides would meet."""
    pieces = [Piece("a b.\n", False), Piece("c d.\n", True)]  # one document, read in two pieces
    marked = list(split_by_position(pieces, boundary))
    train = [piece for piece, is_validation in marked if not is_validation]
    validation = [piece for piece, is_validation in marked if is_validation]
    assert "".join(piece.text for piece in [*train, *validation]) == "a b.\nc d.\n"
    assert train[-1].ends_document
    assert validation[-1].ends_document
