"""From text to token files: what the tokenizer says, both sides, little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.batching.prepare import document_ids, prepare
from minigpt.batching.token_files import open_tokens
from minigpt.batching.windows import EvalDocuments
from minigpt.data.corpus import read_documents
from minigpt.support.errors import DataError
from minigpt.tokenizer import BPETokenizer, CharTokenizer

EOT = 0


def test_prepare_writes_what_the_tokenizer_says(tmp_path):
    text = "Once upon a time, there was a cat.\n" * 300 + "The end of it all.\n" * 40
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    tokenizer = BPETokenizer.train([text], 300)
    shown = []
    prepared = prepare(
        tmp_path / "a.txt",
        tokenizer,
        tmp_path / "out",
        validation_fraction=0.05,
        on_progress=lambda done, total: shown.append((done, total)),
    )
    train, validation = prepared.train.tokens.tolist(), prepared.validation.tokens.tolist()
    assert train[-1] == validation[-1] == tokenizer.eot_id
    assert train[:-1] + validation[:-1] == tokenizer.encode(text)
    assert tokenizer.decode(validation[:-1]).endswith("The end of it all.\n")
    assert shown[-1] == (len(text), len(text))
    assert prepared.counts.characters == len(text)
    assert 0.9 < prepared.overlap < 1  # the same lines, but for one cut in two
    prepared.train.check_tokenizer(tokenizer)


def test_prepare_keeps_documents_whole(data_dir, tmp_path):
    tokenizer = CharTokenizer.train(read_documents(data_dir / "tang-poems", "paragraphs"))
    prepared = prepare(data_dir / "tang-poems", tokenizer, tmp_path, field="paragraphs")
    poems = []
    for file in (prepared.train, prepared.validation):
        text = tokenizer.decode(file.tokens)
        poems += text.removesuffix("<|endoftext|>").split("<|endoftext|>")
    assert sorted(poems) == sorted(read_documents(data_dir / "tang-poems", "paragraphs"))
    assert 150 < EvalDocuments(prepared.validation, 8, 5000).n_documents < 330
    assert prepared.overlap < 0.2


def test_prepare_encodes_long_texts_like_short_ones(data_dir, tmp_path, monkeypatch):
    path = data_dir / "alice" / "11-0.txt"
    (text,) = read_documents(path)
    tokenizer = BPETokenizer.train([text], 500)
    monkeypatch.setattr("minigpt.data.corpus.PIECE_BYTES", 4096)
    prepared = prepare(path, tokenizer, tmp_path)
    ids = [*prepared.train.tokens[:-1].tolist(), *prepared.validation.tokens[:-1].tolist()]
    assert ids == tokenizer.encode(text)


@pytest.mark.parametrize("text", ["x", "same text\n"])
def test_empty_side_is_refused_and_nothing_written(text, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps({"text": text}) + "\n") * (1 if text == "x" else 500), "utf-8")
    tokenizer = CharTokenizer.train([text])
    with pytest.raises(DataError, match=r"one side is empty — .*a\.jsonl — give more"):
        prepare(path, tokenizer, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bad_record_leaves_the_old_token_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some words\n" * 100, encoding="utf-8")
    tokenizer = CharTokenizer.train(["some words\n"])
    old = prepare(path, tokenizer, tmp_path / "out").train.sha256
    path.write_bytes(b"some words\n" * 100 + b"\xff")
    with pytest.raises(DataError, match=r"byte 1100"):
        prepare(path, tokenizer, tmp_path / "out")
    assert open_tokens(tmp_path / "out" / "train.bin").sha256 == old
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_document_ids_end_each_document(tmp_path):
    tokenizer = BPETokenizer.train(["one two three"], 280)
    documents = [f"one {n} two" for n in range(5000)]
    ids = list(document_ids(iter(documents), tokenizer))
    assert ids[7] == [*tokenizer.encode("one 7 two"), tokenizer.eot_id]
    assert [tokenizer.decode(row[:-1]) for row in ids] == documents
    endless = document_ids(("a" for _ in iter(int, 1)), tokenizer)  # needs no end
    assert next(endless) == [*tokenizer.encode("a"), tokenizer.eot_id]


MEMORY = """
import resource, sys
from pathlib import Path
from minigpt.batching.prepare import prepare
from minigpt.tokenizer import BPETokenizer
def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
small, big, out = map(Path, sys.argv[1:])
tokenizer = BPETokenizer.train(["some words and other words"], 300)
prepare(small, tokenizer, out)
before = peak()
prepare(big, tokenizer, out)
print((peak() - before) / 2**20)
"""


def prepare_in_new_process(folder: Path, repeats: int) -> float:
    """Prepare a text of 27 bytes x repeats in one line; return how many MiB it took."""
    small, big = folder / "small.txt", folder / "big.txt"
    small.write_bytes(b"some words and other words " * 100_000)
    with big.open("wb") as file:
        for _ in range(repeats // 100_000):
            file.write(b"some words and other words " * 100_000)
    command = [sys.executable, "-c", MEMORY, str(small), str(big), str(folder / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs the resource module")
def test_memory_does_not_grow_with_the_text(tmp_path):
    assert prepare_in_new_process(tmp_path, 400_000) < 30  # 11 MB of text, 24 MB of tokens


@pytest.mark.soak
@pytest.mark.skipif(os.name == "nt", reason="needs the resource module")
def test_memory_does_not_grow_with_100_MB_of_text(tmp_path):
    assert prepare_in_new_process(tmp_path, 4_000_000) < 300  # mapped tokens count, if read
