"""Checkpoints: exact round trips, every kind of damage found, nothing good ever deleted."""

import ast
import json
import os
import random
import shutil
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
import torch

import minigpt
from minigpt.runs import checkpoint
from minigpt.runs.checkpoint import (
    FILES,
    checkpoint_paths,
    latest_checkpoint,
    load_checkpoint,
    remove_leftovers,
    save_checkpoint,
)
from minigpt.support import files
from minigpt.support.errors import CheckpointError, TrainingError
from minigpt.support.lock import RunLock


def tensors(step: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "b.weight": torch.randn(3, 5, generator=generator),
        "a.bias": torch.randn(7, generator=generator).bfloat16(),
        "steps": torch.tensor(2**40 + step),
        "none": torch.zeros(0, 4),
        "turned": torch.randn(4, 6, generator=generator).T,
        "half": torch.randn(3, generator=generator).half(),
        "flag": torch.tensor([True, False, True]),
    }


def save(run_dir: Path, step: int, **options) -> Path:
    state = {"step": step, "name": "Größe 大"}
    return save_checkpoint(run_dir, step, tensors(step), tensors(step + 1), state, **options)


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path):
    path = save(tmp_path, 12, about={"tokenizer_sha256": "abc"})
    assert path == tmp_path / "checkpoints" / "step-00000012"
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.path) == (12, path)
    assert_same(loaded.model, tensors(12))
    assert_same(loaded.optimizer, tensors(13))
    assert loaded.state == {"step": 12, "name": "Größe 大"}
    assert loaded.manifest["tokenizer_sha256"] == "abc"
    assert loaded.manifest["versions"]["torch"] == str(torch.__version__)


def test_the_files_are_safetensors_that_the_library_reads(tmp_path):
    path = save(tmp_path, 3)
    assert_same(safetensors.torch.load_file(path / "model.safetensors"), tensors(3))


def test_loaded_tensors_are_their_own_and_survive_the_files(tmp_path):
    path = save(tmp_path, 1)
    loaded = load_checkpoint(path)
    shutil.rmtree(path)
    loaded.model["b.weight"].add_(1)
    assert torch.equal(loaded.model["b.weight"], tensors(1)["b.weight"] + 1)


# ---- damage


def mutate(path: Path, rng: random.Random) -> str:
    """Damage one file of a checkpoint in one of many ways; say how."""
    name = rng.choice((*FILES, "manifest.json"))
    file = path / name
    data = bytearray(file.read_bytes())
    kind = rng.choice(
        ("bit", "bit", "byte", "truncate", "zero", "append", "delete", "swap", "cut", "header")
    )
    at = rng.randrange(len(data))
    if kind == "bit":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[at] = (data[at] + rng.randrange(1, 256)) % 256
    elif kind == "truncate":
        del data[at:]
    elif kind == "zero":
        data = bytearray(len(data)) if rng.random() < 0.5 else data[:at] + bytes(len(data) - at)
    elif kind == "append":
        data += rng.randbytes(rng.randrange(1, 9))
    elif kind == "delete":
        file.unlink()
        return f"{name} {kind}"
    elif kind == "swap":
        other = path / rng.choice([other for other in FILES if other != name])
        data = bytearray(other.read_bytes())
    elif kind == "cut":
        del data[at : at + rng.randrange(1, 9)]
    elif kind == "header":
        data[:8] = rng.choice((1 << 63, 100 << 20, len(data) * 2, 7)).to_bytes(8, "little")
    if bytes(data) == file.read_bytes():
        data[at] ^= 1
    file.write_bytes(data)
    return f"{name} {kind} at {at}"


def count_missed(folder: Path, mutations: int, seed: int) -> list[str]:
    """Return the damages that loading does not find."""
    rng, missed = random.Random(seed), []
    good = save(folder, 1)
    bad = folder / "bad" / good.name
    for _ in range(mutations):
        shutil.rmtree(bad, ignore_errors=True)
        shutil.copytree(good, bad)
        kind = mutate(bad, rng)
        try:
            load_checkpoint(bad, with_optimizer=True)
            missed.append(kind)
        except CheckpointError:
            continue
    load_checkpoint(good, with_optimizer=True)
    return missed


def peak_memory() -> float:
    """Return the most bytes that this process ever held (0 where that cannot be asked)."""
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@pytest.mark.slow
def test_all_of_2000_damaged_checkpoints_are_found(tmp_path):
    before = peak_memory()
    assert count_missed(tmp_path, 2000, seed=3) == []
    assert peak_memory() - before < 50e6, "a damaged checkpoint of 2,000 bytes took much memory"


@pytest.mark.soak
def test_soak_100000_damaged_checkpoints(tmp_path):
    assert count_missed(tmp_path, 100_000, seed=time.time_ns()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_one_before_is_loaded(tmp_path, name):
    for step in (10, 20):
        save(tmp_path, step)
    file = tmp_path / "checkpoints" / "step-00000020" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    skipped = []
    assert latest_checkpoint(tmp_path, skipped.append, with_optimizer=True).step == 10
    assert len(skipped) == 1
    assert "SHA-256 is wrong" in skipped[0]
    assert str(file) in skipped[0]
    assert "use an older checkpoint" in skipped[0]


def test_a_missing_file_is_named(tmp_path):
    path = save(tmp_path, 1)
    (path / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors.*use an older"):
        load_checkpoint(path)
    assert latest_checkpoint(tmp_path) is None


def test_a_newer_format_is_named_and_not_passed_over(tmp_path, monkeypatch):
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "FORMAT", 7)
    path = save(tmp_path, 2)
    monkeypatch.undo()
    wanted = r"format 7, this version reads 1 to \d.*use the version"
    with pytest.raises(CheckpointError, match=wanted):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=wanted):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("version", [True, 2.0, "2", None, 0])
def test_a_format_that_is_no_number_of_one_is_refused(tmp_path, version):
    path = save(tmp_path, 1)
    forge(path, format=version)
    with pytest.raises(CheckpointError, match=f"format {version!r}, this version reads"):
        load_checkpoint(path)


# ---- what is read


def test_using_a_run_reads_its_weights_alone_and_resuming_reads_everything(tmp_path, monkeypatch):
    save(tmp_path, 1)
    read, true_read = [], checkpoint.read_file

    def watched(path, manifest):
        read.append(path.name)
        return true_read(path, manifest)

    monkeypatch.setattr(checkpoint, "read_file", watched)
    found = latest_checkpoint(tmp_path)
    assert sorted(read) == ["model.safetensors", "state.json"]
    assert_same(found.optimizer, tensors(2))
    assert_same(found.optimizer, tensors(2))
    assert read[2:] == ["optimizer.safetensors"]  # once, when it was asked for
    read.clear()
    latest_checkpoint(tmp_path, with_optimizer=True)
    assert sorted(read) == ["model.safetensors", "optimizer.safetensors", "state.json"]


def test_a_damaged_optimizer_state_is_found_when_it_is_read(tmp_path):
    file = save(tmp_path, 1) / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found = load_checkpoint(file.parent)
    assert_same(found.model, tensors(1))
    with pytest.raises(CheckpointError, match=r"SHA-256 is wrong.*optimizer\.safetensors"):
        found.optimizer  # noqa: B018
    save(tmp_path, 1)  # a damaged one of that step is replaced
    assert_same(load_checkpoint(file.parent).optimizer, tensors(2))


# ---- the order that a power cut cannot break


def test_all_of_a_checkpoint_is_on_the_disk_before_its_name_and_the_name_before_success(
    tmp_path, monkeypatch
):
    save(tmp_path, 1)
    calls = watch_disk(monkeypatch, checkpoint)
    path = save(tmp_path, 2)
    temporary = calls[-2][1]
    assert temporary.name.startswith(".tmp-")
    assert calls == [
        *(("fsync", temporary / name) for name in (*FILES, "manifest.json")),
        ("fsync_directory", temporary),
        ("rename", temporary, path),
        ("fsync_directory", path.parent),
    ]


def test_the_folder_of_the_first_checkpoint_is_on_the_disk_too(tmp_path, monkeypatch):
    folders = watch_disk(monkeypatch, files)
    calls = watch_disk(monkeypatch, checkpoint)
    path = save(tmp_path / "new", 1)
    assert folders[:2] == [("fsync_directory", tmp_path), ("fsync_directory", tmp_path / "new")]
    assert calls[-1] == ("fsync_directory", path.parent)


def test_a_replaced_file_is_on_the_disk_before_its_name_and_the_name_before_success(
    tmp_path, monkeypatch
):
    calls = watch_disk(monkeypatch, files)
    files.atomic_write(tmp_path / "config.json", "new")
    (_, temporary), *rest = calls
    assert calls[0] == ("fsync", temporary)
    assert rest == [
        ("replace", temporary, tmp_path / "config.json"),
        ("fsync_directory", tmp_path),
    ]


def watch_disk(monkeypatch, module) -> list[tuple]:
    """Return a list to which a module's calls that must come in order are added."""
    calls: list[tuple] = []

    def watched(name, function):
        def call(*args):
            places = (Path(getattr(arg, "name", arg)) if name == "fsync" else arg for arg in args)
            calls.append((name, *places))
            return function(*args)

        return call

    for name in ("fsync", "fsync_directory"):
        monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, watched(name, getattr(Path, name)))
    return calls


def test_a_checkpoint_under_another_step_is_refused(tmp_path):
    path = save(tmp_path, 1)
    path.rename(path.with_name("step-00000009"))
    with pytest.raises(CheckpointError, match="it belongs to step 1"):
        load_checkpoint(path.with_name("step-00000009"))
    path.with_name("step-00000009").rename(tmp_path / "best")
    assert load_checkpoint(tmp_path / "best").step == 1  # a name without a step claims none


def forge(path: Path, **changes) -> None:
    """Rewrite the manifest so that its own checksum is right."""
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8")) | changes
    del manifest["sha256"]
    digest = checkpoint.hashlib.sha256(checkpoint.to_json(manifest)).hexdigest()
    (path / "manifest.json").write_bytes(checkpoint.to_json(manifest | {"sha256": digest}))


@pytest.mark.parametrize(
    "files",
    [
        {},
        [],
        None,
        3,
        {"../../x": {"size": 1, "sha256": ""}},
        dict.fromkeys(FILES, 3),
        {name: {"size": "9", "sha256": "x"} for name in FILES},
    ],
)
def test_a_forged_table_of_contents_is_refused(tmp_path, files):
    path = save(tmp_path, 1)
    forge(path, files=files)
    with pytest.raises(CheckpointError, match=r"damaged.*use an older"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["[" * 900_000, "{", "[1]", "NaN", '{"format": 1, "x": NaN}', ""])
def test_a_manifest_of_nonsense_is_refused(tmp_path, text):
    path = save(tmp_path, 1)
    (path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        load_checkpoint(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["manifest.json", *FILES])
def test_a_pipe_or_a_device_is_not_read(tmp_path, name):
    path = save(tmp_path, 1)
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(CheckpointError, match=rf"not a file.*{name}"):
        load_checkpoint(path)
    (path / name).unlink()
    (path / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=rf"not a file.*{name}"):
        load_checkpoint(path)


def rehash(path: Path, name: str, data: bytes) -> None:
    """Replace a file and make the manifest agree, as a forger would."""
    (path / name).write_bytes(data)
    contents = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
    contents[name] = {"size": len(data), "sha256": checkpoint.hashlib.sha256(data).hexdigest()}
    forge(path, files=contents)


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [1 << 28], "data_offsets": [0, 4]}},  # a 1 GB tensor
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 40]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
        {"w": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}},
        {"w": 3},
    ],
)
def test_a_forged_header_is_refused_before_memory_is_taken(tmp_path, header):
    path = save(tmp_path, 1)
    text = json.dumps(header).encode()
    rehash(path, "model.safetensors", len(text).to_bytes(8, "little") + text + bytes(4))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [1 << 63, 100 << 20, 50])
def test_an_impossible_header_length_is_refused(tmp_path, length):
    path = save(tmp_path, 1)
    rehash(path, "model.safetensors", length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match=f"header claims {length} bytes"):
        load_checkpoint(path)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = save(tmp_path, 1)
    torch.save(Bomb(), path / "model.safetensors")
    rehash(path, "model.safetensors", (path / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


FORBIDDEN = {
    "pickle.load",
    "pickle.loads",
    "yaml.load",
    "yaml.unsafe_load",
    "eval",
    "exec",
    "builtins.eval",
    "builtins.exec",
    "torch.save",
    "torch.load",
}


def dotted(function: ast.expr) -> str:
    """Return `name` or `module.name`; all that is forbidden is of this form."""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return f"{function.value.id}.{function.attr}"
    return function.id if isinstance(function, ast.Name) else ""


def forbidden_calls(source: str) -> list[str]:
    """Return the calls in a module that could run code from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and dotted(node.func) in FORBIDDEN:
            found.append(ast.unparse(node))
        if isinstance(node, ast.keyword) and node.arg == "weights_only":
            found.append(ast.unparse(node))
        names = getattr(node, "names", []) if isinstance(node, ast.Import | ast.ImportFrom) else []
        modules = [alias.name for alias in names] + [getattr(node, "module", None)]
        found += [name for name in modules if name in ("pickle", "dill", "yaml", "marshal")]
    return found


def test_the_package_has_no_way_to_run_code_from_a_file():
    modules = sorted(Path(minigpt.__file__).parent.rglob("*.py"))
    assert len(modules) > 10
    found = {path.name: forbidden_calls(path.read_text(encoding="utf-8")) for path in modules}
    assert {name: calls for name, calls in found.items() if calls} == {}
    assert tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 10)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p, weights_only=False)",
        "pickle.load(f)",
        "yaml.load(f)",
        "eval(x)",
        "exec(x)",
        "import pickle",
        "from yaml import load",
    ],
)
def test_the_gate_sees_each_of_them(line):
    assert forbidden_calls(f"def f():\n    {line}\n")


# ---- what must never be lost or written


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["model", "optimizer"])
def test_numbers_that_are_not_finite_are_never_saved(tmp_path, bad, where):
    save(tmp_path, 1)
    broken = {"w": torch.tensor([1.0, bad, 2.0])}
    both = {"model": tensors(), "optimizer": tensors()} | {where: broken}
    with pytest.raises(TrainingError, match=r"1 of 3 numbers in w.*step 2.*learning-rate"):
        save_checkpoint(tmp_path, 2, both["model"], both["optimizer"], {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_finite_numbers_whose_sum_is_not_are_saved(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"w": torch.full((9,), 3e38)}, {"v": tensors()["half"]}, {})
    assert load_checkpoint(path).model["w"].sum().isinf()


def test_too_little_room_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    save(tmp_path, 1)
    usage = shutil.disk_usage(tmp_path)._replace(free=1_500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"disk full: need 4\.0 MB, have 1\.5 MB.*free some"):
        save_checkpoint(tmp_path, 2, {"w": torch.zeros(1_000_000)}, {}, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_only_the_newest_are_kept_by_step_and_not_by_clock(tmp_path):
    for step in (5, 90, 100_000_000, 7):
        save(tmp_path, step, keep=3)
        os.utime(checkpoint_paths(tmp_path)[0], (0, 2**31))  # the oldest looks newest to the clock
    assert [int(p.name[5:]) for p in checkpoint_paths(tmp_path)] == [7, 90, 100_000_000]
    assert latest_checkpoint(tmp_path).step == 100_000_000


def test_damaged_checkpoints_do_not_count_as_kept(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / "step-00000002" / "model.safetensors").write_bytes(b"")
    save(tmp_path, 3)
    assert [p.name[-1] for p in checkpoint_paths(tmp_path)] == ["1", "2", "3"]
    save(tmp_path, 4)
    assert [p.name[-1] for p in checkpoint_paths(tmp_path)] == ["3", "4"]


def test_a_good_checkpoint_is_never_replaced_and_a_damaged_one_is(tmp_path):
    path = save(tmp_path, 1)
    assert save(tmp_path, 1) == path  # the same again: nothing to do
    with pytest.raises(CheckpointError, match=r"another checkpoint of this step.*choose another"):
        save_checkpoint(tmp_path, 1, tensors(5), {}, {})
    assert_same(load_checkpoint(path).model, tensors(1))
    (path / "state.json").unlink()
    save_checkpoint(tmp_path, 1, tensors(5), {}, {})
    assert_same(load_checkpoint(path).model, tensors(5))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_leftovers_are_removed_under_the_lock_only(tmp_path):
    path = save(tmp_path, 1)
    (path.parent / ".tmp-00000002-99").mkdir()
    (path.parent / ".tmp-00000002-99" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".tmp-99-config.json").write_bytes(b"half")
    run = RunLock(tmp_path)
    with pytest.raises(AssertionError, match="not locked"):
        remove_leftovers(run)
    with run:
        remove_leftovers(run)
    assert sorted(p.name for p in tmp_path.rglob("*tmp*")) == []
    assert latest_checkpoint(tmp_path).step == 1


def test_a_half_copied_checkpoint_is_not_used(tmp_path):
    path = save(tmp_path / "here", 1)
    copy = tmp_path / "drive" / "checkpoints" / path.name
    copy.mkdir(parents=True)
    for name in ("manifest.json", *FILES):
        with pytest.raises(CheckpointError, match="or copy this one again"):
            load_checkpoint(copy)
        assert latest_checkpoint(tmp_path / "drive") is None
        shutil.copy(path / name, copy / name)
    assert latest_checkpoint(tmp_path / "drive").step == 1


# ---- cost


@pytest.mark.soak
def test_soak_a_crash_safe_save_costs_at_most_twice_a_save_in_place(tmp_path):
    """Save 10 M parameters with AdamW state, in turns with torch.save in place and an fsync."""
    model = {f"w{n}": torch.randn(1000, 1000) for n in range(10)}
    optimizer = {f"w{n}.{k}": torch.randn(1000, 1000) for n in range(10) for k in ("m", "v")}
    safe, in_place = [], []
    for step in range(7):
        begin = time.perf_counter()
        save_checkpoint(tmp_path, step, model, optimizer, {})
        safe.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with (tmp_path / "one.pt").open("wb") as file:
            torch.save({"model": model, "optimizer": optimizer}, file)
            files.fsync(file)
        in_place.append(time.perf_counter() - begin)
    assert latest_checkpoint(tmp_path).step == 6
    ours, theirs = statistics.median(safe), statistics.median(in_place)
    assert ours < 2 * theirs + 0.1, f"crash-safe {ours:.3f} s, in place with fsync {theirs:.3f} s"
