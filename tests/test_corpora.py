"""What a run learns from: text of one's own, or a generated corpus, which knows more."""

import itertools
import subprocess
import sys
from functools import partial

import pytest

from minigpt.data import corpora
from minigpt.data.corpora import GENERATED, HeldOut, open_corpus
from minigpt.storyworld import dialogue, documents
from minigpt.storyworld.corpus import TAUGHT
from minigpt.storyworld.exam import examine
from minigpt.storyworld.stories import FIRST_TRAINING_SEED
from minigpt.storyworld.tables import World

PLAIN = """
import sys
from pathlib import Path
import minigpt.commands.inputs, minigpt.commands.pipeline, minigpt.commands.train
import minigpt.commands.evaluate, minigpt.commands.tokenizer
from minigpt.batching.prepare import prepare
from minigpt.data.corpora import open_corpus
from minigpt.tokenizer import CharTokenizer
texts = list(open_corpus(sys.argv[1]).texts())
prepare(sys.argv[1], CharTokenizer.train(texts), Path(sys.argv[2]))
print([name for name in sys.modules if name.startswith("minigpt.storyworld")])
open_corpus("storyworld")
print("minigpt.storyworld.corpus" in sys.modules, "minigpt.storyworld.exam" in sys.modules)
"""


def test_a_plain_text_needs_no_storyworld(tmp_path):
    (tmp_path / "my.txt").write_text("some words of my own\n" * 100, "utf-8")
    command = [sys.executable, "-c", PLAIN, str(tmp_path / "my.txt"), str(tmp_path / "out")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["[]", "True False"]


def test_text_of_ones_own_knows_nothing_but_its_text(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"body": "text {n}"}}\n' for n in range(9)), "utf-8")
    corpus = open_corpus(str(path), field="body")
    assert list(corpus.texts()) == list(corpus.documents()) == [f"text {n}" for n in range(9)]
    assert corpus.held_out() is corpus.conversations(5) is corpus.exam is None
    monkeypatch.setattr(corpora, "TOKENIZER_CHARACTERS", 12)
    assert list(corpus.texts()) == ["text 0", "text 1"], "a tokenizer needs only so much"
    assert open_corpus(str(tmp_path / "nothing")), "a resumed run does not need its text"


def test_storyworld_trains_and_validates_on_different_stories():
    corpus = open_corpus("storyworld")
    held_out = corpus.held_out()
    assert isinstance(held_out, HeldOut)
    stories = list(documents(1000, seed=0))
    assert held_out.texts == [text for text, _ in stories]
    assert held_out.floor_nats == pytest.approx(sum(nats for _, nats in stories))
    first = list(itertools.islice(corpus.documents(), 3))
    assert first == [text for text, _ in documents(3, seed=FIRST_TRAINING_SEED)]
    assert list(itertools.islice(corpus.texts(), 3)) == first
    assert isinstance(corpus.exam, partial)
    assert corpus.exam.func is examine
    assert corpus.exam.keywords == {"world": World.full()}
    # Contamination is measured against the stories that training is told.
    assert examine.__defaults__ is not None
    assert FIRST_TRAINING_SEED in examine.__defaults__


def test_storyworld_talks_about_other_stories_than_it_tells():
    talks = open_corpus("storyworld").conversations(6)
    assert talks is not None
    made = list(talks)
    assert made == [dialogue(seed, shares=TAUGHT) for seed in range(2_000_000, 2_000_006)]
    assert all(messages[-1]["role"] == "assistant" for messages in made)


def test_the_corpus_of_the_little_world_is_little_throughout():
    corpus, world = open_corpus("storyworld", world="little"), World.little()
    assert isinstance(corpus.exam, partial)
    assert corpus.exam.keywords == {"world": world}
    held_out = corpus.held_out()
    assert held_out is not None
    assert held_out.texts == [text for text, _ in documents(1000, 0, world)]
    told = list(itertools.islice(corpus.documents(), 1002))  # more than the first thousand
    assert told == [text for text, _ in documents(1002, FIRST_TRAINING_SEED, world)]
    talks = corpus.conversations(4)
    assert talks is not None
    assert next(talks) == dialogue(2_000_000, world, TAUGHT)
    texts = list(corpus.texts())
    assert texts[:1002] == told
    assert texts[3000:3002] == [m["content"] for m in dialogue(2_000_000, world)[:2]]


def test_every_generated_corpus_can_be_opened():
    assert all(hasattr(open_corpus(name), "held_out") for name in GENERATED)
