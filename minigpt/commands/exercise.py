"""Work on an exercise: `exercise attention` makes a copy that updates of the course never touch.

Copies live in chapters/my_exercises, which git ignores. Beside each lies, in `.base`, the exercise
as it was when it was copied, so that a new version can be told from the reader's own work.
"""

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

import minigpt
from minigpt.classroom.notebook import TAG
from minigpt.commands.arguments import parse
from minigpt.support.errors import DataError
from minigpt.support.files import atomic_write

MINE = "my_exercises"
BASE = ".base"
START = "", ""  # the key of no cell: what stands above the first one
Notebook = dict[str, Any]


@dataclass(frozen=True)
class ExerciseCommand:
    """Copy an exercise into chapters/my_exercises; a copy that is there already is never lost."""

    name: tyro.conf.Positional[str] = ""
    """Such as attention; none: show what there is."""
    update: bool = False
    """Bring an older copy up to date; your answers and notes stay, and the old file is kept."""


def main(words: list[str]) -> int:
    """Make, announce or update one copy; without a name list the exercises."""
    command = parse(ExerciseCommand, "exercise", words)
    course = find_course()
    if not command.name:
        for path in sorted((course / "exercises").glob("*.ipynb")):
            copied = (course / MINE / path.name).exists()
            print(f"{path.stem}{'  (you have a copy)' if copied else ''}")
        return 0
    source = find_exercise(course, command.name)
    print(work_on(source, course / MINE / source.name, command.update))
    return 0


def find_course() -> Path:
    """Return the folder `chapters`: of this folder, of one above it, or of the checkout."""
    here = Path.cwd()
    places = [here, *here.parents, Path(minigpt.__file__).resolve().parents[1]]
    for place in places:
        for folder in (place, place / "chapters"):
            if folder.name == "chapters" and (folder / "exercises").is_dir():
                return folder
    remedy = "run this in the course's folder (git clone), which has chapters/exercises"
    raise DataError("no exercises here", str(here), remedy)


def find_exercise(course: Path, name: str) -> Path:
    """Return the exercise notebook of that name, number or file name."""
    paths = sorted((course / "exercises").glob("*.ipynb"))
    for path in paths:
        number, topic = path.stem.split("_", 1)
        if name.removesuffix(".ipynb") in (path.stem, topic, number, str(int(number))):
            return path
    known = ", ".join(path.stem.split("_", 1)[1] for path in paths)
    raise DataError(f"no exercise {name!r}", str(course / "exercises"), f"choose from {known}")


def work_on(source: Path, target: Path, update: bool) -> str:
    """Copy an exercise, or bring a copy up to date; return what to tell the reader."""
    base, shown = target.parent / BASE / target.name, _near(target)
    if not target.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, base)
        shutil.copyfile(source, target)
        return f"{shown}: yours to work in; open it with: jupyter lab {shown}"
    new, mine = read_notebook(source), read_notebook(target)
    old = read_notebook(base) if base.exists() else new
    changed = changes(old, new)
    if base.exists() and not changed:
        return f"{shown}: your copy is up to date, and stays as it is"
    if not update:
        what = f"{len(changed)} of its cells changed" if changed else "its first version is lost"
        name = source.stem.split("_", 1)[1]
        return (
            f"{shown}: kept as it is. There is a new version ({what}); take it over, with your "
            f"answers in it, by: python -m minigpt exercise {name} --update"
        )
    kept = target.with_name(f"{target.stem}.before_{_count(target)}.ipynb")
    shutil.copyfile(target, kept)
    merged, notes = merge(old, new, mine)
    atomic_write(target, json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
    base.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, base)
    return "\n".join([f"{shown}: brought up to date; the old one is {kept.name}", *notes])


def _near(path: Path) -> Path:
    """Return a path as seen from the current folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _count(target: Path) -> int:
    return 1 + len(list(target.parent.glob(f"{target.stem}.before_*.ipynb")))


def read_notebook(path: Path) -> Notebook:
    """Return a notebook's JSON; DataError where it is none."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8-sig"))
        for cell in notebook["cells"]:
            _ = cell["cell_type"], text(cell)  # a cell that lacks them is none
    except (ValueError, KeyError, TypeError) as error:
        remedy = "restore it, or move it away and run the command again"
        raise DataError("not a Jupyter notebook", str(path), remedy) from error
    return notebook


# Three versions become one


def text(cell: dict) -> str:
    """Return a cell's source as one string."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def key(cell: dict) -> tuple[str, str]:
    """Tell what a cell is: the answer to a question, or a text that stands in the exercise."""
    for tag in cell.get("metadata", {}).get("tags", []):
        if tag.startswith(TAG):
            return "answer", tag.removeprefix(TAG)
    return cell["cell_type"], text(cell).strip()


def changes(old: Notebook, new: Notebook) -> list[tuple[str, str]]:
    """Return the cells of the new version that the old one does not have as they are."""
    before = {(key(cell), text(cell)) for cell in old["cells"]}
    found = [key(cell) for cell in new["cells"] if (key(cell), text(cell)) not in before]
    gone = {key(cell) for cell in old["cells"]} - {key(cell) for cell in new["cells"]}
    return found + sorted(gone)


def merge(old: Notebook, new: Notebook, mine: Notebook) -> tuple[Notebook, list[str]]:
    """Return the new version with the reader's answers and own cells in it, and what to say.

    An answer that was begun replaces its blank. A cell of the reader's own (or a text that the
    reader changed) stays behind the cell that it followed.
    """
    blanks = {key(cell): text(cell) for cell in old["cells"]}
    begun, own, follows = {}, {}, START
    for cell in mine["cells"]:
        name = key(cell)
        if name not in blanks:
            own.setdefault(follows, []).append(cell)
            continue
        follows = name
        if text(cell) != blanks[name]:  # of an answer that was split there are several
            begun.setdefault(name, []).append(cell)
    cells, notes = own.pop(START, []), []
    for cell in copy.deepcopy(new["cells"]):
        name = key(cell)
        if name in begun and text(cell) != blanks[name]:
            notes.append(f"{name[1]}: the blank is new, your answer was kept: compare them")
        cells += [*begun.pop(name, [cell]), *own.pop(name, [])]
    left = [cell for groups in (begun, own) for group in groups.values() for cell in group]
    if left:
        notes.append(f"{len(left)} cells of yours belonged to what is gone: they are at the end")
    return copy.deepcopy(new) | {"cells": _with_own_ids(cells + left)}, notes


def _with_own_ids(cells: list[dict]) -> list[dict]:
    """Rename the id of a cell that another one bears already: Jupyter wants them unique."""
    seen: set[str] = set()
    for cell in cells:
        while cell.get("id") in seen:
            cell["id"] = f"{cell['id'][:50]}-mine"
        seen |= {cell["id"]} if "id" in cell else set()
    return cells
