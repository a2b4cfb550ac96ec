"""List every error message of the package with its remedy, for the page that users look them up in.

    python tools/messages.py        # prints the page; tools/build_site.py puts it on the site

The list is read from the source: each call of an error class with its words. What a message fills
in when it is raised shows as `…`.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from course import ROOT

ERRORS = {"DataError", "ConfigError", "CheckpointError", "TrainingError", "LockedError"}
ERRORS |= {"UsageError", "damaged"}
HEAD = """\
# All messages

Every message of the package that names a remedy, in alphabetical order, made from the source.
`…` stands for what is filled in: a file, a number, a name. A message reads
*what happened — where — what to do*.
[Troubleshooting](troubleshooting.md) explains the frequent ones.

| message | what to do | from |
| --- | --- | --- |"""


def words(node: ast.expr, known: dict[str, set[str]]) -> set[str]:
    """Return the texts that an expression may be; a name is any text it was given nearby."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.JoinedStr(values=parts):
            shown = (part.value if isinstance(part, ast.Constant) else "…" for part in parts)
            return {"".join(map(str, shown))}
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            ends = words(right, known) or {"…"}
            return {a + b for a in words(left, known) or {"…"} for b in ends}
        case ast.IfExp(body=body, orelse=other):
            return words(body, known) | words(other, known)
        case ast.Name(id=name):
            return known.get(name, set())
    return set()


def messages_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what happened and what to do for each error that a module raises."""
    everywhere: dict[str, set[str]] = {}
    for node in tree.body:
        learn(node, everywhere)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        known = {name: set(texts) for name, texts in everywhere.items()}
        for node in ast.walk(function):
            learn(node, known)
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and len(call.args) == 3:
                name = getattr(call.func, "id", getattr(call.func, "attr", ""))
                if name in ERRORS:
                    remedy = " / ".join(sorted(words(call.args[2], known))) or "…"
                    yield from ((what, remedy) for what in words(call.args[0], known))


def learn(node: ast.AST, known: dict[str, set[str]]) -> None:
    """Note what a plain assignment gives a name: what = "no text"; what, remedy = "...", "..."."""
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        pairs = [(node.targets[0], node.value)]
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(node.targets[0].elts, node.value.elts, strict=False))
        for target, value in pairs:
            if isinstance(target, ast.Name):
                known.setdefault(target.id, set()).update(words(value, known))


def messages(root: Path = ROOT) -> list[tuple[str, str, str]]:
    """Return message, remedy and module, in alphabetical order."""
    found = set()
    for path in sorted((root / "minigpt").rglob("*.py")):
        module = path.relative_to(root / "minigpt").with_suffix("").as_posix().replace("/", ".")
        for what, remedy in messages_of(ast.parse(path.read_text(encoding="utf-8"))):
            found.add((" ".join(what.split()), " ".join(remedy.split()), module))
    return sorted(found, key=lambda row: (row[0].lstrip("….- `").lower(), row))


def in_table(text: str) -> str:
    """Return a text as code that a table can hold.

    >>> in_table("drop|cut")
    '`drop\\\\|cut`'
    """
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def page(root: Path = ROOT) -> str:
    """Return the page of all messages, as Markdown."""
    rows = (f"| {in_table(a)} | {in_table(b)} | {module} |" for a, b, module in messages(root))
    return "\n".join([HEAD, *rows, ""])


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(page(), end="")
