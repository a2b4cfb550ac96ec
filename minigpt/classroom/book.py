"""Grade a class: find the submissions, judge each against the teacher's exercises, keep a book.

A submission is a notebook with an exercise's file name, in a folder named after the student, at any
depth, or beside the others with the student's name in front (`ada_08_attention.ipynb`). All of them
are read before the first one is run.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from minigpt.checks import exercises, more_checks, topics
from minigpt.classroom.judge import Verdict
from minigpt.classroom.limits import Limits
from minigpt.classroom.notebook import LARGEST, Cell, Step, expected, plan, read_cells
from minigpt.classroom.session import grade_steps
from minigpt.support.errors import ConfigError, DataError
from minigpt.support.files import atomic_write, check_writable, refuse_existing

COLUMNS = ("student", "percent", "passed", "expected")  # of the gradebook, before the checks
TEACHERS = {"exercises", "solutions", ".base", ".ipynb_checkpoints"}


@dataclass(frozen=True)
class Exercises:
    """One notebook of exercises, as the teacher has it."""

    file: str
    cells: list[Cell]
    expected: list[str]  # the checks that count, from the registry


@dataclass(frozen=True)
class Grade:
    """What one student got."""

    student: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    @property
    def passed(self) -> int:
        """Count the checks that passed."""
        return sum(verdict == "passed" for verdict, _ in self.verdicts.values())

    @property
    def percent(self) -> float:
        """Return the share of the expected checks that passed."""
        return 100 * self.passed / max(1, len(self.verdicts))


def open_exercises(folder: Path, names: Iterable[str] = ()) -> list[Exercises]:
    """Read a folder of exercise notebooks: all, or those whose file or topic is named."""
    paths = sorted(Path(folder).glob("*.ipynb"))
    names = list(names)
    for name in names:
        if not any(_is_named(path, name) for path in paths):
            known = ", ".join(path.stem for path in paths) or "none"
            raise DataError(f"no exercise {name!r}", str(folder), f"choose from {known}")
    if not paths:
        raise DataError("no notebooks", str(folder), "name the course's folder of exercises")
    chosen = [path for path in paths if not names or any(_is_named(path, n) for n in names)]
    return [_open(path) for path in chosen]


def _is_named(path: Path, name: str) -> bool:
    return name in (path.name, path.stem, path.stem.split("_", 1)[-1])


def _open(path: Path) -> Exercises:
    """Read one notebook; what it should ask for is what the registry has of its topics."""
    cells = read_cells(path.read_bytes(), str(path))
    asked = expected(cells)
    own = dict.fromkeys(name.split(".")[0] for name in asked)
    if unknown := [topic for topic in own if topic not in topics()]:
        remedy = "is MINIGPT_CHECKS set to the folder of your private checks?"
        raise DataError(f"no checks of topic {unknown[0]!r}", str(path), remedy)
    names = dict.fromkeys([*asked, *(name for topic in own for name in exercises(topic))])
    more = [other for name in names for other in more_checks(name)]
    return Exercises(path.name, cells, [*names, *more])


def find_submissions(folder: Path, files: Iterable[str]) -> dict[str, dict[str, bytes]]:
    """Map each student to what was handed in, by exercise file; everything is read at once."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such folder", str(folder), "name the folder of the submissions")
    found: dict[str, dict[str, bytes]] = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not place.name.startswith("."):
            found[place.name] = {}
            for file in files:
                if paths := _candidates(place, file):
                    found[place.name][file] = _read(paths[0])
    for file in files:
        for path in sorted(folder.glob(f"*{file.removesuffix('.ipynb')}*.ipynb")):
            if student := _student_of(path.name, file):
                found.setdefault(student, {})[file] = _read(path)
    return found


def _read(path: Path) -> bytes:
    """Read a submission, or as much of it as shows that it is too large."""
    with path.open("rb") as file:
        return file.read(LARGEST + 1)


def _candidates(place: Path, file: str) -> list[Path]:
    """Return the files of that name that may be the student's work, the likeliest first."""
    paths = [path for path in place.rglob(file) if path.is_file()]
    paths = [p for p in paths if not TEACHERS & set(p.relative_to(place).parts[:-1])]
    return sorted(paths, key=lambda p: ("my_exercises" not in p.parts, len(p.parts), str(p)))


def _student_of(name: str, file: str) -> str | None:
    """`ada_08_attention.ipynb` and `ada-08_attention (1).ipynb` were handed in by ada."""
    stem = re.escape(file.removesuffix(".ipynb"))
    match = re.fullmatch(rf"(.+?)[-_ ]+{stem}[-_ ]*(\(\d+\)|\d+)?\.ipynb", name)
    return match[1] if match else None


def grade_student(
    student: str, files: dict[str, bytes], chosen: list[Exercises], limits: Limits
) -> Grade:
    """Judge all that one student handed in; what is not there counts as missing."""
    grade = Grade(student)
    for each in chosen:
        if each.file not in files:
            verdicts = dict.fromkeys(each.expected, ("missing", "not handed in"))
        else:
            try:
                cells = read_cells(files[each.file], each.file)
            except DataError as error:
                verdicts = dict.fromkeys(each.expected, ("missing", str(error)))
            else:
                verdicts = _judged(plan(each.cells, cells), each.expected, student, limits)
        grade.verdicts.update(verdicts)
    return grade


def _judged(
    steps: list[Step], names: list[str], student: str, limits: Limits
) -> dict[str, Verdict]:
    """Judge one notebook; that a machine is out of processes or disk is not the class's end."""
    try:
        return grade_steps(steps, names, student, limits)
    except OSError as error:
        message = f"the grader could not run it ({error}): make room, and grade this student again"
        return dict.fromkeys(names, ("stopped", message))


def grade_class(
    submissions: dict[str, dict[str, bytes]],
    chosen: list[Exercises],
    limits: Limits,
    jobs: int = 1,
    report: Callable[[Grade], None] = lambda grade: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Grade]:
    """Grade every student, `jobs` at a time; `report` is called as each is done.

    When `should_stop` says so, nobody new is begun; who is at work is finished.
    """

    def grade(student: str) -> Grade | None:
        if should_stop():
            return None
        done = grade_student(student, submissions[student], chosen, limits)
        report(done)
        return done

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        grades = list(pool.map(grade, sorted(submissions)))
    return [done for done in grades if done is not None]


# The gradebook


def gradebook(grades: list[Grade]) -> str:
    """Return a CSV table: student, percent, passed, expected, and one column for each check."""
    names = list(dict.fromkeys(name for grade in grades for name in grade.verdicts))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *names])
    for grade in grades:
        verdicts = [grade.verdicts.get(name, ("", ""))[0] for name in names]
        score = [f"{grade.percent:.1f}", grade.passed, len(grade.verdicts)]
        table.writerow([_harmless(grade.student), *score, *verdicts])
    return text.getvalue()


def _harmless(text: str) -> str:
    """Keep a spreadsheet from taking a name for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def feedback(grade: Grade) -> str:
    """Return what a student should read, as Markdown."""
    rows = [f"# {grade.student}: {grade.passed} of {len(grade.verdicts)} passed", ""]
    for name, (verdict, message) in grade.verdicts.items():
        mark = "✓" if verdict == "passed" else "✗"
        note = "" if verdict == message else f": {' '.join(message.split())}"
        rows.append(f"- {mark} `{name}` {verdict}{note}")
    return "\n".join(rows) + "\n"


def write_book(grades: list[Grade], path: Path) -> None:
    """Write the gradebook, and beside it a folder with each student's feedback."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, gradebook(grades))
    for grade in grades:
        place = feedback_path(path, grade.student)
        place.parent.mkdir(exist_ok=True)
        atomic_write(place, feedback(grade))


def feedback_path(path: Path, student: str) -> Path:
    """Return where a student's feedback goes, by the path of the gradebook."""
    name = re.sub(r"[^\w .@+-]", "_", student)
    return path.parent / f"{path.stem}_feedback" / f"{name}.md"


def check_book(students: Iterable[str], path: Path) -> None:
    """Raise a ConfigError unless the book can be written and replaces earlier books at most."""
    if path.is_dir():
        raise ConfigError("--out is a directory", str(path), "name the file to write")
    check_writable(path.parent)
    ours = {feedback_path(path, name): f"# {name}: " for name in students}
    ours[path] = ",".join(COLUMNS)
    foreign = (place for place, begin in ours.items() if not begins_with(place, begin))
    refuse_existing(foreign, "choose another --out")


def begins_with(path: Path, begin: str) -> bool:
    """Tell whether a file begins with a text; one that cannot be read does not."""
    try:
        with path.open("rb") as file:
            return file.read(len(begin)) == begin.encode("utf-8")
    except OSError:
        return False
