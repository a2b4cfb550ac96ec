"""Measure the time and the peak memory of the chapters, and state both where readers look.

    python tools/measure_chapters.py                 # every chapter, one after the other
    python tools/measure_chapters.py 03 10           # these, anew
    python tools/measure_chapters.py --write-only    # state what is stored already

Run it where nothing else runs. Each chapter gets a process and a kernel of its own, with one
thread. The figures go into chapters/stored/times.json, and from there into the opening of each
chapter and into the README's table. Of a notebook only the sentence that states the figures is
written. A chapter that does not run to its end is named, and its figures stay as they were.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from build_notebooks import TIMEOUT, write_notebook
from course import ROOT
from nbclient import NotebookClient

TIMES = Path("chapters") / "stored" / "times.json"
# "about 30 seconds" is read; "under a minute" is only replaced
STATED = re.compile(
    r"The notebook runs in (?:about (\d+) seconds|[^.]{1,40}?) and (\d+(?:\.\d)?) GB of memory"
)
STATED_IN_TABLE = re.compile(r"\*\*ready\*\*(?:, (\d+) s)?")
SLACK = 1.6  # a stated figure may differ from the measured one by this factor: machines do
BUSY = 1.3  # times the processor's seconds: beyond it, something else ran


def measure(path: Path) -> dict[str, float]:
    """Run one chapter in a process of its own; return its seconds, also the processor's, and GB.

    Raises CalledProcessError where a cell raises.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--measure-here", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(path: Path) -> dict[str, float]:
    """Run a chapter in a kernel; this process has to have no other child before it."""
    import resource  # not on Windows
    import time

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=10 * TIMEOUT,  # a slow machine is measured, too
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the kernel, and what it started
    unit = 1 if sys.platform == "darwin" else 1024  # bytes, or kilobytes
    return {
        "seconds": round(seconds, 1),
        "processor seconds": round(used.ru_utime + used.ru_stime, 1),
        "gigabytes": round(used.ru_maxrss * unit / 1e9, 2),
    }


def stated_seconds(seconds: float) -> int:
    """Round to what a sentence may say: to 5 seconds from 20 on.

    >>> [stated_seconds(s) for s in (0.3, 11.4, 19.6, 37.4)]
    [1, 11, 20, 35]
    """
    return max(1, round(seconds)) if seconds < 20 else 5 * round(seconds / 5)


def stated_gigabytes(gigabytes: float) -> float:
    """Round up to a tenth."""
    return max(0.1, round(gigabytes + 0.049, 1))


def write_opening(path: Path, times: dict[str, float]) -> bool:
    """Put the figures into the sentence of a chapter's opening that states them; tell whether."""
    notebook = nbformat.read(path, as_version=4)
    text = (
        f"The notebook runs in about {stated_seconds(times['seconds'])} seconds and "
        f"{stated_gigabytes(times['gigabytes']):.1f} GB of memory"
    )
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and STATED.search(cell.source):
            cell.source = STATED.sub(text, cell.source, count=1)
            write_notebook(notebook, path)
            return True
    print(f"{path.name}: no sentence like {text!r} to put the figures into")
    return False


def write_table(text: str, times: dict[str, dict[str, float]]) -> str:
    """Return the README with the seconds of each measured chapter in its row."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        for stem, figures in times.items():
            if f"](chapters/{stem}.ipynb)" in line:
                told = f"**ready**, {stated_seconds(figures['seconds'])} s"
                lines[number] = STATED_IN_TABLE.sub(told, line)
    return "\n".join(lines)


def stated_faults(stem: str, opening: str, readme: str, figures: dict[str, float]) -> list[str]:
    """Return where a chapter's opening or its row in the README is far from what was measured."""
    match = STATED.search(opening)
    row = next((line for line in readme.split("\n") if f"](chapters/{stem}.ipynb)" in line), "")
    told = STATED_IN_TABLE.search(row)
    if not match or not match[1] or not told or not told[1]:
        return [f"{stem}: its opening and its row in the README state no time"]
    pairs = (
        ("opening", "seconds", float(match[1])),
        ("opening", "gigabytes", float(match[2])),
        ("row in the README", "seconds", float(told[1])),
    )
    return [
        f"{stem}: its {where} states {said:g} {what}, measured {figures[what]:g}"
        for where, what, said in pairs
        if not figures[what] / SLACK <= said <= figures[what] * SLACK + (what == "gigabytes") * 0.1
    ]


def write_stated(times: dict[str, dict[str, float]], root: Path = ROOT) -> bool:
    """State all measured figures in the openings and in the README; tell whether all are."""
    chapters = root / "chapters"
    written = [write_opening(chapters / f"{stem}.ipynb", times[stem]) for stem in times]
    readme = root / "README.md"
    text = write_table(readme.read_text(encoding="utf-8"), times)
    readme.write_text(text, encoding="utf-8", newline="\n")
    return all(written)


def stored_times(root: Path = ROOT) -> dict[str, dict[str, float]]:
    """Return the measured figures by chapter; none where nothing is stored."""
    file = root / TIMES
    return json.loads(file.read_text(encoding="utf-8"))["chapters"] if file.exists() else {}


def store(times: dict[str, dict[str, float]], root: Path = ROOT) -> None:
    """Write the figures, with the command that made them and the kind of processor."""
    import torch

    table = {
        "made by": "python tools/measure_chapters.py",
        "processor": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "chapters": dict(sorted(times.items())),
    }
    text = json.dumps(table, indent=1, ensure_ascii=False)
    (root / TIMES).write_text(text + "\n", encoding="utf-8", newline="\n")


def main(words: Sequence[str] | None = None) -> int:
    """Measure the chapters named on the command line, or all; store and state the figures."""
    parser = argparse.ArgumentParser(description="Measure the chapters' time and memory.")
    parser.add_argument("numbers", nargs="*", help="chapters, such as 03 (none: all)")
    parser.add_argument("--write-only", action="store_true", help="measure nothing")
    parser.add_argument("--measure-here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.measure_here:
        print(json.dumps(measure_here(options.measure_here)))
        return 0
    paths = sorted((ROOT / "chapters").glob("*.ipynb"))
    if unknown := [n for n in options.numbers if n not in {p.name[:2] for p in paths}]:
        parser.error(f"no chapter {', '.join(unknown)}")
    times, failed = stored_times(), []
    for path in paths if not options.write_only else ():
        if options.numbers and path.name[:2] not in options.numbers:
            continue
        try:
            times[path.stem] = found = measure(path)
        except subprocess.CalledProcessError as error:
            failed.append(path.stem)
            print(f"{path.stem}: stopped\n{error.stderr[-2000:]}", flush=True)
            continue
        shared = found["seconds"] > BUSY * found["processor seconds"]
        note = "  (the processor was shared: measure again)" if shared else ""
        print(f"{path.stem}: {found['seconds']} s, {found['gigabytes']} GB{note}", flush=True)
        store(times)  # what is measured is kept, whatever comes after
    return 0 if write_stated(times) and not failed else 1


if __name__ == "__main__":
    raise SystemExit(main())
