"""`finetune --task dpo` and `--task grpo`: from rows to a report, resumed, refused."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from helpers import refused, run, write

import minigpt
from minigpt.alignment.dpo import split_answer, to_pairs
from minigpt.alignment.measures import fitting, own_answers
from minigpt.batching.examples import Example
from minigpt.batching.messages import turns
from minigpt.finetune import FinetuneConfig, check_task, load_settings, usual_settings
from minigpt.runs.checkpoint import checkpoint_paths
from minigpt.sampling import SampleConfig
from minigpt.support.errors import ConfigError, DataError

FAST = ["--checkpoint", "little", "--device", "cpu", "--dtype", "float32", "--learning-rate", 1e-3]
PAIRS = [
    {"prompt": f"Say {n} and {n % 3}.", "chosen": "red kite", "rejected": "blue boat"}
    for n in range(60)
]
ASKED = [{"prompt": f"Tell a story with a hat, number {n}.", "word": "park"} for n in range(60)]
REWARD = "def holds(prompt, answer, row):\n    return float(row['word'] in answer)\n"


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def weights(run_dir) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(checkpoint_paths(run_dir)[-1] / "model.safetensors")


def report_of(run_dir) -> dict:
    return json.loads((run_dir / "report.json").read_text("utf-8"))


def changes_of(run_dir) -> dict[str, tuple[float, float]]:
    """Return the first number before and after of each line of the report's table."""
    rows = report_of(run_dir)["changes"]
    return {
        r["name"].split(",")[0]: (float(r["before"].split()[0]), float(r["after"].split()[0]))
        for r in rows
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder / "pairs.jsonl", lines(PAIRS))
    write(folder / "asked.jsonl", lines(ASKED))
    write(folder / "mine.py", REWARD)
    return folder


def dpo(files, out, *more) -> list:
    words = ["finetune", "--task", "dpo", "--data", files / "pairs.jsonl", "--out", out, *FAST]
    return [*words, "--max-steps", 8, "--batch-size", 8, "--save-interval", 4, *more]


def grpo(files, out, *more) -> list:
    words = ["finetune", "--task", "grpo", "--data", files / "asked.jsonl", "--out", out, *FAST]
    words += ["--reward", f"{files / 'mine.py'}:holds", "--max-answer-tokens", 12]
    return [*words, "--max-steps", 10, "--batch-size", 32, "--save-interval", 5, *more]


# --- preferences ---


@pytest.mark.slow
def test_dpo_raises_the_better_answer_over_the_worse_and_resumes(capsys, files, tmp_path):
    code, printed, err = run(capsys, *dpo(files, tmp_path / "run"))
    assert code == 0, err
    assert (
        "60 pairs: prompt from `prompt`, answer from `chosen`, worse answer from `rejected`" in err
    )
    assert err.index("60 pairs") < err.index("training ...")
    report, changes = report_of(tmp_path / "run"), changes_of(tmp_path / "run")
    assert report["tasks"]["ranked_right"]["score"] == 1.0
    assert report["tasks"]["ranked_right"]["baselines"].keys() == {"coin", "longer", "shorter"}
    assert changes["margin: beta times the log ratio's difference"][1] > 1.0
    worse = changes["log p of a worse answer"]
    assert worse[1] < worse[0] - 3, "the worse answer falls"
    assert changes["KL from the checkpoint"][0] == 0.0 < changes["KL from the checkpoint"][1]
    assert "Before and after" in printed
    assert minigpt.load(tmp_path / "run").run.step == 8
    half = shutil.copytree(tmp_path / "run", tmp_path / "half")
    shutil.rmtree(checkpoint_paths(half)[-1])
    code, _, err = run(capsys, "finetune", "--out", half, "--resume")
    assert code == 0, err
    whole, again = weights(tmp_path / "run"), weights(half)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    shutil.rmtree(checkpoint_paths(half)[-1])
    line = refused(capsys, "finetune", "--out", half, "--resume", "--beta", 0.5)
    assert "beta 0.1 -> 0.5" in line


@pytest.mark.slow
def test_dpo_trains_thin_matrices_beside_a_frozen_base(capsys, files, tmp_path):
    out = tmp_path / "run"
    words = dpo(files, out, "--lora", "--rank", 2, "--lora-learning-rate", 1e-2)
    code, _, err = run(capsys, *words)
    assert code == 0, err
    assert all(file.stat().st_size < 150_000 for file in out.rglob("model.safetensors"))
    assert report_of(out)["tasks"]["ranked_right"]["score"] == 1.0
    assert changes_of(out)["margin: beta times the log ratio's difference"][1] > 0.2
    code, _, err = run(capsys, "finetune", "--out", out, "--resume", "--max-steps", 9)
    assert code == 0, err
    assert minigpt.load(out).run.step == 9


def test_the_last_answer_and_its_end_are_compared():
    little = minigpt.load("little", device="cpu")
    talk = [*turns("a", "b"), *turns("c", "d")]
    pair = Example(talk, "x, line 1", "a", "", rejected="e f")
    (found,), kept = to_pairs([pair], little.model, little.tokenizer, "refuse")
    assert kept == [pair]
    texts = [little.tokenizer.decode(ids) for ids in found]
    assert texts[0].endswith("<|user|>c<|end|><|assistant|>")
    assert "b<|end|>" in texts[0]
    assert texts[1:] == ["d<|end|>", "e f<|end|>"]
    assert split_answer([1, 2, 3], [True, False, True]) == ([1, 2], [3])


def test_what_is_too_long_is_refused_dropped_or_cut():
    tokenizer = minigpt.load("little", device="cpu").tokenizer
    user, end = (tokenizer.special_tokens[name] for name in ("<|user|>", "<|end|>"))
    long = [user, *range(40, 60), end]
    rest = tokenizer, lambda number: f"line {number}"
    with pytest.raises(DataError, match=r"22 tokens and 4 of an answer.*line 1.*--over-long"):
        fitting([[user, 40], long], [4, 4], 20, "refuse", *rest)
    assert fitting([[user, 40], long], [4, 4], 20, "drop", *rest) == [[user, 40], None]
    cut = fitting([long], [4], 20, "cut", *rest)[0]
    assert cut == [user, *range(40, 48), *range(53, 60), end][: len(cut)] or len(cut) == 17
    assert cut[0] == user
    assert cut[-1] == end
    with pytest.raises(DataError, match="nothing fits"):
        fitting([long], [4], 20, "drop", *rest)


# --- rewards ---


@pytest.mark.slow
def test_grpo_raises_the_reward_and_resumes(capsys, files, tmp_path):
    code, _, err = run(capsys, *grpo(files, tmp_path / "run"))
    assert code == 0, err
    assert "60 prompts: prompt from `prompt`" in err
    assert "mine.py:holds" in err
    rows = [json.loads(row) for row in (tmp_path / "run" / "rewards.jsonl").open(encoding="utf-8")]
    assert [row["step"] for row in rows] == list(range(1, 11))
    rewards = [row["reward"] for row in rows]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.6
    changes = changes_of(tmp_path / "run")
    assert changes.keys() >= {"entropy", "tokens of an own answer", "share of different answers"}
    assert changes["KL from the checkpoint"][0] == 0.0 < changes["KL from the checkpoint"][1]
    half = shutil.copytree(tmp_path / "run", tmp_path / "half")
    shutil.rmtree(checkpoint_paths(half)[-1])
    code, _, err = run(capsys, "finetune", "--out", half, "--resume")
    assert code == 0, err
    whole, again = weights(tmp_path / "run"), weights(half)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    texts = [(tmp_path / name / "rewards.jsonl").read_text("utf-8") for name in ("run", "half")]
    assert texts[0] == texts[1]
    shutil.rmtree(checkpoint_paths(half)[-1])
    write(files / "mine.py", REWARD + "# another\n")
    try:
        assert "reward_sha256" in refused(capsys, "finetune", "--out", half, "--resume")
    finally:
        write(files / "mine.py", REWARD)


def test_own_answers_are_measured_token_by_token():
    little = minigpt.load("little", device="cpu")
    prompts, stops = [[3, 4], [5]], [little.tokenizer.eot_id]
    same = own_answers(little.model, little.model, prompts, SampleConfig(5), stops)
    assert same.kl == 0.0
    assert 0 < same.entropy < 7
    assert same.length == sum(map(len, same.answers)) / 2
    other = minigpt.load("little-base", device="cpu").model
    assert own_answers(little.model, other, prompts, SampleConfig(5), stops).kl > 0.01


# --- what is refused ---


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["--task", "dpo"], "without a model", "little"),
        (["--task", "grpo"], "without a model", "little"),
        (["--task", "dpo", *FAST, "--batch-size", 7], "batch_size = 7", "multiple of 2"),
        (["--task", "grpo", *FAST, "--batch-size", 20], "batch_size = 20", "multiple of 8"),
        (["--task", "dpo", *FAST, "--reward", "a:b"], "no meaning with --task dpo", "--task grpo"),
        (["--beta", 0.3], "no meaning with --task instruct", "--task dpo"),
        (["--task", "dpo", *FAST, "--rejected", "{b}"], "part of a pair", "--answer"),
        (["--task", "grpo", *FAST], "without an answer", "--reward"),
        (["--task", "grpo", *FAST, "--reward", "gone.py:f"], "no such file", ".py"),
        (["--task", "dpo", *FAST], "no better and worse answer", "--rejected"),
    ],
)
def test_settings_that_do_not_fit_the_task_are_refused(
    capsys, files, tmp_path, words, cause, remedy
):
    out = tmp_path / "run"
    line = refused(capsys, "finetune", "--data", files / "asked.jsonl", "--out", out, *words)
    assert cause in line
    assert remedy in line
    assert not checkpoint_paths(out)


def test_storyworld_has_no_examples_of_its_own_for_other_tasks(capsys, tmp_path):
    line = refused(capsys, "finetune", "--data", "storyworld", "--out", tmp_path / "run")
    assert "no examples for --task instruct" in line


@pytest.mark.slow
def test_a_reward_that_fails_ends_the_run_with_its_row(capsys, files, tmp_path):
    write(tmp_path / "bad.py", "def f(prompt, answer, row):\n    return row['none']\n")
    words = grpo(files, tmp_path / "run", "--reward", f"{tmp_path / 'bad.py'}:f")
    line = refused(capsys, *words)
    assert "KeyError: 'none'" in line
    assert "bad.py, line 2" in line


def test_help_names_the_tasks_and_their_flags(capsys):
    code, out, _ = run(capsys, "finetune", "--help")
    assert code == 0
    assert "{instruct,classify,dpo,grpo}" in out
    code, out, _ = run(capsys, "finetune", "--task", "dpo", "--help-all")
    assert all(flag in out for flag in ("--beta", "--rejected", "--reward", "--group-size", "--kl"))


def test_each_task_has_its_usual_settings(tmp_path):
    for task in ("dpo", "grpo"):
        usual = usual_settings(task)
        assert usual.model.dropout == 0.0, "two log-probabilities of one answer are compared"
        assert usual.training.learning_rate < FinetuneConfig().training.learning_rate
        with pytest.raises(ConfigError, match="without a model"):
            check_task(usual)
    assert usual_settings("instruct") == FinetuneConfig()
    old = '{"format": 2, "data": "x", "task": "answer", "checkpoint": null, "examples": {}, '
    write(tmp_path / "finetune.json", old + '"model": {"vocab_size": 300}, "training": {}}')
    assert load_settings(tmp_path).task == "instruct"
