"""Checks of the GPT exercises, each with an oracle of its own."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from minigpt.checks import exercise
from minigpt.checks.compare import (
    Wrong,
    call,
    require,
    require_own,
    same_number,
    same_results,
    same_tensor,
    slip_hint,
)
from minigpt.counts import count_parameters
from minigpt.gpt import GPTConfig
from minigpt.support.errors import ConfigError

HAND = {
    "normalized": [0.2, 1.4],
    "stream": [8.0, 8.0],
    "logits": [1.0, 2.0, 0.0],
    "loss": 1.408,
    "rotated": 0.5,
}
HAND_HINTS = {
    "normalized": "Square, mean, root; then divide both numbers by it.",
    "stream": "Exchange the normalized numbers, multiply by 5, add to (1, 7).",
    "logits": "Normalize the new stream, then one dot product with each row of the table.",
    "loss": "ln of the softmax's denominator, minus the logit of the right token.",
    "rotated": "Only the angle between the two counts: one position apart is 60°; its cosine.",
}
HAND_SLIPS = {  # (key, what was written) -> what to look at
    ("normalized", (0.04, 0.28)): "You divided by the mean square; take its root.",
    ("normalized", (0.141, 0.99)): "You divided by the length; the MEAN of the squares is 25.",
    ("stream", (7.0, 1.0)): "The box adds to the stream, it does not replace it.",
    ("stream", (36.0, 12.0)): "The box reads the normalized copy, not the stream itself.",
    ("stream", (7.2, 2.4)): "The stream itself is not normalized: add to (1, 7).",
    ("logits", (8.0, 16.0, 0.0)): "The last norm is missing before the table.",
}


@exercise("gpt.by_hand", "mean of the squares first, then its root; the box's result is ADDED.")
def by_hand(answer: Any, generator: Generator) -> None:
    """Expect the five results of the exercise text, to two decimals."""
    same_results(answer, HAND, _hand_hint, slack=0.011, list_slack=0.011)


def _hand_hint(name: str, got: Any) -> str:
    if name == "loss" and isinstance(got, int | float) and abs(got - 0.245) < 0.01:
        return "That is the probability; the loss is minus its natural logarithm."
    return slip_hint(name, got, HAND_SLIPS) or HAND_HINTS[name]


# A blank file


@exercise(
    "gpt.blank_file", "begin with wte[idx] + wpe[:T], the last norm and the head; then blocks."
)
def blank_file(answer: Callable, generator: Generator) -> None:
    """Expect gpt2(idx, weights, n_head): the logits (B, T, V) of GPT-2."""
    require_own(answer, "GPT", "Block", "Attention", "MLP")
    for B, T, V, n_layer, n_head, D in [
        (2, 5, 11, 0, 1, 4),
        (1, 7, 13, 1, 2, 3),
        (3, 4, 9, 3, 3, 2),
    ]:
        weights = random_weights(V, T + 2, n_layer, n_head * D, generator)
        idx = torch.randint(V, (B, T), generator=generator)
        case = f"B = {B}, T = {T}, {n_layer} blocks, n_head = {n_head}, C = {n_head * D}"
        got = call(answer, idx, dict(weights), n_head, case=case)
        expected = gpt2_logits(idx, weights, n_head)
        fits = isinstance(got, Tensor) and got.shape == expected.shape
        if fits and T > 1 and n_layer:
            other = idx.clone()
            other[:, -1] = (idx[:, -1] + 1) % V
            moved = (answer(other, dict(weights), n_head) - got)[:, :-1].abs().max()
            require(
                moved < 1e-4,
                f"a change of the last token changes earlier logits ({case}): the causal mask",
            )
        same_tensor(got, expected, case, _blank_hint(got, idx, weights, n_head), tolerance=2e-4)


def random_weights(
    V: int, length: int, n_layer: int, C: int, generator: Generator
) -> dict[str, Tensor]:
    """Return random weights under the names of GPT-2's file; norms' weights are around 1."""

    def normal(*shape: int, mean: float = 0.0, std: float = 0.5) -> Tensor:
        return torch.randn(*shape, generator=generator) * std + mean

    weights = {"wte.weight": normal(V, C, std=1.0), "wpe.weight": normal(length, C, std=1.0)}
    norms = [f"h.{layer}.ln_{n}" for layer in range(n_layer) for n in (1, 2)]
    for name in [*norms, "ln_f"]:
        weights |= {f"{name}.weight": normal(C, mean=1.0), f"{name}.bias": normal(C)}
    for layer in range(n_layer):
        shapes = {
            "attn.c_attn": (C, 3 * C),
            "attn.c_proj": (C, C),
            "mlp.c_fc": (C, 4 * C),
            "mlp.c_proj": (4 * C, C),
        }
        for name, shape in shapes.items():
            weights[f"h.{layer}.{name}.weight"] = normal(*shape)
            weights[f"h.{layer}.{name}.bias"] = normal(shape[1])
    return weights


def gpt2_logits(
    idx: Tensor,
    weights: dict[str, Tensor],
    n_head: int,
    positions: bool = True,
    last_norm: bool = True,
    scale: float | None = None,
    cut: bool = True,
    early: bool = False,
    residual: bool = True,
    post_norm: bool = False,
    activation: Callable | None = None,
    centered: bool = True,
    mlp: bool = True,
    attention: bool = True,
    swapped: bool = False,
) -> Tensor:
    """Compute GPT-2's logits; each option plants one of the usual faults."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if not centered:
            return F.rms_norm(x, scale.shape, scale, 1e-5) + shift
        return F.layer_norm(x, scale.shape, scale, shift, 1e-5)

    B, T = idx.shape
    x = weights["wte.weight"][idx]
    if positions:
        x = x + weights["wpe.weight"][:T]
    bend = activation or (lambda h: F.gelu(h, approximate="tanh"))
    for h in (f"h.{n}" for n in range(sum("ln_1.weight" in name for name in weights))):
        before = x
        read = x if post_norm else norm(x, f"{h}.ln_1")
        q, k, v = linear(read, f"{h}.attn.c_attn").chunk(3, dim=-1)
        q, k = (k, q) if swapped else (q, k)
        if cut:
            q, k, v = (z.unflatten(-1, (n_head, -1)).transpose(1, 2) for z in (q, k, v))
        else:
            q, k, v = (z.reshape(B, n_head, T, -1) for z in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        found = linear(mixed.transpose(1, 2).flatten(2), f"{h}.attn.c_proj") * attention
        x = (x if residual else 0) + found
        x = norm(x, f"{h}.ln_1") if post_norm else x
        read = before if early else x
        read = read if post_norm else norm(read, f"{h}.ln_2")
        hidden = linear(bend(linear(read, f"{h}.mlp.c_fc")), f"{h}.mlp.c_proj") * mlp
        x = (x if residual else 0) + hidden
        x = norm(x, f"{h}.ln_2") if post_norm else x
    return (norm(x, "ln_f") if last_norm else x) @ weights["wte.weight"].T


BLANK_SLIPS = {
    "The positions are missing: wpe's first T rows are added to the tokens' vectors.": {
        "positions": False
    },
    "The last norm, ln_f, is missing before the head.": {"last_norm": False},
    "LayerNorm subtracts the mean first; this is RMSNorm.": {"centered": False},
    "The blocks are still missing, or add nothing.": {"attention": False, "mlp": False},
    "The MLP is still missing.": {"mlp": False},
    "Attention is still missing.": {"attention": False},
    "The MLP must read the stream after attention has added to it.": {"early": True},
    "Each box's result is added to the stream, it does not replace it.": {"residual": False},
    "The norm belongs before each box, on a copy; not on the stream after it.": {"post_norm": True},
    "The heads are cut by a view that mixes positions: cut C into (n_head, D), then transpose.": {
        "cut": False
    },
    "Query and key are exchanged: c_attn holds query, key, value in this order.": {"swapped": True},
    "The scores are not divided by √D.": {"scale": 1.0},
    "The bend of the MLP is missing.": {"activation": lambda h: h},
    "The bend is GELU, here it is ReLU.": {"activation": F.relu},
    "GELU in its tanh form: F.gelu(x, approximate='tanh').": {"activation": F.gelu},
}


def _blank_hint(got: Any, idx: Tensor, weights: dict[str, Tensor], n_head: int) -> str:
    C = weights["wte.weight"].size(1)
    slips = BLANK_SLIPS | {"The scale is √D of one head, D = C / n_head.": {"scale": C**-0.5}}
    for sentence, options in slips.items():
        wrong = gpt2_logits(idx, weights, n_head, **options)
        if equals(got, wrong):
            return sentence
    return "Take one part away after the other until a smaller model is right."


# Repair


@exercise("gpt.repair", "check one line at a time: a norm's output has mean square 1.")
def repair(answer: Callable, generator: Generator) -> None:
    """Expect a block of the default form: x (B, T, C), w (matrices), cos and sin (T, C)."""
    require_own(answer, "GPT", "Block", "Attention", "SwiGLU")
    for B, T, C, hidden in [(2, 5, 6, 7), (1, 1, 4, 3), (3, 7, 8, 5)]:
        shapes = {
            "q": (C, C),
            "k": (C, C),
            "v": (C, C),
            "o": (C, C),
            "gate": (C, hidden),
            "up": (C, hidden),
            "down": (hidden, C),
        }
        w = {n: torch.randn(*s, generator=generator) / math.sqrt(s[0]) for n, s in shapes.items()}
        x = 3 * torch.randn(B, T, C, generator=generator)
        angles = torch.outer(torch.arange(1.0, T + 1), 0.7 ** torch.arange(C // 2))
        cos, sin = (
            torch.cat(pair, dim=-1)
            for pair in ((angles.cos(), angles.cos()), (-angles.sin(), angles.sin()))
        )
        case = f"B = {B}, T = {T}, C = {C}"
        got = call(answer, x, w, cos, sin, case=case)
        hint = "More than one fault may be left; compare line by line with the chapter's Block."
        for sentence, options in REPAIR_SLIPS.items():
            wrong = block_output(x, w, cos, sin, **options)
            if equals(got, wrong):
                hint = sentence
        same_tensor(got, block_output(x, w, cos, sin), case, hint)


def block_output(
    x: Tensor,
    w: dict[str, Tensor],
    cos: Tensor,
    sin: Tensor,
    root: bool = True,
    turn_values: bool = False,
    early: bool = False,
    bend: str = "gate",
    turn: bool = True,
    keep: bool = True,
) -> Tensor:
    """Compute the repaired block; each option plants one fault."""

    def norm(x: Tensor) -> Tensor:
        size = x.square().mean(dim=-1, keepdim=True) + 1e-6
        return x / (size.sqrt() if root else size)

    def turned(x: Tensor) -> Tensor:
        return x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin

    copy = norm(x)
    q, k, v = (copy @ w[name] for name in "qkv")
    q, k = (turned(q), turned(k)) if turn else (q, k)
    v = turned(v) if turn_values else v
    after = x * keep + F.scaled_dot_product_attention(q, k, v, is_causal=True) @ w["o"]
    copy = norm(x if early else after)
    gate, up = copy @ w["gate"], copy @ w["up"]
    hidden = F.silu(gate) * up if bend == "gate" else gate * F.silu(up)
    return after + hidden @ w["down"]


REPAIR_SLIPS = {
    "RMSNorm divides by the ROOT of the mean square.": {"root": False},
    "Values are not rotated: only where to look depends on the distance.": {"turn_values": True},
    "The MLP must read the stream after attention has added to it.": {"early": True},
    "The bend (silu) belongs to the gate, not to up.": {"bend": "up"},
    "Queries and keys must be rotated.": {"turn": False},
    "Attention's result is added to the stream: x is lost here.": {"keep": False},
}


# ALiBi


@exercise("gpt.alibi", "a column of slopes (H, 1, 1) times a table of distances (T, T).")
def alibi(answer: Callable, generator: Generator) -> None:
    """Expect alibi(T, n_head): (n_head, T, T) biases, -inf in the future."""
    for T, n_head in [(5, 8), (1, 2), (7, 3), (4, 1)]:
        case = f"T = {T}, n_head = {n_head}"
        got = call(answer, T, n_head, case=case)
        expected = alibi_biases(T, n_head)
        hint = "Head h, from 1, has the slope 2^(-8h/H); the bias is minus slope times (t - s)."
        for sentence, wrong in {
            "The heads are counted from 1: the first slope is 2^(-8/H), not 1.": (
                alibi_biases(T, n_head, first=0)
            ),
            "The sign: a greater distance must give a SMALLER score.": alibi_biases(T, n_head, -1),
            "The future must be -inf, so that the softmax gives it nothing.": (
                alibi_biases(T, n_head, hidden=0.0)
            ),
            "Rows and columns are exchanged: the row t is the one that looks.": (
                expected.transpose(1, 2)
            ),
            "The first heads have the steepest slopes: the order of heads is turned round.": (
                expected.flip(0)
            ),
        }.items():
            if equals(got, wrong):
                hint = sentence
        if isinstance(got, Tensor) and got.shape == expected.shape:
            require(not got.isnan().any(), f"NaN ({case}): 0 times infinity? Fill the future last.")
            hidden = torch.equal(got == -math.inf, expected == -math.inf)
            require(hidden, f"-inf belongs in the future and nowhere else ({case}). {hint}")
        same_tensor(got, expected, case, hint, tolerance=1e-5)


def alibi_biases(
    T: int, n_head: int, sign: int = 1, first: int = 1, hidden: float = -math.inf
) -> Tensor:
    """Return ALiBi's biases; the options plant faults."""
    biases = torch.full((n_head, T, T), hidden)
    for h in range(n_head):
        for t in range(T):
            for s in range(t + 1):
                biases[h, t, s] = -sign * 2.0 ** (-8 * (h + first) / n_head) * (t - s)
    return biases


# Measure


@exercise("gpt.own_word", "call first_loss for both widths, then for many values of std.")
def own_word(answer: Any, generator: Generator) -> None:
    """Expect two losses, the largest standard deviation that is harmless, and a letter."""
    keys = {"loss_16", "loss_64", "std", "why"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    for C, slack in ((16, 0.6), (64, 0.8)):  # one seed differs by about 0.15 and 0.33
        expected = sum(table_loss(C, 1.0, generator) for _ in range(16)) / 16
        look_at = "Random targets, a tied table, blocks that add nothing; the mean of some seeds."
        same_number(answer[f"loss_{C}"], expected, f"loss_{C}", look_at, slack)
    std = answer["std"]
    is_size = isinstance(std, int | float) and 0 < std < 10
    require(is_size, f"std is {std!r}, which is no standard deviation")
    limit = 1.02 * math.log(500)
    loss = table_loss(64, std * 0.8, generator)
    require(
        loss < limit,
        f"with std = {std:.3g} the first loss is above {limit:.2f}, 2 % over ln 500. A smaller "
        f"table gives smaller logits",
    )
    loss = table_loss(64, std * 1.25, generator)
    require(
        loss > limit,
        f"std = {std:.3g} is harmless, but not the largest such: try a greater one",
    )
    require(
        answer["why"] == "c",
        "the explanation does not fit: the blocks add nothing, so what is the stream at the head? "
        "And which row of the table is most like it?",
    )


def table_loss(C: int, std: float, generator: Generator) -> float:
    """Return the loss of a tied table of this size whose blocks add nothing, V = 500."""
    table = std * torch.randn(500, C, generator=generator)
    idx, targets = torch.randint(500, (2, 2000), generator=generator)
    logits = F.rms_norm(table[idx], (C,), eps=1e-6) @ table.T
    return F.cross_entropy(logits, targets).item()


# Design


@exercise("gpt.phone", "count_parameters tells the size; change one number at a time.")
def phone(answer: Any, generator: Generator) -> None:
    """Expect a dict of four sizes that keeps to the limits of the exercise text."""
    keys = {"n_layer", "n_head", "n_kv_head", "n_embd"}
    require(isinstance(answer, dict) and set(answer) == keys, f"expected a dict of {sorted(keys)}")
    try:
        config = GPTConfig(vocab_size=8192, block_size=1024, **answer).resolved()
    except ConfigError as error:
        raise Wrong(f"no such model: {error}") from None
    c, size = config, count_parameters(config)
    assert c.n_kv_head is not None  # `resolved` fills both in
    assert c.head_dim is not None
    require(c.n_layer >= 6, f"{c.n_layer} layers; at least 6 are asked for")
    require(32 <= c.head_dim <= 128, f"heads of width {c.head_dim}; 32 to 128 are asked for")
    cache = 2 * 2 * c.n_layer * c.n_kv_head * c.head_dim
    require(
        cache <= 4096,
        f"{cache} bytes of keys and values a token; 4096 are the limit. Fewer n_kv_head, fewer "
        f"layers or narrower heads",
    )
    require(size <= 30_000_000, f"{size:,} parameters; 30,000,000 are the limit")
    require(
        size >= 29_700_000, f"{size:,} parameters are less than 99 % of 30,000,000: use them all"
    )


def equals(got: Any, wrong: Tensor) -> bool:
    """Tell whether an answer is this wrong one."""
    same_shape = isinstance(got, Tensor) and got.shape == wrong.shape
    return same_shape and torch.allclose(got.float(), wrong, atol=1e-4, rtol=1e-4)
