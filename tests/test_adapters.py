"""Adapters as runs: thin matrices in files, opened with their base, moved, damaged."""

import json
import shutil

import pytest
import torch
from small_training import Source, make_config, make_model

import minigpt
from minigpt.lora import (
    LoRAConfig,
    is_adapted,
    own_state,
)
from minigpt.runs.adapters import FILE, begin_adapter, read_adapter
from minigpt.runs.run import RunConfig, open_run, save_config
from minigpt.support.errors import CheckpointError
from minigpt.tokenizer import CharTokenizer
from minigpt.train import train

IDX = torch.tensor([[1, 5, 9, 2, 7], [3, 3, 8, 0, 11]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDX)[0]


# --- files ---


TOKENIZER = CharTokenizer.train(["abcdefghijklmnop"])


@pytest.fixture
def base(tmp_path):
    """A run with a model of its own, as `train` leaves it."""
    return save_run(tmp_path / "base", make_model(vocab_size=TOKENIZER.vocab_size))


def save_run(folder, model, config=None):
    folder.mkdir(exist_ok=True)
    config = config or make_config(max_steps=2, optimizer="adamw")
    save_config(folder, RunConfig(model=model.config, training=config))
    TOKENIZER.save(folder / "tokenizer.json")
    facts = {"tokenizer_sha256": TOKENIZER.fingerprint}
    train(model, Small(), config, folder, manifest=facts)
    return folder


class Small(Source):
    def batch(self, step):
        idx, targets = super().batch(step)
        return idx % TOKENIZER.vocab_size, targets % TOKENIZER.vocab_size


@pytest.fixture
def adapter(base):
    """A run beside it that trained thin matrices alone; and the model as it was trained."""
    folder = base.parent / "adapter"
    model = begin_adapter(open_run(base).model.train(), LoRAConfig(rank=2), base, folder)
    save_run(folder, model, make_config(max_steps=8, optimizer="adamw", learning_rate=0.05))
    return folder, model


def test_a_run_of_an_adapter_opens_as_a_plain_model(adapter):
    folder, model = adapter
    run = open_run(folder)
    assert not is_adapted(run.model)
    assert torch.allclose(logits(run.model), logits(model), atol=1e-5)
    assert not torch.allclose(logits(run.model), logits(open_run(folder.parent / "base").model))
    assert minigpt.load(folder).write("abc", max_new_tokens=3).startswith("abc")
    checkpoints = folder / "checkpoints"
    one = next(iter(sorted(checkpoints.iterdir())))
    assert torch.equal(logits(open_run(one).model), logits(open_run(one).model))


def test_base_and_adapter_can_be_moved_together_and_the_adapter_is_small(adapter, tmp_path):
    folder, model = adapter
    before = logits(open_run(folder).model)
    for name in ("base", "adapter"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    assert torch.equal(logits(open_run(tmp_path / "elsewhere" / "adapter").model), before)
    place = read_adapter(tmp_path / "elsewhere" / "adapter")
    assert place.base == "../base"
    numbers = sum(weight.numel() for weight in own_state(model).values())
    files = (tmp_path / "elsewhere" / "adapter" / "checkpoints").rglob("model.safetensors")
    assert all(4 * numbers < file.stat().st_size < 4 * numbers + 10_000 for file in files)


def test_two_adapters_share_a_base(adapter):
    folder, _ = adapter
    base = folder.parent / "base"
    other = folder.parent / "other"
    model = begin_adapter(open_run(base).model.train(), LoRAConfig(rank=1), base, other)
    save_run(other, model, make_config(max_steps=4, optimizer="adamw", seed=7))
    assert not torch.allclose(logits(open_run(other).model), logits(open_run(folder).model))


def test_another_base_is_refused(adapter):
    folder, _ = adapter
    shutil.rmtree(folder.parent / "base")
    torch.manual_seed(99)
    save_run(folder.parent / "base", make_model(vocab_size=TOKENIZER.vocab_size), make_config())
    with pytest.raises(CheckpointError, match="other weights than those of"):
        open_run(folder)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "not JSON"),
        ("[]", "not the settings of an adapter"),
        ('{"format": 2}', "newer version"),
        ('{"format": 1, "lora": {"rank": 0}, "base": "", "base_sha256": ""}', "rank"),
        ('{"format": 1, "lora": {"rank": 2}}', "not the settings of an adapter"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(adapter, text, cause):
    folder, _ = adapter
    (folder / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=cause) as error:
        open_run(folder)
    assert "\n" not in str(error.value)


def test_thin_matrices_of_another_rank_do_not_fit(adapter):
    folder, _ = adapter
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    content["lora"]["rank"] = 3
    (folder / FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="do not fit"):
        open_run(folder)
