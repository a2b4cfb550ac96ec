"""Quantized runs: written by the command, opened as any other, refused where weights are needed."""

import copy
import json
import shutil

import helpers
import pytest
import torch

import minigpt
from minigpt.commands import main
from minigpt.quantize import QuantConfig, quantize, quantized_bytes
from minigpt.runs.run import open_run
from minigpt.storyworld import World, story

IDX = torch.tensor([[1, 5, 9, 2, 7], [3, 3, 8, 0, 11]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDX)[0]


@pytest.fixture(scope="module")
def little():
    return minigpt.load("little", "cpu")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for bits, group in ((8, "row"), (4, 32)):
        words = ["quantize", "--checkpoint", "little", "--out", folder / f"int{bits}"]
        assert main([*map(str, words), "--bits", str(bits), "--group", str(group)]) == 0
    return folder


@pytest.mark.parametrize(("bits", "group"), [(8, "row"), (4, 32)])
def test_a_quantized_run_opens_as_any_other(quantized, little, bits, group):
    out = quantized / f"int{bits}"
    opened = minigpt.load(out, "cpu")
    config = QuantConfig(bits, group)
    expected = quantize(copy.deepcopy(little.model), config)
    assert torch.equal(logits(opened.model), logits(expected))
    (file,) = out.glob("checkpoints/*/model.safetensors")
    assert file.stat().st_size == pytest.approx(
        quantized_bytes(little.model.config, config), rel=0.05
    )
    told = json.loads((out / "quantized.json").read_text(encoding="utf-8"))
    assert told == {"format": 1, "bits": bits, "group": group, "source": "little"}
    asked = [{"role": "user", "content": "Tell me a story."}]
    assert opened.chat(asked, max_new_tokens=20, temperature=0.0)
    assert opened.run.step == little.run.step
    again = open_run(next(out.glob("checkpoints/*")), "cpu")
    assert torch.equal(logits(again.model), logits(expected))


def test_the_command_says_what_it_wrote(tmp_path, capsys):
    words = ["quantize", "--checkpoint", "little", "--out", tmp_path / "small", "--bits", "4"]
    code, out, _ = helpers.run(capsys, *words)
    assert code == 0
    assert "bits each" in out
    assert str(tmp_path / "small") in out
    assert "already there" in helpers.refused(capsys, *words)
    bad = ["quantize", "--checkpoint", "little", "--out", tmp_path / "b", "--group", "48"]
    assert "groups of 48" in helpers.refused(capsys, *bad)
    assert not (tmp_path / "b" / "checkpoints").exists()


def test_other_commands_take_a_quantized_run(quantized, capsys, tmp_path):
    story_file = helpers.write(tmp_path / "some.txt", story(70_001, World.little()).english)
    out = quantized / "int8"
    code, said, err = helpers.run(
        capsys, "evaluate", "--checkpoint", out, "--text", story_file, "--out", tmp_path / "e"
    )
    assert code == 0, err
    assert "perplexity" in said.lower()
    words = ["generate", "--checkpoint", out, "--prompt", "One", "--max-new-tokens", "5"]
    code, said, err = helpers.run(capsys, *words)
    assert code == 0, err
    assert said.startswith("One")


def test_what_needs_plain_weights_refuses_a_quantized_run(quantized, capsys, tmp_path):
    out = quantized / "int8"
    line = helpers.refused(capsys, "export", "--checkpoint", out, "--out", tmp_path / "x")
    assert "quantized" in line
    assert "made from" in line
    words = ["quantize", "--checkpoint", out, "--out", tmp_path / "y"]
    assert "quantized again" in helpers.refused(capsys, *words)
    lines = "".join(f'{{"prompt": "a{n}", "answer": "b"}}\n' for n in range(40))
    data = helpers.write(tmp_path / "d.jsonl", lines)
    words = ["finetune", "--checkpoint", out, "--data", data, "--out", tmp_path / "z"]
    words += ["--validation-fraction", "0.3"]
    assert "quantized" in helpers.refused(capsys, *words)
    words = ["train", "--data", "storyworld", "--out", out, "--resume"]
    line = helpers.refused(capsys, *words)
    assert "8 bits" in line
    assert "little" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ('{"format": 2, "bits": 8, "group": "row", "source": "x"}', "newer"),
        ('{"format": 1, "bits": 3, "group": "row", "source": "x"}', "settings"),
        ('{"format": 1, "bits": 8, "group": "row"}', "settings"),
    ],
)
def test_a_damaged_quantized_json_is_named(quantized, capsys, tmp_path, content, words):
    out = tmp_path / "copy"
    shutil.copytree(quantized / "int8", out)
    (out / "quantized.json").write_text(content, encoding="utf-8")
    line = helpers.refused(capsys, "generate", "--checkpoint", out)
    assert words in line
    assert "quantized.json" in line
