"""Names and texts in the program's JSON.

torch writes a program's names into Python source and executes it: an input called
``x=__import__("os").system("id")`` runs its default value while the file is loaded. So a name is a
plain identifier, and each other text has no character that could end the literal it is put into.
"""

import re

from formats.errors import shown
from formats.pt2.findings import Finding

_MAX_NAME = 1024
_MAX_TEXT = 8192
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FQN = re.compile(r"[A-Za-z0-9_/:@+ -]+(?:\.[A-Za-z0-9_/:@+ -]+)*")
_DUNDER = re.compile(r"__.*__")
_ENDS_A_LITERAL = frozenset("'\"\\")
_VERSION = re.compile(r"[A-Za-z0-9.+<=_-]{1,64}")


def check_name(text: str) -> str:
    """Check the name of a node, an argument or a value: it becomes a variable."""
    if len(text) > _MAX_NAME or not _NAME.fullmatch(text) or _DUNDER.fullmatch(text):
        raise Finding(f"name {shown(text)} is not a plain identifier of ASCII letters and digits")
    return text


def check_name_or_none(text: str) -> str:
    """Check the name of an operator's argument, which may be left empty."""
    return check_name(text) if text else text


def check_fqn(text: str) -> str:
    """Check the full name of a parameter or module: it becomes a path of attributes."""
    if len(text) > _MAX_NAME or not _FQN.fullmatch(text):
        raise Finding(f"{shown(text)} is not the full name of a parameter, buffer or module")
    if any(_DUNDER.fullmatch(part) for part in text.split(".")):
        raise Finding(f"{shown(text)} reaches for an attribute of Python itself")
    return text


def check_fqn_or_root(text: str) -> str:
    """Check the full name of a module, which is empty for the outermost one."""
    return check_fqn(text) if text else text


def check_key(text: str) -> str:
    """Check a text that is put between quotes in source: a dictionary's key, a constant input."""
    if len(text) > _MAX_NAME or not text.isprintable() or _ENDS_A_LITERAL & set(text):
        raise Finding(f"text {shown(text)} has quotes, backslashes or control characters")
    return text


def check_text(text: str) -> str:
    """Check a text that is only ever handed on as a value, such as an operator's mode."""
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise Finding(f"text {shown(text)} is too long or has control characters")
    return text


def check_version(text: str) -> str:
    """Check the version of torch that wrote the file."""
    if not _VERSION.fullmatch(text):
        raise Finding(f"{shown(text)} is no version of torch")
    return text
