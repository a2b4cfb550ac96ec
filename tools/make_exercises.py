"""Make exercise notebooks from solution notebooks: what stands between the markers is left out.

    python tools/make_exercises.py                   # every solution
    python tools/make_exercises.py FILE ...

In a solution, `### BEGIN SOLUTION` and `### END SOLUTION` enclose the answer: in a function the
exercise gets a line that raises NotImplementedError. Elsewhere each name that the answer assigns
and the rest of the cell reads becomes `...`; other names would tell how it is solved. A markdown or
code cell tagged `solution-only` does not appear in the exercise at all.
A cell to be answered gets a tag, `answer:` and the name of its check: the grader takes those cells.
Run tools/build_notebooks.py on the result.
"""

import ast
import re
import sys
from pathlib import Path

import nbformat
from build_notebooks import write_notebook
from cells import bound_names
from course import ROOT

MARKED = re.compile(
    r"^(?P<indent>[ \t]*)### BEGIN SOLUTION[^\n]*\n(?P<answer>.*?)^[ \t]*### END SOLUTION[^\n]*$",
    re.DOTALL | re.MULTILINE,
)
YOUR_CODE = "# your code here"


def strip_solution(source: str) -> str:
    """Replace every marked answer of a code cell by a blank that still runs.

    >>> strip_solution("x = 1\\n### BEGIN SOLUTION\\ny = 2\\n### END SOLUTION")
    'x = 1\\ny = ...  # your code here'
    """
    asked = _names_read(MARKED.sub("", source))
    stripped = MARKED.sub(lambda match: _blank(match, asked), source)
    assert not re.search("### (BEGIN|END)", stripped), f"unpaired marker:\n{source}"
    return stripped


def _names_read(source: str) -> set[str]:
    """Return the names that the unmarked part of a cell reads; empty where it does not parse."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a function without its body
        return set()
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _blank(match: re.Match, asked: set[str]) -> str:
    """Return the blank of one answer: of the names it assigns, those that the cell asks for."""
    indent = match["indent"]
    if indent:
        return f'{indent}raise NotImplementedError("your code here")'
    blanks = {
        target.id: _blank_value(node.value)
        for node in ast.parse(match["answer"]).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert blanks, f"an answer outside a function must assign a name:\n{match['answer']}"
    blanks = {name: value for name, value in blanks.items() if name in asked} or blanks
    return "\n".join(_one_key_a_line(f"{n} = {v}  {YOUR_CODE}") for n, v in blanks.items())


def _one_key_a_line(line: str, longest: int = 100) -> str:
    """Break a dict of blanks as the formatter would, where it is too long for one line."""
    if len(line) <= longest or "{" not in line:
        return line
    return line.replace("{", "{\n    ").replace(", ", ",\n    ").replace("}", ",\n}")


def _blank_value(value: ast.expr) -> str:
    """Return `...`, or a list or dict of them in the shape of the answer."""
    if isinstance(value, ast.List):
        return f"[{', '.join('...' for _ in value.elts)}]"
    if isinstance(value, ast.Dict) and all(isinstance(key, ast.Constant) for key in value.keys):
        return "{" + ", ".join(f'"{key.value}": ...' for key in value.keys) + "}"
    return "..."


def answer_key(source: str) -> str:
    """Return the name of the check that a cell calls or, without one, the first name it binds."""
    body = ast.parse(source).body
    calls = [node.value for node in body if isinstance(node, ast.Expr)]
    checks = [c.args[0].value for c in calls if getattr(getattr(c, "func", 0), "id", 0) == "check"]
    bound = [name for node in body for name in bound_names(node)]
    assert checks or bound, f"an answer must bind a name or call check:\n{source}"
    return (checks or bound)[0]


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def exercise_notebook(solution: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the exercise that a solution notebook stands for, without outputs."""
    exercise = nbformat.v4.new_notebook()
    for cell in solution.cells:
        if "solution-only" in cell.metadata.get("tags", []):
            continue
        copy = nbformat.from_dict(cell)
        if copy.cell_type == "code":
            if MARKED.search(copy.source):
                copy.metadata["tags"] = sorted([*_tags(copy), f"answer:{answer_key(copy.source)}"])
            copy.source = strip_solution(copy.source)
            copy.outputs, copy.execution_count = [], None
        else:
            copy.source = copy.source.replace(": solutions", ": exercises")
        exercise.cells.append(copy)
    return exercise


def same_questions(exercise: nbformat.NotebookNode, solution: nbformat.NotebookNode) -> list[str]:
    """Return where a stored exercise is not what its solution gives."""
    expected, cells = exercise_notebook(solution).cells, exercise.cells
    if len(expected) != len(cells):
        return [f"{len(cells)} cells, but the solution gives {len(expected)}"]
    pairs = enumerate(zip(cells, expected, strict=True))
    return [
        f"cell {number} is not what the solution gives; run tools/make_exercises.py"
        for number, (cell, wanted) in pairs
        if (cell.cell_type, cell.source, _tags(cell))
        != (wanted.cell_type, wanted.source, _tags(wanted))
    ]


def keep_outputs(exercise: nbformat.NotebookNode, before: nbformat.NotebookNode) -> bool:
    """Take over what was stored, if the code is the same throughout; tell whether it is."""
    cells, old = ([c for c in nb.cells if c.cell_type == "code"] for nb in (exercise, before))
    same = [cell.source for cell in cells] == [cell.source for cell in old]
    for cell, stored in zip(cells, old, strict=True) if same else ():
        cell.outputs, cell.execution_count = stored.outputs, stored.execution_count
    return same


def exercise_path(solution: Path) -> Path:
    """Return chapters/exercises/NAME for chapters/solutions/NAME."""
    return solution.parent.parent / "exercises" / solution.name


def _read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def main() -> None:
    """Make the exercises of the solutions named on the command line, or of all."""
    solutions = [Path(name) for name in sys.argv[1:]]
    for path in solutions or sorted((ROOT / "chapters" / "solutions").glob("*.ipynb")):
        target = exercise_path(path)
        target.parent.mkdir(exist_ok=True)
        exercise = exercise_notebook(_read(path))
        if target.exists() and not same_questions(_read(target), _read(path)):
            continue
        kept = target.exists() and keep_outputs(exercise, _read(target))
        write_notebook(exercise, target)
        then = "the code is unchanged" if kept else f"now run tools/build_notebooks.py {target}"
        print(f"{target}: made; {then}")


if __name__ == "__main__":
    main()
