"""The sizes of tensors as expressions: ``Mul(Integer(2), Symbol('s77', integer=True))``.

``torch.export.load`` evaluates these strings with ``sympy.sympify``, which is Python's ``eval``.
torch writes them with sympy's ``srepr``; older versions wrote ``2*s77``. Both are allowed, and no
more.
"""

import ast
import re
from functools import lru_cache

from formats.errors import shown
from formats.pt2 import syntax
from formats.pt2.findings import Finding

# Backed and unbacked integers and floats. The number is short, as torch counts up to it in a loop.
SYMBOL = re.compile(r"(?:s|u|zf|zuf)[0-9]{1,5}")

_ASSUMPTIONS = frozenset(
    (
        "finite",
        "integer",
        "negative",
        "nonnegative",
        "nonpositive",
        "nonzero",
        "positive",
        "real",
        "zero",
    )
)
_POWERS = frozenset(("FloatPow", "LShift", "Pow", "PowByNatural", "RShift"))
_FUNCTIONS = """
    Abs Add And CeilDiv CeilToInt CleanDiv Eq Equality FloatTrueDiv FloorDiv FloorToInt Ge
    GreaterThan Gt Identity IntTrueDiv IsNonOverlappingAndDenseIndicator Le LessThan Lt Max Min Mod
    ModularIndexing Mul Ne Not Or PythonMod RoundToInt StrictGreaterThan StrictLessThan ToFloat
    TruncToFloat TruncToInt Unequality Where ceiling floor
"""
_KNOWN_FUNCTIONS = frozenset(_FUNCTIONS.split())
_CONSTANTS = frozenset(("true", "false"))
_FLOAT = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{0,40})?(?:e[-+]?[0-9]{1,3})?")
_MAX_FLOAT_BITS = 128
_INFIX = {"Add": " + ", "Mul": "*", "FloorDiv": " // ", "Mod": " % ", "PythonMod": " % "}


@lru_cache(maxsize=4096)
def check_expression(text: str) -> str:
    """Check that a string is an expression of sizes; returns it unchanged.

    Raises:
        Finding: It holds anything but symbols, numbers, arithmetic and torch's own functions.
    """
    _check(syntax.parse(text))
    return text


@lru_cache(maxsize=4096)
def readable(text: str) -> str:
    """Write a checked expression as people do: ``2*s77``."""
    return _write(syntax.parse(text))


def _check(node: ast.expr) -> None:
    match node:
        case ast.Constant() if syntax.is_number(node):
            pass
        case ast.Name(id=name) if SYMBOL.fullmatch(name) or name in _CONSTANTS:
            pass
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            _check(left)
            syntax.check_exponent(left, right, powers=_POWERS)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, syntax.ARITHMETIC):
            _check(left)
            _check(right)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if isinstance(
            op, syntax.COMPARISONS
        ):
            _check(left)
            _check(right)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            _check_call(name, arguments, {word.arg: word.value for word in keywords})
        case _:
            raise Finding(f"{shown(ast.unparse(node))} is no expression of sizes")


def _check_call(name: str, arguments: list[ast.expr], keywords: dict[str | None, ast.expr]) -> None:
    match name, arguments, keywords:
        case "Symbol", [ast.Constant(value=str(symbol))], assumptions:
            is_known = SYMBOL.fullmatch(symbol) and assumptions.keys() <= _ASSUMPTIONS
            if not is_known or not all(map(_is_boolean, assumptions.values())):
                raise Finding(f"symbol {shown(symbol)} is not one that torch makes")
        case "Float", [ast.Constant(value=str(digits))], {"precision": bits, **rest} if not rest:
            is_short = syntax.is_integer(bits) and 0 < syntax.integer_value(bits) <= _MAX_FLOAT_BITS
            if not _FLOAT.fullmatch(digits) or not is_short:
                raise Finding(f"{shown(digits)} is no ordinary float")
        case "Integer", [value], {} if not keywords and syntax.is_integer(value):
            pass
        case "Rational", [above, below], {} if not keywords:
            if not (syntax.is_integer(above) and syntax.is_integer(below)):
                raise Finding("a fraction of what is not an integer")
        case _, [base, exponent], {} if not keywords and name in _POWERS:
            _check(base)
            syntax.check_exponent(base, _unwrapped(exponent), powers=_POWERS)
        case _, [*_], {} if not keywords and name in _KNOWN_FUNCTIONS:
            for argument in arguments:
                _check(argument)
        case _:
            raise Finding(f"{shown(name)}(...) is not a call that torch writes into sizes")


def _unwrapped(node: ast.expr) -> ast.expr:
    """Take the literal out of ``Integer(2)``."""
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[value], keywords=[]):
            return value
        case _:
            return node


def _is_boolean(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _write(node: ast.expr) -> str:
    match node:
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=symbol)]):
            return str(symbol)
        case ast.Call(func=ast.Name(id="Integer" | "Float"), args=[value]):
            return str(ast.literal_eval(value))
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in _INFIX:
            joined = _INFIX[name].join(map(_write, arguments))
            return joined if name == "Mul" else f"({joined})"
        case ast.Call(func=ast.Name(id=name), args=arguments):
            return f"{name}({', '.join(map(_write, arguments))})"
        case _:
            return ast.unparse(node)
