"""Token files: what is stored comes back, and all damage is named."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from helpers import EOT, token_file

from minigpt.batching import token_files as module
from minigpt.batching.token_files import HEADER_BYTES, TokenFile, open_tokens, write_tokens
from minigpt.support.errors import DataError
from minigpt.tokenizer import CharTokenizer


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


def test_every_mutation_is_detected(tmp_path):
    path = token_file(tmp_path, random.Random(0).choices(range(1000), k=360)).path
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
def test_damage_is_named(change, message, tmp_path):
    path = token_file(tmp_path, [1] * 50 + [2]).path
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        open_tokens(path)


def test_wrong_dtype_in_the_header(tmp_path):
    path = token_file(tmp_path, [1, 2, 3, 4]).path
    rewrite(path, dtype="<u4")
    with pytest.raises(DataError, match=r"520 bytes instead of 528"):
        open_tokens(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: No such file.*nothing\.bin.*make"):
        open_tokens(tmp_path / "nothing.bin")


def test_id_outside_the_vocabulary_is_not_written(tmp_path):
    for bad in (1000, -1):
        ids = list(range(500))
        ids[123] = bad
        with pytest.raises(DataError, match=rf"id {bad} in a vocabulary of 1000 — .*token 623 — "):
            write_tokens(tmp_path / "t.bin", [range(500), ids], 1000, EOT)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [0, 77, 199])
def test_id_outside_the_vocabulary_is_found_on_opening(place, tmp_path):
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


def test_another_tokenizer_is_named(tmp_path):
    one, other = CharTokenizer.train(["abc"]), CharTokenizer.train(["abd"])
    assert one.vocab_size == other.vocab_size
    file = write_tokens(tmp_path / "t.bin", [[1]], one.vocab_size, one.eot_id, one.fingerprint)
    file.check_tokenizer(one)
    expected = rf"{one.fingerprint[:12]}, not by {other.fingerprint[:12]}.*use the tokenizer\.json"
    with pytest.raises(DataError, match=expected):
        file.check_tokenizer(other)
