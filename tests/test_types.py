"""Types: what the package promises by `py.typed` is checked by pyright, as pyproject.toml says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pyright(*paths: str) -> subprocess.CompletedProcess:
    """Run the checker that requirements-dev.txt installs, with this Python's packages."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *paths]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_pyright_finds_no_error_in_the_package():
    result = pyright()
    errors = [line for line in result.stdout.splitlines() if " - error: " in line]
    assert result.returncode == 0, "\n".join([*errors, *result.stdout.splitlines()[-1:]])


@pytest.mark.slow
def test_pyright_would_have_found_one(tmp_path):
    (tmp_path / "wrong.py").write_text(
        "from minigpt.sampling import SampleConfig\n\nSampleConfig(top_k='three')\n"
    )
    result = pyright(str(tmp_path / "wrong.py"))
    assert result.returncode == 1, result.stdout + result.stderr
    assert 'parameter "top_k"' in result.stdout
