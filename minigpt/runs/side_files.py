"""Small JSON files beside a run's config.json: what kind of run it is, in a numbered format.

adapter.json and quantized.json are such files. A run without one is a plain run.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from minigpt.support.errors import CheckpointError, ConfigError
from minigpt.support.files import atomic_write

Kind = TypeVar("Kind")
FORMAT = 1


def write_side_file(path: Path, content: dict[str, Any]) -> None:
    """Write what a file says, with the number of its format."""
    atomic_write(path, json.dumps({"format": FORMAT, **content}, indent=2) + "\n")


def read_side_file(path: Path, build: Callable[[dict[str, Any]], Kind], called: str) -> Kind | None:
    """Return what `build` makes of a file's content; None where there is no file.

    Raises CheckpointError for a file of a newer format, and for one that is not what is `called`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not JSON ({error})", str(path), "restore the file") from None
    try:
        if content.pop("format") != FORMAT:
            remedy = "install that version of minigpt"
            raise CheckpointError("written by a newer version", str(path), remedy)
        return build(content)
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        reason = error.what if isinstance(error, ConfigError) else error
        what = f"not the settings of {called}: {reason}"
        raise CheckpointError(what, str(path), "restore the file") from None
