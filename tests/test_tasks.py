"""Tasks from files: what they are taken for, what they score, models side by side, refusals."""

import json

import helpers
import numpy as np
import pytest

from minigpt.calibration import choice_probabilities
from minigpt.choices import Question, choice_log_likelihoods
from minigpt.runs.findings import pair_rows
from minigpt.runs.run import open_run
from minigpt.support.errors import ConfigError, DataError
from minigpt.tasks import (
    LastWord,
    Result,
    compared,
    mean_of,
    read_task,
    run_task,
    seen_shares,
    side_by_side,
    task_report,
)

PLACES = ("in the park", "at the market", "by the lake", "on the hill")


def story_rows(n: int) -> list[dict]:
    """Questions that the little model can answer: where the story began."""
    rows = []
    for k in range(n):
        place = PLACES[k % 4]
        start = f"It was a sunny morning, and Lily took a blue hat to the {place.split()[-1]}. Then"
        text = f"{start} Max came with a yellow flag. That morning Lily was"
        rows.append({"ctx": text, "endings": list(PLACES), "label": k % 4})
    return rows


def lines(path, rows):
    return helpers.write(path, "\n".join(json.dumps(row) for row in rows))


@pytest.fixture(scope="module")
def little():
    run = open_run("little", "cpu")
    return run.model, run.tokenizer


# --- the public files as they stand ---


@pytest.mark.parametrize(
    ("name", "n", "first"),
    [
        ("hellaswag", 10_042, "Roof shingle removal: A man is sitting on a roof. he"),
        ("arc-easy", 2_376, "Question: Which statement best explains why photosynthesis"),
        ("mmlu", 1_466, "Find the degree for the given field extension Q(sqrt(2)"),
        ("lambada", 5_153, "In my palm is a clear stone, and inside it"),
    ],
)
def test_public_benchmarks_are_read_whole(data_dir, name, n, first):
    task = read_task(name)
    assert (task.name, len(task.items)) == (name, n)
    assert task.items[0].context.startswith(first)
    if name == "lambada":
        assert task.kind == "words"
        assert task.items[0].word == "signs"
    else:
        assert task.kind == "choices"
        assert all(len(q.choices) == 4 and all(q.choices) for q in task.items)
        assert len({q.right for q in task.items}) == 4
        assert not any("[" in q.context for q in task.items) or name != "hellaswag"


def test_mmlu_by_letters(data_dir):
    first = read_task("mmlu", form="letters").items[0]
    assert first.context.endswith("A. 0\nB. 4\nC. 2\nD. 6\nAnswer:")
    assert (first.choices, first.right) == (("A", "B", "C", "D"), 1)


def test_a_limit_takes_items_evenly(data_dir):
    every, some = read_task("mmlu").items, read_task("mmlu", limit=100).items
    assert len(some) == 100
    assert [every.index(q) for q in some[:3]] == [0, 14, 29]
    assert len(read_task("mmlu", limit=5000).items) == 1_466


# --- what is asked ---


def test_choices_are_scored_and_their_interval_stays_inside(tmp_path, little):
    task = read_task(lines(tmp_path / "places.jsonl", story_rows(12)))
    result = run_task(*little, task)
    rows = choice_log_likelihoods(*little, task.items)
    hits = [row.argmax() == q.right for row, q in zip(rows, task.items, strict=True)]
    assert result.right is not None
    assert result.right.tolist() == hits
    report = task_report(result)
    assert report["score"] == np.mean(hits) == result.score()
    assert report["baseline"] == 0.25
    assert 0 < report["low"] < report["score"] <= report["high"] <= 1
    assert set(report["also"]) == {"by characters", "by bytes"}
    sure = np.mean([choice_probabilities(row.tolist()).max() for row in rows])
    assert 0 <= report["facts"]["calibration error"] <= max(sure, 1 - sure)


def test_last_words_are_greedy_or_not(tmp_path, little):
    texts = [
        "It was a sunny morning, and Lily took a blue hat to the park. Then Max came with a yellow "
        "flag. They went to the beach with the hat and the flag.",
        "It was a sunny morning, and Lily took a blue hat to the zebra",
    ]
    task = read_task(lines(tmp_path / "last.jsonl", [{"text": text} for text in texts]))
    assert task.items[1] == LastWord(texts[1].rpartition(" ")[0], "zebra")
    result = run_task(*little, task)
    assert result.right is not None
    assert result.right.tolist() == [True, False]
    assert result.facts["perplexity"] > 2


def test_of_several_right_answers_the_nearest_counts(tmp_path, little):
    model, tokenizer = little
    row = {"question": "Where is Lily? Answer briefly.", "context": "Lily was in the park."}
    rows = [row | {"answers": {"text": texts}} for texts in (["x y", "z"], ["never"])]
    task = read_task(lines(tmp_path / "qa.jsonl", rows))
    assert task.kind == "answers"
    said = run_task(model, tokenizer, task, max_new_tokens=8)
    assert said.n == 2
    assert said.score("exact_match") == 0
    assert said.right is not None
    heard = [item.right for item in task.items]
    assert heard[0] == ("x y", "z")


def test_seen_items_are_left_out_of_a_second_score(tmp_path, little):
    task = read_task(lines(tmp_path / "places.jsonl", story_rows(8)))
    shares = seen_shares(task, [task.items[1].text, task.items[2].text + " And so on."])
    assert shares[1] == shares[2] == 1
    right = np.array([True] * 4 + [False] * 4)
    result = Result({"accuracy": mean_of(right)}, 8, right)
    clean = [k for k in range(8) if shares[k] < 0.5]
    assert task_report(result, shares)["also"]["unseen items alone"] == right[clean].mean()
    assert "unseen items alone" not in task_report(result, np.zeros(8))["also"]


# --- two models ---


def result_of(hits: list[bool], metric: str = "accuracy") -> Result:
    right = np.array(hits)
    return Result({metric: mean_of(right)}, len(hits), right)


def test_models_are_compared_on_the_same_items():
    a, b = result_of([True] * 10 + [False] * 30), result_of([True] * 25 + [False] * 15)
    pair = compared(a, b)
    assert pair["difference"] == 15 / 40
    assert (pair["only_a"], pair["only_b"]) == (0, 15)
    assert 0 < pair["low"] < pair["difference"] < pair["high"]
    with pytest.raises(ConfigError, match="40 items"):
        compared(a, result_of([True]))
    with pytest.raises(ConfigError, match="by f1"):
        compared(a, result_of([True] * 40, "f1"))


def test_many_comparisons_are_allowed_for(tmp_path):
    task = read_task(lines(tmp_path / "places.jsonl", story_rows(40)))
    better = result_of([True] * 16 + [False] * 24)
    models = [[result_of([True] * 10 + [False] * 30)]] + [[better]] * 4
    report = side_by_side([task], models, [None])
    assert [pair["p"] for pair in report["pairs"]] == [pytest.approx(2 / 2**6)] * 4
    assert [pair["p_adjusted"] for pair in report["pairs"]] == [pytest.approx(8 / 2**6)] * 4
    assert {row[-1] for row in pair_rows(report["pairs"])} == {"not told apart"}
    alone = side_by_side([task], models[:2], [None])
    assert pair_rows(alone["pairs"])[0][-1] == "B is better"
    back = side_by_side([task], models[1::-1], [None])
    assert pair_rows(back["pairs"])[0][-1] == "A is better"


# --- what is refused ---


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"question": "Q", "choices": ["a", "b"], "answer": 5}], "none of the choices"),
        ([{"question": "Q", "choices": ["a", "b"], "answer": 0}, {"question": "Q"}], "without ch"),
        ([{"question": "Q", "choices": ["a", ""], "answer": 0}], "fewer than two"),
        ([{"text": "one"}], "two words"),
    ],
)
def test_bad_tasks_are_refused(tmp_path, rows, words):
    with pytest.raises(DataError, match=words):
        read_task(lines(tmp_path / "bad.jsonl", rows))


def test_a_question_knows_its_text():
    assert Question("Tom was", ("here", "there"), 1).text == "Tom was there"


# --- the command ---


def test_two_models_on_one_page(tmp_path, capsys):
    file = lines(tmp_path / "places.jsonl", story_rows(6))
    words = ("--checkpoint", "little", "little-base", "--task", file, "--out", tmp_path / "o")
    text = ("--text", file, "--field", "ctx")
    code, out, _ = helpers.run(capsys, "evaluate", *words, *text, "--device", "cpu")
    assert code == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text("utf-8"))
    assert [model["name"] for model in report["models"]] == ["little", "little-base"]
    assert [entry["n"] for entry in report["compared"]["places"]] == [6, 6]
    assert len(report["texts"]) == 2
    assert report["pairs"][0]["p_adjusted"] <= 1
    page = (tmp_path / "o" / "report.html").read_text("utf-8")
    assert "2 models side by side" in page
    assert "In pairs" in page
    assert "| places: B - A |" in out
    assert helpers.run(capsys, "evaluate", *words, "--device", "cpu")[0] == 0  # written anew


def test_one_model_with_the_items_that_it_has_seen(tmp_path, capsys):
    file = lines(tmp_path / "places.jsonl", story_rows(6))
    row = story_rows(6)[2]
    seen = helpers.write(tmp_path / "seen.txt", f"{row['ctx']} {row['endings'][2]}")
    words = ("--checkpoint", "little", "--task", file, "--seen", seen, "--limit", 5)
    code, out, _ = helpers.run(capsys, "evaluate", *words, "--device", "cpu")
    assert code == 0
    assert "of the items stand in the training text" in out
    assert "unseen items alone" in out
    assert "| 5 | accuracy" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--checkpoint", "little", "little-base"), "nothing to compare them on"),
        (("--checkpoint", "little", "little", "--task", "x.jsonl"), "named twice"),
        (("--checkpoint", "little", "--seen", "x.txt"), "--seen without --task"),
        (("--checkpoint", "little", "--task", "arc_easy_missing.jsonl"), "arc_easy_missing"),
        (("--checkpoint", "little", "--task", "x", "--limit", "0"), "limit"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(capsys, words, said):
    assert said in helpers.refused(capsys, "evaluate", *words)
