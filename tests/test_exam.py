"""The exam: an oracle passes it, baselines do not, and every fault of a story gets its name."""

import pytest

from minigpt import metrics, storyworld
from minigpt.chat import SPECIAL
from minigpt.gpt import GPT, GPTConfig
from minigpt.scoring import text_hash
from minigpt.storyworld import World, exam, told, verify
from minigpt.storyworld.exam import TASKS, draw_items, examine, task_scores, taught_items
from minigpt.storyworld.read import parse
from minigpt.storyworld.tell import join, render
from minigpt.tokenizer import BPETokenizer

TEXTS = [text for text, _ in storyworld.documents(80, seed=5000)]
EN = storyworld.story(3).english
ZH = storyworld.story(3).chinese
WORLDS = [World.full(), World.little()]


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


@pytest.mark.parametrize("world", WORLDS, ids=["full", "little"])
def test_items_are_of_the_world_that_is_examined(world):
    items = draw_items(2, first_seed=0, world=world)
    other = WORLDS[world is WORLDS[0]]
    for name, of_task in items.items():
        assert len(of_task) == 2, name
        for item in of_task:
            text = item.source or item.answer
            language = metrics.language_of(text)
            assert verify(text, language, world).ok, name
            assert not verify(text, language, other).ok, name
            if item.accepts is not None:
                assert item.accepts(item.answer)
    taught = taught_items(3, 2_000_000, world)
    assert all(verify(i.answer, i.language, world).ok for i in taught["story"])
    assert all(i.accepts(i.answer) for i in taught["story"] if i.accepts)


@pytest.mark.parametrize("world", WORLDS, ids=["full", "little"])
def test_translations_are_of_whole_stories_and_graded_by_sentence(monkeypatch, tokenizer, world):
    names = ("translation_en_zh", "translation_zh_en")
    items = draw_items(8, 0, names, world)
    taught = {name: items[name] for name in names}
    right = {}
    for name, (source, target) in zip(names, (("en", "zh"), ("zh", "en")), strict=True):
        for item in items[name]:
            assert item.group == "whole"
            steps = parse(world, item.source, source)
            assert item.answer == join(render(steps, target), target)
            right[item.prompt] = item.answer
    answering(monkeypatch, right.get)
    scores, _ = task_scores(None, tokenizer, items, taught)
    for name in names:
        assert scores[name]["metric"] == "sentences"
        assert scores[name]["score"] == 1
        assert scores[name]["also"] == {"exact": 1, "bleu": pytest.approx(1)}

    first = metrics.split_sentences(items[names[0]][0].answer)
    spoiled = right | {items[names[0]][0].prompt: "".join(first[1:])}
    answering(monkeypatch, spoiled.get)
    scores, _ = task_scores(None, tokenizer, items, taught)
    assert scores[names[0]]["score"] == pytest.approx(1 - 1 / len(first) / 8)
    assert scores[names[0]]["also"]["exact"] == pytest.approx(7 / 8)
    assert 0.5 < scores[names[0]]["also"]["bleu"] < 1
    assert scores[names[1]]["score"] == 1


# --- all of it ---


def test_told_stories_are_graded_by_the_world_that_is_examined(monkeypatch, tokenizer, model):
    texts = [text for text, _ in storyworld.documents(6, 900, World.little())]
    telling(monkeypatch, tokenizer, texts)
    asked = {"per_task": 0, "n_stories": 6}
    little = examine(model, tokenizer, **asked, world=World.little())
    assert little["tasks"]["consistent_stories"]["score"] == 1
    assert little["stories"]["mean_log_q_minus_log_p"] is not None
    full = examine(model, tokenizer, **asked)
    assert full["tasks"]["consistent_stories"]["score"] == 0


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
