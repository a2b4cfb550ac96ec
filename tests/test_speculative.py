"""Speculative decoding: the same texts as without a draft, whatever the draft is; fewer passes."""

import itertools
import random

import numpy as np
import pytest
import torch
from helpers import tiny_model

import minigpt
from minigpt.generate import generate
from minigpt.ngram import count_ngrams, join_documents
from minigpt.sampling import SampleConfig, next_probabilities
from minigpt.speculative import NGramDraft, accept_or_replace, check_draft, speculate
from minigpt.storyworld import World, story
from minigpt.support.errors import ConfigError

PROMPT = [3, 1, 4]


def nonsense(ids, count):
    return [(ids[-1] * 5 + 1) % 13] * count


def nothing(ids, count):
    return []


@pytest.fixture
def model():
    return tiny_model(block_size=16)


def oracle(model, prompt, config):
    """Return a draft that is always right."""
    text = [*prompt, *generate(model, [prompt], config)[0]]
    return lambda ids, count: text[len(ids) : len(ids) + count]


# --- greedy ---


@pytest.mark.parametrize("n_draft", [0, 1, 3, 20])
@pytest.mark.parametrize("draft", [nonsense, nothing, None])
def test_greedy_texts_are_equal_whatever_the_draft(model, draft, n_draft):
    config = SampleConfig(12, temperature=0.0)
    expected = generate(model, [PROMPT], config)[0]
    found = speculate(model, PROMPT, draft or oracle(model, PROMPT, config), config, n_draft)
    assert found.ids == expected
    assert len(found.ids) == 12
    if draft is None:
        assert found.n_kept == found.n_drafted
        assert found.n_passes == -(-12 // (n_draft + 1))
    if n_draft == 0:
        assert found.n_passes == 12


def test_a_stop_id_ends_a_text_inside_a_draft_too(model):
    config = SampleConfig(12, temperature=0.0)
    text = generate(model, [PROMPT], config)[0]
    for stop in set(text):
        expected = generate(model, [PROMPT], config, [stop])[0]
        for draft in (nonsense, oracle(model, PROMPT, config)):
            assert speculate(model, PROMPT, draft, config, 5, [stop]).ids == expected


def test_a_prompt_of_one_token_and_no_token_to_write(model):
    config = SampleConfig(6, temperature=0.0)
    assert speculate(model, [2], nonsense, config).ids == generate(model, [[2]], config)[0]
    assert speculate(model, [2], nonsense, SampleConfig(0)).ids == []


def test_the_model_comes_back_in_the_mode_it_was_in(model):
    model.train()
    speculate(model, PROMPT, nonsense, SampleConfig(3))
    assert model.training


# --- drawn ---


@pytest.mark.parametrize("draft", ["likely", "unlikely"])
def test_drawn_texts_have_the_models_distribution(model, draft):
    """Pearson's chi-square test over all texts of two tokens, against their exact probabilities."""
    config = SampleConfig(2, temperature=0.8, top_k=4)

    @torch.no_grad()
    def p_after(ids):
        return next_probabilities(model.eval()(torch.tensor([ids]))[0][:, -1], config)[0]

    first = p_after(PROMPT)
    expected = {
        (a, b): float(first[a] * p_after([*PROMPT, a])[b])
        for a, b in itertools.product(range(13), range(13))
        if first[a] > 0
    }
    expected = {pair: p for pair, p in expected.items() if p > 0}
    order = first.argsort(descending=True).tolist()
    guess = order[0] if draft == "likely" else order[3]
    n = 3000
    counts = dict.fromkeys(expected, 0)
    for seed in range(n):
        setting = SampleConfig(2, temperature=0.8, top_k=4, seed=seed)
        counts[
            tuple(speculate(model, PROMPT, lambda *_, guess=guess: [guess], setting, 1).ids)
        ] += 1
    cells = [(counts[pair], n * p) for pair, p in expected.items()]
    large = [(seen, mean) for seen, mean in cells if mean >= 5]
    rest = [sum(each) for each in zip(*(c for c in cells if c[1] < 5), strict=True)] or [0, 0]
    large += [tuple(rest)] if rest[1] else []
    chi_square = sum((seen - mean) ** 2 / mean for seen, mean in large)
    degrees = len(large) - 1
    assert degrees >= 8
    # Wilson and Hilferty 1931: the cube root is nearly normal. Once in 10,000 runs it is above.
    z = ((chi_square / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / (2 / (9 * degrees)) ** 0.5
    assert z < 3.72, (chi_square, degrees)


def test_the_rule_gives_p_exactly_whatever_q_is():
    """The probability of each outcome, summed over a fine grid of both uniform numbers."""
    p, q = torch.tensor([0.1, 0.5, 0.4, 0.0]), torch.tensor([0.6, 0.2, 0.0, 0.2])
    found, steps = torch.zeros(4), 400
    for token, u, v in itertools.product((0, 1, 3), range(steps), (0.05, 0.25, 0.45, 0.65, 0.85)):
        _, kept = accept_or_replace(p, q, token, ((u + 0.5) / steps, v))
        found[kept] += q[token] / steps / 5
    # What is missing is 0.3 and 0.4: five numbers hit it in the ratio 2 to 3, not 3 to 4.
    torch.testing.assert_close(found[[0, 3]], p[[0, 3]], atol=2e-3, rtol=0)
    torch.testing.assert_close(found[1], torch.tensor(0.2 + 0.7 * 0.4), atol=5e-3, rtol=0)


def test_a_token_that_the_model_would_never_write_is_never_kept():
    p, q = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    assert accept_or_replace(p, q, 0, (0.0, 0.5)) == (False, 1)
    assert accept_or_replace(p, torch.tensor([0.0, 1.0]), 1, (0.9999, 0.5)) == (True, 1)


def test_a_rejected_token_ends_what_is_written():
    sure = torch.eye(4)[[1, 2, 3]]  # the model writes 1, 2, 3
    assert check_draft(sure, [1, 2], random.Random(0)) == [1, 2, 3]
    assert check_draft(sure, [1, 0], random.Random(0)) == [1, 2]
    assert check_draft(sure, [0, 2], random.Random(0)) == [1]


# --- the draft ---


def test_the_longest_run_that_was_seen_decides():
    documents = [[1, 2, 3], [1, 2, 3], [4, 2, 5], [2, 5], [2, 5], [2, 5]]
    draft = NGramDraft(count_ngrams(join_documents(documents, 0), 6, 0, n=3))
    assert draft([1, 2], 1) == [3]  # after 1 2 always 3, though 5 follows 2 more often
    assert draft([4, 2], 1) == [5]
    assert draft([3, 2], 1) == [5]  # 3 2 was never seen: what follows 2?
    assert draft([1], 3) == [2, 3, 0]
    assert draft([], 1) == [draft.best[0][0]]
    assert draft.best[0][0] in (0, 2)  # both six times


def test_the_draft_agrees_with_counting_by_hand():
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, 5, size=9).tolist() for _ in range(60)]
    draft = NGramDraft(count_ngrams(join_documents(documents, 0), 5, 0, n=3))
    for a, b in itertools.product(range(1, 5), range(1, 5)):
        counts = np.zeros(5)
        for document in documents:
            whole = [*document, 0]
            for i in range(len(whole) - 2):
                if whole[i : i + 2] == [a, b]:
                    counts[whole[i + 2]] += 1
        assert counts[draft([a, b], 1)[0]] == counts.max()


def test_stories_take_far_fewer_passes_and_are_equal():
    little, world = minigpt.load("little-base", "cpu"), World.little()
    model, tokenizer = little.model, little.tokenizer
    told = [tokenizer.encode(story(seed, world).english) for seed in range(300)]
    eot = tokenizer.eot_id
    draft = NGramDraft(count_ngrams(join_documents(told, eot), tokenizer.vocab_size, eot, n=5))
    config = SampleConfig(60, temperature=0.0)
    passes = tokens = 0
    for seed in range(60_000, 60_008):
        prompt = [tokenizer.bos_id, *tokenizer.encode(story(seed, world).english)[:12]]
        found = speculate(model, prompt, draft, config, stop_ids=[eot])
        assert found.ids == generate(model, [prompt], config, [eot])[0]
        passes, tokens = passes + found.n_passes, tokens + len(found.ids)
    assert passes < tokens / 1.8


# --- what is refused ---


@pytest.mark.parametrize(
    ("change", "prompt", "words"),
    [
        ({"repetition_penalty": 1.2}, PROMPT, "penalties"),
        ({"logit_bias": ((1, 5.0),)}, PROMPT, "penalties"),
        ({"max_new_tokens": 14}, PROMPT, "do not fit"),
        ({}, [], "empty"),
        ({}, [99], "outside"),
    ],
)
def test_what_it_cannot_do_is_refused(model, change, prompt, words):
    with pytest.raises(ConfigError, match=words):
        speculate(model, prompt, nonsense, SampleConfig(**{"max_new_tokens": 5, **change}))
    with pytest.raises(ConfigError, match="n_draft"):
        speculate(model, PROMPT, nonsense, SampleConfig(5), n_draft=-1)
