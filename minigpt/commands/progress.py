"""See how far you are: `progress` reads the verdicts that your notebooks show, or runs them again.

A verdict is the line that `check` printed when you last ran the cell and saved the notebook.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from minigpt.classroom.notebook import expected, read_cells
from minigpt.commands.arguments import parse
from minigpt.commands.exercise import MINE, find_course, read_notebook
from minigpt.support.errors import DataError

VERDICT = re.compile(r"^([✓✗]) ([\w.]+): ", re.MULTILINE)


@dataclass(frozen=True)
class ProgressCommand:
    """Show which checks you passed, exercise by exercise."""

    rerun: bool = False
    """Run your notebooks again instead of reading what they show."""


def main(words: list[str]) -> int:
    """Print one line for each exercise, and what comes next."""
    command = parse(ProgressCommand, "progress", words)
    course = find_course()
    rows, following = [], None
    for path in sorted((course / "exercises").glob("*.ipynb")):
        names = expected(read_cells(path.read_bytes(), str(path)))
        mine = course / MINE / path.name
        passed = judged(path, mine) if command.rerun else shown(mine)
        rows.append(line(path.stem, names, passed, mine.exists()))
        following = following or next((name for name in names if name not in passed), None)
    if not rows:
        raise DataError("no exercises", str(course / "exercises"), "update your copy of the course")
    print("\n".join(rows))
    topic = following.split(".")[0] if following else None
    print(f"next: {following} (python -m minigpt exercise {topic})" if following else "all passed")
    return 0


def shown(path: Path) -> set[str]:
    """Return the checks that a notebook's stored outputs show as passed."""
    if not path.exists():
        return set()
    last = {}
    for cell in read_notebook(path)["cells"]:
        for output in cell.get("outputs", []):
            printed = output.get("text", "")
            printed = printed if isinstance(printed, str) else "".join(printed)
            last |= {name: mark for mark, name in VERDICT.findall(printed)}
    return {name for name, mark in last.items() if mark == "✓"}


def judged(exercise: Path, mine: Path) -> set[str]:
    """Run a copy as a teacher would, and return the checks that pass."""
    if not mine.exists():
        return set()
    from minigpt.classroom import Limits, grade_student, open_exercises  # with torch: seconds

    chosen = open_exercises(exercise.parent, [exercise.name])
    grade = grade_student("you", {mine.name: mine.read_bytes()}, chosen, Limits())
    return {name for name, (verdict, _) in grade.verdicts.items() if verdict == "passed"}


def line(stem: str, names: list[str], passed: set[str], copied: bool) -> str:
    """Draw one exercise: a filled square for each check that passed."""
    done = [name in passed for name in names]
    squares = "".join("■" if good else "□" for good in done)
    state = f"{sum(done)} of {len(done)}" if copied else "not begun"
    return f"{stem:<32}{squares:<8}{state}"
