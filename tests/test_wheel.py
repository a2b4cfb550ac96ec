"""The package works from a wheel, somewhere else, without the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt.storyworld.tables import World
from minigpt.storyworld.told import find_fault

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_a_wheel_trains_elsewhere(tmp_path: Path):
    def python(*words: object, **env: str) -> str:
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | env, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    site, pip = tmp_path / "site", ("-m", "pip", "--quiet", "--disable-pip-version-check")
    python(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    python(*pip, "install", "--no-deps", "--target", site, wheel)
    env = {"PYTHONPATH": str(site), "PYTHONUTF8": "1"}
    found = python("-c", "import minigpt; print(minigpt.__file__)", **env)
    assert Path(found.strip()).is_relative_to(site)
    assert (site / "minigpt" / "py.typed").is_file()
    assert (site / "minigpt" / "models" / "little" / "README.md").is_file()
    told = python("-m", "minigpt", "chat", "--message", "Tell me a story.", **env)
    assert find_fault(told, World.little()).fault is None, told
    words = ["train", "tiny", "--out", "run", "--max-steps", 20]
    words += ["--block-size", 600, "--batch-size", 2]
    python("-m", "minigpt", *words, **env)
    assert (tmp_path / "run" / "report.json").is_file()
    assert python("-m", "minigpt", "generate", "--checkpoint", "run", "--max-new-tokens", 5, **env)
