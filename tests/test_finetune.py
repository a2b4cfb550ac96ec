"""Fine-tuning in the library: settings that last, phases with their own rates, room for answers."""

import dataclasses
import json
from pathlib import Path

import pytest

from minigpt.batching.conversations import fit_prompts, shorten
from minigpt.batching.examples import Example
from minigpt.chat import longest_answer
from minigpt.commands import main
from minigpt.commands.arguments import parse
from minigpt.commands.finetune import FinetuneCommand, with_given_rates
from minigpt.finetune import (
    FinetuneConfig,
    Sides,
    answer_limit,
    load_settings,
    phases,
    save_settings,
    start,
    with_answer_limit,
)
from minigpt.gpt import GPTConfig
from minigpt.recipe import TrainConfig
from minigpt.support.errors import CheckpointError, ConfigError

SMALL = FinetuneConfig(
    data="my.csv",
    model=GPTConfig(vocab_size=300, block_size=64, n_layer=1, n_head=1, n_embd=8),
    training=TrainConfig(max_steps=2, batch_size=4, device="cpu", dtype="float32"),
)


def example(prompt: str, answer: str) -> Example:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Example(messages, "my.csv, line 1", prompt, "")


@pytest.fixture
def sides() -> Sides:
    examples = [example(f"Is {n} odd?", "yes" if n % 2 else "no, it is even") for n in range(24)]
    return Sides(examples[:20], examples[20:], {})


# --- settings ---


def test_settings_come_back_as_they_were_stored(tmp_path):
    config = dataclasses.replace(SMALL, checkpoint=Path("runs/base"), max_answer_tokens=9)
    save_settings(tmp_path, config)
    assert load_settings(tmp_path) == config
    assert answer_limit(tmp_path) == 9


def test_settings_of_older_versions_can_be_read(tmp_path):
    """They held the command's own words, and knew nothing of limits and rates by phase."""
    save_settings(tmp_path, SMALL)
    stored = json.loads((tmp_path / "finetune.json").read_text("utf-8"))
    for name in ("format", "max_answer_tokens", "pretrain_learning_rate"):
        del stored[name]
    del stored["pretrain_muon_learning_rate"]
    stored["model"] |= {"pointer": False, "values": "stream"}
    (tmp_path / "finetune.json").write_text(json.dumps(stored | {"out": "r", "resume": False}))
    assert load_settings(tmp_path) == SMALL
    assert answer_limit(tmp_path) is None
    stored["model"]["pointer"] = True
    (tmp_path / "finetune.json").write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="pointer = True, which is no longer possible"):
        load_settings(tmp_path)


def test_a_run_that_was_not_fine_tuned_has_no_limit(tmp_path):
    assert answer_limit(tmp_path) is None
    with pytest.raises(CheckpointError, match=r"no finetune\.json"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validation_fraction", 1.0),
        ("epochs", 0.0),
        ("epochs", float("nan")),
        ("pretrain_epochs", -1.0),
        ("pretrain_learning_rate", -0.1),
        ("pretrain_muon_learning_rate", float("inf")),
        ("max_answer_tokens", 0),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"{name} = .* is not possible"):
        dataclasses.replace(SMALL, **{name: value})


# --- the rates of the phases ---


def learned_by(words: list[str]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return AdamW's and Muon's rates in pre-training and training, as the command has them."""
    words = ["--out", "r", "--data", "my.csv", *words]
    config = with_given_rates(parse(FinetuneCommand, "finetune", words).settings, words)
    first, last = config.pretraining(), config.training
    return (
        (first.learning_rate, first.muon_learning_rate),
        (last.learning_rate, last.muon_learning_rate),
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ((3e-3, 0.02), (1e-3, 5e-3))),
        (["--learning-rate", "0.5"], ((0.5, 0.02), (0.5, 5e-3))),
        (["--learning_rate=0.001"], ((1e-3, 0.02), (1e-3, 5e-3))),  # given, though the default
        (["--muon-learning-rate", "0.5"], ((3e-3, 0.5), (1e-3, 0.5))),
        (["--pretrain-learning-rate", "0.7"], ((0.7, 0.02), (1e-3, 5e-3))),
        (
            ["--pretrain-learning-rate", "0.7", "--learning-rate", "0.5"],
            ((0.7, 0.02), (0.5, 5e-3)),
        ),
    ],
)
def test_a_learning_rate_that_was_given_reaches_every_phase(words, expected):
    assert learned_by(words) == expected


def test_the_rates_are_those_that_the_runs_store(tmp_path, capsys):
    labels = ["good", "bad"] * 40
    rows = ["text,label", *(f"{label} film {n},{label}" for n, label in enumerate(labels))]
    (tmp_path / "a.csv").write_text("\n".join(rows), "utf-8")
    words = ["finetune", "--data", tmp_path / "a.csv", "--out", tmp_path / "r", "--max-steps", 1]
    words += ["--n-layer", 1, "--n-head", 1, "--n-embd", 8, "--vocab-size", 300]
    words += ["--device", "cpu", "--muon-learning-rate", 0.125]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    for folder, usual in (("r/pretrained", 3e-3), ("r", 1e-3)):
        stored = json.loads((tmp_path / folder / "config.json").read_text("utf-8"))["training"]
        assert (stored["muon_learning_rate"], stored["learning_rate"]) == (0.125, usual)


# --- phases ---


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["pre-training", "training"]),
        ({"pretrain_epochs": 0.0}, ["training"]),
        ({"checkpoint": Path("base")}, ["training"]),
        ({"checkpoint": Path("base"), "pretrain_epochs": 1.0}, ["pre-training", "training"]),
    ],
)
def test_a_model_from_a_checkpoint_has_read_enough(tmp_path, sides, changes, names):
    texts = []
    model, tokenizer = start(tmp_path, SMALL, sides.train, on_text=lambda: texts.append(1))
    assert len(texts) == 2 * len(sides.train)
    config = dataclasses.replace(SMALL, **changes)
    found = phases(tmp_path, config, model, tokenizer, sides)
    assert [phase.name for phase in found] == names
    assert found[-1].run_dir == tmp_path


def test_a_phase_trains_without_a_command_and_without_printing(tmp_path, sides, capsys):
    model, tokenizer = start(tmp_path, SMALL, sides.train)
    rows = []
    for phase in phases(tmp_path, SMALL, model, tokenizer, sides):
        result = phase.run(on_log=rows.append)
        assert result.step == 2
    assert phase.val_loss() > 0
    assert [row["step"] for row in rows if "val_loss" in row] == [2, 2]
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "pretrained" / "config.json").is_file()


# --- how long an answer may be, and what becomes of a long prompt ---


def test_the_room_for_answers_is_that_of_the_longest_in_training(tmp_path, sides):
    _, tokenizer = start(tmp_path, SMALL, sides.train)
    held_out = [example("Why?", "a much longer answer than any in training " * 3)]
    wanted = len(tokenizer.encode("no, it is even")) + 1
    settled = with_answer_limit(SMALL, tokenizer, sides.train)
    assert settled.max_answer_tokens == wanted == longest_answer(["no, it is even"], tokenizer)
    assert with_answer_limit(settled, tokenizer, held_out) == settled, "settled once"


def test_prompts_are_cut_in_the_middle_of_their_longest_messages():
    marks = {1, 2, 3}
    prompt = [1, *range(10, 20), 2, 1, *range(20, 23), 2, 3]
    fitted, n_cut = fit_prompts([prompt, [1, 10, 2, 3]], 12, marks)
    assert n_cut == 1
    assert fitted == [[1, 10, 11, 18, 19, 2, 1, 20, 21, 22, 2, 3], [1, 10, 2, 3]]
    assert shorten(prompt, 9, marks) == [1, 10, 19, 2, 1, 20, 22, 2, 3]
    assert shorten(prompt, 5, marks) == [1, 2, 1, 2, 3], "no text is left"
    assert shorten(prompt, 3, marks) == [1, 2, 3], "the oldest message is gone"
    assert shorten([10, 11, 12], 2, marks) == [10, 12]
