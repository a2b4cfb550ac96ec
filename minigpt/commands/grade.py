"""Grade a class: `grade --submissions DIR` judges every notebook and writes a gradebook."""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from minigpt.checks import registered
from minigpt.classroom import (
    Grade,
    Limits,
    check_book,
    find_submissions,
    grade_class,
    open_exercises,
    write_book,
)
from minigpt.commands.arguments import parse
from minigpt.commands.exercise import find_course
from minigpt.support.errors import DataError
from minigpt.support.settings import at_least, check_fields
from minigpt.support.signals import stop_on_signals


@dataclass(frozen=True)
class GradeCommand:
    """Judge the exercise notebooks of a class; write a CSV gradebook and feedback for each student.

    Limits on time and memory stop accidents. They are no sandbox: run this in a container.
    """

    submissions: Path
    """Folder with one folder a student, or with files such as ada_08_attention.ipynb."""
    out: Path = Path("gradebook.csv")
    """The gradebook; feedback goes to a folder beside it."""
    only: tuple[str, ...] = ()
    """Exercises to grade, such as attention; none: all that the course has."""
    exercises: Path | None = None
    """Folder of exercise notebooks; by default the course's."""
    roster: Path | None = None
    """Text file with one student a line: who is on it and handed in nothing gets 0."""
    jobs: Annotated[int, at_least(1)] = min(8, os.cpu_count() or 1)
    """Students to grade at the same time."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_fields(self)


def main(words: list[str]) -> int:
    """Grade everyone; exit 0 however the students did, or 130 / 143 after a signal."""
    command = parse(GradeCommand, "grade", words)
    chosen = open_exercises(command.exercises or find_course() / "exercises", command.only)
    submissions = find_submissions(command.submissions, [each.file for each in chosen])
    for student in read_roster(command.roster) if command.roster else ():
        submissions.setdefault(student, {})
    if not submissions:
        files = ", ".join(each.file for each in chosen)
        raise DataError("no submissions", str(command.submissions), f"looked for {files}")
    check_book(submissions, command.out)
    start = time.perf_counter()
    stopping = "finishing the students at work; the gradebook then holds all that are graded"
    with tqdm(total=len(submissions), unit="student") as bar, stop_on_signals(stopping) as stop:

        def count(grade: Grade) -> None:
            bar.update()

        grades = grade_class(submissions, chosen, command.limits, command.jobs, count, stop)
    if stop() and not grades:
        return stop.exit_code
    write_book(grades, command.out)
    print(summary(grades, time.perf_counter() - start))
    print(f"{command.out}: the gradebook; {command.out.stem}_feedback: what each student may read")
    if stop():
        print(f"stopped: {len(grades)} of {len(submissions)} students are graded", file=sys.stderr)
    return stop.exit_code


def read_roster(path: Path) -> list[str]:
    """Return the students of a roster: the first column of each line that is not empty."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = [line.replace(";", ",").split(",")[0].strip() for line in lines]
    if not any(names):
        raise DataError("no student in it", str(path), "write one student a line")
    return [name for name in names if name]


def summary(grades: list[Grade], seconds: float) -> str:
    """Return one line a student, and the time."""
    rows = [f"{g.student:<30}{g.percent:6.1f} %  {g.passed}/{len(g.verdicts)}" for g in grades]
    names = dict.fromkeys(name for grade in grades for name in grade.verdicts)
    beside = [name for name in names if (entry := registered(name)) and not entry.travels]
    if beside:
        rows.append(f"judged beside the answer only, which is easier to forge: {', '.join(beside)}")
    return "\n".join([*rows, f"{len(grades)} students in {seconds:.1f} s"])
