"""Run notebooks in a fresh kernel and store their outputs; a rebuild changes only what changed.

    python tools/build_notebooks.py                  # every notebook
    python tools/build_notebooks.py FILE ...
    python tools/build_notebooks.py -j 4             # four notebooks at a time

A stored picture is kept where its pixels did not change. Every code cell is run, as "run all" in
Jupyter does it. A cell that raises without the tag `raises-exception` stops the build, and nothing
is written.
"""

import argparse
import base64
import io
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import numpy as np
from course import ROOT, notebooks
from nbclient import NotebookClient
from PIL import Image

LARGEST = 1_000_000  # bytes of one notebook
TIMEOUT = 300  # seconds of one cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
NOT_RUN = {"skip-execution", "nbval-skip"}  # "run all" knows neither, and runs the cell
PRIVATE = re.compile(r"(/home/|/Users/|/tmp/|site-packages|[A-Z]:\\\\| at 0x[0-9a-f]{6,})")


def build(path: Path) -> float:
    """Execute one notebook in its own folder and store it; return the seconds it ran."""
    notebook = nbformat.read(path, as_version=4)
    before = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shorten_traceback(output)
            if not keep_same_picture(output, before[cell.id]):
                shrink_picture(output)
                keep_same_picture(output, before[cell.id])
    write_notebook(notebook, path)
    return seconds


def write_notebook(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook as stable JSON: fixed metadata, sorted keys, one trailing newline."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": sorted(tags)} if tags else {})
    nbformat.validate(notebook)
    text = json.dumps(_with_split_lines(notebook), indent=1, sort_keys=True, ensure_ascii=False)
    assert len(text.encode()) < LARGEST, f"{path.name}: {len(text.encode())} bytes, over 1 MB"
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def _with_split_lines(notebook: nbformat.NotebookNode) -> dict:
    """Store long texts as lists of lines, as Jupyter does, so that git can show a difference."""
    from nbformat.v4.rwbase import split_lines, strip_transient

    return split_lines(strip_transient(nbformat.from_dict(notebook)))


def shorten_traceback(output: dict) -> None:
    """Keep of an error what the reader's own cell did: library frames carry local paths."""
    if output["output_type"] == "error":
        output["traceback"] = [
            frame for frame in output["traceback"] if not re.match(r"(\x1b\[[\d;]*m)*File ", frame)
        ]


def keep_same_picture(output: dict, before: list[dict]) -> bool:
    """Take over the stored bytes of a picture whose pixels are the same; tell whether it did."""
    picture = output.get("data", {}).get("image/png")
    for old in before if picture else ():
        stored = old.get("data", {}).get("image/png")
        if stored and same_pixels(stored, picture):
            output["data"]["image/png"] = stored
            return True
    return False


def shrink_picture(output: dict) -> None:
    """Store a picture with at most 256 colors: a third of the bytes, and no eye can tell."""
    if picture := output.get("data", {}).get("image/png"):
        image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
        shrunk = io.BytesIO()
        image.quantize(256, dither=Image.Dither.NONE).save(shrunk, "png", optimize=True)
        output["data"]["image/png"] = base64.b64encode(shrunk.getvalue()).decode("ascii")


def same_pixels(first: str, second: str) -> bool:
    """Compare two base64 PNG pictures by their pixels."""
    a, b = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(p))).convert("RGBA"))
        for p in (first, second)
    )
    return a.shape == b.shape and bool((a == b).all())


def storage_faults(path: Path) -> list[str]:
    """Return what is wrong with a stored notebook: size, order of execution, paths, errors."""
    text = path.read_text(encoding="utf-8")
    found = [f"{path.name}: {len(text.encode())} bytes"] if len(text.encode()) >= LARGEST else []
    count = 0
    for number, cell in enumerate(nbformat.reads(text, as_version=4).cells):
        tags = set(cell.metadata.get("tags", []))
        where = f"{path.name} cell {number}"
        if cell.cell_type != "code":
            continue
        if NOT_RUN & tags or "NBVAL_SKIP" in cell.source:
            found.append(f"{where}: every cell is run, so no tag may leave it out of the tests")
        count += 1
        if cell.execution_count != count:
            found.append(f"{where}: execution count {cell.execution_count}, expected {count}")
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in tags:
                found.append(f"{where}: stores an error ({output.ename}) without raises-exception")
            data = {k: v for k, v in output.get("data", {}).items() if k != "image/png"}
            shown = json.dumps([data, output.get("text"), output.get("traceback")])
            if private := PRIVATE.search(shown) or (str(ROOT) in shown and re.search("/", shown)):
                found.append(f"{where}: the output holds a local detail: {private[0]}")
    return found


def build_all(paths: Sequence[Path], jobs: int) -> Iterator[tuple[Path, float]]:
    """Build notebooks, several at a time with one thread each; yield each with its seconds."""
    if jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the kernels
    with ThreadPoolExecutor(jobs) as pool:  # each thread waits for a kernel, a process of its own
        running = {pool.submit(build, path): path for path in paths}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error begin no other notebook


def main(words: Sequence[str] | None = None) -> None:
    """Build the notebooks named on the command line, or all; print the time of each."""
    parser = argparse.ArgumentParser(description="Run notebooks and store their outputs.")
    parser.add_argument("files", nargs="*", type=Path, help="notebooks (none: all)")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="notebooks at a time")
    options = parser.parse_args(words)
    if options.jobs < 1:
        parser.error(f"-j {options.jobs}: give 1 or more")
    for path, seconds in build_all(options.files or notebooks(), options.jobs):
        print(f"{path}: {seconds:.1f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
