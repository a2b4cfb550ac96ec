"""Reading the user's own text: what is kept, what is refused and how, and the split."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import write

from minigpt.bpe import GPT2_PATTERN, GPT4_PATTERN, PATTERN, split_chunks
from minigpt.data import corpus
from minigpt.data.corpus import Piece, read_documents, read_pieces, separated
from minigpt.data.decoding import ReadCounts
from minigpt.support.errors import ConfigError, DataError


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@pytest.fixture
def small_pieces(monkeypatch) -> int:
    monkeypatch.setattr(corpus, "PIECE_BYTES", 64)
    return 64


# --- what is read ---


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfabc\n", "abc\n"),
        (b"a\r\nb\nc\rd", "a\r\nb\nc\rd"),
        (b"a\x00b\x00\x00c", "a\x00b\x00\x00c"),
        (b"\x00" * 40, "\x00" * 40),
        ("e\u0301 \u00e9 \ufeff中🙂\u2028x".encode(), "e\u0301 \u00e9 \ufeff中🙂\u2028x"),
        (b" \n\n ", " \n\n "),
    ],
)
def test_marks_are_stripped_and_the_rest_is_kept(data, text, tmp_path):
    assert list(read_documents(write(tmp_path / "a.txt", data))) == [text]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.jsonl"])
def test_utf16_is_named(encoding, name, tmp_path):
    text = '[{"text": "hello"}]' if name.endswith("json") else '{"text": "hello"}'
    path = write(tmp_path / name, text.encode(encoding))
    with pytest.raises(DataError, match=rf"{encoding[:6].upper()} text.*{name}.*save.*UTF-8"):
        list(read_documents(path))


def test_json_lines_and_arrays(tmp_path):
    lines = write(
        tmp_path / "a.jsonl", "\ufeff" + jsonl({"text": "one"}, {"text": "中"}) + "\n\r\n"
    )
    array = write(tmp_path / "b.json", '\ufeff[{"lines": ["x", "y"]}, {"lines": "z"}]')
    assert list(read_documents(lines)) == ["one", "中"]
    assert list(read_documents(array, field="lines")) == ["x\ny", "z"]
    assert list(read_documents(write(tmp_path / "c.json", '["a", "b"]'))) == ["a", "b"]


def test_folder_is_read_in_order_without_other_files(tmp_path):
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a" / "x.md", "first")
    write(tmp_path / "c.jsonl", jsonl({"text": "third"}))
    write(tmp_path / "empty.txt", "")
    write(tmp_path / "picture.png", b"\xff\xff")
    assert list(read_documents(tmp_path)) == ["first", "second", "third"]


def test_real_files(data_dir):
    poems = list(read_documents(data_dir / "tang-poems", field="paragraphs"))
    assert len(poems) == 2366
    assert all("\n" in poem or len(poem) < 80 for poem in poems)
    alice = (data_dir / "alice" / "11-0.txt").read_bytes()
    assert alice.startswith(b"\xef\xbb\xbf")
    assert b"\r\n" in alice
    (text,) = read_documents(data_dir / "alice" / "11-0.txt")
    assert text.encode("utf-8") == alice[3:]


@pytest.mark.parametrize("unit", ["word and word ", "line\nline\n", "没有空格", "🙂", "a  \n  b"])
def test_pieces_join_to_the_document(unit, tmp_path, small_pieces):
    text = unit * 100
    pieces = list(read_pieces(write(tmp_path / "a.txt", text)))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert max(len(piece.text.encode("utf-8")) for piece in pieces) <= small_pieces
    assert len(pieces) > 10


@pytest.mark.parametrize("pattern", [PATTERN, GPT4_PATTERN, GPT2_PATTERN])
@pytest.mark.parametrize(
    "line",
    [
        "It's 42, isn't it?!  Yes...\r\n\r\n  No: é中文🙂\u00a0 done.\n\tEnd \n ",
        "词\n\n\n句。\n1234567\n\n",
    ],
)
@pytest.mark.parametrize("shift", range(8))
def test_no_chunk_of_the_tokenizer_is_cut(shift, line, pattern, tmp_path, small_pieces):
    text = "x" * shift + line * 80
    pieces = [piece.text for piece in read_pieces(write(tmp_path / "a.txt", text))]
    assert len(pieces) > 10
    whole = split_chunks(text, pattern)
    assert [c for piece in pieces for c in split_chunks(piece, pattern)] == whole


# --- faults ---


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_empty_file(name, tmp_path):
    with pytest.raises(DataError, match=rf"0 bytes — .*{name} — give a file with text"):
        list(read_documents(write(tmp_path / name, "")))


@pytest.mark.parametrize(
    ("name", "data"), [("a.txt", b"\xef\xbb\xbf"), ("a.jsonl", "\n\n"), ("a.json", "[]")]
)
def test_file_without_text(name, data, tmp_path):
    with pytest.raises(DataError, match=rf"no text — .*{name} — give a file or folder with text"):
        list(read_documents(write(tmp_path / name, data)))


def test_missing_path_and_folder_without_text(tmp_path):
    with pytest.raises(DataError, match=r"no such file or folder.* — .*nowhere — check the path"):
        list(read_documents(tmp_path / "nowhere"))
    write(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n\x00")
    with pytest.raises(DataError, match=r"no data files among 1 files \(found \.png\).*\.txt"):
        list(read_documents(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_file_that_cannot_be_read_is_named(name, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / name, "[]")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=rf"cannot be read: Permission denied — .*{name} — check"):
        list(read_documents(path))


@pytest.mark.parametrize("position", [0, 1, 31, 32, 33, 63, 200, 370])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_invalid_utf8_names_the_byte(position, bom, tmp_path, small_pieces):
    data = bytearray(bom + "ab é中🙂 ".encode() * 30)
    place = len(bom) + position
    while data[place] >= 0x80:  # put the bad byte in place of a letter
        place += 1
    data[place] = 0xFF
    path = write(tmp_path / "a.txt", bytes(data))
    with pytest.raises(DataError, match=rf"0xFF.*a\.txt, byte {place} — .*--errors replace"):
        list(read_pieces(path))
    counts = ReadCounts()
    text = "".join(piece.text for piece in read_pieces(path, errors="replace", counts=counts))
    assert text == bytes(data[len(bom) :]).decode("utf-8", errors="replace")
    assert counts.replaced == 1


def test_cut_character_at_the_end(tmp_path):
    path = write(tmp_path / "a.txt", "ab中".encode()[:-1])
    with pytest.raises(DataError, match=r"byte 2"):
        list(read_documents(path))
    assert list(read_documents(path, errors="replace")) == ["ab\ufffd"]


def test_replacement_characters_of_the_text_are_not_counted(tmp_path, small_pieces):
    data = ("\ufffd" * 50).encode("utf-8") + b"\xff" + ("x\ufffd" * 50).encode("utf-8") + b"\x80"
    counts = ReadCounts()
    list(read_pieces(write(tmp_path / "a.txt", data), errors="replace", counts=counts))
    assert counts.replaced == 2


def test_in_json_lines_names_line_and_byte(tmp_path):
    good = jsonl({"text": "é"})
    path = write(tmp_path / "a.jsonl", good.encode("utf-8") + b'{"text": "\xff"}\n')
    byte = len(good.encode("utf-8")) + 10
    with pytest.raises(
        DataError, match=rf"0xFF.*a\.jsonl, line 2, byte {byte} — .*--errors replace"
    ):
        list(read_documents(path))
    assert list(read_documents(path, errors="replace")) == ["é", "\ufffd"]


def test_unknown_errors_setting_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"errors='ignore'.*strict.*replace"):
        list(read_pieces(write(tmp_path / "a.txt", "a"), errors="ignore"))


MEMORY = """
import resource, sys
from pathlib import Path
from minigpt.data.corpus import PIECE_BYTES, read_pieces
def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
small, big = map(Path, sys.argv[1:])
sum(len(piece.text) for piece in read_pieces(small))
before = peak()
assert sum(len(piece.text) for piece in read_pieces(big)) == big.stat().st_size
print((peak() - before) / PIECE_BYTES)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs the resource module")
def test_a_line_of_200_MB_needs_three_pieces_of_memory(tmp_path):
    big = write(tmp_path / "big.txt", "x")
    with big.open("r+b") as file:
        file.truncate(200_000_000)  # sparse: zero bytes without a newline
    command = [sys.executable, "-c", MEMORY, str(write(tmp_path / "small.txt", "x")), str(big)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) <= 3


RECORDS = [
    ('{"text": "a"', r"bad JSON: .*line 2.*correct it"),
    ("[1]", r"a list where an object is expected.*line 2"),
    ("3", r"a number where an object.*line 2"),
    ("null", r"null where an object.*line 2"),
    ('{"title": "x", "texts": "y"}', r"no field 'text'; it has title, texts.*--field texts"),
    ("{}", r"no field 'text'; it has none.*line 2"),
    ('{"text": 3}', r"field 'text' holds a number, not a text.*line 2.*--field"),
    ('{"text": null}', r"field 'text' holds null"),
    ('{"text": ["a", 3]}', r"field 'text' holds a list"),
    ('{"text": ""}', r"empty text.*line 2.*--skip-bad"),
    ('{"text": "a\\ud800"}', r"lone surrogate.*line 2.*--errors replace"),
    ("[" * 100_000, r"bad JSON: .*line 2"),
]


@pytest.mark.parametrize(("line", "message"), RECORDS)
def test_bad_record_is_named(line, message, tmp_path):
    good = json.dumps({"text": "good"})
    path = write(tmp_path / "a.jsonl", f"{good}\n{line}\n{good}\n")
    with pytest.raises(DataError, match=message):
        list(read_documents(path))
    with pytest.raises(
        DataError, match=r"1 of 3 records are bad, more than 1%; the first: .*line 2"
    ):
        list(read_pieces(path, skip_bad=True))
    write(path, f"{good}\n" * 100 + f"{line}\n")
    counts = ReadCounts()
    assert len(list(read_pieces(path, skip_bad=True, counts=counts))) == 100
    assert counts.skipped == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": []}', r"an object where an array of objects is expected.*\.jsonl"),
        (
            '{"text": "a"}{"text": "b"}\n',
            r"Extra data.*line 1, column 14 — .*one value in e",
        ),
        ('[{"text": "a"},]', r"bad JSON: .*a\.json, line 1, column 1[56]"),
        (
            '[{"text": "a"}, {"body": "b"}]',
            r"no field 'text'; it has body — .*item 2 — .*--field body",
        ),
    ],
)
def test_bad_json_file_is_named(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        list(read_documents(write(tmp_path / "a.json", text)))


def test_missing_field_of_real_data_lists_the_fields_there(data_dir):
    with pytest.raises(DataError, match=r"it has author, paragraphs, title, id .*item 1 .*--field"):
        list(read_documents(data_dir / "tang-poems" / "poet.tang.0.json", field="text"))
    with pytest.raises(DataError, match=r"--field paragraphs"):
        list(read_documents(data_dir / "tang-poems" / "poet.tang.0.json", field="paragraph"))


def test_a_path_in_the_data_is_text(tmp_path):
    secret = write(tmp_path / "secret.txt", "secret")
    paths = ["../secret.txt", str(secret), f"file://{secret}"]
    path = write(tmp_path / "data" / "a.jsonl", jsonl(*({"text": name} for name in paths)))
    assert list(read_documents(path)) == paths


# --- records and tables as documents ---


@pytest.mark.parametrize(
    ("name", "data", "field", "documents"),
    [
        ("a.csv", 'id,text\n1,one\n2,"two\nlines"\n', "text", ["one", "two\nlines"]),
        ("a.csv", "text,body\nx,one\ny,two\n", "body", ["one", "two"]),
        ("a.csv", "text\rone\rtwo", "text", ["one", "two"]),
        ("a.tsv", 'x\t"one\r\ny\ttwo\r\n', "1", ['"one', "two"]),
    ],
)
def test_the_text_of_a_table_stands_in_a_column(name, data, field, documents, tmp_path):
    assert list(read_documents(write(tmp_path / name, data), field)) == documents


@pytest.mark.parametrize("field", ["text", "7"])
def test_a_missing_column_names_those_there(field, tmp_path):
    path = write(tmp_path / "a.tsv", "ham\thello\nspam\tbuy\n")
    there = "'ham', 'hello'" if field == "text" else "'0', '1'"
    expected = rf"no column '{field}'; .*{there} — .*a\.tsv, line 1 — .*--field.*number.*--field 1"
    with pytest.raises(DataError, match=expected):
        list(read_documents(path, field))


def test_bad_rows_are_named_or_left_out(tmp_path):
    rows = [*(f"{n}\ttext {n}" for n in range(200)), "200"]
    path = write(tmp_path / "a.tsv", "n\ttext\n" + "\n".join(rows))
    with pytest.raises(DataError, match=r"1 columns where 2 are expected.*line 202.*--skip-bad"):
        list(read_documents(path))
    counts = ReadCounts()
    assert len(list(read_pieces(path, skip_bad=True, counts=counts))) == 200
    assert (counts.skipped, counts.documents) == (1, 200)


def test_a_data_set_brings_its_fields_and_its_separator(data_dir):
    (first, *_) = read_documents("sms-spam")
    assert first.startswith("Go until jurong point")
    poems = list(read_documents("tang-poems"))
    assert sorted(poems) == sorted(read_documents(data_dir / "tang-poems", "paragraphs"))
    names = (data_dir / "names" / "names.txt").read_text("utf-8").split("\n")
    assert list(read_documents("names")) == [name for name in names if name]
    with pytest.raises(DataError, match=r"its form \(squad\) is not that of documents.*finetune"):
        list(read_documents("xquad"))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_documents_are_parted_wherever_the_pieces_end(size, monkeypatch):
    monkeypatch.setattr(corpus, "PIECE_BYTES", 8)
    text = "one two three four<|x|><|x|> \n<|x|>five<|x|>six and seven<|x|>"
    cuts = range(0, len(text), size)
    pieces = [Piece(text[at : at + size], at == cuts[-1]) for at in cuts]
    found = list(separated(pieces, "<|x|>"))
    joined = "".join(piece.text + "|" * piece.ends_document for piece in found)
    assert joined == "one two three four|five|six and seven|"
    assert size > 10 or len(found) > 3, "a long document comes in pieces"


TABLE_MEMORY = (
    MEMORY.replace("sum(len(piece.text) for piece in read_pieces(small))", "")
    .replace(
        "assert sum(len(piece.text) for piece in read_pieces(big)) == big.stat().st_size",
        "assert sum(1 for piece in read_pieces(big)) == 400_000",
    )
    .replace("before = peak()", "list(read_pieces(small)); before = peak()")
)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs the resource module")
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_long_table_needs_little_memory(suffix, tmp_path):
    row = '{"text": "some words"}\n' if suffix == ".jsonl" else "some words and more\n"
    head = "" if suffix == ".jsonl" else "text\n"
    small = write(tmp_path / f"small{suffix}", head + row)
    big = write(tmp_path / f"big{suffix}", head + row * 400_000)  # about 8 MB
    command = [sys.executable, "-c", TABLE_MEMORY, str(small), str(big)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) <= 3
