"""Attention against torch's; masks, rotary positions and the cache by their exact properties."""

import math

import pytest
import torch
from torch.nn import functional as F

from minigpt.attention import (
    Attention,
    RMSNorm,
    apply_rotary,
    attend,
    causal_mask,
    document_mask,
    rotary_table,
    sliding_mask,
)
from minigpt.cache import KVCache
from minigpt.machine import kernels

B, T, C, H, G, D = 3, 7, 20, 6, 2, 10  # all different, so that no mix-up of axes goes unseen


pytestmark = pytest.mark.usefixtures("seed_zero")


def plainly(q, k, v, mask, is_causal, dropout, is_grouped=False):
    """Attend by the taught form, with the arguments of the fast one."""
    assert not dropout
    assert is_grouped == (q.size(1) > k.size(1))
    mask = causal_mask(q.size(2)) if is_causal else mask
    shared = (x.repeat_interleave(q.size(1) // k.size(1), dim=1) for x in (k, v))
    return attend(q, *shared, mask)


@pytest.fixture(params=["plain", "fused"])
def form(request, monkeypatch) -> str:
    """Attend by the plain or the fused form."""
    if request.param == "plain":
        monkeypatch.setattr(kernels, "attend", plainly)
    return request.param


def rotary(length: int = T) -> tuple[torch.Tensor, torch.Tensor]:
    return rotary_table(length, D, 100.0)


def test_causal_mask_by_hand():
    assert causal_mask(3).tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


@pytest.mark.parametrize(("length", "window"), [(7, 1), (7, 3), (7, 7), (7, 30), (1, 2)])
def test_a_sliding_mask_shows_the_last_tokens_and_no_others(length, window):
    mask = sliding_mask(length, window)
    for t in range(length):
        expected = [t - window < s <= t for s in range(length)]
        assert mask[t].tolist() == expected


def test_attend_by_hand():
    """Scores 0 and ln 3 after scaling give weights 1/4 and 3/4."""
    q = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    k = torch.tensor([[0.0] * 4, [math.log(3), 0.0, 0.0, 0.0]])
    v = torch.tensor([[4.0], [8.0]])
    torch.testing.assert_close(attend(q, k, v), torch.tensor([[7.0]]))


@pytest.mark.parametrize("masked", ["nothing", "future", "random"])
def test_attend_equals_torch_with_gradients(masked):
    S = T if masked == "future" else 5
    q, k, v = torch.randn(B, H, T, D), torch.randn(B, H, S, D), torch.randn(B, H, S, 4)
    random = (torch.rand(B, 1, T, S) < 0.5).index_fill(-1, torch.tensor(2), True)
    mask = {"nothing": None, "future": causal_mask(T), "random": random}[masked]
    results = []
    for function in (attend, F.scaled_dot_product_attention):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        out = function(*inputs, mask)
        assert out.shape == (B, H, T, 4)
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_kv_head", [1, 2, 3, 6])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("documents", [False, True])
def test_plain_and_fused_forms_agree_with_gradients(n_kv_head, qk_norm, documents, monkeypatch):
    module = Attention(C, H, n_kv_head, D, qk_norm=qk_norm)
    x, results = torch.randn(B, T, C), []
    numbers = torch.tensor([[0] * 3 + [1] * 4, [0] * 7, [0, 1, 1, 1, 2, 2, 3]])
    mask = document_mask(numbers) if documents else None
    for attend_by in (kernels.attend, plainly):
        monkeypatch.setattr(kernels, "attend", attend_by)
        out = module(x, rotary(), mask=mask)
        assert out.shape == (B, T, C)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(module.parameters()))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_plain_attention_equals_torchs_multi_head_attention():
    ours = Attention(C, 4)
    theirs = torch.nn.MultiheadAttention(C, 4, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(
            torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
        )
        theirs.out_proj.weight.copy_(ours.output.weight)
    x = torch.randn(B, T, C)
    expected, _ = theirs(x, x, x, attn_mask=~causal_mask(T), need_weights=False)
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_grouped_queries_equal_full_heads_with_repeated_keys_and_values(form):
    grouped, full = Attention(C, H, G, D), Attention(C, H, H, D)
    state = grouped.state_dict()
    for name in ("key.weight", "value.weight"):
        heads = state[name].unflatten(0, (G, D)).repeat_interleave(H // G, dim=0)
        state[name] = heads.flatten(0, 1)
    full.load_state_dict(state)
    x = torch.randn(B, T, C)
    torch.testing.assert_close(grouped(x, rotary()), full(x, rotary()), atol=1e-5, rtol=1e-5)


def test_a_change_changes_nothing_before_it(form):
    module, x = Attention(C, H, G, D, qk_norm=True), torch.randn(B, T, C)
    before = module(x, rotary())
    for t in range(T):
        changed = x.clone()
        changed[:, t] += 1
        difference = (module(changed, rotary()) - before).abs().amax(dim=(0, 2))  # (T,)
        assert (difference[:t] == 0).all()
        assert (difference[t:] > 0).all()


def test_without_positions_the_order_of_the_past_does_not_matter(form):
    module, x = Attention(C, H, G, D), torch.randn(B, T, C)
    shuffled = x[:, [3, 0, 5, 1, 4, 2, 6]]
    torch.testing.assert_close(module(x)[:, -1], module(shuffled)[:, -1], atol=1e-5, rtol=1e-5)
    moved = (module(x, rotary()) - module(shuffled, rotary()))[:, -1].abs().max()
    assert moved > 1e-3


def test_dropout_acts_in_training_only():
    module, x = Attention(C, H, G, D, dropout=0.5), torch.randn(B, T, C)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


# Rotary positions


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = torch.randn(D), torch.randn(D)
    cos, sin = rotary(40)
    scores = apply_rotary(q.expand(40, D), cos, sin) @ apply_rotary(k.expand(40, D), cos, sin).T
    for distance in (-9, 0, 1, 17):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert (scores[:, 0].diff().abs() > 1e-4).all()  # other distances, other scores


def test_rotary_keeps_lengths_leaves_position_0_and_equals_complex_multiplication():
    x = torch.randn(B, H, 12, D)
    cos, sin = rotary(12)
    rotated = apply_rotary(x, cos, sin)
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotated[:, :, 0], x[:, :, 0])
    speeds = torch.tensor([100.0 ** (-2 * i / D) for i in range(D // 2)])
    angles = torch.arange(12)[:, None] * speeds
    expected = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(
        rotated, torch.cat((expected.real, expected.imag), dim=-1), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_equals_its_formula_in_the_precision_of_its_weight(dtype):
    norm = RMSNorm(C, eps=1e-3).to(dtype)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(B, T, C).to(dtype)
    assert norm(x).dtype == dtype
    mean_square = x.float().square().mean(dim=-1, keepdim=True)
    expected = x.float() / (mean_square + 1e-3).sqrt() * norm.weight.float()
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(norm(x).float(), expected, atol=0, rtol=rounding)


def test_rms_norm_computes_in_float32_where_half_precision_would_overflow():
    x = torch.full((1, C), 60_000.0, dtype=torch.float16)  # its square is infinite in float16
    torch.testing.assert_close(RMSNorm(C).half()(x), torch.ones(1, C, dtype=torch.float16))


# The cache


@pytest.mark.parametrize("parts", [[7], [1] * 7, [3, 1, 1, 2], [2, 5]])
@pytest.mark.parametrize("n_kv_head", [1, 2, 6])
def test_cached_equals_uncached_however_the_time_is_split(parts, n_kv_head, form):
    module, x = Attention(C, H, n_kv_head, D, qk_norm=True), torch.randn(B, T, C)
    cache, found, start = KVCache(1, B, n_kv_head, T, D), [], 0
    cos, sin = rotary()
    with torch.no_grad():
        for length in parts:
            window = slice(start, start + length)
            assert cache.begin(length) == window  # rows of equal length: a plain slice
            found.append(module(x[:, window], (cos[window], sin[window]), cache))
            cache.advance(length)
            start += length
        expected = module(x, (cos, sin))
    assert cache.positions.tolist() == [T] * B
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("parts", [[1, 1, 1], [3], [1, 2]])
def test_rows_of_unequal_length_equal_each_row_alone(parts):
    """Padding on the right is stored, but never seen, and overwritten by the next tokens."""
    module, x, lengths = Attention(C, H, G, D), torch.randn(B, T, C), torch.tensor([4, 1, 3])
    cos, sin = rotary()
    cache = KVCache(1, B, G, T, D)
    with torch.no_grad():
        cache.begin(4)
        module(
            torch.where(torch.arange(4)[:, None] < lengths[:, None, None], x[:, :4], 1e3),
            (cos[:4], sin[:4]),
            cache,
        )
        cache.advance(lengths)
        for count in parts:
            positions = cache.begin(count)  # (B, T)
            assert positions.tolist() == [[n + i for i in range(count)] for n in lengths.tolist()]
            new = x[torch.arange(B)[:, None], positions]  # (B, T, C)
            angles = cos[positions][:, None], sin[positions][:, None]
            found = module(new, angles, cache)
            cache.advance(count)
            lengths = lengths + count
            assert cache.positions.tolist() == lengths.tolist()
            for row, end in enumerate(lengths.tolist()):
                alone = module(x[row : row + 1, :end], (cos[:end], sin[:end]))[0, -count:]
                torch.testing.assert_close(found[row], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", ["nothing", "future", "documents"])
def test_under_autocast_a_processor_attends_in_float32(masked):
    """By the very mask that it is given: one that is not the causal one shows whether it is."""
    q, k, v = (3 * torch.randn(2, 2, 40, 32).bfloat16() for _ in range(3))
    documents = document_mask((torch.arange(40) // 7).expand(2, -1))
    mask = {"nothing": None, "future": causal_mask(40), "documents": documents}[masked]
    expected = attend(q.float(), k.float(), v.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = kernels.attend(q, k, v, None if masked == "future" else mask, masked == "future")
    torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=1e-4)


def test_documents_see_themselves_alone():
    mask = document_mask(torch.tensor([[4, 4, 2, 2, 2], [0, 0, 0, 0, 1]]))
    assert mask.shape == (2, 1, 5, 5)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
    assert mask[1, 0].sum(dim=-1).tolist() == [1, 2, 3, 4, 1]
