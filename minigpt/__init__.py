"""Build, train, fine-tune and serve a GPT: the package that minigpt's chapters write.

>>> run = minigpt.load("runs/my")
>>> run.write("Once", max_new_tokens=50)
>>> run.chat([{"role": "user", "content": "Where is Tom?"}])
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minigpt.api import Model

__version__ = "0.1.0"
__all__ = ["load"]


def load(path: "str | Path" = "little", device: str = "auto") -> "Model":
    """Open a run directory, or one checkpoint directory in it, to write and chat with its model.

    "little" comes with the package, and so does "little-base", which has not learned to answer; a
    directory of that name comes first.
    `device` is auto, cpu, cuda or mps. Raises CheckpointError or DataError, each one line with a
    remedy, where there is no sound run.
    """
    # Here, so that `import minigpt` does not take torch's seconds.
    from minigpt.api import load

    return load(path, device)
