"""Names of parameters and inputs: as in the file, wherever PyTorch can have them."""

import keyword
import re
from collections.abc import Iterable
from functools import cache

import torch

# What the check of a .pt2 file lets through as the full name of a parameter.
_OTHER = re.compile(r"[^A-Za-z0-9_/:@+ -]")
_DUNDER = re.compile(r"__.*__")
_LONGEST = 200
# What the source of a graph calls by its name.
_IN_SOURCE = frozenset(("self", "device", "fx_pytree", "math", "operator", "pytree", "torch"))


@cache
def _taken() -> frozenset[str]:
    """What modules have for themselves."""
    made = torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())
    return frozenset((*dir(made), "_plan", "forward", "names"))


def parameter_names(names: Iterable[str]) -> dict[str, str]:
    """The full name in a module of each name in a file.

    They are the same, a dot being the step from a module to a part of it. Where that cannot be, the
    nearest one that can is taken: letters, digits and ``_/:@+ -`` stay and other characters become
    ``_``; empty parts are left out; and ``_`` is added to what a module has for itself
    (``training``), to a word of Python's (``else``), to the name of a tensor that would have parts
    (``a`` beside ``a.b``), and to one that is taken already.

    Returns:
        By name in the file. The same for the same names in the same order.
    """
    wanted = {name: _allowed(name) for name in names}
    # Those that stay as they are come first: what has to change gives way to them.
    owners = {lead for full in wanted.values() for lead in _leads(full)}
    order = sorted(wanted, key=lambda name: wanted[name] != name or name in owners)
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in order:
        full = wanted[name]
        while full in taken or full in owners:
            full += "_"
        taken.add(full)
        found[name] = full
    return {name: found[name] for name in wanted}


def _allowed(name: str) -> str:
    parts = [_OTHER.sub("_", part) for part in name.split(".")]
    full = ".".join(_own(part) for part in parts if part) or "_"
    return full if len(full) <= _LONGEST else full[:_LONGEST].rstrip(".")


def _own(part: str) -> str:
    # The exporter writes names into source, where a keyword would be none.
    is_free = not (part in _taken() or keyword.iskeyword(part) or _DUNDER.fullmatch(part))
    return part if is_free else f"{part}_"


def _leads(full: str) -> list[str]:
    parts = full.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def identifiers(names: Iterable[str], *, default: str = "input") -> dict[str, str]:
    """A name that a variable can have for each name in a file: each another, all of ASCII."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or default
        if plain[0].isdigit() or keyword.iskeyword(plain) or plain.lower() in _IN_SOURCE:
            plain = f"{default}_{plain}"
        own, count = plain, 1
        while own in found.values():
            count += 1
            own = f"{plain}_{count}"
        found[name] = own
    return found
