"""Word vectors: pairs and noise by hand, the loss against its formula, and what training finds."""

import doctest
import itertools
import math

import numpy as np
import pytest
import torch

from minigpt import embeddings
from minigpt.embeddings import (
    SkipGram,
    WordVectors,
    analogy_score,
    neighbor_score,
    noise_distribution,
    principal_plane,
    skip_gram_batches,
    skip_gram_pairs,
    thin_frequent,
    train_skip_gram,
)
from minigpt.support.errors import ConfigError, DataError

EOT = 3  # not the first id, so that nothing depends on it


def test_docstrings_examples():
    result = doctest.testmod(embeddings)
    assert result.attempted >= 3
    assert result.failed == 0


# --- pairs ---


@pytest.mark.parametrize("window", [1, 2, 5, 30])
def test_pairs_are_those_of_two_loops(window):
    rng = np.random.default_rng(window)
    documents = [rng.choice([0, 1, 2, 4, 5], size=n).tolist() for n in (1, 2, 7, 0, 12)]
    tokens = np.array(list(itertools.chain.from_iterable([*d, EOT] for d in documents)))
    expected = sorted(
        [d[i], d[j]]
        for d in documents
        for i in range(len(d))
        for j in range(len(d))
        if i != j and abs(i - j) <= window
    )
    assert sorted(skip_gram_pairs(tokens, EOT, window).tolist()) == expected


def test_no_pairs_across_documents_or_with_the_end():
    tokens = np.array([5, EOT, 6, EOT, EOT, 7, EOT])
    assert skip_gram_pairs(tokens, EOT, window=4).shape == (0, 2)


def test_thinning_keeps_the_stated_shares_and_every_end():
    rng = np.random.default_rng(0)
    tokens = np.repeat([0, 1, EOT], [80_000, 1_000, 5_000])
    thinned = thin_frequent(tokens, EOT, 0.02, rng)
    counts = np.bincount(thinned, minlength=4)
    assert counts[1] == 1_000  # its share is below the threshold
    assert counts[EOT] == 5_000
    stays = math.sqrt(0.02 / (80_000 / 86_000))
    error = math.sqrt(stays * (1 - stays) / 80_000)
    assert abs(counts[0] / 80_000 - stays) < 5 * error


def test_noise_follows_counts_to_the_three_quarters():
    tokens = np.repeat([0, 1, EOT], [16, 81, 500])
    p = noise_distribution(tokens, vocab_size=6, eot_id=EOT)
    np.testing.assert_allclose(p, [8 / 35, 27 / 35, 0, 0, 0, 0])


# --- the loss ---


def test_loss_is_the_formula_pair_by_pair():
    torch.manual_seed(0)
    V, C, B, K = 11, 5, 7, 3
    model = SkipGram(V, C)
    torch.nn.init.normal_(model.contexts.weight)
    centers, contexts = torch.randint(V, (B,)), torch.randint(V, (B,))
    noise = torch.randint(V, (B, K))
    total = 0.0
    for b in range(B):
        v = model.centers.weight[centers[b]]
        total -= math.log(torch.sigmoid(v @ model.contexts.weight[contexts[b]]).item())
        for k in range(K):
            total -= math.log(torch.sigmoid(-v @ model.contexts.weight[noise[b, k]]).item())
    assert model(centers, contexts, noise).item() == pytest.approx(total / B, rel=1e-5)


def test_before_training_every_answer_is_a_coin():
    model = SkipGram(9, 4)
    loss = model(torch.arange(5), torch.arange(5), torch.zeros(5, 4, dtype=torch.long))
    assert loss.item() == pytest.approx(5 * math.log(2))


# --- training ---


def two_worlds(count: int = 400) -> np.ndarray:
    """Return documents that use the words 0, 1, 2 only or the words 4, 5, 6 only."""
    rng = np.random.default_rng(1)
    sides = [rng.choice([0, 1, 2] if n % 2 else [4, 5, 6], size=6) for n in range(count)]
    return np.concatenate([np.append(side, EOT) for side in sides])


def test_words_with_the_same_company_become_neighbors():
    tokens = two_worlds()
    model, losses = train_skip_gram(
        tokens, 7, EOT, n_embd=6, max_steps=300, batch_size=256, threshold=1.0
    )
    assert losses[0] == pytest.approx(6 * math.log(2), abs=0.01)
    assert np.mean(losses[-20:]) < 0.9 * losses[0]
    words = WordVectors([*"abc", "<end>", *"xyz"], model.centers.weight.detach().numpy())
    assert neighbor_score(words, ["abc", "xyz"], k=2) == 1.0


def test_every_pass_over_the_text_thins_and_shuffles_anew():
    tokens, rng = two_worlds(20), np.random.default_rng(0)
    whole = skip_gram_pairs(tokens, EOT, window=1)
    batches = skip_gram_batches(tokens, EOT, 1, threshold=1.0, batch_size=150, rng=rng)
    first, second = (torch.cat([next(batches), next(batches)]) for _ in range(2))
    assert len(first) == len(whole) == 200
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, whole.tolist()))
    assert not torch.equal(first, second)
    thinned = skip_gram_batches(tokens, EOT, 1, threshold=0.01, batch_size=150, rng=rng)
    sizes = [len(next(thinned)) for _ in range(6)]
    assert max(sizes) < 100
    assert len(set(sizes)) > 1


def test_the_seed_decides():
    tokens = two_worlds(60)
    first, again, other = (
        train_skip_gram(tokens, 7, EOT, n_embd=4, max_steps=2, seed=seed)[0].centers.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- questions ---


@pytest.fixture
def plane() -> WordVectors:
    names = ["king", "queen", "man", "woman", "apple"]
    return WordVectors(names, np.array([[3.0, 1], [3, -1], [0.2, 1], [0.2, -1], [-1, 0.1]]))


def test_vectors_have_length_1_and_words_know_their_place(plane):
    np.testing.assert_allclose(np.linalg.norm(plane.vectors, axis=1), 1)
    np.testing.assert_allclose(plane["queen"], np.array([3, -1]) / math.sqrt(10))


def test_neighbors_are_sorted_and_leave_the_word_out(plane):
    found = plane.neighbors("king", 4)
    assert [word for word, _ in found] == ["queen", "man", "woman", "apple"]
    assert [cosine for _, cosine in found] == sorted((c for _, c in found), reverse=True)
    assert found[0][1] == pytest.approx(0.8)


def test_analogy_takes_the_same_step_and_leaves_the_question_out(plane):
    assert plane.analogy("man", "king", "woman") == "queen"
    questions = [("man", "king", "woman", "queen"), ("man", "king", "woman", "apple")]
    assert analogy_score(plane, questions) == 0.5


def test_neighbor_score_counts_within_the_group(plane):
    assert neighbor_score(plane, [["king", "queen"]], k=1) == 1.0
    assert neighbor_score(plane, [["king", "apple"]], k=1) == 0.0


def test_principal_plane_finds_the_widest_directions():
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 2)) * [5, 2]
    turn, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    found = principal_plane(np.pad(flat, ((0, 0), (0, 5))) @ turn + 3)
    assert found.shape == (50, 2)
    distances = [np.linalg.norm(a[:, None] - a[None], axis=-1) for a in (flat, found)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert found[:, 0].var() > found[:, 1].var()


# --- bad input ---


def test_a_word_without_vector_is_named(plane):
    for ask in (plane.neighbors, plane.__getitem__):
        with pytest.raises(DataError, match=r"'kng' has no vector.*spelled as there"):
            ask("kng")


def test_a_window_of_nothing():
    with pytest.raises(ConfigError, match=r"window = 0.*1 or more"):
        skip_gram_pairs(np.array([1, EOT]), EOT, window=0)


def test_a_threshold_of_nothing():
    with pytest.raises(ConfigError, match=r"threshold = 0.*above 0"):
        thin_frequent(np.array([1, EOT]), EOT, 0.0, np.random.default_rng(0))


def test_a_text_without_pairs():
    with pytest.raises(DataError, match=r"no two words next to each other.*longer documents"):
        train_skip_gram(np.array([1, EOT, 2, EOT]), 5, EOT)


def test_no_questions(plane):
    with pytest.raises(DataError, match=r"no questions.*at least one"):
        analogy_score(plane, [])


def test_one_vector_makes_no_picture():
    with pytest.raises(ConfigError, match=r"1 vectors.*at least 2"):
        principal_plane(np.ones((1, 4)))
