"""Tensors of a checkpoint have one form however they are collected; changed settings are named."""

import pytest
import torch

from minigpt.gpt import GPT, GPTConfig
from minigpt.recipe import TrainConfig, make_optimizers
from minigpt.runs.checkpoint import Checkpoint, save_checkpoint
from minigpt.runs.resume import (
    Metrics,
    check_unchanged,
    collect_tensors,
    expected_state,
    gather_tensors,
    restore_tensors,
    scatter_tensors,
    trained_parameters,
)
from minigpt.support.errors import CheckpointError, ConfigError

FORMS = [{}, {"tie_embeddings": False}, {"norm": "layer", "mlp": "gelu", "biases": True}]


def trained(optimizer: str = "muon", seed: int = 1, **options):
    """Return a small model that took two steps, and its optimizers."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 17, "block_size": 7, "n_layer": 2, "n_head": 2, "n_embd": 12}
    model = GPT(GPTConfig(**shape | options))
    optimizers = make_optimizers(model, TrainConfig(optimizer=optimizer, max_steps=5))
    for _ in range(2):
        idx = torch.randint(0, 17, (3, 7))
        model.zero_grad(set_to_none=True)
        model(idx, idx)[1].backward()
        for each in optimizers:
            each.step()
    model.zero_grad(set_to_none=True)
    return model, optimizers


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_one_process_collects_plainly_what_torch_would_gather(optimizer, options):
    model, optimizers = trained(optimizer, **options)
    for plain, gathered in zip(
        collect_tensors(model, optimizers), gather_tensors(model, optimizers), strict=True
    ):
        assert len(plain) > 10
        assert_same(plain, gathered)


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_tensors_come_back_to_the_last_bit_in_another_model(tmp_path, optimizer, options):
    model, optimizers = trained(optimizer, **options)
    expected = collect_tensors(model, optimizers)
    path = save_checkpoint(tmp_path, 2, *expected, {})
    other, others = trained(optimizer, seed=2, **options)
    restore_tensors(loaded(path), other, others)
    for found, wanted in zip(collect_tensors(other, others), expected, strict=True):
        assert_same(found, wanted)


def loaded(path) -> Checkpoint:
    from minigpt.runs.checkpoint import from_json, read_manifest, read_tensors

    manifest = read_manifest(path)
    state = from_json((path / "state.json").read_bytes(), path)
    return Checkpoint(2, read_tensors(path / "model.safetensors", manifest), state, manifest, path)


def test_every_optimizer_state_is_expected_by_name_and_shape():
    for kind in ("muon", "adamw"):
        model, optimizers = trained(kind)
        expected = expected_state(list(trained_parameters(model, optimizers)))
        found = collect_tensors(model, optimizers)[1]
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("restore", [restore_tensors, scatter_tensors])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"n_layer": 1}, "blocks.1.attention.* is missing in the model and"),
        ({"n_embd": 8}, r"is \(8, 8\) in the model and \(12, 12\) in the checkpoint"),
    ],
)
def test_weights_of_another_shape_are_named(tmp_path, restore, options, named):
    model, optimizers = trained()
    path = save_checkpoint(tmp_path, 2, *collect_tensors(model, optimizers), {})
    with pytest.raises(CheckpointError, match=named):
        restore(loaded(path), *trained(**options))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("norm.weight.exp_avg"), "missing in the checkpoint"),
        (lambda state: state.update({"norm.weight.exp_avg": torch.ones(5)}), r"\(5,\) in the che"),
        (lambda state: state.update({"other": torch.ones(5)}), "other is missing in the model"),
    ],
)
def test_an_optimizer_state_that_does_not_fit_is_named(tmp_path, change, named):
    model, optimizers = trained()
    weights, state = collect_tensors(model, optimizers)
    change(state)
    path = save_checkpoint(tmp_path, 2, weights, state, {})
    with pytest.raises(CheckpointError, match=named):
        restore_tensors(loaded(path), model, optimizers)


# ---- settings


def test_changed_settings_are_listed_with_both_values_and_free_ones_are_not():
    before = {"steps": 5, "model": {"n_layer": 2, "mlp": "gelu"}, "ids": (1, 2)}
    now = {"steps": 9, "model": {"n_layer": 3, "mlp": "gelu"}, "ids": [1, 2]}
    with pytest.raises(ConfigError) as caught:
        check_unchanged(before, now, {"steps"}, "runs/my")
    assert "changed since the checkpoint: model.n_layer 2 -> 3 — runs/my" in str(caught.value)
    check_unchanged(before, now | {"model": before["model"]}, {"steps"}, "runs/my")


def test_a_setting_that_the_checkpoint_lacks_must_have_its_usual_value():
    usual = {"noise": 0.0, "model": {"gate": "none", "n_layer": 4}}
    before = {"seed": 1, "model": {"n_layer": 2}}
    now = {"seed": 1, "noise": 0.0, "model": {"gate": "none", "n_layer": 2}}
    check_unchanged(before, now, set(), "x", usual)
    for changed, named in (
        (now | {"noise": 0.5}, "noise 0.0 -> 0.5"),
        (now | {"model": {"gate": "sigmoid", "n_layer": 2}}, "model.gate 'none' -> 'sigmoid'"),
        (now | {"model": {"gate": "none", "n_layer": 4}}, "model.n_layer 2 -> 4"),
        (now | {"fact": "abc"}, "fact 'not set' -> 'abc'"),  # no value is usual for it
    ):
        with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
            check_unchanged(before, changed, set(), "x", usual)


def test_a_setting_that_only_the_checkpoint_has_counts_as_changed():
    with pytest.raises(ConfigError, match=r"noise 0\.5 -> 'not set'"):
        check_unchanged({"noise": 0.5}, {}, set(), "x")


def test_a_metrics_file_of_someone_else_is_never_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for foreign in ('{"accuracy": 0.9}\n', "my notes\n", '{"step": "one"}\n[1]\n'):
        path.write_text(foreign, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"no training wrote.*metrics\.jsonl.*move it away"):
            Metrics(path, 0, None)
        assert path.read_text(encoding="utf-8") == foreign
    path.write_text('{"step": 1, "lo', encoding="utf-8")  # torn: a crash in the very first row
    with Metrics(path, 0, None) as metrics:
        metrics.write({"step": 1, "loss": 2.0})
    with Metrics(path, 1, None):
        pass
    assert path.read_text(encoding="utf-8") == '{"step": 1, "loss": 2.0}\n'
