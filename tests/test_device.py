"""Choice of device and precision, and the memory estimate against what is really taken."""

import dataclasses
import itertools
import platform
import re
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from minigpt import device
from minigpt.counts import flops_per_token
from minigpt.device import (
    arrange_for_decoding,
    autocast,
    available_memory,
    cgroup_memory,
    check_memory,
    choose_device,
    choose_dtype,
    matmul_flops,
    training_memory,
    training_seconds,
)
from minigpt.errors import ConfigError
from minigpt.gpt import GPT, GPTConfig

CPU = torch.device("cpu")
HUGE = GPTConfig(vocab_size=50_304, block_size=4096, n_layer=96, n_head=96, n_embd=12_288)


@pytest.fixture(params=["none", "cuda", "mps", "both"])
def accelerators(request, monkeypatch) -> str:
    """Pretend that this machine has these accelerators."""
    there = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there in ("cuda", "both"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(there in ("cuda", "both")))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there in ("mps", "both"))
    return there


def test_auto_takes_cuda_then_mps_then_cpu(accelerators):
    expected = {"none": "cpu", "cuda": "cuda", "mps": "mps", "both": "cuda"}[accelerators]
    assert choose_device().type == expected
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_here_is_refused_with_the_ones_that_are(name, accelerators):
    kind = name.partition(":")[0]
    if accelerators in (kind, "both"):
        assert choose_device(name).type == kind
        return
    with pytest.raises(ConfigError) as error:
        choose_device(name)
    assert f"device {name!r} is not here" in str(error.value)
    assert "choose auto or" in error.value.remedy
    assert error.value.remedy.endswith("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cpu:x", "cpu:-1", "cpu:", "cuda:x", "cuda:99"])
def test_fault_C18_unknown_device_names_are_refused_with_the_remedy(name, accelerators):
    with pytest.raises(ConfigError, match=r"is not here.*choose auto or .*cpu"):
        choose_device(name)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=8) | st.from_regex(r"\A(cpu|cuda|mps|meta)(:\w*)?\Z"))
def test_fault_C18_any_device_name_is_taken_or_refused_by_a_config_error(name):
    try:
        assert isinstance(choose_device(name), torch.device)
    except ConfigError:
        return


@pytest.mark.parametrize("fast", [True, False])
def test_auto_dtype_is_bfloat16_where_that_is_fast(fast, monkeypatch):
    expected = torch.bfloat16 if fast else torch.float32
    monkeypatch.setattr(device, "cpu_is_fast_at_bfloat16", lambda: fast)
    assert choose_dtype(CPU) == expected
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    assert choose_dtype(torch.device("cuda")) == expected
    assert choose_dtype(torch.device("mps")) == torch.float32


def test_named_dtypes_are_taken_as_they_are():
    assert choose_dtype(CPU, "float32") == torch.float32
    assert choose_dtype(CPU, "bfloat16") == torch.bfloat16
    assert choose_dtype(torch.device("cuda"), "float16") == torch.float16


@pytest.mark.parametrize("name", ["float8", "", "fp16", "Float32"])
def test_fault_C18_unknown_dtypes_are_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"unknown.*choose auto, float32, bfloat16, float16"):
        choose_dtype(CPU, name)


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_fault_C18_float16_off_cuda_is_refused_with_what_works(kind):
    with pytest.raises(ConfigError, match=r"CUDA GPUs only.*choose bfloat16 or float32"):
        choose_dtype(torch.device(kind), "float16")


def test_onednn_held_back_by_the_environment_is_not_fast(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    for value, fast in (("AVX2", False), ("AVX512_CORE_AMX", True), ("avx512_core_bf16", True)):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
        assert device.cpu_is_fast_at_bfloat16() is fast
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert device.cpu_is_fast_at_bfloat16() is True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_computes_products_in_dtype_and_leaves_weights_alone(dtype):
    layer = torch.nn.Linear(3, 5)
    with autocast(CPU, dtype):
        assert layer(torch.ones(2, 3)).dtype == dtype
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("has_amx", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_arranged_for_decoding_is_the_same_model(tied, has_amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    torch.manual_seed(0)
    model = GPT(GPTConfig(17, 12, 2, 2, n_embd=8, tie_embeddings=tied, init="gpt2"))
    idx = torch.randint(17, (3, 11))
    before, logits = {k: v.clone() for k, v in model.state_dict().items()}, model(idx)[0]
    arrange_for_decoding(model)
    assert model.blocks[0].mlp.up.weight.stride(0) == 1  # by columns
    assert (model.blocks[0].mlp.down.weight.stride(1) == 1) is not has_amx  # else by rows
    assert (model.head.weight is model.embedding.weight) is tied
    assert all(torch.equal(before[name], v) for name, v in model.state_dict().items())
    torch.testing.assert_close(model(idx)[0], logits)


# Memory (fault C20)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS holds on Linux alone")
def test_available_memory_counts_a_limit_on_the_process():
    script = (
        "import resource, torch, psutil\n"
        "from minigpt.device import available_memory\n"
        "used = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)\n"
        "print(available_memory(torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) <= 300_000_000
    assert available_memory(CPU) > 0


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
def test_fault_C20_what_does_not_fit_is_refused_with_three_smaller_settings_that_do(
    config, shards, free, monkeypatch
):
    monkeypatch.setattr(device, "available_memory", lambda device: free)
    start = time.monotonic()
    with pytest.raises(
        ConfigError, match=r"would take about [\d.]+ GB and [\d.]+ GB are free"
    ) as error:
        check_memory(config, 512, CPU, torch.float32, shards)
    assert time.monotonic() - start < 2  # the catalogue's own limit: nothing may be allocated
    found = proposals(error.value)
    assert len(found) == len({str(settings) for settings in found}) == 3
    for flags in found:
        smaller = dict(flags)
        rows = smaller.pop("micro_batch_size", 512)
        assert all(value < getattr(config, name) for name, value in smaller.items())
        smaller = dataclasses.replace(config, **smaller)  # a valid config
        assert training_memory(smaller, rows, torch.float32, shards) <= free, flags


def test_fault_C20_where_nothing_fits_the_error_says_so(monkeypatch):
    monkeypatch.setattr(device, "available_memory", lambda device: 1000)
    with pytest.raises(ConfigError, match="free some memory: no smaller model fits either"):
        check_memory(HUGE, 64, CPU, torch.float32)


def test_processes_share_a_computers_memory_and_split_models_take_less(monkeypatch):
    config = GPTConfig(1000, 64, 4, n_head=4, n_embd=256)
    needed = training_memory(config, 4, torch.float32)
    monkeypatch.setattr(device, "available_memory", lambda device: needed)
    assert check_memory(config, 4, CPU, torch.float32) == needed
    with pytest.raises(ConfigError, match="try --n-layer 1"):
        check_memory(config, 4, CPU, torch.float32, processes=2)
    assert check_memory(config, 4, torch.device("cuda"), torch.float32, processes=8) == needed
    assert training_memory(config, 4, torch.float32, shards=8) < 0.8 * needed


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_and_its_cached_files_are_free(version, tmp_path):
    names = ("memory.max", "memory.current", "inactive_file", "")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory")
    limit, used, cached, controller = names
    own, inner = tmp_path / "cgroup", tmp_path / controller / "outer" / "inner"
    own.write_text(f"7:pids:/x\n4:{controller}:/outer/inner\n", encoding="utf-8")
    inner.mkdir(parents=True)
    assert list(cgroup_memory(tmp_path, own)) == []
    for folder, most in ((inner, "max"), (inner.parent, "5000")):
        (folder / limit).write_text(most + "\n", encoding="utf-8")
        (folder / used).write_text("3000\n", encoding="utf-8")
        (folder / "memory.stat").write_text(f"anon 9\n{cached} 400\n", encoding="utf-8")
    assert list(cgroup_memory(tmp_path, own)) == [2400]
    (inner / limit).write_text("1000", encoding="utf-8")
    assert sorted(cgroup_memory(tmp_path, own)) == [0, 2400]
    assert list(cgroup_memory(tmp_path / "elsewhere", tmp_path / "none")) == []


def test_available_memory_is_what_the_tightest_limit_leaves(monkeypatch):
    monkeypatch.setattr(device, "cgroup_memory", lambda: iter([7_000, 5_000]))
    assert available_memory(CPU) == 5_000


def test_time_grows_with_tokens_and_model(monkeypatch):
    monkeypatch.setattr(device, "matmul_flops", lambda *_, **__: 1e12)
    small, large = GPTConfig(100, 64, 2, n_head=2, n_embd=32), GPTConfig(100, 64, 8, 2, n_embd=64)
    seconds = training_seconds(small, 10**6, CPU, torch.float32)
    assert training_seconds(small, 10**7, CPU, torch.float32) == pytest.approx(10 * seconds)
    assert training_seconds(large, 10**6, CPU, torch.float32) > 5 * seconds
    assert 3 * flops_per_token(small) * 1e6 / 1e12 < seconds


def test_measured_matmul_speed_is_a_number_above_0():
    assert 1e7 < matmul_flops(CPU, torch.float32, size=64, seconds=0.01) < 1e16


def test_a_model_that_fits_returns_its_estimate():
    config = GPTConfig(65, 32, 2, 2, n_embd=32)
    estimate = check_memory(config, 4, CPU, torch.float32)
    assert estimate == training_memory(config, 4, torch.float32) > 0


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1),
       st.integers(1, 2**30 - 1), st.integers(1, 10**9))  # fmt: skip
def test_fault_C20_no_size_makes_the_check_itself_fail(vocab, block, layers, half, batch):
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_for_the_next_step():
    script = """
import resource
import torch
from minigpt.device import keep_freed_memory

def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        pieces = [torch.ones(2**22) for _ in range(4)]  # 16 MB each
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
faults(1)
print(faults(10))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 * 2**12  # 82,000 were counted where it is given back
