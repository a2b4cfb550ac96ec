"""Hold notebooks and package together: the five rules by which no shown code can drift.

1. A cell whose first line is `# minigpt/attention.py` shows final definitions, and one whose first
   line is `# minigpt/gpt.py: GPT.forward` shows one method: the text must equal the package's.
   A first line `# draft` marks an earlier form; an assert further down ties it to the package.
2. Any other cell that binds a public name of the package fails: no silent shadowing. A method shown
   alone is run like every cell and leaves a function behind: if its name meant something before,
   the next cell that reads the name has to bind it anew.
3. A chapter imports only names that a chapter up to it has shown or drafted, or plumbing.
4. A definition of a course module is shown at most once.
5. A code cell has at most 45 lines. A longer class is shown method by method; a longer function of
   the package has to become two.

Cells are read as text and syntax trees; nothing is run. `faults()` returns one message a fault.
"""

import ast
import builtins
import difflib
import re
import symtable
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from course import (
    LONGEST_CELL,
    MODULES,
    ROOT,
    SHOWN_ONCE,
    chapter_number,
    is_import_only,
    notebooks,
    place,
    ready_chapters,
)

HEADER = re.compile(r"# (minigpt/[\w/]+\.py)(?:: ([\w.]+))?\s*$")
DRAFT = re.compile(r"# draft\b")


@dataclass(frozen=True)
class Cell:
    """One code cell: where it stands, and its text."""

    path: Path
    number: int
    source: str

    @property
    def where(self) -> str:
        """Name the notebook and the cell (counted from 0, as nbformat does)."""
        return f"{self.path.name} cell {self.number}"

    @property
    def first_line(self) -> str:
        """Return the first line that the reader sees."""
        return self.source.lstrip("\n").split("\n", 1)[0]

    @property
    def header(self) -> re.Match | None:
        """Match the first line of a shown cell: groups are the file and the method."""
        return HEADER.match(self.first_line)

    @property
    def is_draft(self) -> bool:
        """Tell whether the cell announces a draft."""
        return bool(DRAFT.match(self.first_line))

    def names(self) -> list[str]:
        """Return the names that a shown cell or a draft is about, `GPT.forward` for a method."""
        if self.header and self.header[2]:
            return [self.header[2]]
        return [name for node in self.tree().body for name in bound_names(node)]

    def tree(self) -> ast.Module:
        """Parse the cell."""
        return ast.parse(self.python)

    @property
    def python(self) -> str:
        """Return the text with IPython's `%magic` and `!shell` lines made blank."""
        return re.sub(r"(?m)^\s*[%!].*$", "", self.source)


def code_cells(path: Path) -> list[Cell]:
    """Read the code cells of a notebook."""
    cells = enumerate(nbformat.read(path, as_version=4).cells)
    return [Cell(path, i, cell.source) for i, cell in cells if cell.cell_type == "code"]


def faults(paths: list[Path] | None = None, root: Path = ROOT) -> list[str]:
    """Return what is wrong with the notebooks, one message a fault; an empty list is good."""
    paths = notebooks(root) if paths is None else paths
    cells = {path: code_cells(path) for path in paths}
    found = [fault for path in paths for cell in cells[path] for fault in _syntax(cell)]
    if found:
        return found
    public = public_names(root)
    for path in paths:
        found += [fault for cell in cells[path] for fault in shown_faults(cell, root)]
        found += [fault for cell in cells[path] for fault in length_faults(cell)]
        found += shadow_faults(cells[path], public)
        found += method_faults(cells[path])
        found += draft_faults(cells[path], public)
    every_cell = [cell for path in paths for cell in cells[path]]
    return [*found, *import_faults(every_cell, root), *twice_faults(every_cell)]


def _syntax(cell: Cell) -> Iterator[str]:
    try:
        cell.tree()
    except SyntaxError as error:
        yield f"{cell.where}: not Python: {error.msg} (line {error.lineno})"


# Rule 1: the text of a definition, in the package and in a cell


def segments(source: str) -> dict[str, str]:
    """Return the text of each top-level definition and each method, by (dotted) name.

    A segment runs from the comments and decorators right above a definition to its last line;
    methods are dedented. A method that calls `super()` keeps the first line of its class, without
    which Python would not run it. Names bound by an assignment count as definitions.
    """
    lines = source.split("\n")
    found = {}
    for node in ast.parse(source).body:
        text = _segment(lines, node)
        found |= dict.fromkeys(bound_names(node), text)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    text = _segment(lines, inner)
                    in_class = f"{lines[node.lineno - 1]}\n{text}"
                    alone = in_class if "super()" in text else textwrap.dedent(text)
                    found[f"{node.name}.{inner.name}"] = alone
    return found


def _segment(lines: list[str], node: ast.stmt) -> str:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
    while first > 0 and lines[first - 1].strip().startswith("#"):
        first -= 1
    return "\n".join(lines[first : node.end_lineno])


def package_text(cell: Cell, root: Path = ROOT) -> str:
    """Return what a shown cell must say: its first line and the package's definitions.

    Raises KeyError with the name where the package has no such definition.
    """
    file, method = cell.header[1], cell.header[2]
    package = segments((root / file).read_text(encoding="utf-8"))
    names = [method] if method else [n for node in cell.tree().body for n in bound_names(node)[:1]]
    return "\n".join([cell.first_line, "\n\n\n".join(package[name] for name in names)])


def shown_faults(cell: Cell, root: Path = ROOT) -> Iterator[str]:
    """Compare a shown cell with the package (rule 1)."""
    if not cell.header:
        return
    if not (root / cell.header[1]).is_file():
        yield f"{cell.where}: there is no {cell.header[1]}"
        return
    for node in cell.tree().body:
        if not bound_names(node) or isinstance(node, ast.Import | ast.ImportFrom):
            yield f"{cell.where}: line {node.lineno}: a shown cell holds definitions only"
            return
    try:
        expected = package_text(cell, root)
    except KeyError as name:
        yield f"{cell.where}: {cell.header[1]} does not define {name}"
        return
    if cell.source != expected:
        diff = difflib.unified_diff(
            cell.source.split("\n"), expected.split("\n"), cell.where, cell.header[1], lineterm=""
        )
        yield (
            f"{cell.where}: differs from the package; tools/sync_cells.py copies it\n"
            + "\n".join(diff)
        )


# Rule 5: length


def length_faults(cell: Cell) -> Iterator[str]:
    """Name a cell that no screen holds."""
    if (length := len(cell.source.split("\n"))) > LONGEST_CELL:
        yield f"{cell.where}: {length} lines; {LONGEST_CELL} are the limit: cut it in two"


# Rule 2: shadowing


def public_names(root: Path = ROOT) -> dict[str, str]:
    """Map each public name of the library to its module.

    A folder's public names are those that its __init__ takes in; commands have none.
    """
    found = {}
    for path in sorted((root / "minigpt").rglob("*.py")):
        module = _module(path.relative_to(root))
        if module not in MODULES and path.name != "__init__.py":
            continue  # a file inside a room that is one module: its __init__ names what is public
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            taken_in = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                f"minigpt.{module}."
            )
            if taken_in or not isinstance(node, ast.Import | ast.ImportFrom):
                found |= {n: module for n in bound_names(node) if not n.startswith("_")}
    return {name: module for name, module in found.items() if module != "commands"}


def _module(path: Path) -> str:
    """minigpt/storyworld/tell.py -> storyworld.tell; minigpt/gpt.py -> gpt."""
    parts = path.with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def shadow_faults(cells: list[Cell], public: dict[str, str]) -> Iterator[str]:
    """Name each package name that an unmarked cell binds to something else.

    Functions and classes may take no public name of the package at all. A plain variable may, as
    long as the notebook does not use that name of the package: `places = ...` hides nothing there.
    """
    in_use = {name for cell in cells for name in _package_names(cell)}
    for cell in cells:
        if cell.header or cell.is_draft:
            continue
        for node in ast.walk(_without_inner_scopes(cell.tree())):
            is_definition = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            from_package = isinstance(node, ast.ImportFrom) and _is_package(node.module)
            for name in [] if from_package else bound_names(node):
                if name in public and (is_definition or name in in_use):
                    yield (
                        f"{cell.where}: line {node.lineno} hides minigpt/{public[name]}'s {name}; "
                        f"rename it, or begin the cell with '# draft'"
                    )


def method_faults(cells: list[Cell]) -> Iterator[str]:
    """Name each cell that would read a method, shown alone, for what had its name before."""
    scopes = [symtable.symtable(cell.python, cell.where, "exec") for cell in cells]
    for position, shown in enumerate(cells):
        name = shown.header[2].split(".")[-1] if shown.header and shown.header[2] else ""
        if not (hasattr(builtins, name) or any(_binds(s, name) for s in scopes[:position])):
            continue
        for cell, scope in zip(cells[position + 1 :], scopes[position + 1 :], strict=True):
            if _binds(scope, name) or _hands_over(cell, shown.header[2]):
                break
            if _reads(scope, name):
                yield f"{cell.where}: {name} is the method of cell {shown.number}; bind it anew"
                break


def _hands_over(cell: Cell, method: str) -> bool:
    """Tell whether a cell gives the method to its class, as `Block.forward = forward` does."""
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node) == method
        for node in ast.walk(cell.tree())
    )


def _binds(scope: symtable.SymbolTable, name: str) -> bool:
    """Tell whether a cell binds a name, imports included."""
    known = scope.lookup(name) if name in scope.get_identifiers() else None
    return bool(known) and (known.is_assigned() or known.is_imported())


def _reads(scope: symtable.SymbolTable, name: str) -> bool:
    """Tell whether a cell, or a function in it, takes a name from the notebook."""
    known = scope.lookup(name) if name in scope.get_identifiers() else None
    if known and known.is_referenced() and (known.is_global() or scope.get_type() == "module"):
        return True
    return any(_reads(inner, name) for inner in scope.get_children())


def _package_names(cell: Cell) -> Iterator[str]:
    """Yield the names that a cell imports from the package, shows or drafts."""
    for node in ast.walk(cell.tree()):
        if isinstance(node, ast.ImportFrom) and _is_package(node.module):
            yield from bound_names(node)
    if cell.header or cell.is_draft:
        yield from cell.names()


def _without_inner_scopes(tree: ast.Module) -> ast.Module:
    """Empty the bodies of functions and classes: what they bind stays inside them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            node.body = []
    return tree


def bound_names(node: ast.AST) -> list[str]:
    """Return the names that one statement (or walrus) binds."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign():
            targets = node.targets
        case ast.AnnAssign() | ast.AugAssign() | ast.NamedExpr() | ast.For():
            targets = [node.target]
        case ast.With():
            targets = [item.optional_vars for item in node.items if item.optional_vars]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name.split(".")[0] for alias in node.names]
        case _:
            return []
    names = [n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
    return [n.id for n in names if isinstance(n.ctx, ast.Store)]


def draft_faults(cells: list[Cell], public: dict[str, str]) -> Iterator[str]:
    """Ask of each draft of a package name: an assert that uses it, then the final form."""
    for position, cell in enumerate(cells):
        if not cell.is_draft:
            continue
        drafted = {n for node in cell.tree().body for n in bound_names(node)} & set(public)
        for name in sorted(drafted):
            later = cells[position + 1 :]
            tie = next((i for i, c in enumerate(later) if _asserts_about(c, name)), None)
            if tie is None:
                yield f"{cell.where}: no assert further down ties the draft of {name} to minigpt"
            elif not any(_finalizes(c, name) for c in later[tie:]):
                yield f"{cell.where}: after its tie, {name} is neither shown nor imported again"


def _asserts_about(cell: Cell, name: str) -> bool:
    nodes = list(ast.walk(cell.tree()))
    used = any(isinstance(n, ast.Name) and n.id == name for n in nodes)
    return used and any(isinstance(n, ast.Assert) for n in nodes)


def _finalizes(cell: Cell, name: str) -> bool:
    imports = [n for n in ast.walk(cell.tree()) if isinstance(n, ast.ImportFrom)]
    shown = cell.header and name in [n for b in cell.tree().body for n in bound_names(b)]
    return bool(shown) or any(_is_package(n.module) and name in bound_names(n) for n in imports)


# Rule 3: imports by chapter


def _is_package(module: str | None) -> bool:
    return bool(module) and module.split(".")[0] == "minigpt"


def import_faults(cells: list[Cell], root: Path = ROOT) -> Iterator[str]:
    """Name each import of something that no chapter has shown or drafted yet."""
    appeared: dict[str, int] = {}
    for cell in cells:
        if cell.header or cell.is_draft:
            number = chapter_number(cell.path)
            for name in cell.names():
                name = name.split(".")[0]  # a class appears with its first method
                appeared[name] = min(number, appeared.get(name, number))
    ready = ready_chapters(root)
    for cell in cells:
        number = chapter_number(cell.path)
        for module, name in _package_uses(cell) if number > 0 else ():
            entry = place(module)
            if entry is None:
                yield f"{cell.where}: minigpt.{module} is no module of the course"
            elif not (
                is_import_only(module, name)
                or not ready & set(MODULES[entry])  # its chapter is planned: plumbing until then
                or appeared.get(name, 99) <= number
            ):
                yield (
                    f"{cell.where}: imports {name} from minigpt.{module}, which no chapter up to "
                    f"{number:02d} has shown or drafted"
                )


def _package_uses(cell: Cell) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for `from minigpt.m import n`, and for `m.n` after importing m."""
    nodes = list(ast.walk(cell.tree()))
    modules = {}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and _is_package(node.module):
            room = node.module.removeprefix("minigpt").removeprefix(".")
            for alias in node.names:
                module = f"{room}.{alias.name}".removeprefix(".")
                if module in MODULES or not room:
                    modules[alias.asname or alias.name] = module
                else:
                    yield room, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("minigpt."):
                    yield alias.name.removeprefix("minigpt."), "*"
    for node in nodes:
        is_dotted = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if is_dotted and node.value.id in modules:
            yield modules[node.value.id], node.attr


# Rule 4: shown once


def twice_faults(cells: list[Cell]) -> Iterator[str]:
    """Name each definition of a course module that a second cell shows."""
    first: dict[str, str] = {}
    for cell in cells:
        if not cell.header:
            continue
        module = _module(Path(cell.header[1]))
        for name in cell.names() if module in SHOWN_ONCE else ():
            whole = f"{module}.{name.split('.')[0]}"  # a method after its class is twice
            parts = [key for key in first if key.startswith(f"{module}.{name}.")]
            for key in sorted({whole, f"{module}.{name}"} & set(first)) + parts:
                yield f"{cell.where}: {key} is shown in {first[key]} already"
            first.setdefault(f"{module}.{name}", cell.where)
