"""Safetensors files of strangers: every lie of a header is found before a number is read."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minigpt.support.errors import CheckpointError
from minigpt.support.tensor_files import LARGEST_HEADER, TensorFiles, read_header


def written(
    path: Path, header: dict | bytes, numbers: bytes = b"", length: int | None = None
) -> Path:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data) if length is None else length) + data + numbers)
    return path


def tensor(start: int = 0, end: int = 8, shape: tuple = (2,), dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def test_a_header_is_read(tmp_path):
    save_file({"a": torch.ones(2, 3), "b": torch.ones(5).half()}, tmp_path / "model.safetensors")
    header = read_header(tmp_path / "model.safetensors")
    assert (header["a"].shape, header["a"].dtype) == ((2, 3), "F32")
    assert header["b"].end - header["b"].start == 10
    files = TensorFiles(tmp_path)
    with files.reading() as tensors:
        assert torch.equal(tensors["b"], torch.ones(5))
        assert tensors["b"].dtype == torch.float32


@pytest.mark.parametrize(
    ("header", "numbers", "words"),
    [
        (b"[]", b"", "not a JSON object"),
        (b"{", b"", "not sound JSON"),
        (b"\xff\xfe", b"", "not sound JSON"),
        (b'{"a": {}, "a": {}}', b"", "'a' stands twice"),
        ({"a": 7}, b"", "nothing sound of 'a'"),
        ({"a": {"dtype": "F32"}}, b"", "nothing sound of 'a'"),
        ({"a": tensor(dtype="F8_E4M3")}, bytes(8), "has the type 'F8_E4M3'"),
        ({"a": tensor(dtype=["F32"])}, bytes(8), "nothing sound of 'a'"),
        ({"a": tensor(shape=(3,))}, bytes(8), "a shape that is not its size"),
        ({"a": tensor(shape=(-2,), end=-8)}, b"", "a shape that is not its size"),
        ({"a": tensor(shape=(2.0,))}, bytes(8), "a shape that is not its size"),
        ({"a": tensor(shape=(True, 2))}, bytes(8), "a shape that is not its size"),
        ({"a": tensor(shape=(1 << 60, 1 << 60))}, bytes(8), "a shape that is not its size"),
        ({"a": tensor(), "b": tensor()}, bytes(8), "overlap, or do not fill"),
        ({"a": tensor(), "b": tensor(12, 20)}, bytes(20), "overlap, or do not fill"),
        ({"a": tensor()}, bytes(12), "overlap, or do not fill"),
        ({"a": tensor()}, bytes(4), "overlap, or do not fill"),
        ({}, bytes(4), "overlap, or do not fill"),
    ],
)
def test_a_header_that_lies(tmp_path, header, numbers, words):
    path = written(tmp_path / "model.safetensors", header, numbers)
    with pytest.raises(CheckpointError) as error:
        read_header(path)
    assert words in str(error.value)
    assert str(error.value).count(" — ") == 2


def test_a_header_of_100_megabytes_is_not_read(tmp_path):
    path = written(tmp_path / "model.safetensors", b"{}", length=100_000_000)
    with pytest.raises(CheckpointError, match="claims 100,000,000 bytes, of 10 bytes"):
        read_header(path)
    os.truncate(path, 100_000_100)  # a file that is really so long: on the disk it takes nothing
    with pytest.raises(CheckpointError, match=f"claims 100,000,000 bytes, over {LARGEST_HEADER:,}"):
        read_header(path)


@pytest.mark.parametrize("data", [b"", b"\x02", struct.pack("<Q", 2**63)])
def test_a_file_that_is_too_short(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="its header claims"):
        read_header(tmp_path / "model.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a file"):
        read_header(tmp_path / "pipe")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_header(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        TensorFiles(tmp_path)
