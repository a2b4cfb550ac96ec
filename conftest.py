"""How pytest runs here: notebooks as tests, all cores where that is worth it, times by group.

Fixtures stand in tests/conftest.py.
"""

import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
SHARED_DATA = ROOT.parent / "shared" / "data"
if SHARED_DATA.is_dir():
    os.environ.setdefault("MINIGPT_DATA", str(SHARED_DATA))

FEW_FILES = 3  # so many test files are sooner done by one process than by several that must start
WORKER_BYTES = 2 << 30  # memory that one process may need
CELL_SECONDS = 300  # of one notebook cell

# Seconds on two cores that a file of each folder may take (and the mean of all, where it is less).
BUDGETS = {"chapters": 60, "chapters/solutions": 20, "chapters/exercises": 20}
MEAN_BUDGETS = {"chapters": 30}


# --- which plugins, how many processes ---


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Load nbval only where notebooks may be asked for: its import takes seconds."""
    early = pluginmanager.get_plugin("pytestconfig").known_args_namespace
    files = files_of(early.file_or_dir)
    wanted = not files or any(name.endswith(".ipynb") or Path(name).is_dir() for name in files)
    if wanted and early.markexpr != "quick" and not pluginmanager.has_plugin("nbval"):
        pluginmanager.import_plugin("nbval.plugin")


def pytest_configure(config: pytest.Config) -> None:
    """Compare the outputs of marked cells alone, with the Python that runs the tests."""
    option = config.option
    if hasattr(option, "nbval"):
        option.nbval_lax = not option.nbval
        option.nbval_current_env = not option.nbval_kernel_name
        option.nbval_cell_timeout = min(option.nbval_cell_timeout, CELL_SECONDS)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use every core, one thread each, unless few files are asked for.

    One process runs a file from its start to its end: a notebook's cells need their order, and a
    file's fixtures are made once. `-n` decides for itself.
    """
    option = config.option
    if getattr(option, "numprocesses", 0) is not None or hasattr(config, "workerinput"):
        return  # pytest-xdist is missing, -n was given, or this is one of its processes
    if option.usepdb or option.collectonly or option.capture == "no" or option.markexpr == "soak":
        return  # there is something to watch, or a time to measure
    processes = min(count_cores(), available_bytes() // WORKER_BYTES)
    if has_many_files(config.args) and processes > 1:
        option.numprocesses, option.dist = processes, "loadfile"
        option.loadscopereorder = False  # pytest_collection_modifyitems has put them in order
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for those processes and their kernels


def files_of(args: list[str]) -> list[str]:
    """Return the files and folders that pytest was given: a/test_b.py::test_c -> a/test_b.py."""
    return sorted({arg.split("::")[0] for arg in args})


def has_many_files(args: list[str]) -> bool:
    """Tell whether pytest was given a folder, or more than a few files."""
    files = files_of(args)
    return len(files) > FEW_FILES or any(Path(name).is_dir() for name in files)


def count_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int:
    """Return how much memory is free."""
    import psutil

    return psutil.virtual_memory().available


# --- what is quick, what comes first ---


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as quick what is neither slow nor soak nor a notebook; put long files first.

    The last files to begin are then short, so that all processes end at about the same time.
    """
    seconds: Counter[Path] = Counter()
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if item.path.suffix == ".py" and not {"slow", "soak"} & marks:
            item.add_marker("quick")
        seconds[item.path] += 1 if item.path.suffix == ".ipynb" or "slow" in marks else 0.1
    items.sort(key=lambda item: -seconds[item.path])  # stable: the order within a file stays


# --- times by group ---


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line for each file: what passed, failed or was skipped, and seconds; then budgets."""
    counts: dict[str, Counter] = defaultdict(Counter)
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            counts[report.nodeid.split("::")[0]][outcome] += 1
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.split("::")[0]] += report.duration
    terminalreporter.section("by group")
    for file, count in sorted(counts.items()):
        parts = ", ".join(f"{number} {name}" for name, number in count.items())
        terminalreporter.line(f"{file:<47}{seconds[file]:7.1f} s  {parts}{over(file, seconds)}")
    for line in budget_lines(seconds) if len(counts) > FEW_FILES else ():
        terminalreporter.line(line)


def over(file: str, seconds: Counter[str]) -> str:
    """Say so where a notebook took more time than it may."""
    budget = BUDGETS.get(Path(file).parent.as_posix())
    return f"  (budget {budget} s)" if budget and seconds[file] > budget else ""


def budget_lines(seconds: Counter[str]) -> list[str]:
    """Return a line for each folder: all seconds, a file's mean and longest, and what they may be.

    >>> budget_lines(Counter({"chapters/01_a.ipynb": 20.0, "chapters/02_b.ipynb": 50.0}))
    ['chapters: 70 s, mean 35 s (budget 30 s), longest 50 s (budget 60 s)']
    """
    folders: dict[str, list[float]] = defaultdict(list)
    for file, time in seconds.items():
        folders[Path(file).parent.as_posix()].append(time)
    lines = []
    for folder, times in sorted(folders.items()):
        mean, longest = sum(times) / len(times), max(times)
        mean_budget = f" (budget {MEAN_BUDGETS[folder]} s)" if folder in MEAN_BUDGETS else ""
        budget = f" (budget {BUDGETS[folder]} s)" if folder in BUDGETS else ""
        lines.append(
            f"{folder}: {sum(times):.0f} s, mean {mean:.0f} s{mean_budget}, "
            f"longest {longest:.0f} s{budget}"
        )
    return lines
