"""Token files and batches: what is stored, what is refused, and which tokens a batch holds."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minigpt import batches as module
from minigpt.batches import (
    HEADER_BYTES,
    IGNORE,
    Documents,
    EvalDocuments,
    EvalWindows,
    TokenFile,
    Windows,
    document_ids,
    open_tokens,
    prepare,
    shard,
    write_tokens,
)
from minigpt.corpus import read_documents
from minigpt.errors import ConfigError, DataError
from minigpt.tokenizer import BPETokenizer, CharTokenizer

EOT = 0


def token_file(folder: Path, ids: list[int], vocab_size: int = 1000) -> TokenFile:
    return write_tokens(folder / "tokens.bin", [ids], vocab_size, EOT, "a" * 64)


def random_documents(count: int, longest: int = 9, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, 1000) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def join(documents: list[list[int]]) -> list[int]:
    return [token for document in documents for token in [*document, EOT]]


# --- token files ---


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1000, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_tokens_come_back(vocab_size, dtype, tmp_path):
    chunks = [[5, 6], [], [vocab_size - 1], np.arange(3, dtype=np.uint8)]
    written = write_tokens(tmp_path / "t.bin", chunks, vocab_size, 3, "f" * 64)
    file = open_tokens(tmp_path / "t.bin")
    assert file.tokens.tolist() == [5, 6, vocab_size - 1, 0, 1, 2]
    assert file.tokens.dtype == np.dtype(dtype)
    assert (file.vocab_size, file.eot_id, file.max_id) == (vocab_size, 3, vocab_size - 1)
    assert file.tokenizer_sha256 == "f" * 64
    assert len(file) == 6
    assert written.sha256 == file.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["t.bin"]


def test_an_interrupted_writer_leaves_the_old_file(tmp_path):
    old = token_file(tmp_path, [1, 2, 3]).sha256

    def chunks():
        yield [4, 5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "tokens.bin", chunks(), 9, 0)
    assert open_tokens(tmp_path / "tokens.bin").sha256 == old
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.bin"]


def meaning(file: TokenFile) -> tuple:
    facts = (file.vocab_size, file.eot_id, file.max_id, file.tokenizer_sha256, file.sha256)
    return (*facts, file.tokens.dtype.str, file.tokens.tolist())


def test_fault_A6_every_mutation_is_detected(tmp_path):
    path = token_file(tmp_path, join(random_documents(60))).path
    good, expected = path.read_bytes(), meaning(open_tokens(path))
    path = tmp_path / "mutated.bin"
    rng = random.Random(0)
    message = r"mutated\.bin.* — make the token file again"
    for n in range(1000):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = rng.randrange(HEADER_BYTES if n % 2 else len(data))
            data[place] ^= rng.randrange(1, 256)
        if n % 20 == 0:
            data = data[: rng.randrange(len(data))]
        if n % 20 == 1:
            data += rng.randbytes(rng.randint(1, 5))
        assert data != good
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            open_tokens(path)
    assert meaning(open_tokens(tmp_path / "tokens.bin")) == expected


def rewrite(path: Path, **changes: object) -> None:
    """Change header fields and renew the header's checksum, as a faulty program might."""
    import hashlib

    data = path.read_bytes()
    start = len(module.MAGIC) + 64
    fields = json.loads(data[start:HEADER_BYTES]) | changes
    text = json.dumps(fields).encode().ljust(HEADER_BYTES - start)
    digest = hashlib.sha256(text).hexdigest().encode()
    path.write_bytes(module.MAGIC + digest + text + data[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], r"613 bytes instead of 614.*make the token file again"),
        (lambda data: data + b"x", r"615 bytes instead of 614"),
        (lambda data: data[:-1] + b"\x03", r"changed since it was written \(SHA-256 differs\)"),
        (lambda data: b"x" + data[1:], r"not a token file of this version.*byte 0"),
        (lambda data: data[:14] + b" 9" + data[16:], r"not a token file of this version"),
        (lambda data: data[:100] + b"x" + data[101:], r"damaged header"),
        (lambda data: data[:20], r"damaged header"),
        (lambda data: b"", r"not a token file"),
    ],
)
def test_fault_A6_damage_is_named(change, message, tmp_path):
    path = token_file(tmp_path, [1] * 50 + [2]).path
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        open_tokens(path)


def test_fault_A6_wrong_dtype_in_the_header(tmp_path):
    path = token_file(tmp_path, [1, 2, 3, 4]).path
    rewrite(path, dtype="<u4")
    with pytest.raises(DataError, match=r"520 bytes instead of 528"):
        open_tokens(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: No such file.*nothing\.bin.*make"):
        open_tokens(tmp_path / "nothing.bin")


def test_fault_A7_id_outside_the_vocabulary_is_not_written(tmp_path):
    for bad in (1000, -1):
        ids = list(range(500))
        ids[123] = bad
        with pytest.raises(DataError, match=rf"id {bad} in a vocabulary of 1000 — .*token 623 — "):
            write_tokens(tmp_path / "t.bin", [range(500), ids], 1000, EOT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, 77, 199])
def test_fault_A7_id_outside_the_vocabulary_is_found_on_opening(place, tmp_path):
    ids = [5] * 200
    ids[place] = 999
    path = token_file(tmp_path, ids).path
    rewrite(path, vocab_size=999)
    with pytest.raises(
        DataError, match=r"id 999 in a vocabulary of 999.*make the token file again"
    ):
        open_tokens(path, verify=False)
    rewrite(path, vocab_size=999, max_id=5)  # a header that lies about its largest id
    with pytest.raises(DataError, match=r"id 999 in a vocabulary of 999"):
        open_tokens(path)


def test_fault_B16_another_tokenizer_is_named(tmp_path):
    one, other = CharTokenizer.train(["abc"]), CharTokenizer.train(["abd"])
    assert one.vocab_size == other.vocab_size
    file = write_tokens(tmp_path / "t.bin", [[1]], one.vocab_size, one.eot_id, one.fingerprint)
    file.check_tokenizer(one)
    expected = rf"{one.fingerprint[:12]}, not by {other.fingerprint[:12]}.*use the tokenizer\.json"
    with pytest.raises(DataError, match=expected):
        file.check_tokenizer(other)


# --- training batches ---


@pytest.mark.parametrize("kind", [Windows, Documents])
def test_batch_is_a_function_of_seed_and_step(kind, tmp_path):
    tokens = token_file(tmp_path, join(random_documents(50)))
    source = kind(tokens, batch_size=6, block_size=7, seed=1)
    idx, targets = source.batch(3)
    assert idx.shape == targets.shape == (6, 7)
    assert idx.dtype == targets.dtype == torch.int64
    assert torch.equal(idx[:, 1:], targets[:, :-1])
    source.batch(9)
    for again in (source, kind(tokens, 6, 7, 1)):
        assert torch.equal(again.batch(3)[0], idx)
        assert torch.equal(again.batch(3)[1], targets)
    assert not torch.equal(source.batch(4)[0], idx)
    assert not torch.equal(kind(tokens, 6, 7, 2).batch(3)[0], idx)


def test_windows_are_stretches_from_everywhere(tmp_path):
    tokens = token_file(tmp_path, list(range(40)))
    source = Windows(tokens, batch_size=8, block_size=5, seed=0)
    firsts = set()
    for step in range(100):
        idx, targets = source.batch(step)
        assert torch.equal(targets, idx + 1)
        assert torch.equal(idx, idx[:, :1] + torch.arange(5))
        firsts.update(idx[:, 0].tolist())
    assert firsts == set(range(35))


@pytest.mark.parametrize("block_size", [3, 20, 60])
def test_documents_begin_rows_and_run_on(block_size, tmp_path):
    documents = random_documents(20)
    ids = join(documents)
    tokens = token_file(tmp_path, ids)
    source = Documents(tokens, batch_size=8, block_size=block_size, seed=0)
    circle = [EOT, *ids, *ids]
    begins = {tuple(circle[n : n + block_size + 1]) for n in range(len(ids)) if circle[n] == EOT}
    seen = set()
    for step in range(60):
        idx, targets = source.batch(step)
        seen.update(tuple(row) for row in torch.cat([idx, targets[:, -1:]], dim=1).tolist())
    assert seen == begins


def test_documents_leave_out_empty_ones(tmp_path):
    tokens = token_file(tmp_path, [1, EOT, EOT, 2, 3, EOT, EOT])
    source = Documents(tokens, 50, 1, 0)
    assert set(source.batch(0)[1][:, 0].tolist()) == {1, 2}
    with pytest.raises(DataError, match=r"no documents.*give documents that are not empty"):
        Documents(token_file(tmp_path, [EOT, EOT]), 1, 1, 0)


@pytest.mark.parametrize("kind", [Documents, EvalDocuments])
def test_documents_need_their_ends(kind, tmp_path):
    arguments = (4, 3, 0) if kind is Documents else (4, 3)
    with pytest.raises(DataError, match=r"does not end with <\|endoftext\|>.*use windows"):
        kind(token_file(tmp_path, [1, EOT, 2, 3, 4]), *arguments)
    no_eot = write_tokens(tmp_path / "t.bin", [[1, 2, 3, 4]], 9, None)
    with pytest.raises(DataError, match=r"does not end with"):
        kind(no_eot, *arguments)


@pytest.mark.parametrize("kind", [Windows, Documents])
@pytest.mark.parametrize("count", [1, 8, 9, 10])
def test_fault_A2_too_few_tokens(kind, count, tmp_path):
    tokens = token_file(tmp_path, [7] * (count - 1) + [EOT])
    if count < 9:
        with pytest.raises(DataError, match=rf"{count} tokens.* 8 needs 9.*more text or a smaller"):
            kind(tokens, 2, 8, 0)
    else:
        assert kind(tokens, 2, 8, 0).batch(0)[0].shape == (2, 8)


def test_fault_A2_one_token_cannot_be_evaluated(tmp_path):
    with pytest.raises(DataError, match=r"1 tokens.*needs 2.*give more text"):
        EvalWindows(token_file(tmp_path, [1]), 2, 8)


def test_fault_A2_no_tokens_at_all(tmp_path):
    with pytest.raises(DataError, match=r"0 tokens.*give a text"):
        token_file(tmp_path, [])


@pytest.mark.parametrize("sizes", [(0, 4, 0), (4, 0, 0), (4, 4, -1)])
def test_impossible_sizes_are_refused(sizes, tmp_path):
    with pytest.raises(ConfigError, match=r"(batch_size|block_size|seed) -?\d.*give \d or more"):
        Windows(token_file(tmp_path, [1] * 20), *sizes)


def test_shards_are_disjoint_and_together_the_batch(tmp_path):
    batch = Windows(token_file(tmp_path, list(range(100))), 6, 5, 0).batch(0)
    parts = [shard(batch, rank, 3) for rank in range(3)]
    assert all(len(idx) == 2 for idx, _ in parts)
    for n in range(2):
        assert torch.equal(torch.cat([part[n] for part in parts]), batch[n])
    with pytest.raises(AssertionError):
        shard(batch, 0, 4)


# --- evaluation batches ---


@pytest.mark.parametrize("count", [2, 7, 8, 9, 15, 16, 49, 50, 101])
def test_every_token_is_predicted_exactly_once(count, tmp_path):
    batches = EvalWindows(token_file(tmp_path, list(range(count))), batch_size=3, block_size=7)
    predicted, n_batches = [], 0
    for idx, targets in batches:
        assert idx.shape == targets.shape
        assert idx.shape[1] == 7
        kept = targets != IGNORE
        assert torch.equal(idx[kept] + 1, targets[kept])
        predicted += targets[kept].tolist()
        n_batches += 1
    assert predicted == list(range(1, count))
    assert batches.n_targets == count - 1
    assert len(batches) == n_batches


@pytest.mark.parametrize("count", [1, 2, 23])
def test_every_document_is_evaluated_whole(count, tmp_path):
    documents = random_documents(count)
    batches = EvalDocuments(token_file(tmp_path, join(documents)), batch_size=4, block_size=10)
    seen, lengths = [], []
    for idx, targets in batches:
        assert idx.dtype == targets.dtype == torch.int64
        assert (targets[:, -1] != IGNORE).any(), "no longer than the longest row"
        for row, row_targets in zip(idx.tolist(), targets.tolist(), strict=True):
            length = sum(target != IGNORE for target in row_targets)
            assert row[0] == EOT
            assert row_targets[:length] == [*row[1:length], EOT]
            assert row_targets[length:] == [IGNORE] * (len(row) - length)
            seen.append(row[1:length])
            lengths.append(length)
    assert sorted(seen) == sorted(documents)
    assert lengths == sorted(lengths)
    assert batches.n_documents == count
    assert batches.n_targets == sum(len(document) + 1 for document in documents)
    assert len(batches) == -(-count // 4)


def test_document_longer_than_block_size_names_both(tmp_path):
    tokens = token_file(tmp_path, join([[1] * 3, [2] * 12, [3] * 5]))
    with pytest.raises(DataError, match=r"document of 13 tokens, but block_size is 12.*token 3 — "):
        EvalDocuments(tokens, 2, 12)
    assert EvalDocuments(tokens, 2, 13).n_documents == 3


# --- from text to token files ---


def test_prepare_writes_what_the_tokenizer_says(tmp_path):
    text = "Once upon a time, there was a cat.\n" * 300 + "The end of it all.\n" * 40
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    tokenizer = BPETokenizer.train([text], 300)
    shown = []
    prepared = prepare(
        tmp_path / "a.txt", tokenizer, tmp_path / "out", validation_fraction=0.05,
        on_progress=lambda done, total: shown.append((done, total)),
    )  # fmt: skip
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
    monkeypatch.setattr("minigpt.corpus.PIECE_BYTES", 4096)
    prepared = prepare(path, tokenizer, tmp_path)
    ids = [*prepared.train.tokens[:-1].tolist(), *prepared.validation.tokens[:-1].tolist()]
    assert ids == tokenizer.encode(text)


@pytest.mark.parametrize("text", ["x", "same text\n"])
def test_fault_A10_empty_side_is_refused_and_nothing_written(text, tmp_path):
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
from minigpt.batches import prepare
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
