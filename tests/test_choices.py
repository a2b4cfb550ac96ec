"""Choices by likelihood equal a naive loop, lm-eval's conventions, and forgive length as asked."""

import numpy as np
import pytest
import torch
from test_evaluate import naive_nats, random_model

from minigpt import storyworld
from minigpt.chat import SPECIAL
from minigpt.choices import (
    Question,
    choice_log_likelihoods,
    continuations,
    encode_pair,
    likeliest_choice,
)
from minigpt.support.errors import ConfigError, DataError
from minigpt.tokenizer import BPETokenizer

TEXTS = [text for text, _ in storyworld.documents(30)]


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 400, special_tokens=SPECIAL)


@pytest.fixture(scope="module")
def model():
    return random_model()


def test_log_likelihoods_equal_a_loop_over_tokens(model, tokenizer):
    questions = [
        Question("Tom was", ("in the park", "by the old mill"), 0),
        Question("One windy morning, Mia was on the", ("farm", "beach", "castle"), 2),
    ]
    found = choice_log_likelihoods(model, tokenizer, questions)
    assert [row.shape for row in found] == [(2,), (3,)]
    for question, row in zip(questions, found, strict=True):
        for choice, value in zip(question.choices, row, strict=True):
            start = [tokenizer.bos_id, *tokenizer.encode(question.context)]
            ids = [tokenizer.bos_id, *tokenizer.encode(f"{question.context} {choice}")]
            nats = [naive_nats(model, ids[:n], ids[n]) for n in range(len(start), len(ids))]
            assert value == pytest.approx(-sum(nats), abs=1e-3)


def test_a_long_context_loses_its_beginning(model, tokenizer):
    context, choice = TEXTS[0][:300], " in the park"
    ids, n = encode_pair(tokenizer, context, choice)
    assert len(ids) > 40
    row = ids[-25:]  # block_size inputs and the last target
    nats = [naive_nats(model, row[:k], row[k]) for k in range(len(row) - n, len(row))]
    found = continuations(model, tokenizer, [(context, choice)])[0]
    assert found.log_likelihood == pytest.approx(-sum(nats), abs=1e-3)
    assert found.n_tokens == n


def test_greedy_means_every_token_is_the_likeliest(model, tokenizer):
    prompt = [tokenizer.bos_id, *tokenizer.encode("Mia was")]
    for _ in range(4):
        with torch.no_grad():
            prompt.append(int(model(torch.tensor([prompt]))[0][0, -1].argmax()))
    start = len(tokenizer.encode("Mia was")) + 1
    text = tokenizer.decode(prompt[start:])
    if encode_pair(tokenizer, "Mia was", text)[0] == prompt:  # the text is cut in the same way
        assert continuations(model, tokenizer, [("Mia was", text)])[0].is_greedy
    others = continuations(model, tokenizer, [("Mia was", " zq"), ("Mia was", " 米娅")])
    assert not any(each.is_greedy for each in others)


def test_the_space_between_belongs_to_the_continuation(tokenizer):
    ids, n = encode_pair(tokenizer, "Tom was ", "in")
    same, m = encode_pair(tokenizer, "Tom was", " in")
    assert (ids, n) == (same, m)
    assert ids == [tokenizer.bos_id, *tokenizer.encode("Tom was in")]


def test_normalization_forgives_length():
    row = np.array([-4.0, -6.0, -5.0])
    choices = ["no", "certainly", "红的"]
    assert likeliest_choice(row, choices) == 0
    assert likeliest_choice(row, choices, "characters") == 1
    assert likeliest_choice(np.array([-4.0, -9.0, -4.5]), choices, "characters") == 1
    assert (
        likeliest_choice(np.array([-4.0, -9.9, -4.5]), choices, "bytes") == 2
    )  # 6 bytes, 2 characters
    assert likeliest_choice(np.array([-1.0, -1.0]), ["ab", "cd"]) == 0  # of equal ones the first
    with pytest.raises(ConfigError, match="words"):
        likeliest_choice(row, choices, "words")  # type: ignore[arg-type]


def test_what_cannot_be_asked_is_refused(model, tokenizer):
    with pytest.raises(DataError, match="context length of 24"):
        continuations(model, tokenizer, [("Tom", f" {TEXTS[0]}")])
    with pytest.raises(DataError, match="without a token"):
        continuations(model, tokenizer, [("Tom", "")])
    with pytest.raises(DataError, match="choice 2 of 2"):
        Question("Tom", ("a", "b"), 2)
