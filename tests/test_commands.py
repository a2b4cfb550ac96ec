"""The command line: what it takes, what it writes, and what it says when something is wrong."""

import dataclasses
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import refused, run

from minigpt import storyworld
from minigpt.batching.token_files import open_tokens
from minigpt.commands import COMMANDS, main, pipeline
from minigpt.commands.generate import GenerateCommand
from minigpt.commands.inputs import make_data, make_tokenizer
from minigpt.commands.train import TrainCommand
from minigpt.gpt import GPTConfig
from minigpt.recipe import TrainConfig
from minigpt.runs.checkpoint import checkpoint_paths, latest_checkpoint
from minigpt.runs.run import (
    PRESETS,
    RunConfig,
    load_config,
    open_run,
    quickstart,
    read_metrics,
    save_config,
    tiny,
)
from minigpt.tokenizer import BPETokenizer

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--block-size", 32, "--n-layer", 1, "--n-head", 2, "--n-embd", 16]
SMALL += ["--vocab-size", 300, "--batch-size", 4]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "my.txt"
    path.write_text("".join(f"Line {n} of my own text, 第{n}行。\n" for n in range(400)), "utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run on a text of its own."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "my.txt"
    path.write_text("".join(f"Line {n} of my own text, 第{n}行。\n" for n in range(400)), "utf-8")
    words = ["train", "--data", path, "--out", folder / "run", "--max-steps", 30, *SMALL]
    words += ["--save-interval", 10]
    assert main([str(word) for word in words]) == 0
    return folder / "run"


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be damaged."""
    import shutil

    return shutil.copytree(trained, tmp_path / "run")


# --- what it takes ---


def test_no_command_lists_all(capsys):
    code, out, _ = run(capsys)
    assert code == 0
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(capsys, name):
    code, out, err = run(capsys, name, "--help")
    assert code == 0
    assert "usage" in (out + err).lower()


def test_unknown_command_names_the_nearest(capsys):
    code, _, err = run(capsys, "trian")
    assert code == 2
    assert "did you mean train?" in err


@pytest.mark.parametrize("flag", ["--max-steps", "--max_steps"])
def test_flags_take_dashes_and_underscores(capsys, flag, tmp_path):
    assert "no such file" in refused(
        capsys, "train", "--out", tmp_path / "r", flag, 3, "--data", "x"
    )


def test_typo_names_the_nearest_option(capsys, tmp_path):
    code, _, err = run(capsys, "train", "--out", tmp_path, "--max-stesp", 3)
    assert code == 2
    assert "--max-steps" in err


def names_in(kind: type) -> list[str]:
    """Return the names of all fields of a settings class, nested ones included."""
    names = []
    for field in dataclasses.fields(kind):
        inner = (
            field.default_factory() if field.default_factory is not dataclasses.MISSING else None
        )
        names += names_in(type(inner)) if dataclasses.is_dataclass(inner) else [field.name]
    return names


@pytest.mark.parametrize("kind", [TrainCommand, GenerateCommand])
def test_flags_are_unique(kind):
    names = names_in(kind)
    assert len(names) > 8
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole_and_stored_exactly(name, tmp_path):
    config = PRESETS[name]()
    save_config(tmp_path, config)
    assert load_config(tmp_path) == config


@pytest.mark.slow
def test_no_value_of_any_flag_gives_a_traceback(capsys, tmp_path):
    """500 random settings: each parses, or exits with code 2 and a message."""
    rng = random.Random(0)
    nasty = [
        "",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "-inf",
        "1.5",
        "true",
        "None",
        "9" * 30,
        "é中",
        "[]",
        "../x",
        "\x00",
        "auto",
        "--",
        "3",
        "1e-9",
    ]
    flags = [name.replace("_", "-") for name in names_in(TrainCommand) if name not in ("resume",)]
    refusals = 0
    for _ in range(500):
        words = ["--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "run")]
        for flag in rng.sample(flags, 2):
            words += ["--" + flag, rng.choice(nasty)]
        words = [word for word in words if "\x00" not in word] + ["--out", str(tmp_path / "run")]
        code, _, err = run(capsys, "train", *words)
        assert code in (1, 2), (words, code)
        assert "Traceback" not in err
        assert err.strip()
        refusals += code == 2
    assert refusals > 100


# --- faults of files and settings ---


def test_out_is_a_file(capsys, text):
    assert "is a file" in refused(capsys, "train", "--data", text, "--out", text)


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_out_is_not_writable(capsys, text, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    line = refused(capsys, "train", "--data", text, "--out", tmp_path / "locked")
    assert "cannot be written" in line
    assert "choose another --out" in line


def test_full_disk_is_found_before_step_one(capsys, text, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minigpt.support.files.fsync", full)
    line = refused(capsys, "train", "--data", text, "--out", tmp_path / "run")
    assert "No space left on device" in line
    assert "free some space" in line


def test_resume_with_a_changed_model_names_the_key_and_keeps_the_run(capsys, copied):
    line = refused(capsys, "train", "--out", copied, "--resume", "--n-layer", 2)
    assert "model.n_layer 1 -> 2" in line
    assert "start a new run" in line
    assert open_run(copied).step == 30
    assert load_config(copied).model.n_layer == 1


def test_resume_may_train_longer(capsys, copied):
    code, _, _ = run(capsys, "train", "--out", copied, "--resume", "--max-steps", 40)
    assert code == 0
    assert open_run(copied).step == 40


def test_a_run_is_never_overwritten(capsys, copied, text):
    before = (copied / "tokenizer.json").read_bytes()
    line = refused(capsys, "train", "--data", text, "--out", copied)
    assert "already holds a run" in line
    assert "--resume" in line
    assert (copied / "tokenizer.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c | {"format": 99}, "config.json has format 99, this version reads 1 to"),
        (lambda c: c | {"formt": 1}, "unknown key 'formt'"),
        (lambda c: c | {"model": c["model"] | {"n_layer": -1}}, "n_layer = -1"),
        (lambda c: c | {"model": c["model"] | {"n_layer": None}}, "n_layer"),
        (lambda c: c | {"training": []}, "training is not an object"),
        (lambda c: [c], "not a JSON object"),
        (lambda c: c | {"data": 3}, "data = 3 is not possible"),
        (lambda c: c | {"errors": "ignore"}, "errors = 'ignore' is not possible"),
        (lambda c: c | {"training": c["training"] | {"dtype": 3}}, "dtype = 3"),
    ],
)
def test_config_of_nonsense_is_refused_by_name(capsys, copied, change, named):
    path = copied / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
    line = refused(capsys, "generate", "--checkpoint", copied)
    assert named in line
    assert "config.json" in line


def test_the_tokenizer_of_another_run_is_refused(capsys, copied):
    other = BPETokenizer.train(["some other text, as long as this"], 280)
    other.save(copied / "tokenizer.json")
    line = refused(capsys, "generate", "--checkpoint", copied)
    assert "another tokenizer" in line
    assert "restore the run's own tokenizer.json" in line


def test_swapped_merges_are_refused(capsys, copied):
    path = copied / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(content), "utf-8")
    line = refused(capsys, "generate", "--checkpoint", copied)
    assert "another tokenizer" in line
    assert "restore the run's own tokenizer.json" in line


def test_generate_falls_back_to_an_older_checkpoint_and_says_so(capsys, copied):
    weights = checkpoint_paths(copied)[-1] / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, out, err = run(capsys, "generate", "--checkpoint", copied, "--max-new-tokens", 3)
    assert code == 0
    assert "passed over a damaged checkpoint" in err
    assert out.strip()
    assert open_run(copied).step == 20


def test_generate_names_a_missing_run(capsys, tmp_path):
    line = refused(capsys, "generate", "--checkpoint", tmp_path / "nothing")
    assert "no config.json" in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--max-new-tokens", "-1"], "max_new_tokens"),
        (["--temperature", "nan"], "temperature"),
        (["--top-p", "0"], "top_p"),
        (["--top-k", "0"], "top_k"),
        (["--count", "0"], "count"),
        (["--prompt", "Line 1 of my own text, " * 40], "context"),
    ],
)
def test_generate_refuses_impossible_values(capsys, trained, words, named):
    code, _, err = run(capsys, "generate", "--checkpoint", trained, *words)
    assert code in (1, 2)
    assert named in err
    assert "Traceback" not in err


# --- what it does ---


def test_generate_continues_the_prompt_and_repeats_with_the_seed(capsys, trained):
    words = ["generate", "--checkpoint", trained, "--prompt", "Line 7", "--max-new-tokens", 12]
    first, second = run(capsys, *words)[1], run(capsys, *words)[1]
    other = run(capsys, *words, "--seed", 5)[1]
    assert first.startswith("Line 7")
    assert first == second
    assert first != other


def test_generate_opens_one_checkpoint(capsys, trained):
    step = checkpoint_paths(trained)[0]
    code, out, _ = run(capsys, "generate", "--checkpoint", step, "--max-new-tokens", 3)
    assert code == 0
    assert out.strip()


def test_tokenizer_trains_and_shows(capsys, text, tmp_path):
    path = tmp_path / "tokenizer.json"
    words = ["--data", text, "--out", path, "--vocab-size", 270]
    code, out, _ = run(capsys, "tokenizer", "train", *words)
    assert code == 0
    assert "270 tokens" in out
    code, out, _ = run(
        capsys, "tokenizer", "show", "--tokenizer", path, "--text", "中 <|endoftext|>"
    )
    assert code == 0
    assert out.splitlines()[-1].endswith("for 17 bytes")
    ids = [int(line.split()[0]) for line in out.splitlines()[:-1]]
    assert 0 not in ids, "user text never becomes <|endoftext|>"


def test_doctor_finds_this_computer_ready(capsys, tmp_path):
    code, out, _ = run(capsys, "doctor", "--out", tmp_path)
    assert code == 0
    assert out.count("ok ") == 7


@pytest.mark.slow
def test_story_run_reports_against_the_floor(capsys, tmp_path, monkeypatch):
    card = functools.partial(pipeline.model_card, n_stories=10)
    monkeypatch.setattr(pipeline, "model_card", card)
    out = tmp_path / "run"
    words = ["--vocab-size", 2048, "--block-size", 400, "--n-layer", 1, "--n-embd", 32]
    words += ["--n-head", 2, "--n-kv-head", 1, "--batch-size", 4, "--max-steps", 25]
    assert run(capsys, "train", "tiny", "--out", out, *words)[0] == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    held = [nats for _, nats in storyworld.documents(1000, seed=0)]
    gap = report["val_loss"] - report["floor"]
    targets = sum(held) / report["floor"]
    assert gap > 0
    assert report["excess"] == pytest.approx(gap / report["floor"])
    assert report["gap_nats_per_story"] == pytest.approx(gap * targets / len(held))
    n_bytes = sum(len(text.encode()) for text, _ in storyworld.documents(1000, seed=0))
    bits = report["val_loss"] * targets / n_bytes / 0.6931471805599453
    assert report["bits_per_byte"] == pytest.approx(bits)
    assert set(report["seconds"]) == {"tokenizer", "data", "training", "report", "total"}
    assert report["tokens_per_second"] > 0
    assert len(report["samples"]) == 3
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "floor" in (out / "report.md").read_text("utf-8")
    losses = [row["loss"] for row in read_metrics(out) if "loss" in row]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_conversations_are_learned_and_examined(capsys, tmp_path, monkeypatch):
    card = functools.partial(pipeline.model_card, per_task=2, n_stories=4)
    monkeypatch.setattr(pipeline, "model_card", card)
    out = tmp_path / "run"
    words = ["--vocab-size", 2048, "--block-size", 480, "--n-layer", 1, "--n-embd", 32]
    words += ["--n-head", 2, "--n-kv-head", 1, "--batch-size", 4, "--max-steps", 12]
    words += ["--dialogue-share", 0.5, "--tuning-fraction", 0.5]
    assert run(capsys, "train", "tiny", "--out", out, *words)[0] == 0
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["val_loss"] > report["floor"] > 0
    expected = (report["ngram_loss"] - report["val_loss"]) / (
        report["ngram_loss"] - report["floor"]
    )
    assert report["gap_closed"] == pytest.approx(expected)
    assert {"translation_en_zh", "summary", "sentiment_inferred", "question"} <= set(
        report["tasks"]
    )
    fields = {"metric", "score", "baseline", "low", "high", "n"}
    assert all(fields <= set(task) for task in report["tasks"].values())


@pytest.mark.slow
def test_a_run_is_graded_by_its_own_world(capsys, tmp_path, monkeypatch):
    from minigpt.storyworld import corpus, exam

    for name in ("VALIDATION_STORIES", "TOKENIZER_STORIES", "TOKENIZER_DIALOGUES"):
        monkeypatch.setattr(corpus, name, 20)
    worlds, examine = [], exam.examine

    def short_exam(model, tokenizer, *args, world, **more):
        worlds.append(world)
        return examine(model, tokenizer, per_task=0, n_stories=1, world=world)

    monkeypatch.setattr(exam, "examine", short_exam)
    out = tmp_path / "run"
    words = ["train", "tiny", "--out", out, "--world", "little", "--vocab-size", 500]
    words += ["--n-layer", 1, "--n-embd", 8, "--batch-size", 2, "--max-steps", 2]
    assert run(capsys, *words)[0] == 0
    assert json.loads((out / "config.json").read_text("utf-8"))["world"] == "little"
    little = storyworld.World.little()
    nats = sum(nats for _, nats in storyworld.documents(20, 0, little))
    report = json.loads((out / "report.json").read_text("utf-8"))
    n_targets = len(open_tokens(out / "val.bin"))
    assert report["floor"] == pytest.approx(nats / n_targets, rel=0.05)
    assert run(capsys, "evaluate", "--checkpoint", out)[0] == 0
    assert run(capsys, "train", "--out", out, "--resume", "--max-steps", 3)[0] == 0
    assert worlds == [little] * 3
    assert load_config(out).world == "little"
    line = refused(capsys, "train", "--out", out, "--resume", "--world", "full")
    assert "world 'little' -> 'full'" in line


@pytest.mark.slow
def test_a_run_reads_stories_first_and_then_learns_answers_with_some_stories(tmp_path):
    training = TrainConfig(max_steps=60, batch_size=4)
    model = GPTConfig(vocab_size=1024, block_size=320)
    config = RunConfig(
        world="little", dialogue_share=0.7, tuning_fraction=0.5, model=model, training=training
    )
    tokenizer = make_tokenizer(tmp_path, config, resume=False)
    data = make_data(tmp_path, config, tokenizer, False)
    source = pipeline.make_source(data, config, tokenizer)
    user, assistant, end = (
        tokenizer.special_tokens[name] for name in ("<|user|>", "<|assistant|>", "<|end|>")
    )
    tokens = Counter()  # of tuning, by what a row holds
    for step in range(60):
        idx, targets = source.batch(step)
        for row, wanted in zip(idx, targets, strict=True):
            is_talk = row[0] == user
            assert step >= 30 or not is_talk, "reading meets no conversations"
            tokens[bool(is_talk)] += int((wanted != -100).nonzero().max()) + 1 if step >= 30 else 0
            if is_talk:
                inside = torch.cumsum((row == assistant).long() - (row == end).long(), 0)
                answers = (wanted != -100).nonzero().flatten()
                assert set(row[answers].tolist()) >= {assistant}
                assert not (wanted == assistant).any()
                assert not (wanted == user).any()
                assert int(inside[-1]) <= 0
            else:
                assert row[0] == tokenizer.eot_id
                assert (wanted == tokenizer.eot_id).sum() == 1
    assert tokens[True] / tokens.total() == pytest.approx(0.7, abs=0.1)


def test_conversations_about_a_file_of_ones_own_are_refused(capsys, text, tmp_path):
    words = ["train", "tiny", "--data", text, "--out", tmp_path / "run", "--dialogue-share", 0.5]
    line = refused(capsys, *words, *SMALL)
    assert "--dialogue-share" in line
    assert "finetune" in line


REAL = {
    "shakespeare by characters": ("tinyshakespeare/input.txt", ["--tokenizer", "char"]),
    "shakespeare by bpe": ("tinyshakespeare/input.txt", []),
    "alice": ("alice/11-0.txt", []),
    "wikitext2": ("wikitext2/valid.txt", []),
    "tang poems": ("tang-poems", ["--field", "paragraphs"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_text_trains_survives_a_kill_and_generates(capsys, data_dir, tmp_path, name):
    path, extra = REAL[name]
    out = tmp_path / "run"
    words = ["--data", data_dir / path, "--out", out, *extra]
    if name == "tang poems":  # two of the three files have this field
        words[1] = data_dir / path / "poet.tang.0.json"
    settings = ["--max-steps", 60, "--save-interval", 5, "--eval-interval", 30, *SMALL]
    kill_after_a_checkpoint(["train", *words, *settings], out)
    killed_at = latest_checkpoint(out).step
    code, printed, _ = run(capsys, "train", "--out", out, "--resume")
    assert code == 0
    assert killed_at < 60
    steps = [row["step"] for row in read_metrics(out) if "loss" in row]
    assert steps == [10, 20, 30, 40, 50, 60]
    losses = [row["loss"] for row in read_metrics(out) if "loss" in row]
    assert losses[-1] < losses[0]
    assert "bits per byte" in printed
    code, printed, _ = run(capsys, "generate", "--checkpoint", out, "--max-new-tokens", 20)
    assert code == 0
    assert printed.strip()


def kill_after_a_checkpoint(words: list[object], out: Path) -> None:
    """Start a command in a process of its own and kill it once it has saved something."""
    command = [sys.executable, "-m", "minigpt", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 120
        while not checkpoint_paths(out) and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.005)
        assert checkpoint_paths(out), process.stderr.read().decode("utf-8", "replace")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(capsys, text, tmp_path):
    settings = ["--max-steps", 40, "--save-interval", 5, "--dropout", 0.1, *SMALL]
    words = ["train", "--data", text, *settings, "--out"]
    command = [sys.executable, "-m", "minigpt", *map(str, words), str(tmp_path / "whole")]
    subprocess.run(command, check=True, capture_output=True)
    kill_after_a_checkpoint([*words, tmp_path / "killed"], tmp_path / "killed")
    resume = [sys.executable, "-m", "minigpt", "train", "--resume", "--out", tmp_path / "killed"]
    subprocess.run(resume, check=True, capture_output=True)
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, two = (
            safetensors.torch.load_file(checkpoint_paths(tmp_path / run)[-1] / name)
            for run in ("whole", "killed")
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_request_to_end_leaves_a_checkpoint(text, tmp_path, number, code):
    out = tmp_path / "run"
    words = ["train", "--data", text, "--out", out, "--max-steps", 100_000, *SMALL]
    command = [sys.executable, "-m", "minigpt", *map(str, words), "--save-interval", "50000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        path = out / "metrics.jsonl"
        if path.exists() and path.stat().st_size:
            break
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1].decode("utf-8", "replace")
    assert process.returncode == code, err
    assert "go on with --resume" in err
    assert latest_checkpoint(out).step >= 10


# --- what the README promises ---


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_the_commands_of_a_page_exist(capsys, page):
    text = (ROOT / page).read_text("utf-8")
    commands = re.findall(r"-m minigpt (\w+)((?: [^\n`&|]*)?)", text)
    assert len(commands) >= 8
    for name, words in commands:
        assert name in COMMANDS, name
        text = "".join(run(capsys, name, "--help-all")[1:])
        for flag in re.findall(r"--[a-z-]+", words):
            assert flag in text, (name, flag)


def test_tiny_is_a_preset_that_the_help_names(capsys):
    assert tiny() == PRESETS["tiny"]()
    assert "tiny|laptop|gpu|" in "".join(run(capsys, "train", "--help")[1:])


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error():
    command = [sys.executable, "-m", "minigpt", "finetune", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # before a single line is there
        assert process.stderr.read() == b""


def test_quickstart_takes_another_number_of_steps(monkeypatch, tmp_path, capsys):
    taken = []

    def pipeline(out, config, resume):
        taken.append((out, config.training.max_steps, resume))
        return 0

    monkeypatch.setattr("minigpt.commands.quickstart.run_pipeline", pipeline)
    code, out, _ = run(capsys, "quickstart", "--out", tmp_path, "--max-steps", 12)
    assert code == 0
    assert f"chat --checkpoint {tmp_path}" in out
    run(capsys, "quickstart", "--out", tmp_path)
    assert taken == [(tmp_path, 12, False), (tmp_path, quickstart().training.max_steps, False)]
