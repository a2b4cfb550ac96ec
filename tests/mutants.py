"""Small faults, planted by machine: every way of changing one place of a piece of Python."""

import ast
import copy
from collections.abc import Iterator

ROUNDS = 1_000_000  # of all loops of one mutant: one that would run for ever ends with an error

SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Yield (what was changed, changed source), one change each."""
    tree = ast.parse(source)
    for number, node in enumerate(ast.walk(tree)):
        for choice in range(len(_changes(node))):
            other = copy.deepcopy(tree)
            target = list(ast.walk(other))[number]
            replacement = _changes(target)[choice]
            changed = _replace(other, target, replacement)
            text = ast.unparse(ast.fix_missing_locations(changed))
            if text != ast.unparse(tree):
                before, after = ast.unparse(node), ast.unparse(replacement)
                yield f"line {node.lineno}: {before} -> {after}", text


def _changes(node: ast.AST) -> list[ast.expr]:
    """Return what may stand in a node's place."""
    match node:
        case ast.BinOp() if type(node.op) in SWAPPED:
            return [ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right)]
        case ast.Compare() if type(node.ops[0]) in SWAPPED:
            return [ast.Compare(node.left, [SWAPPED[type(node.ops[0])]()], node.comparators)]
        case ast.UnaryOp():
            return [node.operand]
        case ast.Constant() if isinstance(node.value, int | float):
            values = [node.value + 1, node.value - 1]
            if isinstance(node.value, float):
                values += [node.value * 1.5, node.value / 2]
            return [ast.Constant(value) for value in values if value != node.value]
        case ast.Attribute(value=ast.Name(id="math"), attr="inf"):
            return [ast.Constant(0.0)]
        case ast.Call():
            return _call_changes(node)
    return []


def _call_changes(node: ast.Call) -> list[ast.expr]:
    """A call left out, two of its arguments exchanged, or one of its options forgotten."""
    found: list[ast.expr] = []
    if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
        found.append(node.func.value)  # x.f(y) -> x
    elif node.args and not isinstance(node.args[0], ast.GeneratorExp | ast.Starred):
        found.append(node.args[0])  # f(x, y) -> x
    for i in range(len(node.args) - 1):
        args = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]]
        found.append(ast.Call(node.func, args, node.keywords))
    for i in range(len(node.keywords)):
        keywords = node.keywords[:i] + node.keywords[i + 1 :]
        found.append(ast.Call(node.func, node.args, keywords))
    return found


def _replace(tree: ast.Module, target: ast.AST, replacement: ast.expr) -> ast.Module:
    class Replacer(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return replacement if node is target else self.generic_visit(node)

    return Replacer().visit(tree)


def bounded(source: str) -> str:
    """Make all while loops of a piece of Python end with an error after ROUNDS rounds together."""

    class Counter(ast.NodeTransformer):
        def visit_While(self, node: ast.While) -> ast.While:
            self.generic_visit(node)
            node.body.insert(0, ast.parse("next(_rounds)").body[0])
            return node

    tree = Counter().visit(ast.parse(source))
    return f"_rounds = iter(range({ROUNDS}))\n{ast.unparse(ast.fix_missing_locations(tree))}"
