"""Stories that a model tells: consistent or not, new or known, and each fault by its name."""

import math
import random

import numpy as np
import pytest

from minigpt import storyworld
from minigpt.chat import SPECIAL
from minigpt.evaluate import token_losses
from minigpt.gpt import GPT, GPTConfig
from minigpt.ngram import NGram, count_ngrams, join_documents
from minigpt.scoring import text_hash
from minigpt.storyworld import lexicon, told
from minigpt.storyworld.read import split_sentences
from minigpt.storyworld.tables import World
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


def telling(monkeypatch, tokenizer, texts: list[str]) -> None:
    """Let the model tell these stories."""
    rows = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(told, "generate_texts", lambda *args, **more: rows)


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
        shapes = all_shapes(World.full(), side)
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
