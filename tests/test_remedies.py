"""Every remedy that a message names works: its commands are run, its flags exist.

And a run is opened and resumed with the settings that it was trained with, or not at all.
"""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers import refused, run, write

import minigpt
from minigpt.commands import COMMANDS, main
from minigpt.commands.arguments import flags
from minigpt.commands.chat import ChatCommand
from minigpt.commands.evaluate import EvaluateCommand
from minigpt.commands.finetune import FinetuneCommand
from minigpt.commands.generate import GenerateCommand
from minigpt.commands.train import TrainCommand
from minigpt.runs.checkpoint import checkpoint_paths
from minigpt.runs.report import next_commands
from minigpt.runs.run import load_config, open_run, read_metrics
from minigpt.support.errors import TrainingError
from minigpt.trainer import Trainer

PACKAGE = Path(minigpt.__file__).parent
SMALL = ["--block-size", 32, "--n-layer", 1, "--n-head", 2, "--n-embd", 8, "--vocab-size", 270]
SMALL += ["--batch-size", 4]


def lines(folder: Path) -> Path:
    return write(folder / "my.txt", "".join(f"Line {n} of my own text.\n" for n in range(200)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run whose name has a blank in it."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["train", "--data", lines(folder), "--out", folder / "a run", "--max-steps", 4]
    assert main([str(word) for word in (*words, *SMALL, "--save-interval", 2)]) == 0
    return folder / "a run"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "a run")


def printed_commands(text: str) -> list[list[str]]:
    """Return the words of each command that a text names."""
    found = re.findall(r"python -m minigpt ([^\n]+)", text)
    return [shlex.split(command) for command in found]


# --- after a loss that is not finite ---


def diverge(monkeypatch, capsys, words: list, at: int) -> str:
    """Run a command whose loss is NaN from one step on; return its error."""
    real = Trainer.accumulate

    def bad(self, batch):
        loss, tokens = real(self, batch)
        return (loss * float("nan") if self.progress.step >= at else loss), tokens

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "accumulate", bad)
        return refused(capsys, *words)


@pytest.mark.parametrize("at", [0, 3])
def test_a_diverged_run_goes_on_by_the_flags_that_the_message_names(
    capsys, monkeypatch, tmp_path, at
):
    words = ["train", "--data", lines(tmp_path), "--out", tmp_path / "run", "--max-steps", 5]
    line = diverge(monkeypatch, capsys, [*words, *SMALL, "--save-interval", 2], at)
    [remedy] = re.findall(r"--resume --learning-rate \S+ --muon-learning-rate [\d.e-]+", line)
    code, _, err = run(capsys, "train", "--out", tmp_path / "run", *remedy.split())
    assert code == 0, err
    if at:  # there was a checkpoint, and the reader is told that another path is taken from it
        assert "not bit-identical: learning_rate 0.006 -> 0.002" in " ".join(err.split())
    assert open_run(tmp_path / "run").step == 5
    assert load_config(tmp_path / "run").training.learning_rate == 0.002


def test_a_diverged_fine_tuning_goes_on_as_well(capsys, monkeypatch, tmp_path):
    rows = "".join(f"{n} apples,{n % 2}\n" for n in range(40))
    data = write(tmp_path / "my.csv", f"prompt,answer\n{rows}")
    words = ["finetune", "--data", data, "--out", tmp_path / "run", "--max-steps", 3, *SMALL[2:]]
    line = diverge(monkeypatch, capsys, words, 1)
    [remedy] = re.findall(r"--resume --learning-rate \S+ --muon-learning-rate [\d.e-]+", line)
    code, out, err = run(capsys, "finetune", "--out", tmp_path / "run", *remedy.split())
    assert code == 0, err
    [chat] = printed_commands(out)  # what it prints at its end works, too
    code, out, err = run(capsys, *chat, "--message", "3 apples")
    assert code == 0, err
    code, _, err = run(capsys, *chat, "--message", "3 apples", "--message", "4 apples")
    assert code == 0, err


def test_the_commands_that_a_report_names_work(capsys, monkeypatch, trained, tmp_path):
    lines(tmp_path)  # what a user brings is called my.txt there
    monkeypatch.chdir(tmp_path)
    chat, generate, train = printed_commands(next_commands(trained))
    assert run(capsys, *generate, "--max-new-tokens", 3)[0] == 0
    assert run(capsys, *train, "--max-steps", 1, *SMALL)[0] == 0
    assert run(capsys, *chat, "--message", "Hello")[0] == 0


# --- flags and commands in messages ---


def constants() -> list[tuple[str, str]]:
    """Return every text in the package, with the file that it stands in."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append((path.relative_to(PACKAGE).as_posix(), node.value))
    return found


def known_flags() -> set[str]:
    """Return all flags of all commands: the fields of the classes that flags are made from."""
    fields = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for part in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    fields.add("--" + part.target.id.replace("_", "-"))
    torchrun = {"--nproc-per-node", "--master-port"}
    return fields | torchrun | {"--debug", "--help", "--help-all", "--n-beam"}


def test_every_flag_that_a_text_names_exists():
    known = known_flags()
    for path, text in constants():
        if "var(--" in text:
            continue  # a style sheet
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text):
            assert flag in known, f"{path}: {flag} in {text!r}"


def test_every_command_that_a_text_names_exists():
    for path, text in constants():
        for name in re.findall(r"python -m minigpt ([a-z]+)", text):
            assert name in COMMANDS, f"{path}: {name}"


@pytest.mark.parametrize(
    ("command", "remedies"),
    [
        (TrainCommand, "out data errors learning_rate muon_learning_rate dtype dialogue_share"),
        (FinetuneCommand, "out data held_out over_long vocab_size validation_fraction"),
        (EvaluateCommand, "out data text learn_from"),
        (GenerateCommand, "truncate logit_bias max_new_tokens"),
        (ChatCommand, "max_new_tokens message"),
    ],
)
def test_a_command_has_the_flags_that_its_messages_name(command, remedies):
    assert set(remedies.split()) <= flags(command)


# --- the settings of a run ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm_eps", 0.1),
        ("norm", "layer"),
        ("rope_theta", 500.0),
        ("positions", "none"),
        ("block_size", 64),
        ("n_layer", 2),
    ],
)
def test_a_hand_edited_config_is_checked_against_the_checkpoint(capsys, copied, name, value):
    path = copied / "config.json"
    good = path.read_text("utf-8")
    content = json.loads(good)
    before = content["model"][name]
    content["model"][name] = value
    path.write_text(json.dumps(content), "utf-8")
    for words in (["generate"], ["evaluate", "--stories", 1], ["chat", "--message", "x"]):
        line = refused(capsys, *words, "--checkpoint", copied)
        assert f"{name} {before!r} -> {value!r}" in line
        assert "config.json" in line
        assert "write the old values back" in line
    refused(capsys, "train", "--out", copied, "--resume")
    path.write_text(good, "utf-8")  # the remedy
    assert open_run(copied).step == 4


def test_a_checkpoint_out_of_its_run_says_what_it_lacks_and_how_to_mend_it(capsys, copied):
    [*_, newest] = checkpoint_paths(copied)
    alone = shutil.move(newest, copied.parent / newest.name)
    line = refused(capsys, "generate", "--checkpoint", alone)
    assert "a checkpoint without its run" in line
    assert str(alone) in line
    shutil.move(alone, newest)  # the remedy
    assert open_run(newest).step == 4


def test_resume_names_a_vocabulary_or_a_preset_that_it_cannot_follow(capsys, copied):
    resumed = ["--out", copied, "--resume"]
    line = refused(capsys, "train", *resumed, "--vocab-size", 260)
    assert "vocab_size 270 -> 260" in line
    assert "leave --vocab-size out" in line
    code, _, err = run(capsys, "train", *resumed, "--vocab-size", 999)
    assert code == 0
    assert "keeps its vocabulary of 270 tokens" in err
    line = refused(capsys, "train", "tiny", *resumed)
    assert "--resume cannot be combined with the preset tiny" in line
    assert run(capsys, "train", *resumed)[0] == 0  # what is left when it is left out


def test_torn_and_foreign_rows_of_metrics_are_left_out(capsys, copied):
    rows = read_metrics(copied)
    deep = "[" * 100_000
    path = copied / "metrics.jsonl"
    torn = path.read_bytes() + b'{"step": 4, "lo\n\xff\x00\n[1]\n{"step": "x"}\n"text"\n{}\n'
    path.write_bytes(torn + deep.encode() + b'\n{"a": [1]}\n')
    assert read_metrics(copied) == rows
    assert run(capsys, "evaluate", "--checkpoint", copied)[0] == 0
    path.unlink()
    assert read_metrics(copied) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "finetune.json"])
def test_json_without_end_is_one_line(capsys, copied, name):
    write(copied / name, '{"a":' * 100_000)
    command = ["evaluate", "--data", "x"] if name == "finetune.json" else ["generate"]
    assert name in refused(capsys, *command, "--checkpoint", copied)


def test_weights_that_are_not_finite_name_a_flag_that_exists():
    import torch

    from minigpt.runs.checkpoint import refuse_non_finite

    with pytest.raises(TrainingError, match="--resume and a lower --learning-rate"):
        refuse_non_finite({"w": torch.tensor([float("nan")])}, 3)
