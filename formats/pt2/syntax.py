"""Python expressions as trees: parsed, never evaluated.

torch hands two kinds of strings from the file to Python's evaluator: the sizes of tensors (through
``sympy.sympify``) and the guards. Both are checked here on the tree of the very parser that the
evaluator uses, so that the check and the evaluation cannot read one text in two ways. What a tree
may hold is a list of what torch writes; there is no list of what is bad.
"""

import ast
import re

from formats.errors import shown
from formats.pt2.findings import Finding

_MAX_CHARACTERS = 2000
_MAX_NODES = 500
_MAX_DEPTH = 30
_MAX_EXPONENT = 16
_MAX_INTEGER = 2**63
# No quote but ', no backslash, no @ or :, no line break, nothing beyond ASCII.
_CHARACTERS = re.compile(r"[A-Za-z0-9_ ()\[\],.'=+\-*/%<>!]+")
# Parentheses and signs are what drives a parser deep; torch needs few of either.
_DRIVES_DEEP = re.compile(r"\({25}|(?:[-+] ?){4}|(?:not ?){4}")

ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def parse(text: str) -> ast.expr:
    """Parse one expression of bounded size.

    Raises:
        Finding: It is no expression, or too long, too deep, or of other characters.
    """
    if len(text) > _MAX_CHARACTERS:
        raise Finding(f"an expression of {len(text)} characters, at most {_MAX_CHARACTERS}")
    if not _CHARACTERS.fullmatch(text) or _DRIVES_DEEP.search(text):
        raise Finding(f"expression {shown(text)} has characters that torch does not write")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise Finding(f"{shown(text)} is no expression") from None
    _check_size(tree, text)
    return tree


def _check_size(tree: ast.expr, text: str) -> None:
    level: list[ast.AST] = [tree]
    node_count = depth = 0
    while level:
        node_count += len(level)
        depth += 1
        if node_count > _MAX_NODES or depth > _MAX_DEPTH:
            raise Finding(f"expression {shown(text)} is too large or too deep")
        level = [child for node in level for child in ast.iter_child_nodes(node)]


def is_number(node: ast.expr) -> bool:
    """Whether this is a literal number of ordinary size. True and False are not numbers."""
    return (
        isinstance(node, ast.Constant)
        and not isinstance(node.value, bool)
        and isinstance(node.value, int | float)
        and abs(node.value) < _MAX_INTEGER
    )


def is_integer(node: ast.expr) -> bool:
    """Whether this is a literal integer of ordinary size, with or without a sign."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return is_number(node) and isinstance(node, ast.Constant) and isinstance(node.value, int)


def integer_value(node: ast.expr) -> int:
    """Read a literal for which :func:`is_integer` holds."""
    value = ast.literal_eval(node)
    assert isinstance(value, int)
    return value


def check_exponent(base: ast.expr, exponent: ast.expr, *, powers: frozenset[str]) -> None:
    """Check that a power costs nothing: a small literal exponent, and no power under a power.

    Args:
        base: What is raised.
        exponent: To what.
        powers: Names of functions that are powers too.
    """
    is_small = is_integer(exponent) and abs(integer_value(exponent)) <= _MAX_EXPONENT
    if not is_small:
        raise Finding(f"an exponent that is not an integer up to {_MAX_EXPONENT}")
    for node in ast.walk(base):
        if isinstance(node, ast.Pow) or (isinstance(node, ast.Name) and node.id in powers):
            raise Finding("a power of a power")
