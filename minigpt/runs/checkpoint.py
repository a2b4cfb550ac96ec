"""Save and load checkpoints so that a crash at any moment loses none.

A checkpoint is a directory: `run/checkpoints/step-00000100/` with `model.safetensors`,
`optimizer.safetensors`, `state.json` and `manifest.json`, which holds the size and the SHA-256 of
each file. It is written under a temporary name and renamed when all of it is on the disk; nothing
in it is a pickle, so loading runs no code. The checksums find accidents, not forgers: who can
rewrite the manifest can rewrite the rest.

Knows tensors by name only, nothing of models or training. At most one process may write to a run
directory at a time: see RunLock.

Source of the file format: github.com/huggingface/safetensors, section "Format".
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from minigpt import __version__
from minigpt.runs.upgrades import FORMAT, FormatError, check_format, upgrade
from minigpt.support.errors import CheckpointError, TrainingError
from minigpt.support.files import fsync, fsync_directory, make_folder
from minigpt.support.lock import RunLock as RunLock

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
MAX_MANIFEST_BYTES = 1 << 20
MAX_HEADER_BYTES = 16 << 20
DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Checkpoint:
    """Hold a checkpoint whose checksums were right; all tensors are on the CPU."""

    step: int
    model: dict[str, Tensor]
    state: dict
    manifest: dict
    path: Path

    @functools.cached_property
    def optimizer(self) -> dict[str, Tensor]:
        """The optimizer's state, read and checked when it is first asked for.

        It is twice as large as the weights, and resuming alone needs it.
        """
        return read_tensors(self.path / "optimizer.safetensors", self.manifest)


def save_checkpoint(
    run_dir: Path,
    step: int,
    model_tensors: dict[str, Tensor],
    optimizer_tensors: dict[str, Tensor],
    state: dict,
    keep: int = 2,
    about: dict | None = None,
) -> Path:
    """Write the checkpoint of `step`, delete all but the newest `keep`, and return its path.

    state: anything that JSON can hold. about: facts that go into the manifest, where they can be
    read without loading tensors. On any error the older checkpoints stay and nothing half-written
    is left; a full disk is a CheckpointError with the megabytes, weights that are not finite a
    TrainingError.
    """
    assert keep >= 2, f"keep = {keep}: with fewer than 2 a damaged checkpoint has no predecessor"
    for tensors in (model_tensors, optimizer_tensors):
        refuse_non_finite(tensors, step)
    folder = Path(run_dir) / "checkpoints"
    temporary = folder / f".tmp-{step:08d}-{os.getpid()}"
    contents = {
        "model.safetensors": safetensors_pieces(model_tensors),
        "optimizer.safetensors": safetensors_pieces(optimizer_tensors),
        "state.json": [to_json(state)],
    }
    needed = sum(t.nbytes for t in (*model_tensors.values(), *optimizer_tensors.values()))
    try:
        make_folder(folder)
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary.mkdir()
        files = {name: write_file(temporary / name, pieces) for name, pieces in contents.items()}
        manifest = make_manifest(step, files, about or {})
        write_file(temporary / "manifest.json", [to_json(manifest)])
        fsync_directory(temporary)
        path = publish(temporary, folder / f"step-{step:08d}", manifest)
        fsync_directory(folder)
    except OSError as error:
        raise cannot_save(error, folder, needed) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    prune(folder, keep)
    return path


def load_checkpoint(path: Path, with_optimizer: bool = False) -> Checkpoint:
    """Read one checkpoint directory; every byte is checked before it is used.

    Sizes are compared with the manifest before anything is read, and the bytes that are hashed are
    the bytes that become tensors. with_optimizer: read and check the optimizer's state now; else
    that is left until it is asked for. Raises a CheckpointError that names the file and what is
    wrong.
    """
    path = Path(path)
    manifest = read_manifest(path)
    check_sizes(path, manifest)
    model = read_tensors(path / "model.safetensors", manifest)
    where = path / "state.json"
    state = from_json(read_file(where, manifest), where)
    state = upgrade("state.json", state, manifest["format"], str(where))
    checkpoint = Checkpoint(manifest["step"], model, state, manifest, path)
    if with_optimizer:
        checkpoint.optimizer  # noqa: B018 - to find damage now
    return checkpoint


def latest_checkpoint(
    run_dir: Path, on_skip: Callable[[str], None] | None = None, with_optimizer: bool = False
) -> Checkpoint | None:
    """Load the newest checkpoint that verifies; `on_skip` is told about each one passed over.

    One that is whole but of a format that this version cannot read is an error, not passed over.
    """
    for path in reversed(checkpoint_paths(run_dir)):
        try:
            return load_checkpoint(path, with_optimizer)
        except FormatError:
            raise
        except CheckpointError as error:
            if on_skip is not None:
                on_skip(f"passed over a damaged checkpoint: {error}")
    return None


def checkpoint_paths(run_dir: Path) -> list[Path]:
    """Return a run's checkpoint directories, oldest first: by step, whatever the clock said."""
    folder = Path(run_dir) / "checkpoints"
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    steps = [int(name[5:]) for name in names if re.fullmatch(r"step-\d{8,}", name)]
    return [folder / f"step-{step:08d}" for step in sorted(steps)]


def remove_leftovers(lock: RunLock) -> None:
    """Delete what killed processes left half-written; only the holder of the lock may do so."""
    assert lock.path in RunLock.held, f"{lock.run_dir} is not locked by this process"
    for folder in (lock.run_dir, lock.run_dir / "checkpoints"):
        for path in folder.glob(".tmp-*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


# ---- writing


def refuse_non_finite(tensors: dict[str, Tensor], step: int) -> None:
    """Raise a TrainingError if a number is NaN or infinite: such a state must never be saved."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.sum().isfinite():
            continue  # one bad number makes the sum bad, so most tensors are done here, fast
        bad = int((~tensor.isfinite()).sum())
        if bad:  # or else only the sum was too large
            raise TrainingError(
                f"{bad} of {tensor.numel()} numbers in {name} are NaN or infinite",
                f"step {step}, not saved",
                "go on from the last checkpoint with --resume and a lower --learning-rate",
            )


def safetensors_pieces(
    tensors: dict[str, Tensor], about: dict[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file piece by piece, without a second copy of the tensors in memory.

    The file is the header's length (8 bytes), the header (JSON) and the tensors' raw bytes; wide
    types come first so that every tensor is aligned. about: facts that go into the header.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, dict] = {"__metadata__": about} if about else {}
    offset = 0
    for name, tensor in ordered:
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for _, tensor in ordered:
        flat = tensor.detach().cpu().contiguous().flatten()
        yield memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> dict:
    """Write the pieces, force them to the disk, and return size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        fsync(file)
    return {"size": size, "sha256": digest.hexdigest()}


def make_manifest(step: int, files: dict[str, dict], about: dict) -> dict:
    """Return the table of contents, which ends with a checksum of itself."""
    manifest = {
        "format": FORMAT,
        "step": step,
        "files": files,
        "versions": {
            "minigpt": __version__,
            "torch": str(torch.__version__),
            "safetensors": safetensors.__version__,
            "python": platform.python_version(),
        },
    }
    assert not manifest.keys() & about.keys(), f"reserved names in {sorted(about)}"
    manifest |= about
    return manifest | {"sha256": hashlib.sha256(to_json(manifest)).hexdigest()}


def publish(temporary: Path, final: Path, manifest: dict) -> Path:
    """Give a complete checkpoint its name; a good one of that step is never replaced."""
    if final.exists():
        try:
            existing = load_checkpoint(final, with_optimizer=True).manifest["files"]
        except CheckpointError:
            discard(final)
        else:
            if any(existing[name] != manifest["files"][name] for name in FILES[:2]):
                raise CheckpointError(
                    "another checkpoint of this step is already there",
                    str(final),
                    "choose another run directory",
                )
            return final
    temporary.rename(final)
    return final


def prune(folder: Path, keep: int) -> None:
    """Delete what is older than the newest `keep` checkpoints that look complete.

    The newest was written a moment ago, so a good one always remains. What cannot be deleted (on
    Windows: files in use) is left for the next time.
    """
    complete = 0
    for path in reversed(checkpoint_paths(folder.parent)):
        with contextlib.suppress(OSError):
            if complete >= keep:
                discard(path)
        with contextlib.suppress(CheckpointError):
            check_sizes(path, read_manifest(path))
            complete += 1


def discard(path: Path) -> None:
    """Delete a checkpoint; a crash half-way leaves a leftover, never a damaged checkpoint."""
    rubbish = path.with_name(f".tmp-old-{path.name}-{os.getpid()}")
    path.rename(rubbish)
    shutil.rmtree(rubbish, ignore_errors=True)


def cannot_save(error: OSError, folder: Path, needed: int) -> CheckpointError:
    """Say why a checkpoint could not be written and what to do."""
    if error.errno in DISK_FULL:
        free = 0
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(folder).free
        sizes = f"need {needed / 1e6:.1f} MB, have {free / 1e6:.1f} MB"
        what = f"disk full: {sizes} ({error.strerror})"
    else:
        what = f"cannot save the checkpoint ({error.strerror})"
    remedy = "free some space (or raise your quota) and resume; older checkpoints are untouched"
    return CheckpointError(what, str(folder), remedy)


# ---- reading


def to_json(value: dict) -> bytes:
    """Return JSON bytes that depend on the value only; NaN is refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return f"{text}\n".encode()


def from_json(data: bytes, path: Path) -> dict:
    """Return the object that a file's bytes describe."""
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise damaged(path, "not a JSON object")
    return value


def read_manifest(path: Path) -> dict:
    """Read `manifest.json` and check its format number, its own checksum and its fields."""
    where = path / "manifest.json"
    try:
        if file_size(where) > MAX_MANIFEST_BYTES:
            raise damaged(where, f"longer than {MAX_MANIFEST_BYTES} bytes")
        data = where.read_bytes()
    except OSError as error:
        raise damaged(where, error.strerror or str(error)) from None
    manifest = from_json(data, where)
    if not is_unchanged(manifest, data):
        raise damaged(where, "its SHA-256 is wrong")
    check_format(manifest.get("format"), "the checkpoint", str(path))
    if not names_files(manifest):
        raise damaged(where, "it does not name the files of a checkpoint")
    step = manifest["step"]
    if re.fullmatch(r"step-\d{8,}", path.name) and path.name != f"step-{step:08d}":
        raise damaged(where, f"it belongs to step {step}")
    return manifest


def is_unchanged(manifest: dict, data: bytes) -> bool:
    """Tell whether a manifest's bytes are those whose checksum it ends with."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    try:
        digest = hashlib.sha256(to_json(content)).hexdigest()
        return manifest.get("sha256") == digest and to_json(manifest) == data
    except (TypeError, ValueError, RecursionError):
        return False


def names_files(manifest: dict) -> bool:
    """Tell whether a manifest has the step, and size and SHA-256 of each file."""
    step, files = manifest.get("step"), manifest.get("files")
    return (
        type(step) is int
        and isinstance(files, dict)
        and files.keys() == set(FILES)
        and all(isinstance(file, dict) for file in files.values())
        and all(type(file.get("size")) is int for file in files.values())
        and all(isinstance(file.get("sha256"), str) for file in files.values())
    )


def check_sizes(path: Path, manifest: dict) -> None:
    """Compare all files' sizes with the manifest, before any of them is read."""
    for name in FILES:
        try:
            size = file_size(path / name)
        except OSError as error:
            raise damaged(path / name, error.strerror or str(error)) from None
        expected = manifest["files"][name]["size"]
        if size != expected:
            raise damaged(path / name, f"{size} bytes instead of {expected}")


def file_size(path: Path) -> int:
    """Return a file's bytes; a pipe or a device, which may have no end, is damage."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, "not a file")
    return found.st_size


def read_file(path: Path, manifest: dict) -> bytes:
    """Return a file's bytes, which must have the manifest's SHA-256."""
    try:
        data = path.read_bytes()
    except (OSError, MemoryError) as error:
        raise damaged(path, str(error) or type(error).__name__) from None
    if hashlib.sha256(data).hexdigest() != manifest["files"][path.name]["sha256"]:
        raise damaged(path, "its SHA-256 is wrong")
    return data


def read_tensors(path: Path, manifest: dict) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; they take no more memory than the file's bytes."""
    data = read_file(path, manifest)
    header = int.from_bytes(data[:8], "little")
    if header > min(MAX_HEADER_BYTES, len(data)):
        raise damaged(path, f"its header claims {header} bytes")
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, MemoryError) as error:
        raise damaged(path, f"not a safetensors file: {error}") from None


def damaged(path: Path, reason: str) -> CheckpointError:
    """Return the error for a checkpoint that must not be used."""
    remedy = "use an older checkpoint of the run, or copy this one again"
    return CheckpointError(f"checkpoint damaged: {reason}", str(path), remedy)
