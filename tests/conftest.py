"""Fixtures and marks that all tests share, and a summary by group at the end."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from local_server import Server

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


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let `pytest -m quick` use several cores, one thread each; all else runs in one process."""
    alone = config.getoption("numprocesses", 0) is not None or config.option.usepdb
    is_worker = hasattr(config, "workerinput")
    if config.option.markexpr == "quick" and not alone and not is_worker:
        config.option.numprocesses = min(os.cpu_count() or 1, 8)
        config.option.dist = "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the worker processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as quick what is neither slow nor soak nor a notebook."""
    for item in items:
        slow = {"slow", "soak"} & {mark.name for mark in item.iter_markers()}
        if not slow and item.path.suffix == ".py":
            item.add_marker("quick")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line a file: how many tests passed, failed or were skipped, and the seconds."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            group = report.nodeid.split("::")[0]
            counts[group][outcome] += 1
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                counts[report.nodeid.split("::")[0]]["seconds"] += report.duration
    terminalreporter.section("by group")
    for group, count in sorted(counts.items()):
        parts = [f"{n} {name}" for name, n in count.items() if name != "seconds"]
        terminalreporter.line(f"{group:<45}{count['seconds']:7.1f} s  {', '.join(parts)}")
