"""The guards: conditions on the inputs, such as ``L['x'].size()[0] >= 2``.

``ExportedProgram.module()`` puts these strings into the source of a function and executes it, with
``torch`` and ``math`` in reach. So they may speak of sizes of inputs, and of numbers, and of no
more.
"""

import ast

from formats.errors import shown
from formats.pt2 import syntax
from formats.pt2.findings import Finding
from formats.pt2.strings import check_key

_INPUTS = "L"
_SIZES = frozenset(("size", "storage_offset", "stride"))
_FUNCTIONS = frozenset(("abs", "float", "int", "max", "min", "round"))
_MATH = frozenset(("ceil", "floor", "isnan", "sqrt", "trunc"))


def check_guard(text: str) -> str:
    """Check that a string is a condition on sizes; returns it unchanged.

    Raises:
        Finding: It reaches for anything but the sizes of inputs.
    """
    _check(syntax.parse(text))
    return text


def _check(node: ast.expr) -> None:
    match node:
        case ast.Constant() if syntax.is_number(node):
            pass
        case ast.BoolOp(values=values):
            for value in values:
                _check(value)
        case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=operand):
            _check(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            _check(left)
            syntax.check_exponent(left, right, powers=frozenset())
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, syntax.ARITHMETIC):
            _check(left)
            _check(right)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(
            isinstance(op, syntax.COMPARISONS) for op in ops
        ):
            for side in (left, *others):
                _check(side)
        case ast.Call(func=function, args=arguments, keywords=[]) if _is_function(function):
            for argument in arguments:
                _check(argument)
        case _:
            _check_size_of_input(node)


def _is_function(node: ast.expr) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _FUNCTIONS
        case ast.Attribute(value=ast.Name(id="math"), attr=name):
            return name in _MATH
        case _:
            return False


def _check_size_of_input(node: ast.expr) -> None:
    """Allow ``L['x'][0].size()[1]``, and ``L['x']`` itself where an input is a number."""
    match node:
        case ast.Subscript(
            value=ast.Call(func=ast.Attribute(value=source, attr=name), args=[], keywords=[]),
            slice=index,
        ) if name in _SIZES and syntax.is_integer(index):
            _check_input(source)
        case ast.Call(
            func=ast.Attribute(value=source, attr="storage_offset"), args=[], keywords=[]
        ):
            _check_input(source)
        case _:
            _check_input(node)


def _check_input(node: ast.expr) -> None:
    match node:
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))) if (
            name == _INPUTS
        ):
            check_key(key)
        case ast.Subscript(value=inner, slice=ast.Constant(value=str(key))):
            check_key(key)
            _check_input(inner)
        case ast.Subscript(value=inner, slice=index) if syntax.is_integer(index):
            _check_input(inner)
        case _:
            raise Finding(
                f"{shown(ast.unparse(node))} is neither the size of an input nor a number"
            )
