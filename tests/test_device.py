"""Choice of device and precision, and the memory estimate against what is really taken."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minigpt.machine import device
from minigpt.machine.device import (
    autocast,
    available_memory,
    cgroup_memory,
    choose_device,
    choose_dtype,
    matmul_flops,
)
from minigpt.support.errors import ConfigError

CPU = torch.device("cpu")


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
def test_unknown_device_names_are_refused_with_the_remedy(name, accelerators):
    with pytest.raises(ConfigError, match=r"is not here.*choose auto or .*cpu"):
        choose_device(name)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=8) | st.from_regex(r"\A(cpu|cuda|mps|meta)(:\w*)?\Z"))
def test_any_device_name_is_taken_or_refused_by_a_config_error(name):
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
def test_unknown_dtypes_are_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match=r"unknown.*choose auto, float32, bfloat16, float16"):
        choose_dtype(CPU, name)


@pytest.mark.parametrize("kind", ["cpu", "mps"])
def test_float16_off_cuda_is_refused_with_what_works(kind):
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


# Memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS holds on Linux alone")
def test_available_memory_counts_a_limit_on_the_process():
    script = (
        "import resource, torch, psutil\n"
        "from minigpt.machine.device import available_memory\n"
        "used = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)\n"
        "print(available_memory(torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) <= 300_000_000
    assert available_memory(CPU) > 0


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


def test_measured_matmul_speed_is_a_number_above_0():
    assert 1e7 < matmul_flops(CPU, torch.float32, size=64, seconds=0.01) < 1e16
