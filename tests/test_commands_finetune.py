"""The commands finetune and chat: from a file of examples to a report, and to a conversation."""

import io
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import refused, run, write

import minigpt
from minigpt.commands import main
from minigpt.commands.chat import ChatCommand, fitting, say, talk
from minigpt.conversation import Chat
from minigpt.finetune import load_settings
from minigpt.runs.checkpoint import checkpoint_paths, latest_checkpoint
from minigpt.runs.run import open_run, read_metrics
from minigpt.sampling import SampleConfig
from minigpt.support.errors import ConfigError
from minigpt.tokenizer import BPETokenizer

SMALL = ["--n-layer", 1, "--n-head", 1, "--n-embd", 16, "--vocab-size", 330, "--dropout", 0.0]
SMALL += ["--batch-size", 4, "--device", "cpu", "--dtype", "float32"]
WORDS = {"good": ("fine", "lovely", "funny"), "bad": ("dull", "weak", "sad")}


def write_reviews(path: Path, count: int = 400) -> Path:
    """Write a table of reviews: one word in each tells its label."""
    rng = random.Random(0)
    rows = ["text\tlabel"]
    for number in range(count):
        label = rng.choice(["good", "good", "bad"])
        rows.append(f"Film {number} was {rng.choice(WORDS[label])}.\t{label}")
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("data") / "reviews.tsv")


@pytest.fixture(scope="module")
def trained(reviews: Path, tmp_path_factory) -> Path:
    """A finished run, from a file to a report."""
    out = tmp_path_factory.mktemp("trained") / "run"
    words = ["finetune", "--data", reviews, "--out", out, "--max-steps", 160, *SMALL]
    words += [
        "--learning-rate",
        0.02,
        "--save-interval",
        60,
        "--pretrain-epochs",
        1,
        "--epochs",
        20,
    ]
    assert main([str(word) for word in words]) == 0
    return out


# --- from nothing to a report ---


def test_one_command_goes_from_a_file_to_a_report(trained):
    report = json.loads((trained / "report.json").read_text("utf-8"))
    assert report["examples"]["train"] + report["examples"]["held_out"] == 400
    assert report["examples"]["overlap"] == 0
    assert report["tasks"].keys() == {"accuracy", "f1", "precision", "recall"}
    for task in report["tasks"].values():
        assert task.keys() >= {"metric", "score", "baseline", "low", "high", "n"}
        assert task["n"] == report["examples"]["held_out"]
        assert task["low"] <= task["score"] <= task["high"]
    accuracy = report["tasks"]["accuracy"]
    assert accuracy["score"] > accuracy["baselines"]["majority"] + 0.1
    assert accuracy["baselines"]["bag_of_words"] > 0.95
    assert "| accuracy |" in (trained / "report.md").read_text("utf-8")
    assert (trained / "report.html").exists()
    assert (trained / "loss.png").exists()


def test_first_all_of_the_text_is_learned_then_the_answers(trained):
    targets = []
    for run_dir in (trained / "pretrained", trained):
        last = [row for row in read_metrics(run_dir) if "tokens" in row][-1]
        targets.append(last["tokens"] / last["step"])
    assert targets[1] < targets[0] / 3, "targets a step"
    first, second = (open_run(path, "cpu") for path in (trained / "pretrained", trained))
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
    assert first.config.model == second.config.model


def test_the_context_is_as_long_as_the_examples_need(trained):
    run = open_run(trained, "cpu")
    assert run.config.model.block_size == 64, "no example has more than 64 tokens"
    assert run.config.training.max_steps == run.step == 160
    assert len(run.tokenizer.special_tokens) == 5


@pytest.mark.slow
def test_epochs_bound_the_steps(capsys, reviews, tmp_path):
    words = ["finetune", "--data", reviews, "--out", tmp_path / "r", *SMALL, "--epochs", 0.2]
    code, _, err = run(capsys, *words, "--pretrain-epochs", 0.1)
    assert code == 0, err
    report = json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))
    batches = int(err.split(" on average, in ")[1].split(" batches")[0])
    assert report["steps"] == math.ceil(0.2 * batches)
    assert open_run(tmp_path / "r" / "pretrained", "cpu").step == math.ceil(0.1 * batches)


@pytest.mark.slow
def test_texts_as_answers_are_scored_as_texts(capsys, tmp_path):
    path = tmp_path / "a.jsonl"
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    pairs = itertools.product(numbers, numbers)
    rows = [{"prompt": f"{a} then {b}", "answer": f"{b} {a}"} for a, b in pairs]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    code, _, err = run(
        capsys, "finetune", "--data", path, "--out", tmp_path / "r", *SMALL, "--max-steps", 2
    )
    assert code == 0, err
    report = json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))
    assert report["tasks"].keys() == {"exact_match", "token_f1", "rouge_l", "bleu"}
    assert "copy" in report["tasks"]["bleu"]["baselines"]


@pytest.mark.slow
def test_parts_of_a_data_set_are_scored_apart(capsys, tmp_path):
    for name, place in (("qa1", "park"), ("qa2", "shop")):
        for side, stories in (("train", 40), ("test", 4)):
            lines = [
                f"1 Tom {n} went to the {place}.\n2 Where is Tom {n}?\t{place}\t1\n"
                for n in range(stories if side == "train" else 100, stories * 26)
            ][:stories]
            (tmp_path / f"{name}_{side}.txt").write_text("".join(lines), "utf-8")
    code, _, err = run(
        capsys,
        "finetune",
        "--data",
        tmp_path / "*_train.txt",
        "--out",
        tmp_path / "r",
        "--held-out",
        tmp_path / "*_test.txt",
        *SMALL,
        "--max-steps",
        2,
    )
    assert code == 0, err
    tasks = json.loads((tmp_path / "r" / "report.json").read_text("utf-8"))["tasks"]
    assert {name: task["n"] for name, task in tasks.items()} == {
        **dict.fromkeys(("accuracy", "f1", "precision", "recall"), 8),
        "qa1": 4,
        "qa2": 4,
    }
    assert tasks["accuracy"]["baselines"]["majority"] == 1.0, "each part has its own"


# --- from a checkpoint ---


@pytest.mark.slow
def test_a_checkpoint_learns_on(capsys, trained, reviews, tmp_path):
    out = tmp_path / "run"
    words = ["finetune", "--checkpoint", trained, "--data", reviews, "--out", out]
    code, _, err = run(
        capsys, *words, "--max-steps", 1, "--learning-rate", 1e-9, "--muon-learning-rate", 1e-9
    )
    assert code == 0, err
    old, new = (open_run(path, "cpu") for path in (trained, out))
    assert new.tokenizer.fingerprint == old.tokenizer.fingerprint
    for name, weight in old.model.state_dict().items():
        assert (weight - new.model.state_dict()[name]).abs().max() < 1e-6, name
    assert not (out / "pretrained").exists()
    assert load_settings(out).checkpoint == trained


def test_model_flags_beside_a_checkpoint_are_refused(capsys, trained, reviews, tmp_path):
    line = refused(
        capsys,
        "finetune",
        "--checkpoint",
        trained,
        "--data",
        reviews,
        "--out",
        tmp_path / "r",
        "--n-embd",
        64,
    )
    assert "n_embd" in line
    assert "--checkpoint" in line
    assert not checkpoint_paths(tmp_path / "r")


def test_a_checkpoint_that_cannot_chat_is_refused(capsys, reviews, tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("".join(f"Line {n} of my own text.\n" for n in range(400)), "utf-8")
    BPETokenizer.train([text.read_text("utf-8")], 300).save(tmp_path / "plain.json")
    words = ["train", "--data", text, "--out", tmp_path / "base", *SMALL, "--n-head", 2]
    words += ["--max-steps", 1, "--block-size", 32, "--tokenizer", tmp_path / "plain.json"]
    assert main([str(word) for word in words]) == 0
    words = ["--checkpoint", tmp_path / "base", "--data", reviews, "--out", tmp_path / "r"]
    assert "<|user|>" in refused(capsys, "finetune", *words)
    assert "<|user|>" in refused(
        capsys, "chat", "--checkpoint", tmp_path / "base", "--message", "a"
    )


# --- stop, crash, resume ---


def weights(run_dir: Path) -> dict:
    return safetensors.torch.load_file(checkpoint_paths(run_dir)[-1] / "model.safetensors")


@pytest.mark.slow
def test_a_run_goes_on_after_a_crash_to_the_same_bits(capsys, trained, tmp_path):
    """The newest checkpoint is lost; the run is taken up at the one before."""
    out = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(checkpoint_paths(out)[-1])
    assert latest_checkpoint(out).step < 160
    code, _, err = run(capsys, "finetune", "--out", out, "--resume")
    assert code == 0, err
    assert all((weights(out)[name] == w).all() for name, w in weights(trained).items())
    before, after = (json.loads((d / "report.json").read_text("utf-8")) for d in (trained, out))
    assert before["tasks"] == after["tasks"]


@pytest.mark.slow
def test_a_run_goes_on_between_its_phases_to_the_same_bits(capsys, trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    (out / "config.json").unlink()
    code, _, err = run(capsys, "finetune", "--out", out, "--resume")
    assert code == 0, err
    assert "pre-training: 100%" in err or "pre-training ..." in err
    assert all((weights(out)[name] == w).all() for name, w in weights(trained).items())


@pytest.mark.slow
def test_a_run_goes_on_without_the_checkpoint_that_it_began_with(
    capsys, trained, reviews, tmp_path
):
    base, out = shutil.copytree(trained, tmp_path / "base"), tmp_path / "run"
    words = ["finetune", "--checkpoint", base, "--data", reviews, "--out", out]
    assert run(capsys, *words, "--max-steps", 2)[0] == 0
    shutil.rmtree(base)
    code, _, err = run(capsys, "finetune", "--out", out, "--resume", "--max-steps", 3)
    assert code == 0, err
    assert open_run(out, "cpu").step == 3


def test_changed_data_or_settings_are_refused(capsys, trained, reviews, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(checkpoint_paths(out)[-1])
    line = refused(capsys, "finetune", "--out", out, "--resume", "--dropout", 0.5)
    assert "dropout 0.0 -> 0.5" in line
    other = write_reviews(tmp_path / "other.tsv", count=401)
    line = refused(capsys, "finetune", "--out", out, "--resume", "--data", other)
    assert "data" in line
    rows = reviews.read_text("utf-8")
    reviews.write_text(rows.replace("dull", "drab"), "utf-8")
    try:
        line = refused(capsys, "finetune", "--out", out, "--resume")
    finally:
        reviews.write_text(rows, "utf-8")
    assert "train_sha256" in line


def test_an_existing_run_is_not_overwritten(capsys, trained, reviews):
    line = refused(capsys, "finetune", "--data", reviews, "--out", trained)
    assert "already holds a run" in line
    assert "--resume" in line


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_ctrl_c_leaves_a_checkpoint(reviews, tmp_path):
    out = tmp_path / "run"
    words = ["finetune", "--data", reviews, "--out", out, *SMALL, "--epochs", 10_000]
    command = [sys.executable, "-m", "minigpt", *map(str, words), "--max-steps", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    path = out / "metrics.jsonl"
    while time.monotonic() < limit and not (path.exists() and path.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1].decode("utf-8", "replace")
    assert process.returncode == 130, err
    assert "go on with --resume" in err
    assert latest_checkpoint(out).step >= 10


# --- what is refused ---


@pytest.mark.slow
def test_over_long_examples_name_the_line(capsys, tmp_path):
    path = write_reviews(tmp_path / "a.tsv", count=60)
    lines = path.read_text("utf-8").splitlines()
    long = next(n for n in range(9, 60) if run_side(lines[n]) == "train")
    lines[long] = lines[long].replace("was", "was very " + "very " * 300)
    path.write_text("\n".join(lines), "utf-8")
    words = ["finetune", "--data", path, *SMALL, "--max-steps", 1, "--block-size", 64]
    line = refused(capsys, *words, "--out", tmp_path / "r1")
    assert f"a.tsv, line {long + 1}" in line
    assert "rows hold 65" in line
    assert "--over-long" in line
    for choice in ("drop", "cut"):
        out = tmp_path / choice
        code, _, err = run(capsys, *words, "--out", out, "--over-long", choice)
        assert code == 0, err
        assert "1 were too long" in err


def run_side(row: str) -> str:
    """Tell on which side of the split the review of a row will be."""
    from minigpt.batching.examples import Example, split_examples

    text = " ".join(row.split("\t")[0].casefold().split())
    example = Example([], "", text, "")
    return "train" if split_examples([example], 0.1)[0] else "held out"


@pytest.mark.parametrize(
    ("flags", "cause", "remedy"),
    [
        (["--data", "no such.tsv"], "no such file", "data list"),
        ([], "no examples given", "--data"),
        (["--prompt", "{texts}", "--answer", "{label}"], "no column 'texts'", "--prompt"),
        (["--validation-fraction", "0.0001"], "0 held out", "--held-out"),
        (["--vocab-size", "100"], "vocab_size 100 is too small", "261"),
    ],
)
def test_impossible_settings_are_refused(capsys, reviews, tmp_path, flags, cause, remedy):
    data = [] if cause == "no examples given" or "--data" in flags else ["--data", reviews]
    line = refused(capsys, "finetune", "--out", tmp_path / "r", *data, *flags)
    assert cause in line
    assert remedy in line


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--prompt", "{text}"], "no --answer"),
        (["--validation-fraction", "1.5"], "validation_fraction = 1.5"),
        (["--epochs", "nan"], "epochs = nan"),
        (["--epochs", "0"], "epochs = 0"),
        (["--epoch", "3"], "--epochs"),
        (["--over-long", "shorten"], "refuse"),
    ],
)
def test_usage_errors_show_the_flag(capsys, reviews, tmp_path, flags, shown):
    words = ["finetune", "--data", reviews, "--out", tmp_path / "r", *flags]
    code, out, err = run(capsys, *words)
    assert code == 2
    assert shown in out + err
    assert "Traceback" not in out + err
    assert not (tmp_path / "r").exists()


def test_settings_edited_into_nonsense_are_named(capsys, trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    for content in ("{", "[]", '{"epochs": 3}'):
        (out / "finetune.json").write_text(content, "utf-8")
        assert "finetune.json" in refused(capsys, "finetune", "--out", out, "--resume")
    (out / "finetune.json").unlink()
    assert "no finetune.json" in refused(capsys, "finetune", "--out", out, "--resume")


# --- talking ---


def talking(run_dir: Path, system: str = "", sampling: SampleConfig | None = None) -> Chat:
    """Begin a conversation with a run's model."""
    opened = open_run(run_dir, "cpu")
    return Chat(opened.model, opened.tokenizer, system, sampling)


def test_chat_sends_messages_and_prints_the_answers_alone(capsys, trained):
    words = ["chat", "--checkpoint", trained, "--max-new-tokens", 8, "--message"]
    code, out, _ = run(capsys, *words, "Film 3 was fine.", "Film 4 was dull.")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 2
    assert set(lines) <= {"good", "bad"}
    again = run(capsys, *words, "Film 3 was fine.")[1]
    assert again.splitlines() == lines[:1]


def test_chat_reads_from_the_terminal_until_quit(capsys, trained, monkeypatch):
    chat = talking(trained, sampling=SampleConfig(max_new_tokens=4, temperature=0.0))
    typed = "Film 3 was fine.\n\n/help\n/reset\nFilm 3 was fine.\n" + "very " * 200
    monkeypatch.setattr("sys.stdin", io.StringIO(typed + "\n/quit\nnever read"))
    assert talk(chat) == 0
    out, err = capsys.readouterr()
    first, second = [line for line in out.replace("> ", "").splitlines() if line]
    assert first == second, "after /reset nothing is remembered"
    assert "(forgotten)" in err
    assert "room for" in err, "a message that is too long is explained"
    assert len(chat.messages) == 2
    assert sys.stdin.read() == "never read"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert talk(chat) == 0


def test_chat_forgets_the_oldest_turns_and_says_so(capsys, trained):
    chat = talking(trained, "Be brief.", SampleConfig(max_new_tokens=4))
    for number in range(8):
        say(chat, f"Film {number} was fine.")
    assert "forgotten" in capsys.readouterr().err
    assert chat.messages[0] == {"role": "system", "content": "Be brief."}
    assert chat.messages[-2]["content"] == "Film 7 was fine."
    assert [m["role"] for m in chat.messages[1:]] == ["user", "assistant"] * (
        len(chat.messages) // 2
    )
    assert len(chat.messages) < 17


def test_chat_streams_what_it_returns_and_keeps_it_after_ctrl_c(trained):
    chat = talking(trained, sampling=SampleConfig(max_new_tokens=20, temperature=2.0))
    shown: list[str] = []
    assert chat.answer("Film", shown.append) == "".join(shown)
    assert chat.messages[-1] == {"role": "assistant", "content": "".join(shown)}

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.answer("Film", interrupt)
    assert [message["role"] for message in chat.messages[-2:]] == ["user", "assistant"]


def test_no_room_for_a_prompt_is_refused(trained):
    with pytest.raises(ConfigError, match=r"max_new_tokens = 64.*less than 64"):
        talking(trained, sampling=SampleConfig(max_new_tokens=64))


def test_chat_answers_as_likely_as_it_can_unless_told(trained):
    assert ChatCommand(trained).sampling.temperature == 0


def test_chat_needs_no_flag_for_a_short_context(capsys, trained):
    """The usual room for an answer, 100 tokens, is more than this model's context of 64."""
    code, out, err = run(capsys, "chat", "--checkpoint", trained, "--message", "Film 3 was fine.")
    assert code == 0, err
    assert out.strip() in {"good", "bad"}
    usual = ChatCommand(trained).sampling
    assert fitting(usual, 64).max_new_tokens == 32
    assert fitting(usual, 101) == usual
    assert fitting(SampleConfig(max_new_tokens=70), 64).max_new_tokens == 70, "given, so refused"


def test_lora_writes_an_adapter_that_opens_with_its_base(tmp_path, capsys):
    examples = [{"prompt": f"Say {n} and {n % 3}.", "answer": "abc"[n % 3]} for n in range(60)]
    text = "".join(json.dumps(example) + "\n" for example in examples)
    data = write(tmp_path / "my.jsonl", text)
    out = tmp_path / "tuned"
    words = ["finetune", "--data", data, "--checkpoint", "little", "--out", out, "--lora"]
    words += ["--rank", 2, "--max-steps", 12, "--batch-size", 8, "--device", "cpu"]
    code, printed, err = run(capsys, *words, "--save-interval", 6)
    assert code == 0, err
    assert "accuracy" in printed
    weights = sorted(out.rglob("model.safetensors"))
    assert weights
    assert all(file.stat().st_size < 150_000 for file in weights), "the base is not in it"
    opened, little = minigpt.load(out), minigpt.load("little")
    assert opened.model.state_dict().keys() == little.model.state_dict().keys()
    assert not torch.equal(
        opened.model.blocks[0].mlp.up.weight, little.model.blocks[0].mlp.up.weight
    )
    assert torch.equal(opened.model.embedding.weight, little.model.embedding.weight)
    whole = [file.read_bytes() for file in weights]
    code, _, err = run(capsys, "finetune", "--out", out, "--resume", "--max-steps", 18)
    assert code == 0, err
    assert minigpt.load(out).run.step == 18
    assert sorted(out.rglob("model.safetensors"))[-1].read_bytes() not in whole


def test_lora_without_a_base_is_refused(tmp_path, capsys):
    data = write(tmp_path / "my.jsonl", '{"prompt": "a", "answer": "b"}\n' * 20)
    code, _, err = run(capsys, "finetune", "--data", data, "--out", tmp_path / "tuned", "--lora")
    assert code == 2
    assert "--checkpoint beside it" in " ".join(err.split())
