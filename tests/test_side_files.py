"""Files beside a run: written with a format, read back, refused in one line where they differ."""

import json

import pytest

from minigpt.quantize import QuantConfig
from minigpt.runs.side_files import read_side_file, write_side_file
from minigpt.support.errors import CheckpointError


def read(path):
    return read_side_file(path, lambda content: QuantConfig(**content), "a quantized run")


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "quantized.json"
    assert read(path) is None
    write_side_file(path, {"bits": 4, "group": 32})
    assert read(path) == QuantConfig(4, 32)
    assert json.loads(path.read_text(encoding="utf-8"))["format"] == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"format": 2, "bits": 8}', "written by a newer version"),
        ('{"bits": 8}', "not the settings of a quantized run: 'format'"),
        ("[]", "not the settings of a quantized run"),
        ('{"format": 1, "bytes": 8}', "not the settings of a quantized run"),
        ('{"format": 1, "bits": 5}', "not the settings of a quantized run: bits"),
    ],
)
def test_anything_else_is_refused_with_its_place(tmp_path, text, cause):
    path = tmp_path / "quantized.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert caught.value.what.startswith(cause)
    assert caught.value.where == str(path)
    assert path.read_text(encoding="utf-8") == text
