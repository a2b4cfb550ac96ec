"""Run directories: settings come back as they were stored, and every preset is possible."""

import dataclasses
import json

import pytest
import torch

from minigpt.gpt import GPT, GPTConfig
from minigpt.recipe import TrainConfig
from minigpt.runs.checkpoint import save_checkpoint
from minigpt.runs.run import (
    PRESETS,
    RunConfig,
    fit_to_tokenizer,
    load_config,
    open_run,
    quickstart,
    save_config,
    tiny,
)
from minigpt.support.errors import CheckpointError, ConfigError, DataError
from minigpt.tokenizer import CharTokenizer


@pytest.fixture
def run_dir(tmp_path):
    """A run with a checkpoint of random weights, as `train` leaves it."""
    tokenizer = CharTokenizer.train(["abc"], ["<|endoftext|>"])
    model_config = GPTConfig(tokenizer.vocab_size, 8, n_layer=1, n_head=2, n_embd=8)
    save_config(tmp_path, RunConfig(data="my.txt", model=model_config))
    tokenizer.save(tmp_path / "tokenizer.json")
    torch.manual_seed(0)
    weights = GPT(model_config).state_dict()
    facts = {"tokenizer_sha256": tokenizer.fingerprint}
    save_checkpoint(tmp_path, 3, weights, {}, {"facts": facts}, about=facts)
    return tmp_path


@pytest.mark.parametrize("preset", [*PRESETS.values(), quickstart], ids=lambda p: p.__name__)
def test_a_presets_settings_come_back_as_they_were_stored(preset, tmp_path):
    save_config(tmp_path, preset())
    assert load_config(tmp_path) == load_config(tmp_path / "config.json") == preset()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("dialogue_share", 1.0),
        ("errors", "ignore"),
        ("world", "small"),
        ("word_cohesion", -0.1),
        ("field", 3),
    ],
)
def test_impossible_settings_of_a_run_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"{name} = {value!r} is not possible"):
        dataclasses.replace(tiny(), **{name: value})


def test_the_rate_rises_again_where_tuning_begins():
    config = quickstart()
    with pytest.raises(ConfigError, match=r"second_phase = 0.6 .* 0.5 \(tuning_fraction\)"):
        dataclasses.replace(config, tuning_fraction=0.5)
    once = dataclasses.replace(config.training, second_phase=0.0)
    assert dataclasses.replace(config, tuning_fraction=0.5, training=once).tuning_fraction == 0.5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(extra=1), "unknown key 'extra'"),
        (lambda c: c["model"].update(n_layer=0), "n_layer = 0 is not possible"),
        (lambda c: c["training"].update(optimizer="sgd"), "optimizer = 'sgd' is not possible"),
        (lambda c: c.update(model=[]), "model is not an object"),
    ],
)
def test_an_edited_config_is_refused_by_what_is_wrong_in_it(change, named, tmp_path):
    save_config(tmp_path, tiny())
    content = json.loads((tmp_path / "config.json").read_text("utf-8"))
    change(content)
    (tmp_path / "config.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(CheckpointError, match=named):
        load_config(tmp_path)


def test_config_keeps_the_world_and_without_one_it_is_full(tmp_path):
    save_config(tmp_path, dataclasses.replace(tiny(), world="little"))
    path = tmp_path / "config.json"
    content = json.loads(path.read_text("utf-8"))
    assert content["world"] == load_config(tmp_path).world == "little"
    del content["world"]
    path.write_text(json.dumps(content), "utf-8")
    assert load_config(tmp_path) == tiny()
    assert tiny().world == "full"
    assert quickstart().world == "little"


def test_an_opened_run_has_the_weights_and_settings_that_were_stored(run_dir):
    run = open_run(run_dir, "cpu")
    torch.manual_seed(0)
    expected = GPT(run.config.model).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())
    assert not run.model.training
    assert (run.step, run.config.data, run.notes) == (3, "my.txt", ())


def test_another_tokenizer_than_the_runs_is_refused(run_dir):
    CharTokenizer.train(["abd"], ["<|endoftext|>"]).save(run_dir / "tokenizer.json")
    with pytest.raises(DataError, match=r"another tokenizer .* restore the run's own"):
        open_run(run_dir, "cpu")


def test_weights_that_do_not_fit_the_settings_are_refused(run_dir):
    config = load_config(run_dir)
    wider = dataclasses.replace(config.model, n_embd=16)
    save_config(run_dir, dataclasses.replace(config, model=wider))
    with pytest.raises(CheckpointError, match="weights do not fit the settings"):
        open_run(run_dir, "cpu")


def test_a_model_gets_the_vocabulary_of_its_tokenizer():
    tokenizer = CharTokenizer.train(["abcdef"], ["<|endoftext|>"])
    fitted = fit_to_tokenizer(GPTConfig(vocab_size=4096), tokenizer)
    assert fitted == GPTConfig(vocab_size=tokenizer.vocab_size)
    assert TrainConfig() == RunConfig().training
