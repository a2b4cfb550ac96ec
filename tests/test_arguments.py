"""Flags: --help shows those of every day, --help-all all of them, and each one counts."""

import dataclasses
import re

import pytest
import tyro

from minigpt.commands import main
from minigpt.commands.arguments import EVERYDAY, MOST_FLAGS, flag_value, flags, parse
from minigpt.commands.finetune import FinetuneCommand
from minigpt.commands.quickstart import QuickstartCommand
from minigpt.commands.train import TrainCommand
from minigpt.runs.run import RunConfig, tiny

BIG = {"train": TrainCommand, "finetune": FinetuneCommand, "quickstart": QuickstartCommand}


def shown(capsys, *words: str) -> set[str]:
    """Return the flags that a command's help lists, without --help itself."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 0
    out = capsys.readouterr().out
    listed = re.findall(r"^\W*(?:-h, )?--([a-z][a-z0-9-]*)(?:,| |$)", out, re.MULTILINE)
    return {name.replace("-", "_") for name in listed} - {"help", "help_all"}


@pytest.mark.parametrize("name", BIG)
def test_help_shows_at_most_25_flags_and_help_all_every_one(capsys, name):
    few, every = shown(capsys, name, "--help"), shown(capsys, name, "--help-all")
    assert every == flags(BIG[name])
    assert len(few) + 1 <= MOST_FLAGS  # --help is one too
    assert few == (every & EVERYDAY if len(every) > MOST_FLAGS else every)
    assert few


def test_help_says_how_many_flags_it_hides(capsys):
    hidden = len(flags(TrainCommand) - EVERYDAY)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    assert f"--help-all shows {hidden} more flags." in out
    assert "(default: storyworld)" in out  # what --help shows, it shows whole
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    assert "more flags" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["tiny", "--help"], ["--resume", "--out", "x", "--help"]])
def test_help_comes_also_behind_other_words(capsys, words):
    assert "max_steps" in shown(capsys, "train", *words)


def test_defaults_in_help_are_those_of_the_preset(capsys):
    with pytest.raises(SystemExit):
        main(["train", "tiny", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"(default: {tiny().training.max_steps})" in text


def test_every_everyday_flag_is_one_of_some_command():
    assert set().union(*map(flags, BIG.values())) >= EVERYDAY


def test_a_flag_that_help_hides_counts():
    default = TrainCommand(tyro.MISSING, run=RunConfig())
    hidden = flags(TrainCommand) - EVERYDAY
    assert {"rope_theta", "weight_decay", "keep_checkpoints", "validation_fraction"} <= hidden
    words = ["--out", "x", "--weight-decay", "0.5", "--keep_checkpoints", "7"]
    words += ["--rope-theta", "500", "--validation-fraction", "0.25"]
    run = parse(TrainCommand, "train", words, default).run
    assert (run.training.weight_decay, run.training.keep_checkpoints) == (0.5, 7)
    assert (run.model.rope_theta, run.validation_fraction) == (500, 0.25)


def test_a_misspelt_hidden_flag_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", "x", "--wieght-decay", "0.1"])
    assert stop.value.code == 2
    assert "--weight-decay" in capsys.readouterr().err


def test_a_hidden_flag_out_of_its_bounds_is_named_in_tyros_box(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", "x", "--keep-checkpoints", "1"])
    assert stop.value.code == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "keep_checkpoints = 1 is not possible — --keep-checkpoints — give a whole" in err


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], None),
        (["--out", "a"], "a"),
        (["--out=a"], "a"),
        (["--other", "--out", "a", "--out", "b"], "b"),
        (["--out"], None),
        (["out", "a"], None),
    ],
)
def test_a_flags_value_is_found_before_parsing(words, found):
    assert flag_value(words, "out") == found


def test_dashes_and_underscores_are_the_same():
    assert flag_value(["--held_out", "a"], "held_out") == "a"
    assert flag_value(["--held-out", "a"], "held_out") == "a"


def test_configs_keep_their_class_in_help_and_out_of_it():
    assert dataclasses.is_dataclass(TrainCommand)
    command = parse(TrainCommand, "train", ["--out", "x"], TrainCommand(tyro.MISSING))
    assert type(command) is TrainCommand
    assert type(command.run) is RunConfig


# ---- --config


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run directory of settings alone, and what `train` would then train."""
    from minigpt.commands import train as command
    from minigpt.runs.run import save_config

    folder = tmp_path / "run"
    folder.mkdir()
    config = dataclasses.replace(tiny(), field="story", validation_fraction=0.2)
    save_config(folder, config)
    asked: list[RunConfig] = []

    def run_pipeline(out, config, resume):
        asked.append(config)
        return 0

    monkeypatch.setattr(command, "run_pipeline", run_pipeline)
    return folder, config, asked


@pytest.mark.parametrize("name", ["", "config.json"])
def test_config_gives_the_defaults_and_flags_still_count(trained, name):
    folder, config, asked = trained
    assert main(["train", "--out", "x", "--config", str(folder / name)]) == 0
    assert main(["train", f"--config={folder / name}", "--out", "x", "--n-layer", "3"]) == 0
    assert asked[0] == config
    model = dataclasses.replace(config.model, n_layer=3)
    assert asked[1] == dataclasses.replace(config, model=model)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--config", "nothing"], "no config.json — nothing — give the directory"),
        (["--config", "nothing.json"], "no nothing.json"),
        (["--config", "RUN", "--resume"], "--config cannot be combined with --resume"),
        (["--config", "BAD"], "not JSON"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(trained, tmp_path, capsys, words, error):
    bad = tmp_path / "bad.json"
    bad.write_text("{", "utf-8")
    places = {"RUN": str(trained[0]), "BAD": str(bad)}
    words = [places.get(word, word) for word in words]
    assert main(["train", "--out", "x", *words]) != 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert error in err
    assert err.count(" — ") == 2


def test_a_preset_and_a_config_are_refused_together(trained, capsys):
    assert main(["train", "tiny", "--out", "x", "--config", str(trained[0])]) == 2
    assert "cannot be combined with the preset tiny" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "finetune.json"])
def test_finetune_takes_the_settings_of_another_run(name, tmp_path, monkeypatch):
    from minigpt.commands import finetune as command
    from minigpt.finetune import FinetuneConfig, save_settings

    stored = FinetuneConfig(data="reviews.csv", epochs=3.0, max_answer_tokens=7)
    save_settings(tmp_path, stored)
    asked: list[FinetuneConfig] = []

    def run_finetune(out, config, resume):
        asked.append(config)
        return 0

    monkeypatch.setattr(command, "run_finetune", run_finetune)
    words = ["finetune", "--out", "x", "--config", str(tmp_path / name)]
    assert main(words) == main([*words, "--epochs", "5"]) == 0
    assert asked == [stored, dataclasses.replace(stored, epochs=5.0)]
    assert main([*words, "--resume"]) == 2
    assert len(asked) == 2
