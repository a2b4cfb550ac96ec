"""Layers by their formulas: activations, gates, positions, and rows for pairs of tokens."""

import math

import pytest
import torch

from minigpt.attention import apply_rotary, rotary_table
from minigpt.layers import (
    MLP,
    Bigrams,
    LearnedPositions,
    NoPositions,
    Rotary,
    RotaryBySentence,
    SwiGLU,
    gelu,
    squared_relu,
)

B, T, C, HIDDEN = 3, 5, 7, 11  # all different, so that no mix-up of axes goes unseen


pytestmark = pytest.mark.usefixtures("seed_zero")


def test_activations_by_hand():
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    assert squared_relu(x).tolist() == [0, 0, 0, 1, 9]
    share = torch.tensor([(1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()])
    torch.testing.assert_close(gelu(x), x * share, atol=1e-3, rtol=0)  # GPT-2's is near the exact
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    torch.testing.assert_close(gelu(x), x / 2 * (1 + inner.tanh()))


@pytest.mark.parametrize("biases", [False, True])
def test_mlps_equal_their_formulas(biases):
    x, gated, plain = torch.randn(B, T, C), SwiGLU(C, HIDDEN, biases), MLP(C, HIDDEN, gelu, biases)
    gate = gated.gate(x)
    expected = gated.down(gate / (1 + (-gate).exp()) * gated.up(x))
    torch.testing.assert_close(gated(x), expected)
    torch.testing.assert_close(plain(x), plain.down(gelu(plain.up(x))))
    for module, matrices in ((gated, 3), (plain, 2)):
        names = [name for name, _ in module.named_parameters()]
        assert len(names) == matrices * (1 + biases)
        assert module(x).shape == (B, T, C)


@pytest.mark.parametrize("positions", [slice(2, 7), torch.tensor([[2, 3], [0, 1], [8, 9]])])
def test_positions_add_a_vector_or_turn_or_do_nothing(positions):
    shape = (B, 5, C) if isinstance(positions, slice) else (B, 2, C)
    x, learned, rotary = torch.randn(shape), LearnedPositions(10, C), Rotary(10, 6, 100.0)
    torch.nn.init.normal_(learned.weight)
    found, turns = learned(x, positions)
    assert turns is None
    torch.testing.assert_close(found - x, learned.weight[positions].expand(shape))
    same, (cos, sin) = rotary(x, positions)
    assert same is x
    for table, rows in zip(rotary_table(10, 6, 100.0), (cos, sin), strict=True):
        assert torch.equal(rows, table[positions][..., None, :, :])
        assert torch.broadcast_shapes(rows.shape, (B, 4, shape[1], 6)) == (B, 4, shape[1], 6)
    assert NoPositions()(x, positions) == (x, None)
    assert not rotary.state_dict()  # tables are computed, not saved


# Tokens: 0 begins a section, 1 ends a sentence, others are words.
SECTIONS = [0, 5, 6, 1, 7, 1, 0, 8, 1, 9, 5, 1, 6]
NUMBERS = [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 2]
INSIDE = torch.tensor(SECTIONS)[None]


def test_half_of_the_pairs_turn_by_sentences_which_each_section_counts_anew():
    D, theta = 8, 100.0
    rotary = RotaryBySentence(10, D, theta, ends=[1], sections=[0])
    x = torch.randn(1, len(SECTIONS), C)
    same, (cos, sin) = rotary(x, slice(0, len(SECTIONS)), INSIDE)
    assert same is x
    for t, number in enumerate(NUMBERS):
        turns = [number, t / theta**0.25, number / 30**0.5, t / theta**0.75]
        for table, function, sign in ((cos, math.cos, 1), (sin, math.sin, -1)):
            expected = [function(turn) for turn in turns]
            expected = torch.tensor([sign * value for value in expected] + expected)
            torch.testing.assert_close(table[0, 0, t], expected)
    assert not rotary.state_dict()


def test_the_same_sentence_of_two_sections_matches_alike_however_far_apart():
    rotary, scores = RotaryBySentence(10, 8, 100.0, ends=[1], sections=[0]), []
    q, k = torch.randn(2, 8)
    by_sentence = torch.tensor([1.0, 0.0, 1.0, 0.0] * 2)  # look at these dimensions alone
    for ids, asking, asked in ((SECTIONS, 9, 4), (SECTIONS, 7, 2), ([0, 5, 1, 0, 6], 4, 1)):
        _, (cos, sin) = rotary(q, slice(0, len(ids)), torch.tensor(ids)[None])
        turned = apply_rotary(q, cos[0, 0, asking], sin[0, 0, asking]) * by_sentence
        scores.append(turned @ apply_rotary(k, cos[0, 0, asked], sin[0, 0, asked]))
    torch.testing.assert_close(scores, [(q * by_sentence) @ k] * 3)


def test_places_of_rows_of_unequal_length_turn_as_in_each_row_alone():
    rotary = RotaryBySentence(10, 8, 100.0, ends=[1], sections=[0])
    seen = torch.cat((INSIDE, INSIDE.roll(5, dims=1)))  # (2, S)
    places = torch.tensor([[3, 4], [11, 12]])
    _, uneven = rotary(seen, places, seen)
    for row in range(2):
        first, last = places[row].tolist()
        _, alone = rotary(seen, slice(first, last + 1), seen[row : row + 1])
        for table, expected in zip(uneven, alone, strict=True):
            assert torch.equal(table[row], expected[0])


def test_bigrams_look_up_each_pair_of_neighbors():
    bigrams = Bigrams(9, 3, 1)
    bigrams.weight.data = torch.arange(9.0)[:, None]
    idx, before = torch.tensor([[1, 2, 0], [0, 0, 1]]), torch.tensor([2, 1])
    # row = previous token * 3 + token
    assert bigrams(idx, before).squeeze(-1).tolist() == [[7, 5, 6], [3, 0, 1]]


@pytest.mark.parametrize("size", [37 * 37, 64, 100])
def test_bigrams_have_a_row_for_each_pair_or_share_rows_evenly(size):
    pairs = torch.cartesian_prod(torch.arange(37), torch.arange(37))  # (V * V, 2)
    bigrams = Bigrams(size, 37, C)
    torch.nn.init.ones_(bigrams.weight)
    bigrams(pairs[:, 1:], pairs[:, 0]).sum().backward()
    used = bigrams.weight.grad[:, 0]  # how many pairs read each row
    assert used.sum() == 37 * 37
    assert used.min() > 0
    assert used.max() <= (1 if size == 37 * 37 else 2 * 37 * 37 / size)
