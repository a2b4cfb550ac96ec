"""LoRA: a frozen model with thin matrices beside its own: in training, in files, and merged."""

import dataclasses
import json
import shutil

import pytest
import torch
from helpers import VARIANTS, random_model
from small_training import Source, make_config, make_model, same, weights

import minigpt
from minigpt.lora import (
    LoRAConfig,
    LoRALinear,
    add_lora,
    fingerprint_weights,
    is_adapted,
    merge,
    own_state,
)
from minigpt.runs.adapters import FILE, begin_adapter, read_adapter
from minigpt.runs.checkpoint import latest_checkpoint
from minigpt.runs.run import RunConfig, open_run, save_config
from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.tokenizer import CharTokenizer
from minigpt.train import train

IDX = torch.tensor([[1, 5, 9, 2, 7], [3, 3, 8, 0, 11]])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDX)[0]


def trained(model, scale: float = 0.3):
    """Give every thin matrix numbers, as training would."""
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_an_adapted_model_begins_as_it_was_and_merges_to_what_it_became(options):
    model = random_model(**options)
    before = logits(model)
    add_lora(model, LoRAConfig(rank=3, alpha=5.0))
    assert torch.equal(logits(model), before), "B begins at 0"
    after = logits(trained(model))
    assert not torch.allclose(after, before, atol=1e-2)
    merge(model)
    assert not is_adapted(model)
    assert torch.allclose(logits(model), after, atol=1e-5)
    assert all(p.requires_grad for p in model.parameters())


def test_the_change_is_alpha_over_rank_times_b_a():
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 3)
    layer = trained(LoRALinear(linear, rank=2, alpha=7.0))
    x = torch.randn(4, 5)
    by_hand = x @ (linear.weight + 7 / 2 * layer.lora_b @ layer.lora_a).T + linear.bias
    assert torch.allclose(layer(x), by_hand, atol=1e-6)
    assert torch.allclose(layer.merged()(x), by_hand, atol=1e-6)


@pytest.mark.parametrize(
    ("matrices", "kinds"),
    [
        ("attention", {"query", "key", "value", "output"}),
        ("mlp", {"gate", "up", "down"}),
        ("all", {"query", "key", "value", "output", "gate", "up", "down"}),
    ],
)
def test_the_chosen_matrices_are_changed_and_nothing_else_is_trained(matrices, kinds):
    model = add_lora(make_model(), LoRAConfig(rank=2, matrices=matrices))
    learns = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".")[-2] for name in learns} == kinds
    assert all("lora_" in name for name in learns)
    assert own_state(model).keys() == set(learns)


def test_the_count_of_what_is_trained():
    """Rank times (inputs + outputs) for each matrix."""
    model = add_lora(make_model(), LoRAConfig(rank=2))
    c = model.config
    C, hidden = c.n_embd, c.n_hidden
    by_hand = c.n_layer * 2 * (4 * (C + C) + 3 * (C + hidden))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == by_hand


def test_the_embedding_is_trained_where_it_is_asked_for():
    model = add_lora(make_model(tie_embeddings=True), LoRAConfig(train_embedding=True))
    assert model.embedding.weight.requires_grad
    assert {"embedding.weight", "head.weight"} <= own_state(model).keys()


def test_a_second_change_on_top_is_refused():
    model = add_lora(make_model(), LoRAConfig())
    with pytest.raises(ConfigError, match="already"):
        add_lora(model, LoRAConfig())


def test_changes_that_are_no_change_are_refused():
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"matrices": "head"}):
        with pytest.raises(ConfigError):
            LoRAConfig(**wrong)


def test_full_rank_reaches_any_change():
    """With as many directions as the matrix has, a change of it can be written as B A exactly."""
    torch.manual_seed(0)
    linear, wanted = torch.nn.Linear(4, 3, bias=False), torch.randn(3, 4)
    layer = LoRALinear(linear, rank=3, alpha=3.0)
    with torch.no_grad():
        layer.lora_b.copy_(torch.eye(3))
        layer.lora_a.copy_(wanted - linear.weight)
    assert torch.allclose(layer.merged().weight, wanted, atol=1e-6)


def test_it_equals_peft():
    peft = pytest.importorskip("peft")
    ours, theirs = random_model(), random_model()
    add_lora(ours, LoRAConfig(rank=3, alpha=5.0, matrices="attention"))
    trained(ours)
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["query", "key", "value", "output"], lora_dropout=0.0
    )
    peft.inject_adapter_in_model(config, theirs)
    state = theirs.state_dict()
    for name, weight in own_state(ours).items():
        layer, _, which = name.rpartition(".")
        key = f"{layer}.{'lora_A' if which == 'lora_a' else 'lora_B'}.default.weight"
        assert state[key].shape == weight.shape
        state[key].copy_(weight)
    assert torch.allclose(logits(ours), logits(theirs), atol=1e-5)


# --- training ---


def adapted(**options):
    return add_lora(make_model(), LoRAConfig(rank=2, **options))


def test_training_changes_the_thin_matrices_alone_and_learns(tmp_path):
    model = adapted()
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    begun = own_state(model)
    begun = {name: weight.clone() for name, weight in begun.items()}

    class Same(Source):
        def batch(self, step):
            return super().batch(0)

    rows = []
    config = make_config(optimizer="adamw", learning_rate=0.05, max_steps=20)
    train(model, Same(), config, tmp_path, on_log=rows.append)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], weight) for name, weight in frozen.items())
    assert all(not torch.equal(now[name], weight) for name, weight in begun.items())


@pytest.mark.parametrize("embedding", [False, True])
def test_a_checkpoint_holds_the_adapter_alone_and_resumes_bit_for_bit(tmp_path, embedding):
    config = make_config(optimizer="adamw")
    whole, halves = adapted(train_embedding=embedding), adapted(train_embedding=embedding)
    train(whole, Source(), config, tmp_path / "whole")
    halfway = dataclasses.replace(config, max_steps=3, schedule="constant")
    config = dataclasses.replace(config, schedule="constant")
    whole = adapted(train_embedding=embedding)
    train(whole, Source(), config, tmp_path / "constant")
    train(halves, Source(), halfway, tmp_path / "halves")
    checkpoint = latest_checkpoint(tmp_path / "halves", with_optimizer=True)
    assert checkpoint.model.keys() == own_state(halves).keys()
    assert ("embedding.weight" in checkpoint.model) == embedding
    assert all(name.rpartition(".")[0] in checkpoint.model for name in checkpoint.optimizer)
    again = adapted(train_embedding=embedding)
    train(again, Source(), config, tmp_path / "halves", resume=True)
    assert same(weights(again), weights(whole))


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


def test_the_fingerprint_knows_names_shapes_and_every_number():
    state = {"a": torch.ones(2, 3), "b": torch.zeros(1)}
    first = fingerprint_weights(state)
    assert first == fingerprint_weights(dict(reversed(state.items())))
    for other in (
        {"a": torch.ones(3, 2), "b": torch.zeros(1)},
        {"c": torch.ones(2, 3), "b": torch.zeros(1)},
        {"a": torch.ones(2, 3), "b": torch.full((1,), 1e-30)},
    ):
        assert fingerprint_weights(other) != first
