"""Copy the package's definitions into the notebook cells that show them.

    python tools/sync_cells.py            # every notebook
    python tools/sync_cells.py FILE ...

The package is the source. A changed cell loses its outputs: run tools/build_notebooks.py next.
"""

import sys
from pathlib import Path

import nbformat
from build_notebooks import write_notebook
from cells import NOT_RUN, code_cells, package_text, part_texts, parts
from course import ROOT, notebooks


def sync(path: Path, root: Path = ROOT) -> list[int]:
    """Bring one notebook's shown cells up to date; return the numbers of the changed cells."""
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(path)
    texts = {c.number: package_text(c, root) for c in cells if c.header and not c.is_part}
    for group in parts(cells):
        texts |= dict(zip([c.number for c in group], part_texts(group, root), strict=True))
    changed = []
    for cell in cells:
        raw = notebook.cells[cell.number]
        tags = cell.tags | NOT_RUN if cell.is_part else cell.tags
        if texts.get(cell.number, raw.source) != raw.source or tags != cell.tags:
            raw.source, raw.outputs = texts[cell.number], []
            raw.metadata["tags"] = sorted(tags)
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
