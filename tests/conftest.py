"""Fixtures that test files share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from local_server import Server


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real public data, or skip where there is none."""
    path = Path(os.environ.get("MINIGPT_DATA", ""))
    if not os.environ.get("MINIGPT_DATA") or not path.is_dir():
        pytest.skip("needs real data: set MINIGPT_DATA to a folder with the public data sets")
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread: for small models more only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seed_zero() -> None:
    """Start torch's random numbers at seed 0."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what the environment of whoever runs the tests says about exercises."""
    for name in ("MINIGPT_STUDENT", "MINIGPT_GRADE", "MINIGPT_REPORT", "MINIGPT_CHECKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def student(no_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the numbers of one and the same student."""
    monkeypatch.setenv("MINIGPT_STUDENT", "test")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Server]":
    """Run a local HTTP server that downloads may ask without encryption."""
    from local_server import Server

    monkeypatch.setattr("minigpt.data.download.LOOPBACK_ALLOWED", True)
    monkeypatch.setattr("minigpt.data.download.PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt, also where pytest was started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
