"""The exam: an oracle passes it, baselines do not, and every fault of a story gets its name."""

import math
import random

import numpy as np
import pytest

from minigpt import metrics, storyworld
from minigpt.chat import SPECIAL
from minigpt.evaluate import token_losses
from minigpt.gpt import GPT, GPTConfig
from minigpt.ngram import NGram, count_ngrams, join_documents
from minigpt.scoring import text_hash
from minigpt.storyworld import exam, lexicon, told
from minigpt.storyworld.exam import TASKS, draw_items, examine, task_scores, taught_items
from minigpt.storyworld.read import split_sentences
from minigpt.storyworld.told import all_shapes, find_fault, story_scores, story_task
from minigpt.tokenizer import BPETokenizer

TEXTS = [text for text, _ in storyworld.documents(80, seed=5000)]
EN = storyworld.story(3).english
ZH = storyworld.story(3).chinese


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 500, special_tokens=SPECIAL)


@pytest.fixture(scope="module")
def model(tokenizer) -> GPT:
    return GPT(GPTConfig(tokenizer.vocab_size, 640, n_layer=1, n_head=1, n_embd=4)).eval()


@pytest.fixture(scope="module")
def items():
    return draw_items(12, first_seed=0)


@pytest.fixture(scope="module")
def taught():
    return taught_items(30, first_seed=2_000_000)


def answering(monkeypatch, answer) -> None:
    """Let all questions be answered by a function of the item's prompt."""

    def answers(model, tokenizer, conversations, room, on_progress=None):
        return [answer(messages[-1]["content"]) for messages in conversations]

    monkeypatch.setattr(exam, "answers", answers)


def telling(monkeypatch, tokenizer, texts: list[str]) -> None:
    """Let the model tell these stories."""
    rows = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(told, "generate_texts", lambda *args, **more: rows)


# --- tasks ---


@pytest.mark.slow
def test_an_oracle_passes_and_its_mistakes_cost_what_they_should(
    monkeypatch, tokenizer, items, taught
):
    right = {item.prompt: item.answer for of_task in items.values() for item in of_task}
    for item in items["story"]:  # instructions without a story recur, any good story will do
        right[item.prompt] = next(
            lesson.answer
            for lesson in items["story"]
            if lesson.prompt == item.prompt and item.accepts(lesson.answer)
        )
    answering(monkeypatch, right.get)
    scores, shown = task_scores(None, tokenizer, items, taught)
    assert set(scores) == set(TASKS)
    for name, score in scores.items():
        if name != "story":
            assert (score["score"], score["low"], score["n"]) == (1, 1, 12), name
    assert scores["story"]["score"] >= 0.8
    assert len(shown) == 2 * len(TASKS)
    assert all(answer.answer == answer.right for answer in shown if answer.task != "story")

    wrong = items["summary"][4]
    answering(monkeypatch, lambda prompt: "no" if prompt == wrong.prompt else right[prompt])
    scores, _ = task_scores(None, tokenizer, items, taught)
    assert scores["summary"]["score"] == pytest.approx(1 - 1 / 12)
    assert scores["title"]["score"] == 1


def test_silence_scores_nothing_and_a_constant_its_baseline(monkeypatch, tokenizer, items, taught):
    answering(monkeypatch, lambda prompt: "")
    scores, _ = task_scores(None, tokenizer, items, taught)
    assert {score["score"] for score in scores.values()} == {0}
    some = {name: items[name] for name in ("sentiment",)}
    answering(monkeypatch, lambda prompt: "good" if metrics.language_of(prompt) == "en" else "好")
    scores, _ = task_scores(None, tokenizer, some, taught)
    assert scores["sentiment"]["score"] == scores["sentiment"]["baselines"]["majority"]


def test_every_lesson_is_its_own_right_answer(items):
    for name, of_task in items.items():
        for item in of_task:
            if item.accepts is not None:
                assert item.accepts(item.answer), name
                assert not item.accepts(item.answer[: len(item.answer) // 2]), name
            assert item.answer == item.answer.strip()


def test_items_are_independent_balanced_and_the_same_every_time(items):
    for name, of_task in items.items():
        assert len(of_task) == 12
        stories = [item.source or item.answer for item in of_task]
        assert len(set(stories)) == 12, name
        shares = [item.language for item in of_task].count("en") / 12
        assert 0.2 <= shares <= 0.8 or name.startswith("translation")
    assert len({item.group for item in items["question"]}) > 4
    again = draw_items(3, first_seed=0, tasks=["title", "question"])
    assert [item.prompt for item in again["question"]] == [
        item.prompt for item in items["question"][:3]
    ]
    assert set(again) == {"title", "question"}


def test_tasks_hold_what_their_names_say(taught):
    assert {item.group for item in taught["question_who_has"]} == {"who has"}
    assert "who has" not in {item.group for item in taught["question_changed"]}
    for name in TASKS:
        assert taught[name], name
    parts = sum(len(taught[f"question_{part}"]) for part in ("one_fact", "changed", "who_has"))
    assert parts == len(taught["question"])
    assert 0 < len(taught["sentiment_inferred"]) < len(taught["sentiment"])


# --- faults ---


def test_true_stories_have_no_fault():
    for text, nats in storyworld.documents(10, seed=77):
        found = find_fault(text)
        assert found.fault is None
        assert found.log_prob == pytest.approx(math.log(2) - nats)


@pytest.mark.parametrize(("text", "language"), [(EN, "en"), (ZH, "zh")])
def test_each_fault_gets_its_name(text, language):
    space = " " if language == "en" else ""
    sentences = split_sentences(text, language)
    nonsense = "The cat sat on the mat." if language == "en" else "小猫坐在垫子上。"

    def fault(parts: list[str]) -> str:
        return find_fault(space.join(parts)).fault

    assert fault(sentences[:-1]) == "unfinished"
    assert fault([*sentences[:-1], sentences[-1][:-3]]) == "unfinished"
    assert fault([*sentences, sentences[0]]) == "goes on"
    assert fault([*sentences[:2], nonsense, *sentences[2:]]) == "no sentence"
    assert fault([*sentences[:2], sentences[0], *sentences[2:]]) == "wrong event"
    assert find_fault(space.join([*sentences[:2], nonsense])).read == 2
    assert find_fault("").fault == "unfinished"


def test_the_shapes_of_the_world_fit_its_sentences_and_no_gibberish():
    rng = random.Random(0)
    for side in (0, 1):
        told = [pair[side] for seed in range(60) for pair in storyworld.story(seed).sentences]
        shapes = all_shapes(side)
        assert all(any(shape.fullmatch(text) for shape in shapes) for text in told)
        pieces = " ".join(told).split() if side == 0 else list("".join(told))
        space = " " if side == 0 else ""
        mixed = [space.join(rng.choices(pieces, k=9)) + ".。"[side] for _ in range(60)]
        assert sum(any(shape.fullmatch(text) for shape in shapes) for text in mixed) <= 3


def test_another_person_is_a_wrong_detail():
    names = [person.en for person in lexicon.PEOPLE]
    found = []
    for seed in range(20):
        sentences = split_sentences(storyworld.story(seed).english, "en")
        cast = [name for name in names if any(name in text.split() for text in sentences)]
        stranger = next(name for name in names if name not in cast)
        place, name = next(
            (place, name)
            for place in reversed(range(3, len(sentences)))
            for name in cast
            if name in sentences[place].split()
        )
        words = sentences[place].split()
        sentences[place] = " ".join(stranger if word == name else word for word in words)
        fault = find_fault(" ".join(sentences))
        assert fault.read == place
        found.append(fault.fault)
    assert found == ["wrong detail"] * 20


# --- told stories ---


def test_true_stories_are_consistent_and_the_known_ones_not_new(monkeypatch, tokenizer, model):
    texts = [text for text, _ in storyworld.documents(8, seed=900)]
    telling(monkeypatch, tokenizer, texts)
    found = story_scores(model, tokenizer, 8, seen={text_hash(text) for text in texts[:2]})
    assert (found["consistent"], found["low"], found["high"]) == (1, 1, 1)
    assert found["new"] == 0.75
    assert found["faults"] == {}
    assert found["sentences_before_fault"] is None
    log_q = []
    for text in texts:
        row = [tokenizer.eot_id, *tokenizer.encode(text), tokenizer.eot_id]
        log_q.append(-token_losses(model, [row])[0].sum())
    log_p = [-nats for _, nats in storyworld.documents(8, seed=900)]
    assert found["mean_log_q_minus_log_p"] == pytest.approx(np.mean(np.subtract(log_q, log_p)))


def test_a_broken_story_counts_exactly_one(monkeypatch, tokenizer, model):
    texts = [text for text, _ in storyworld.documents(8, seed=900)]
    texts[3] = texts[3][: len(texts[3]) // 2]
    telling(monkeypatch, tokenizer, texts)
    found = story_scores(model, tokenizer, 8)
    assert found["consistent"] == pytest.approx(7 / 8)
    assert found["low"] < found["consistent"] < found["high"]
    assert found["faults"] == {"unfinished": 1}
    assert found["sentences_before_fault"] > 1
    assert found["new"] is None


def test_nonsense_is_no_story(tokenizer, model):
    found = story_scores(model, tokenizer, 4, temperature=1.0)
    assert found["consistent"] == 0
    assert found["mean_log_q_minus_log_p"] is None
    assert sum(found["faults"].values()) == 4


def test_the_baseline_of_told_stories_is_an_ngram_model(tokenizer):
    class Parrot:
        """Tells a true story when the seed is even."""

        n = 6

        def generate(self, prompt, max_new_tokens, seed):
            return tokenizer.encode(EN if seed % 2 == 0 else "One day.")

    stories = {"n": 9, "consistent": 0.5, "low": 0.4, "high": 0.6}
    task = story_task(stories, Parrot(), tokenizer, n=10)
    assert (task["baseline"], task["baseline_name"]) == (0.5, "6-gram")
    assert (task["score"], task["n"]) == (0.5, 9)
    tokens = join_documents([tokenizer.encode(text) for text in TEXTS], tokenizer.eot_id)
    ngram = NGram(count_ngrams(tokens, tokenizer.vocab_size, tokenizer.eot_id, 3))
    assert story_task(stories, ngram, tokenizer, n=3)["baseline"] == 0
    assert story_task(stories, None, tokenizer)["baseline_name"] == "none"


# --- all of it ---


def test_the_whole_card(monkeypatch, tokenizer, model):
    monkeypatch.setattr(exam, "TAUGHT_STORIES", 5)
    stages = []
    report = examine(
        model,
        tokenizer,
        set(),
        per_task=1,
        n_stories=3,
        on_progress=lambda *progress: stages.append(progress),
    )
    assert set(report["tasks"]) == {*TASKS, "consistent_stories"}
    for task in report["tasks"].values():
        assert {"metric", "score", "baseline", "baseline_name", "low", "high", "n"} <= set(task)
        assert 0 <= task["low"] <= task["score"] <= task["high"] <= 1
    assert report["contamination"] == 0
    assert report["stories"]["n"] == 3
    assert {stage for stage, _, _ in stages} == {"telling stories", "answering"}
    assert stages[-1] == ("answering", len(TASKS), len(TASKS))


def test_contamination_of_the_exam_is_seen(monkeypatch, tokenizer, model):
    monkeypatch.setattr(exam, "TAUGHT_STORIES", 2)
    answering(monkeypatch, lambda prompt: "")  # what the model writes does not matter here
    telling(monkeypatch, tokenizer, [EN])
    known = {text_hash(item.source) for items in draw_items(1, 0).values() for item in items}
    report = examine(model, tokenizer, known, 1, 1)
    assert report["contamination"] == 1


def test_a_model_that_cannot_chat_only_tells_stories():
    plain = BPETokenizer.train(TEXTS, 400)
    model = GPT(GPTConfig(400, 64, n_layer=1, n_head=1, n_embd=8)).eval()
    report = examine(model, plain, n_stories=2)
    assert set(report["tasks"]) == {"consistent_stories"}
    assert "contamination" not in report
