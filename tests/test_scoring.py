"""Grades: oracles score 1, a planted mistake costs exactly 1/n, baselines know only their own."""

import math

import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import f1_score

from minigpt.scoring import (
    METRICS,
    OFFICIAL,
    Item,
    about_metrics,
    baseline_answers,
    contamination,
    document_hashes,
    example_items,
    fitting_metrics,
    learned_answers,
    score_task,
    scorer,
    text_hash,
)
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import BPETokenizer


def item(prompt: str, answer: str, **more) -> Item:
    return Item("task", ({"role": "user", "content": prompt},), answer, **more)


ITEMS = [item(f"what is {n}?", f"number {n} of many in this row") for n in range(20)]


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "accepted"])
def test_an_oracle_scores_1_and_silence_0(metric):
    right = score_task("t", metric, [it.answer for it in ITEMS], ITEMS)
    assert (right.score, right.low, right.high, right.n) == pytest.approx((1, 1, 1, 20))
    silent = score_task("t", metric, [""] * 20, ITEMS)
    assert (silent.score, silent.low, silent.high) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["exact", "accuracy", "exact_match", "accepted"])
def test_a_planted_mistake_costs_exactly_one_item(metric):
    items = [item("?", it.answer, accepts=lambda text, it=it: text == it.answer) for it in ITEMS]
    predictions = [it.answer for it in items]
    predictions[7] = "something else"
    found = score_task("t", metric, predictions, items)
    assert found.score == pytest.approx(1 - 1 / 20, abs=1e-12)
    assert found.low < found.score < found.high <= 1


def test_exact_is_stricter_than_exact_match():
    one = [item("?", "The red ball.")]
    assert scorer("exact", ["red ball"], one)(np.array([0])) == 0
    assert scorer("exact_match", ["red ball"], one)(np.array([0])) == 1
    assert scorer("exact", ["  The red ball.\n"], one)(np.array([0])) == 1


def test_f1_equals_scikit_learn_and_a_wrong_spelling_is_a_miss():
    rng = np.random.default_rng(0)
    targets = rng.choice(["a", "b", "c"], 60, p=[0.6, 0.3, 0.1]).tolist()
    guesses = rng.choice(["a", "b", "c", "aa"], 60).tolist()
    items = [item("?", target) for target in targets]
    expected = f1_score(targets, guesses, labels=["a", "b", "c"], average="macro")
    assert scorer("f1", guesses, items)(np.arange(60)) == pytest.approx(expected)
    some = np.array([5, 5, 9, 30])
    there = sorted({targets[i] for i in some})
    part = f1_score(
        [targets[i] for i in some],
        [guesses[i] for i in some],
        labels=there,
        average="macro",
        zero_division=0,
    )
    assert scorer("f1", guesses, items)(some) == pytest.approx(part)


def test_bleu_is_that_of_the_whole_corpus():
    predictions = ["the cat sat on the mat", "a dog ran away from me"]
    items = [item("?", "the cat sat on a mat"), item("?", "a dog ran far away from me")]
    expected = sacrebleu.corpus_bleu(predictions, [[it.answer for it in items]]).score / 100
    assert score_task("t", "bleu", predictions, items).score == pytest.approx(expected)


def test_languages_may_be_mixed():
    items = [item("?", "红球", language="zh"), item("?", "red ball")]
    found = score_task("t", "token_f1", ["大红球", "a big red ball"], items)
    assert found.score == pytest.approx(0.8)


def test_the_best_baseline_stands_beside_the_score():
    items = [
        item("?", "x", baselines={"first_mention": "x", "last_mention": "y"}),
        item("?", "y", baselines={"first_mention": "x", "last_mention": "y"}),
        item("?", "y", baselines={"first_mention": "x"}),
    ]
    found = score_task("t", "accuracy", ["x", "x", "x"], items)
    assert found.baselines == pytest.approx({"first_mention": 1 / 3, "last_mention": 1 / 3})
    taught = [item("?", "y"), item("?", "y"), item("?", "x")]
    found = score_task("t", "accuracy", ["x", "x", "x"], items, taught)
    assert found.baseline_name == "majority"
    assert found.baseline == pytest.approx(2 / 3)
    assert found.as_dict()["baselines"]["first_mention"] == pytest.approx(1 / 3)
    assert "name" not in found.as_dict()


def test_a_constant_answer_scores_the_majority_baseline():
    taught = [item(f"{n}", "yes" if n % 3 else "no") for n in range(30)]
    items = [item(f"{n}", "yes" if n % 4 else "no") for n in range(40)]
    found = score_task("t", "accuracy", ["yes"] * 40, items, taught)
    assert found.score == found.baselines["majority"] == 0.75


def test_baselines_learn_from_their_own_group_and_language():
    taught = [item("?", "a", group="g")] * 3 + [item("?", "b", group="h")] * 5
    taught += [item("?", "c", group="g", language="zh")] * 9
    items = [
        item("?", "", group="g"),
        item("?", "", group="h"),
        item("?", "", group="g", language="zh"),
        item("?", "", group="new"),
    ]
    assert baseline_answers(items, taught)["majority"] == ["a", "b", "c", "b"]


def test_bag_of_words_knows_words_and_is_left_out_where_answers_do_not_recur():
    taught = [
        item(f"{word} day {n}", label)
        for n in range(6)
        for word, label in (("fine", "good"), ("sad", "bad"))
    ]
    items = [item("a sad one", "bad"), item("a fine one", "good")]
    assert learned_answers(items, taught)["bag_of_words"] == ["bad", "good"]
    assert "bag_of_words" not in learned_answers(ITEMS, ITEMS)
    assert learned_answers(items, []) == {}


def test_the_best_constant_text_is_the_majority_where_many_texts_are_right():
    taught = [
        item("?", answer, accepts=lambda text: "good" in text)
        for answer in ("bad end", "good end", "sad end")
    ]
    assert learned_answers(taught, taught) == {"majority": ["good end"] * 3}


def test_example_items_ask_for_the_last_answer():
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "Sum: A b. C d."},
        {"role": "assistant", "content": "A"},
    ]
    more = [
        *turns,
        {"role": "user", "content": "Sum: E f. G."},
        {"role": "assistant", "content": "结局很好"},
        {"role": "user", "content": "thanks"},
    ]
    first, second = example_items([turns, more])
    assert (first.prompt, first.answer, len(first.messages)) == ("Sum: A b. C d.", "A", 2)
    assert (second.answer, second.language, len(second.messages)) == ("结局很好", "zh", 4)
    assert first.baselines == {"copy": "A b. C d.", "first_sentence": "A b."}
    assert first.source == "A b. C d."


def test_metrics_fit_labels_or_texts():
    labels = [item("?", "good" if n % 2 else "bad") for n in range(10)]
    assert fitting_metrics(labels) == ("accuracy", "f1", "precision", "recall")
    assert "bleu" in fitting_metrics(ITEMS)


def test_chinese_texts_are_scored_by_cmrc_2018_as_well():
    items = [
        item("谁？", "红球", language="zh", others=("大红球",)),
        item("谁？", "雨伞", language="zh"),
    ]
    assert fitting_metrics(items)[-2:] == ("cmrc_match", "cmrc_f1")
    assert "cmrc_f1" not in fitting_metrics(ITEMS)
    found = ["《大红球》", "雨中伞"]
    match, f1 = (score_task("t", name, found, items) for name in ("cmrc_match", "cmrc_f1"))
    assert match.score == 0.5
    assert f1.score == pytest.approx((1 + 2 / 5) / 2)  # a run of 1 of 3 and 2 characters
    assert score_task("t", "token_f1", found, items).score == pytest.approx((1 + 4 / 5) / 2)


def test_several_right_answers_count_in_every_metric():
    items = [item("?", right, others=(f"{right} again. And more words.",)) for right in "ab" * 4]
    found = [row.others[0] for row in items]
    for name in METRICS:
        if name != "accepted":
            assert scorer(name, found, items)(np.arange(8)) == pytest.approx(1), name
            assert scorer(name, ["c"] * 8, items)(np.arange(8)) < 0.5, name


def test_a_report_names_the_scripts_that_its_scores_equal():
    assert set(OFFICIAL) <= set(METRICS)
    assert about_metrics(["accuracy", "exact_match", "part 1"]) == (
        "exact_match equals SQuAD 2.0's script (English)."
    )
    assert about_metrics(["accuracy"]) == ""


def test_contamination_counts_the_texts_that_training_had():
    tokenizer = BPETokenizer.train(["one two three 红球"], 300)
    ids = [tokenizer.encode(text) for text in ("one two", "three", "红球")]
    tokens = np.array([i for row in ids for i in (*row, tokenizer.eot_id)])
    seen = document_hashes(tokens, tokenizer)
    assert {text_hash("one two"), text_hash("three"), text_hash("红球")} <= seen
    assert text_hash("one") not in seen
    items = [item("Q", "", source="three"), item("Q", "", source="four"), item("红球", "")]
    assert contamination(items, seen) == pytest.approx(2 / 3)
    assert contamination(items, set()) == 0


def test_bad_scoring_options():
    with pytest.raises(ConfigError, match=r"metric 'blue' is unknown.*choose from.*bleu"):
        score_task("t", "blue", ["x"], ITEMS[:1])
    with pytest.raises(DataError, match=r"2 predictions for 1 targets.*one prediction for each"):
        score_task("t", "exact", ["x", "y"], ITEMS[:1])
    with pytest.raises(DataError, match=r"no predictions.*at least one"):
        score_task("t", "exact", [], [])
    with pytest.raises(DataError, match=r"no items.*give at least one"):
        contamination([], set())
    with pytest.raises(DataError, match=r"no answer to a message.*add a message"):
        example_items([[{"role": "user", "content": "hi"}]])
    assert math.isfinite(score_task("t", "exact", ["x"], ITEMS[:1]).low)
