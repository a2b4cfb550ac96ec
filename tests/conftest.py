"""Fixtures and marks that all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
if SHARED_DATA.is_dir():
    os.environ.setdefault("MINIGPT_DATA", str(SHARED_DATA))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real public data, or skip where there is none."""
    path = Path(os.environ.get("MINIGPT_DATA", ""))
    if not os.environ.get("MINIGPT_DATA") or not path.is_dir():
        pytest.skip("needs real data: set MINIGPT_DATA to a folder with the public data sets")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not {"slow", "soak"} & {mark.name for mark in item.iter_markers()}:
            item.add_marker("quick")
