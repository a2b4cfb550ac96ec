"""Kernels: the fast form of a taught function, behind a function of the same name and meaning.

Shapes: B batch, T time (queries), S time (keys and values), H query heads, G key-value heads
(H is a multiple of G), D head_dim.

Source: Dao et al. 2022, "FlashAttention", section 3.1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
    is_grouped: bool = False,
) -> Tensor:
    """Do what `attention.attend` does in one fused kernel, which never stores the T x S weights.

    q is (B, H, T, D), k and v are (B, G, S, D); is_grouped: G < H, so that groups of query heads
    share keys and values (a compiler wants to be told, not to compare sizes). mask
    is boolean and broadcasts to (B, 1, T, S); is_causal stands for the causal mask; dropout is the
    share of weights that are dropped. Returns (B, H, T, D).

    Attention's forward and backward take a fifth to a half less time than in the plain form, and
    memory does not grow with T x S (docs/experiments.md, section 8). Under autocast a CPU attends
    in float32: its kernel is slow backward in bfloat16, and looking things up was learned worse.
    """
    if q.is_cpu and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return attend(q.float(), k.float(), v.float(), mask, is_causal, dropout, is_grouped)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=is_causal,
        enable_gqa=is_grouped,
    )


MOST_ROWS_BY_KERNEL = 8  # above, one product of floats is faster
FEWEST_WEIGHTS_BY_KERNEL = 1 << 18  # below, all weights are in the processor's own memory


def int8_linear(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Multiply x (..., K) by a matrix of int8 codes (N, K) with a scale (N) for each row: (..., N).

    The same as `F.linear(x, codes.float() * scales[:, None])`. On a CPU a few rows go through a
    large matrix in torch's own kernel, which reads one byte a weight and makes floats of it in
    registers. Its form for bfloat16 alone is fast, so x is rounded to that. Chapter 23 measures
    what this gains. scales: (N), or (1) for all rows. Source: aten::_weight_int8pack_mm.
    """
    rows = x.flatten(0, -2)  # (M, K)
    is_large = codes.numel() >= FEWEST_WEIGHTS_BY_KERNEL
    if x.is_cpu and x.dtype == torch.float32 and is_large and len(rows) <= MOST_ROWS_BY_KERNEL:
        ones = torch.ones(len(codes), dtype=torch.bfloat16)
        y = torch.ops.aten._weight_int8pack_mm(rows.bfloat16().contiguous(), codes, ones)  # (M, N)
        return y.float().view(*x.shape[:-1], -1) * scales
    return F.linear(x, codes.to(x.dtype)) * scales
