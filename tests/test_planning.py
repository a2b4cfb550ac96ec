"""The memory and time that a plan names, against what training really takes."""

import dataclasses
import itertools
import re
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from minigpt.gpt import GPT, GPTConfig
from minigpt.machine.device import autocast
from minigpt.runs import planning
from minigpt.runs.planning import check_memory, training_memory
from minigpt.support.errors import ConfigError

CPU = torch.device("cpu")
HUGE = GPTConfig(vocab_size=50_304, block_size=4096, n_layer=96, n_head=96, n_embd=12_288)


def proposals(error: ConfigError) -> list[dict[str, int]]:
    """Read the settings that an error proposes: [{"micro_batch_size": 8, "n_layer": 3}, ...]."""
    return [
        {name.replace("-", "_"): int(value) for name, value in re.findall(r"--(\S+) (\d+)", text)}
        for text in error.remedy.split(", or ")
    ]


@pytest.mark.parametrize("free", [2 * 10**9, 8 * 10**9, 40 * 10**9])
@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize(
    "config",
    [
        HUGE,
        GPTConfig(50_000, 4096, 8, n_head=4, n_embd=24),  # half of it has odd heads
        GPTConfig(50_000, 4096, 8, n_head=4, n_kv_head=2, n_embd=100, head_dim=64),
        GPTConfig(50_000, 4096, 1, n_head=4, n_embd=1024),
        GPTConfig(50_000, 4096, 24, n_head=16, n_embd=2048),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_with_three_smaller_settings_that_do(
    config, shards, free, monkeypatch
):
    monkeypatch.setattr(planning, "available_memory", lambda device: free)
    start = time.monotonic()
    with pytest.raises(
        ConfigError, match=r"would take about [\d.]+ GB and [\d.]+ GB are free"
    ) as error:
        check_memory(config, 512, CPU, torch.float32, shards)
    assert time.monotonic() - start < 2  # the catalog's own limit: nothing may be allocated
    found = proposals(error.value)
    assert len(found) == len({str(settings) for settings in found}) == 3
    for flags in found:
        smaller = dict(flags)
        rows = smaller.pop("micro_batch_size", 512)
        assert all(value < getattr(config, name) for name, value in smaller.items())
        smaller = dataclasses.replace(config, **smaller)  # a valid config
        assert training_memory(smaller, rows, torch.float32, shards) <= free, flags


def test_where_nothing_fits_the_error_says_so(monkeypatch):
    monkeypatch.setattr(planning, "available_memory", lambda device: 1000)
    with pytest.raises(ConfigError, match="free some memory: no smaller model fits either"):
        check_memory(HUGE, 64, CPU, torch.float32)


def test_processes_share_a_computers_memory_and_split_models_take_less(monkeypatch):
    config = GPTConfig(1000, 64, 4, n_head=4, n_embd=256)
    needed = training_memory(config, 4, torch.float32)
    monkeypatch.setattr(planning, "available_memory", lambda device: needed)
    assert check_memory(config, 4, CPU, torch.float32) == needed
    with pytest.raises(ConfigError, match="try --n-layer 1"):
        check_memory(config, 4, CPU, torch.float32, processes=2)
    assert check_memory(config, 4, torch.device("cuda"), torch.float32, processes=8) == needed
    assert training_memory(config, 4, torch.float32, shards=8) < 0.8 * needed


def test_a_model_that_fits_returns_its_estimate():
    config = GPTConfig(65, 32, 2, 2, n_embd=32)
    estimate = check_memory(config, 4, CPU, torch.float32)
    assert estimate == training_memory(config, 4, torch.float32) > 0


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**30 - 1),
    st.integers(1, 10**9),
)
def test_no_size_makes_the_check_itself_fail(vocab, block, layers, half, batch):
    config = GPTConfig(vocab, block, layers, n_head=1, n_embd=2 * half)
    try:
        assert check_memory(config, batch, CPU, torch.bfloat16) > 0
    except ConfigError:
        return


def measured_peak(config: GPTConfig, batch_size: int, dtype: torch.dtype) -> int:
    """Train two steps and return the most bytes of tensors that stood at once."""
    idx = torch.randint(config.vocab_size, (batch_size, config.block_size))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = GPT(config)
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            with autocast(CPU, dtype):
                loss = model(idx, idx)[1]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(size for _, size in changes))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("sizes", "batch_size"),
    [
        ((65, 64, 4, 4, None, 128), 8),  # activations outweigh the rest
        ((20_000, 16, 2, 4, None, 128), 2),  # embeddings do
        ((4000, 256, 1, 4, None, 64), 2),  # logits do
        ((65, 256, 2, 8, None, 64), 2),  # attention scores do
        ((65, 512, 2, 4, None, 64), 1),  # no scores are kept
    ],
)
def test_estimated_memory_is_within_a_factor_of_2_of_the_measured_peak(sizes, batch_size, dtype):
    config = GPTConfig(*sizes)
    estimated = training_memory(config, batch_size, dtype)
    assert 0.5 < estimated / measured_peak(config, batch_size, dtype) < 2
