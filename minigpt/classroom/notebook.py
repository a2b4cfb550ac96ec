"""Read exercise notebooks as data and take a submission's answers out of it; nothing is run here.

A cell of an exercise that is to be answered carries a tag, `answer:` and a key: the name of the
check that the cell calls, or else the name that it binds. A submission gives the source of those
cells and nothing else. All other cells come from the teacher's copy of the exercise.
"""

import ast
import json
import re
import threading
from typing import Any, NamedTuple

from minigpt.support.errors import DataError

TAG = "answer:"
LARGEST = 20_000_000  # bytes of a submitted notebook, pictures included
LONGEST = 100_000  # characters of one answer
# Python 3.11's parser counts its depth once for all threads (CPython issue 106905), and students
# are graded by several: two at a time can end in a SystemError
PARSING = threading.Lock()


class Cell(NamedTuple):
    """A code cell: its source and its tags."""

    source: str
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str | None:
        """Return the key of a cell that is to be answered."""
        return next((t.removeprefix(TAG) for t in self.tags if t.startswith(TAG)), None)


class Step(NamedTuple):
    """What the grader runs in one go: a cell without its checks, and the checks it asks for."""

    source: str
    asked: tuple[tuple[str, str], ...]  # (name of the check, expression that is its answer)
    refused: str | None = None  # why the cell is not run at all
    missing: tuple[str, ...] = ()  # checks that this cell should ask for and does not


def read_cells(data: bytes, where: str) -> list[Cell]:
    """Return the code cells of a notebook; DataError says what is wrong with the file."""
    remedy = "save it in Jupyter and hand it in again"
    if len(data) > LARGEST:
        raise DataError(f"more than {LARGEST} bytes", where, "clear its outputs and save it")
    try:
        cells = json.loads(data.decode("utf-8-sig"))["cells"]
        found = [cell for cell in cells if cell["cell_type"] == "code"]
        return [Cell(_text(cell["source"]), tuple(_tags(cell))) for cell in found]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"not a Jupyter notebook ({type(error).__name__})"
        raise DataError(what, where, remedy) from error


def _text(source: Any) -> str:
    return source if isinstance(source, str) else "".join(source)


def _tags(cell: dict) -> list[str]:
    tags = cell.get("metadata", {}).get("tags", [])
    return [tag for tag in tags if isinstance(tag, str)]


def plan(exercise: list[Cell], submission: list[Cell]) -> list[Step]:
    """Return the exercise, step by step, with the submission's answers in it."""
    return [_answer_step(cell, submission) if cell.key else _step(cell) for cell in exercise]


def expected(exercise: list[Cell]) -> list[str]:
    """Return the names of the checks that an exercise asks for, in order."""
    return [name for cell in exercise for name, _ in split_checks(cell.source)[1]]


def _step(cell: Cell) -> Step:
    source, asked = split_checks(cell.source)
    return Step(source, tuple(asked))


def _answer_step(cell: Cell, submission: list[Cell]) -> Step:
    names = [name for name, _ in split_checks(cell.source)[1]]
    text = answer_text(cell, submission)
    if text is None:
        return Step("", (), "the answer's cell is not in the notebook any more", tuple(names))
    if reason := forbidden(text):
        return Step("", tuple((name, "...") for name in names), reason)
    source, asked = split_checks(text)
    given = dict(asked)  # of several calls of one check the last one counts
    kept = tuple((name, given[name]) for name in names if name in given)
    return Step(source, kept, None, tuple(name for name in names if name not in given))


def answer_text(cell: Cell, submission: list[Cell]) -> str | None:
    """Return a submission's source for one answer cell of the exercise.

    A cell that was split in two counts as one. Where an editor lost the tags, the cell is known by
    its check, or by the name it binds.
    """
    own = [other.source for other in submission if other.key == cell.key]
    if not own:
        untagged = [other for other in submission if other.key is None]
        own = [other.source for other in untagged if cell.key in _marks(other.source)][-1:]
    return "\n".join(own) if own else None


def _marks(source: str) -> set[str]:
    """Return the checks that a cell calls and the names that it binds."""
    try:
        body = _parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(re.findall(r"check\(\s*['\"]([\w.]+)", source))
    names = {name for name, _ in split_checks(source)[1]}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _parse(source: str) -> ast.Module:
    with PARSING:
        return ast.parse(_without_magic(source))


def _without_magic(source: str) -> str:
    """Blank the lines that only IPython understands."""
    return re.sub(r"(?m)^[ \t]*[%!?].*$", "", source)


def split_checks(source: str) -> tuple[str, list[tuple[str, str]]]:
    """Take the top-level calls of `check` out of a cell; return the rest and (name, answer) pairs.

    >>> split_checks('x = 3\\ncheck("topic.x", x + 1)')
    ('x = 3\\n', [('topic.x', 'x + 1')])
    """
    source = _without_magic(source)
    try:
        body = _parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # running it says what is wrong
        return source, [(name, "...") for name in re.findall(r"check\(\s*['\"]([\w.]+)", source)]
    lines, asked = source.split("\n"), []
    for node in body:
        if pair := _check_call(node):
            asked.append(pair)
            end = node.end_lineno or node.lineno
            lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
    return "\n".join(lines), asked


def _check_call(node: ast.stmt) -> tuple[str, str] | None:
    match node:
        case ast.Expr(
            ast.Call(func=ast.Name(id="check"), args=[ast.Constant(str() as name), answer])
        ):
            return name, ast.unparse(answer)
    return None


def forbidden(source: str) -> str | None:
    """Say why an answer is refused unread, or return None.

    It may not reach for the checks' own oracles, and it must have a sane length. This keeps the
    honest honest: it is a reminder, and no wall.
    """
    if len(source) > LONGEST:
        return f"the answer has {len(source)} characters; {LONGEST} are the limit"
    try:
        nodes = list(ast.walk(_parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in nodes:
        match node:
            case ast.ImportFrom(module=str() as module):
                taken = {alias.name for alias in node.names}
                reaches = (module == "minigpt" and "checks" in taken) or module.startswith(
                    ("minigpt.checks", "minigpt.classroom")
                )
                reaches = reaches and not (module == "minigpt.checks" and taken == {"check"})
            case ast.Import():
                reaches = any(a.name.startswith("minigpt.checks") for a in node.names)
            case ast.Constant(value=str() as text):
                reaches = "minigpt.checks" in text or "minigpt/checks" in text
            case _:
                reaches = False
        if reaches and isinstance(node, ast.stmt | ast.expr):  # these alone have a line
            return f"line {node.lineno} takes something from minigpt.checks; an answer may not"
    return None
