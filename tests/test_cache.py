"""The key-value cache by itself: masks, places, rows that move (with attention: test_attention)."""

import pytest
import torch

from minigpt.cache import KVCache
from minigpt.machine.compiling import StaticCache

G, D = 2, 10


def test_cache_refuses_more_tokens_than_fit():
    cache = KVCache(1, 2, G, 5, D)
    cache.advance(torch.tensor([4, 1]))
    assert (cache.length, cache.block_size) == (4, 5)
    cache.begin(1)
    with pytest.raises(AssertionError):
        cache.begin(2)


def test_cache_mask_shows_each_row_its_own_past():
    cache = KVCache(1, 2, G, 9, D)
    assert cache.begin(3) == slice(0, 3)
    assert cache.mask is None  # no past: causal
    cache.advance(torch.tensor([2, 0]))
    assert cache.begin(2).tolist() == [[2, 3], [0, 1]]
    assert cache.mask.int().tolist() == [
        [[[1, 1, 1, 0], [1, 1, 1, 1]]],
        [[[1, 0, 0, 0], [1, 1, 0, 0]]],
    ]
    cache.advance(torch.tensor([0, 2]))  # even again
    assert cache.begin(2) == slice(2, 4)
    assert cache.mask.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert cache.begin(1) == slice(2, 3)
    assert cache.mask is None  # one token sees all


def test_a_window_hides_what_is_further_back_in_even_and_uneven_rows():
    cache = KVCache(1, 2, G, 9, D, window=2)
    assert cache.begin(3) == slice(0, 3)
    assert cache.mask.int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    cache.advance(3)
    assert cache.begin(1) == slice(3, 4)
    assert cache.mask.int().tolist() == [[0, 0, 1, 1]]
    assert cache.part(0, 1).window == 2
    cache.advance(torch.tensor([1, 0]))
    assert cache.begin(1).tolist() == [[4], [3]]
    assert cache.mask.int().tolist() == [[[[0, 0, 0, 1, 1]]], [[[0, 0, 1, 1, 0]]]]


def numbered_cache(lengths: list[int]) -> KVCache:
    """Return a cache whose entries tell layer, row, head and position."""
    cache = KVCache(2, len(lengths), G, 5, 1)
    numbers = torch.arange(2 * cache.keys[0].numel()).view(2, *cache.keys[0].shape)
    cache.keys, cache.values = [*numbers.clone()], [*-numbers]
    cache.advance(torch.tensor(lengths))
    return cache


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 1], [0, 2], [1], [2, 2, 0], [1, 1, 0, 2, 1]])
def test_cache_select_keeps_rows_in_the_order_asked_for(rows):
    cache, before = numbered_cache([4, 1, 2]), numbered_cache([4, 1, 2])
    cache.select(rows)
    assert cache.positions.tolist() == [[4, 1, 2][row] for row in rows]
    assert cache.length == max([4, 1, 2][row] for row in rows)
    assert cache.is_even == (len({[4, 1, 2][row] for row in rows}) == 1)
    for place, row in enumerate(rows):
        end = int(cache.positions[place])
        for name in ("keys", "values"):
            for kept, whole in zip(getattr(cache, name), getattr(before, name), strict=True):
                assert torch.equal(kept[place, :, :end], whole[row, :, :end])


def test_cache_select_copies_only_rows_that_move():
    cache = numbered_cache([3, 3, 3, 3])
    memory, before = list(cache.keys), numbered_cache([3, 3, 3, 3]).keys
    cache.select([0, 3, 2])
    for keys, same, old in zip(cache.keys, memory, before, strict=True):
        assert keys is same
        changed = (keys != old).any(dim=(1, 3))  # (row, position)
        assert changed.int().tolist() == [[0] * 5, [1, 1, 1, 0, 0], [0] * 5, [0] * 5]


def test_a_part_of_a_cache_shares_its_memory():
    cache = KVCache(1, 4, G, 5, D)
    part = cache.part(1, 3)
    k = torch.randn(2, G, 3, D)
    part.begin(3)
    part.update(0, k, -k)
    part.advance(torch.tensor([3, 2]))
    cache.measure()
    assert cache.positions.tolist() == [0, 3, 2, 0]
    assert (cache.length, cache.is_even) == (3, False)
    assert torch.equal(cache.keys[0][1:3, :, :3], k)
    assert torch.equal(cache.values[0][1:3, :, :3], -k)
    assert cache.keys[0][[0, 3]].count_nonzero() == 0


def test_a_static_cache_shows_all_places_and_masks_what_is_not_yet_there():
    cache = StaticCache(KVCache(1, 2, G, 4, D))
    for _ in range(2):
        places = cache.begin(1)
        k = torch.randn(2, G, 1, D)
        keys, values = cache.update(0, k, -k)
        assert keys.shape == values.shape == (2, G, 4, D)
        assert torch.equal(keys[torch.arange(2), :, places[:, 0]], k[:, :, 0])
        cache.advance(1)
    assert places.tolist() == [[1], [1]]
    assert cache.mask.int().tolist() == [[[[1, 1, 0, 0]]]] * 2
