"""Notebooks for hosted services: copies whose first cell fetches the course where it is missing.

The cell clones the course and installs its package by the ranges of pyproject.toml. It never reads
requirements.txt: a service brings a torch and a numpy that fit its GPU, and they stay.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from course import ROOT

BRANCH = "gh-pages"  # where the workflow puts the built site, the hosted copies with it
UNKNOWN = "<address of the course>"  # as in README's `git clone <this repository>`
CELL = """\
# Hosted notebooks only: fetch the course and install its package where it is missing.
# The torch and numpy that are here already stay as they are.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

COURSE = "{address}"
if importlib.util.find_spec("minigpt") is None:
    folder = Path("minigpt-course").resolve()
    if not folder.exists():
        assert COURSE.startswith(("http", "file:")), "write the address of the course above"
        subprocess.run(["git", "clone", "--depth", "1", COURSE, str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--editable", str(folder)], check=True)
    sys.path.insert(0, str(folder))  # this kernel started before the package was installed
    importlib.invalidate_caches()
    os.chdir(folder / "{here}")  # the chapters read stored results beside them
"""


def repository(root: Path = ROOT) -> str | None:
    """Return the address of the public repository that pyproject.toml names; None without one."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def colab(address: str | None, path: Path) -> str | None:
    """Return where Colab opens the hosted copy of a notebook; None where that is not possible.

    Colab opens notebooks of GitHub only. `path` is relative to the course's root.
    """
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", address or "")
    if not found:
        return None
    return f"https://colab.research.google.com/github/{found[1]}/blob/{BRANCH}/{place(path)}"


def place(path: Path) -> str:
    """Return where the site keeps the hosted copy of a notebook: chapters/x -> hosted/chapters/x.

    >>> place(Path("chapters/exercises/08_attention.ipynb"))
    'hosted/chapters/exercises/08_attention.ipynb'
    """
    return f"hosted/{path.as_posix()}"


def hosted_copy(text: str, path: Path, address: str | None) -> str:
    """Return a notebook with the installing cell in front; its outputs stay as they are stored."""
    notebook: dict[str, Any] = json.loads(text)
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "id": "install",
        "metadata": {"tags": ["install"]},
        "outputs": [],
        "source": CELL.format(address=address or UNKNOWN, here=path.parent.as_posix()),
    }
    notebook["cells"].insert(1, cell)  # below the title
    return json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
