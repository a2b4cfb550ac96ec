"""Layers by their formulas: activations, gates and positions."""

import math

import pytest
import torch

from minigpt.attention import rotary_table
from minigpt.layers import (
    MLP,
    LearnedPositions,
    NoPositions,
    Rotary,
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
def test_positions_add_a_vector_or_rotate_or_do_nothing(positions):
    shape = (B, 5, C) if isinstance(positions, slice) else (B, 2, C)
    x, learned, rotary = torch.randn(shape), LearnedPositions(10, C), Rotary(10, 6, 100.0)
    torch.nn.init.normal_(learned.weight)
    found, angles = learned(x, positions)
    assert angles is None
    torch.testing.assert_close(found - x, learned.weight[positions].expand(shape))
    same, (cos, sin) = rotary(x, positions)
    assert same is x
    for table, rows in zip(rotary_table(10, 6, 100.0), (cos, sin), strict=True):
        assert torch.equal(rows, table[positions][..., None, :, :])
        assert torch.broadcast_shapes(rows.shape, (B, 4, shape[1], 6)) == (B, 4, shape[1], 6)
    assert NoPositions()(x, positions) == (x, None)
    assert not rotary.state_dict()  # tables are computed, not saved
