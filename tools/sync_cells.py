"""Copy the package's definitions into the notebook cells that show them.

    python tools/sync_cells.py            # every notebook
    python tools/sync_cells.py FILE ...

The package is the source. A changed cell loses its outputs: run tools/build_notebooks.py next.
"""

import sys
from pathlib import Path

import nbformat
from build_notebooks import write_notebook
from cells import code_cells, package_text
from course import ROOT, notebooks


def sync(path: Path, root: Path = ROOT) -> list[int]:
    """Bring one notebook's shown cells up to date; return the numbers of the changed cells."""
    notebook = nbformat.read(path, as_version=4)
    changed = []
    for cell in code_cells(path):
        raw = notebook.cells[cell.number]
        if cell.header and raw.source != (text := package_text(cell, root)):
            raw.source, raw.outputs = text, []
            changed.append(cell.number)
    if changed:
        write_notebook(notebook, path)
    return changed


def main() -> None:
    """Sync the notebooks named on the command line, or all."""
    for path in [Path(name) for name in sys.argv[1:]] or notebooks():
        if changed := sync(path):
            print(f"{path}: cells {', '.join(map(str, changed))} copied from the package")


if __name__ == "__main__":
    main()
