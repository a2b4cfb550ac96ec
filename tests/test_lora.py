"""LoRA: a frozen model with thin matrices beside its own: in training, in files, and merged."""

import dataclasses

import pytest
import torch
from helpers import VARIANTS, random_model
from small_training import Source, make_config, make_model, same, weights

from minigpt.lora import (
    LoRAConfig,
    LoRALinear,
    add_lora,
    fingerprint_weights,
    is_adapted,
    merge,
    own_state,
)
from minigpt.runs.checkpoint import latest_checkpoint
from minigpt.support.errors import ConfigError
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
