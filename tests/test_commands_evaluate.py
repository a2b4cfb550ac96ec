"""The evaluate command: a run's own card, any text, examples; and what it refuses."""

import json
import math
import random
import shutil
import zipfile
from pathlib import Path

import helpers
import pytest

from minigpt.chat import SPECIAL, longest_answer
from minigpt.commands import main
from minigpt.commands.inputs import Data, Dialogues
from minigpt.commands.pipeline import run_pipeline
from minigpt.evaluate import generate_texts, text_score
from minigpt.gpt import GPTConfig
from minigpt.recipe import TrainConfig
from minigpt.runs.run import RunConfig, open_run
from minigpt.tokenizer import BPETokenizer

SMALL = GPTConfig(vocab_size=400, block_size=256, n_layer=1, n_head=1, n_embd=8)


def run(capsys, *words: object) -> tuple[int, str, str]:
    return helpers.run(capsys, "evaluate", *words)


def refused(capsys, *words: object) -> str:
    return helpers.refused(capsys, "evaluate", *words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run on a text of its own, whose tokenizer can chat."""
    folder = tmp_path_factory.mktemp("trained")
    text = "".join(f"Line {n} of my own text, 第{n}行。\n" for n in range(300))
    (folder / "my.txt").write_text(text, "utf-8")
    BPETokenizer.train([text], 400, special_tokens=SPECIAL).save(folder / "tokenizer.json")
    config = RunConfig(
        data=str(folder / "my.txt"),
        tokenizer=str(folder / "tokenizer.json"),
        model=SMALL,
        training=TrainConfig(max_steps=5, batch_size=4),
    )
    assert run_pipeline(folder / "run", config, resume=False) == 0
    return folder / "run"


def report_of(folder: Path) -> dict:
    assert (folder / "report.html").is_file()
    assert (folder / "report.md").is_file()
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_a_run_on_text_gets_its_losses(capsys, trained):
    code, out, _ = run(capsys, "--checkpoint", trained)
    assert code == 0
    report = report_of(trained / "evaluation")
    first = report_of(trained)
    assert report["val_loss"] == pytest.approx(first["val_loss"])
    assert report["ngram_loss"] < report["val_loss"]  # it has hardly been trained
    assert report["steps"] == 5
    assert "best n-gram" in out
    assert "tasks" not in report


def test_any_text_from_any_checkpoint(capsys, trained, tmp_path):
    file = tmp_path / "other.txt"
    file.write_text("Another text, 又一个。" * 20, "utf-8")
    checkpoint = next((trained / "checkpoints").iterdir())
    code, out, _ = run(
        capsys, "--checkpoint", checkpoint, "--text", file, "--stride", 16, "--out", tmp_path / "o"
    )
    assert code == 0
    opened = open_run(trained)
    expected = text_score(opened.model, opened.tokenizer, file.read_text("utf-8"), 16)
    text = report_of(tmp_path / "o")["text"]
    assert text == expected._asdict()
    assert f"{text['perplexity']:.3f} a token" in out
    assert text["perplexity"] == pytest.approx(math.exp(text["loss"]))


def test_texts_of_a_jsonl_file_are_documents(capsys, trained, tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [json.dumps({"body": text}) for text in ("one text", "another text")]
    file.write_text("\n".join(rows), "utf-8")
    assert (
        run(
            capsys,
            "--checkpoint",
            trained,
            "--text",
            file,
            "--field",
            "body",
            "--out",
            tmp_path / "o",
        )[0]
        == 0
    )
    assert report_of(tmp_path / "o")["text"]["n_documents"] == 2


def test_examples_are_scored_beside_their_baselines(capsys, trained, tmp_path):
    for name, count in (("test", 8), ("train", 12)):
        rows = [f"great film {n},good" if n % 4 else f"dull film {n},bad" for n in range(count)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]), "utf-8")
    code, out, _ = run(
        capsys,
        "--checkpoint",
        trained,
        "--data",
        tmp_path / "test.csv",
        "--prompt",
        "Good or bad? {text}",
        "--answer",
        "{label}",
        "--learn-from",
        tmp_path / "train.csv",
        "--out",
        tmp_path / "o",
    )
    assert code == 0
    tasks = report_of(tmp_path / "o")["tasks"]
    assert set(tasks) == {"accuracy", "f1", "precision", "recall"}
    assert tasks["accuracy"]["baselines"]["majority"] == 0.75
    assert tasks["accuracy"]["baseline"] == 1  # its words give it away
    assert tasks["accuracy"]["baseline_name"] == "bag_of_words"
    assert tasks["accuracy"]["n"] == 8
    assert "bag of words" in out


# --- finetune and evaluate agree ---


def write_examples(folder: Path, name: str, rows: list[tuple[str, str]]) -> Path:
    """Write examples as a file of the kind that its name says, or as files of one label each."""
    path = folder / name
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    elif path.suffix in (".csv", ".tsv"):
        comma = {".csv": ",", ".tsv": "\t"}[path.suffix]
        lines = [f"text{comma}label", *(f"{text}{comma}{label}" for text, label in rows)]
    else:
        path.mkdir()
        for kind in ("good", "bad"):
            texts = [text for text, label in rows if label == kind]
            (path / f"{kind}.txt").write_text("\n".join(texts) + "\n", "utf-8")
        return path
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def zipped(path: Path) -> Path:
    """Put a file into an archive beside it."""
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        file.write(path, path.name)
    return archive


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "zip", "folder"])
def test_finetune_and_evaluate_give_the_same_answers(capsys, tmp_path, monkeypatch, kind):
    """To the last item, though many prompts are longer than the context.

    One right answer of the test is longer than all in training: whoever peeks gives more room. The
    first word tells the label, so whoever cuts the beginning knows nothing.
    """
    asked = []

    def spy(model, prompts, sampling, *args, **more):
        ids = generate_texts(model, prompts, sampling, *args, **more)
        asked.append((prompts, sampling, ids))
        return ids

    monkeypatch.setattr("minigpt.evaluate.generate_texts", spy)
    rng = random.Random(0)
    rows = []
    for number in range(120):
        label = rng.choice(["good", "bad"])
        filler = " so" * (rng.choice([2, 200]) if number % 3 else 4)
        rows.append((f"{label} film {number}{filler}", label))
    if kind != "folder":  # whose files are the labels
        rows.append(("a film that is odd", "neither good nor bad at all"))
    name = {"zip": "jsonl", "folder": ""}.get(kind, kind)
    files = [
        write_examples(tmp_path, f"{side}.{name}" if name else side, some)
        for side, some in (("train", rows[:80]), ("test", rows[80:]))
    ]
    train, test = map(zipped, files) if kind == "zip" else files
    out = tmp_path / "run"
    words = ["finetune", "--data", train, "--held-out", test, "--out", out, "--over-long", "cut"]
    words += ["--n-layer", 1, "--n-head", 1, "--n-embd", 16, "--vocab-size", 290, "--device", "cpu"]
    words += ["--block-size", 64, "--max-steps", 30, "--pretrain-epochs", 0, "--batch-size", 8]
    assert main([str(word) for word in words]) == 0
    assert "prompts are longer than the context of 64" in capsys.readouterr().err
    code, _, err = run(capsys, "--checkpoint", out, "--data", test, "--learn-from", train)
    assert code == 0
    assert "prompts are longer than the context of 64" in err
    (prompts, sampling, answers), again = asked
    assert len(prompts) == len(rows) - 80
    assert (prompts, sampling, answers) == again
    assert report_of(out)["tasks"] == report_of(out / "evaluation")["tasks"]
    tokenizer, room = open_run(out, "cpu").tokenizer, sampling.max_new_tokens
    assert room == longest_answer(["good", "bad"], tokenizer)
    user = tokenizer.special_tokens["<|user|>"]
    assert all(ids[0] == user and len(ids) <= 64 - room for ids in prompts)


def test_the_room_for_answers_can_be_set(capsys, trained, tmp_path, monkeypatch):
    rooms = []

    def write(model, prompts, sampling, *args, **more):
        rooms.append(sampling.max_new_tokens)
        return [[] for _ in prompts]

    monkeypatch.setattr("minigpt.evaluate.generate_texts", write)
    (tmp_path / "a.csv").write_text("text,label\na film,good\nb film,bad\n", "utf-8")
    words = ["--checkpoint", trained, "--data", tmp_path / "a.csv", "--out", tmp_path / "o"]
    for flags in ([], ["--max-answer-tokens", 7]):
        assert run(capsys, *words, *flags)[0] == 0
    assert rooms == [256 // 4, 7]


@pytest.mark.slow
def test_a_storyworld_run_gets_the_whole_card(capsys, trained, tmp_path, monkeypatch):
    from minigpt import storyworld
    from minigpt.batching.prepare import document_ids
    from minigpt.batching.token_files import write_tokens
    from minigpt.commands import evaluate
    from minigpt.storyworld import exam, told

    monkeypatch.setattr(exam, "TAUGHT_STORIES", 4)
    monkeypatch.setattr(exam, "TASKS", {name: exam.TASKS[name] for name in ("title", "topic")})
    monkeypatch.setattr(exam, "longest_answer", lambda texts, tokenizer: 20)
    monkeypatch.setattr(told, "story_room", lambda tokenizer, world: 20)
    copied = shutil.copytree(trained, tmp_path / "run")
    tokenizer = open_run(copied).tokenizer
    held = list(storyworld.documents(4))
    facts = (tokenizer.vocab_size, tokenizer.eot_id, tokenizer.fingerprint)
    texts = [text[:40] for text, _ in held]  # they must fit into this small context
    files = [
        write_tokens(copied / name, document_ids(texts, tokenizer), *facts)
        for name in ("train.bin", "val.bin")
    ]
    data = Data(
        *files, 240, 10.0, n_stories=4, dialogues=Dialogues([], set(), ""), exam=exam.examine
    )
    monkeypatch.setattr(evaluate, "make_data", lambda *args, **more: data)
    words = ["--checkpoint", copied, "--stories", 2, "--per-task", 1]
    command = evaluate.parse(evaluate.EvaluateCommand, "evaluate", [str(word) for word in words])
    with pytest.warns(UserWarning, match="longer than the context"):
        report = evaluate.own_card(command, open_run(copied))
    assert set(report["tasks"]) == {"title", "topic", "consistent_stories"}
    assert report["stories"]["n"] == 2
    assert report["floor"] == pytest.approx(10 / len(data.validation))
    expected = (report["ngram_loss"] - report["val_loss"]) / (
        report["ngram_loss"] - report["floor"]
    )
    assert report["gap_closed"] == pytest.approx(expected)
    assert report["contamination"] == 0
    assert len(report["samples"]) == 3


# --- what it refuses ---


def test_an_empty_text_is_refused(capsys, trained, tmp_path):
    (tmp_path / "empty.txt").write_text("", "utf-8")
    line = refused(capsys, "--checkpoint", trained, "--text", tmp_path / "empty.txt")
    assert "0 bytes" in line or "0 characters" in line
    assert "give a" in line


def test_invalid_utf8_names_the_byte(capsys, trained, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"good \xff bad")
    line = refused(capsys, "--checkpoint", trained, "--text", tmp_path / "bad.txt")
    assert "byte 5" in line
    assert "replace" in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-answer-tokens", 0], ["max_answer_tokens = 0", "1 or more"]),
        (["--stories", 0], ["stories = 0", "--stories", "1 or more"]),
        (["--per-task", -3], ["per_task = -3", "--per-task", "1 or more"]),
        (["--metric", "blue"], ["metric = 'blue'", "--metric", "one of auto", "bleu"]),
        (["--metric", "accepted"], ["metric = 'accepted'", "one of auto"]),
        (["--learn-from", "x.csv"], ["--learn-from without --data", "add --data"]),
        (["--device", "tpu"], ["device 'tpu'", "--device", "choose auto"]),
    ],
)
def test_bad_flags(capsys, trained, flags, words):
    line = refused(capsys, "--checkpoint", trained, *flags)
    for word in words:
        assert word in line, line


def test_a_stride_beyond_the_context(capsys, trained, tmp_path):
    (tmp_path / "my.txt").write_text("some text", "utf-8")
    line = refused(capsys, "--checkpoint", trained, "--text", tmp_path / "my.txt", "--stride", 257)
    assert "stride = 257" in line
    assert "1 to 256" in line


def test_out_is_a_file(capsys, trained, tmp_path):
    (tmp_path / "file").write_text("x", "utf-8")
    line = refused(capsys, "--checkpoint", trained, "--out", tmp_path / "file")
    assert "--out is a file" in line
    assert "name a directory" in line


def test_no_run_there(capsys, tmp_path):
    line = refused(capsys, "--checkpoint", tmp_path)
    assert "no config.json" in line
    assert "give the directory" in line


def test_a_run_without_its_validation_text_says_what_else_to_give(capsys, trained, tmp_path):
    copied = shutil.copytree(trained, tmp_path / "run")
    (copied / "val.bin").unlink()
    shutil.rmtree(copied / "evaluation", ignore_errors=True)
    line = refused(capsys, "--checkpoint", copied)
    assert "no validation text of its own" in line
    assert "--data FILE" in line
    assert not (copied / "evaluation").exists()  # nothing half-written


def test_help_names_every_way(capsys):
    _, out, _ = run(capsys, "--help")
    for flag in ("--text", "--data", "--prompt", "--answer", "--learn-from", "--metric"):
        assert flag in out
