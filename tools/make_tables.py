"""Remake the tables that chapters store because they take longer than a chapter may.

    python tools/make_tables.py              # what is stored nowhere yet
    python tools/make_tables.py ladder ...   # these, anew

A chapter's code is the table's code: the cells of one notebook that are tagged `table:NAME` are run
in order. They define `NAME_rows`, the names of the rows, and `NAME_row(row, seed)`, which returns a
number, or several: a score and its interval. Each row is measured with three seeds and stored in
chapters/stored/NAME.json. The chapter runs one of the numbers again and asserts that it fits.
"""

import json
import sys
import time
from pathlib import Path

import matplotlib
import nbformat
from course import ROOT
from tqdm import tqdm

SEEDS = (0, 1, 2)
STORED = ROOT / "chapters" / "stored"


def table_cells(root: Path = ROOT) -> dict[str, list[str]]:
    """Map each table to the sources of the code cells that are tagged with its name."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "chapters").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for tag in cell.metadata.get("tags", []):
                if tag.startswith("table:"):
                    found.setdefault(tag.removeprefix("table:"), []).append(cell.source)
    return found


def make(name: str, sources: list[str]) -> dict:
    """Run a table's cells, measure every row with every seed, and return what is stored."""
    names: dict = {"__name__": "__main__"}
    for source in sources:
        exec(compile(source, f"<cells of {name}>", "exec"), names)
    rows, measure = names[f"{name}_rows"], names[f"{name}_row"]
    pairs = tqdm([(row, seed) for row in rows for seed in SEEDS], desc=name)
    found: dict[str, list] = {row: [] for row in rows}
    for row, seed in pairs:
        found[row].append(rounded(measure(row, seed)))
        pairs.set_postfix_str(f"{row}, seed {seed}: {found[row][-1]}")
    return {"made by": f"python tools/make_tables.py {name}", "seeds": SEEDS, "rows": found}


def rounded(value: float | tuple[float, ...]) -> float | list[float]:
    """Return a number, or several, as they are stored."""
    return [round(each, 4) for each in value] if isinstance(value, tuple) else round(value, 4)


def main() -> None:
    """Make the tables named on the command line, or those that are missing."""
    matplotlib.use("Agg")
    cells = table_cells()
    missing = [name for name in cells if not (STORED / f"{name}.json").exists()]
    for name in sys.argv[1:] or missing:
        start = time.perf_counter()
        text = json.dumps(make(name, cells[name]), indent=1, ensure_ascii=False)
        STORED.mkdir(exist_ok=True)
        (STORED / f"{name}.json").write_text(text + "\n", encoding="utf-8", newline="\n")
        print(f"{name}: stored in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
