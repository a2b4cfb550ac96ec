"""Formulas of parameters and operations, against real models and torch's counter."""

import pytest
import torch
from helpers import VARIANTS, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minigpt.counts import count_parameters, flops_per_token
from minigpt.gpt import GPT, GPTConfig


@st.composite
def configs(draw) -> GPTConfig:
    """Draw any small valid config."""
    n_kv_head, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    half_head = draw(st.integers(1, 6))
    free_width = draw(st.booleans())
    return GPTConfig(
        vocab_size=draw(st.integers(1, 40)),
        block_size=draw(st.integers(1, 12)),
        n_layer=draw(st.integers(1, 3)),
        n_head=n_kv_head * group,
        n_kv_head=draw(st.sampled_from([n_kv_head, None])),
        n_embd=draw(st.integers(1, 30)) if free_width else n_kv_head * group * half_head * 2,
        head_dim=half_head * 2 if free_width else None,
        n_hidden=draw(st.none() | st.integers(1, 40)),
        tie_embeddings=draw(st.booleans()),
        norm=draw(st.sampled_from(["rms", "layer"])),
        mlp=draw(st.sampled_from(["swiglu", "gelu", "relu2"])),
        positions=draw(st.sampled_from(["rotary", "learned", "none"])),
        qk_norm=draw(st.booleans()),
        biases=draw(st.booleans()),
    )


@settings(max_examples=80, deadline=None)
@given(configs())
def test_count_parameters_is_exact_and_resolved_changes_nothing(config):
    model = GPT(config)
    assert count_parameters(config) == sum(p.numel() for p in model.parameters())
    assert model.config == config.resolved() == config.resolved().resolved()
    assert count_parameters(model.config) == count_parameters(config)
    idx = torch.zeros(1, config.block_size, dtype=torch.long)
    assert model(idx)[0].shape == (1, config.block_size, config.vocab_size)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_kv_head": 2, "head_dim": 10},
        {"n_layer": 1, "vocab_size": 500, "tie_embeddings": False, "n_hidden": 100},
        *VARIANTS[1:],
    ],
    ids=str,
)
@pytest.mark.parametrize("T", [None, 5])
def test_flops_are_those_that_torchs_counter_finds(options, T):
    model = random_model(**options)
    length = T or model.config.block_size
    # The counter does not see into the fused kernel of CPUs: take torch's other one.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, length, dtype=torch.long))
    assert flops_per_token(model.config, T) * 3 * length == counter.get_total_flops()
