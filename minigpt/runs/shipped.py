"""Models that come with the package: find one by its name, and check it before it is used.

`minigpt/models/little/` holds one run without what only training needs: config.json,
tokenizer.json, report.json, the weights at two points (half precision, safetensors), a README.md
that says how it was made, and SHA256SUMS of all of these. `tools/make_little.py` writes it. Knows
nothing of models.
"""

import hashlib
from pathlib import Path

from safetensors import safe_open

from minigpt.runs.checkpoint import Checkpoint
from minigpt.support.errors import CheckpointError

MODELS = Path(__file__).resolve().parents[1] / "models"
NAMES = {"little": "little/tuned.safetensors", "little-base": "little/base.safetensors"}
SUMS = "SHA256SUMS"
REMEDY = (
    "give the directory that train wrote, or the folder of a published model, or little: the model "
    "that comes with the package"
)


def is_shipped(path: Path) -> bool:
    """Tell whether a path is the name of a shipped model; a directory of that name comes first."""
    return str(path) in NAMES and not path.is_dir()


def notes_on_name(path: Path) -> list[str]:
    """Say that a directory is meant, where it has the name of a shipped model."""
    if str(path) not in NAMES or not path.is_dir():
        return []
    return [f"{path} is the directory of that name here, not the model that comes with minigpt"]


def load_shipped(name: str) -> tuple[Path, Checkpoint]:
    """Return the folder and the weights, in float32, of a shipped model.

    Raises a CheckpointError where a file of the folder is missing or is not as it was shipped.
    """
    file = MODELS / NAMES[name]
    check_sums(file.parent)
    with safe_open(file, framework="pt") as content:
        facts = content.metadata()
        weights = {key: content.get_tensor(key).float() for key in content.keys()}  # noqa: SIM118
    weights.setdefault("head.weight", weights["embedding.weight"])  # tied, so stored once
    return file.parent, Checkpoint(int(facts["step"]), weights, {"facts": facts}, {}, file)


def check_sums(folder: Path) -> None:
    """Compare every file of a shipped model with its SHA-256."""
    for name, expected in read_sums(folder).items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise unusable(folder / name, error.strerror or str(error)) from None
        if found != expected:
            raise unusable(folder / name, "its SHA-256 is wrong")


def read_sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its name: lines as `sha256sum` writes them."""
    path = folder / SUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split("  ") for line in lines)}
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from None
    except ValueError:
        raise unusable(path, "a line is not a sum and a name") from None


def unusable(path: Path, reason: str) -> CheckpointError:
    """Return the error for a shipped model that is not as it was made."""
    what = f"the model that comes with the package cannot be used: {reason}"
    return CheckpointError(what, str(path), "install minigpt again, or use a run of your own")
