"""The structure of inputs and outputs, as JSON in a string in the JSON.

``torch.utils._pytree.treespec_loads`` imports any module that such a text names: for the default
factory of a ``defaultdict``, and for anything that says ``__enum__``. Here a structure is made of
tuples, lists and dictionaries of plain keys; what comes out is written anew from what was
understood. A class of the user's own among the outputs, as models of transformers return them,
becomes a dictionary with the names of its fields.
"""

import json
from typing import Any

from formats import strict_json
from formats.errors import shown
from formats.pt2.findings import Finding
from formats.pt2.strings import check_key, check_name

_PROTOCOL = 1
_MAX_CHARACTERS = 2**20
_NODE_KEYS = {"type", "context", "children_spec"}
_SEQUENCES = frozenset(
    (
        "builtins.tuple",
        "builtins.list",
        "torch.Size",
        "torch.fx.immutable_collections.immutable_list",
    )
)
_MAPPINGS = frozenset(
    (
        "builtins.dict",
        "collections.OrderedDict",
        "torch.fx.immutable_collections.immutable_dict",
    )
)


def check_in_spec(text: str) -> str:
    """Check the structure of a module's inputs: positional ones, and ones by name.

    The names become parameters in source that torch executes.
    """
    tree = _read(text)
    children = tree["children_spec"]
    if tree["type"] == "builtins.tuple" and len(children) == 2:
        by_name = children[1]
        if by_name["type"] in _MAPPINGS:
            for name in json.loads(by_name["context"]):
                if not isinstance(name, str):
                    raise Finding(f"an input by the name of {shown(name)}")
                check_name(name)
    return json.dumps((_PROTOCOL, tree))


def check_out_spec(text: str) -> str:
    """Check the structure of a module's outputs."""
    return json.dumps((_PROTOCOL, _read(text, classes=True)))


def _read(text: str, *, classes: bool = False) -> dict[str, Any]:
    match _parsed(text):
        case [1, tree]:
            return _checked(tree, classes=classes)
        case _:
            raise Finding(f"{shown(text)} is no structure of inputs or outputs")


def _parsed(text: str) -> Any:
    try:
        return strict_json.loads(text, max_bytes=_MAX_CHARACTERS)
    except strict_json.JsonError as error:
        raise Finding(f"structure {shown(text)}: {error}") from None


def _checked(node: Any, *, classes: bool) -> dict[str, Any]:
    if not isinstance(node, dict) or node.keys() != _NODE_KEYS:
        raise Finding(f"{shown(node)} is no part of a structure")
    children = node["children_spec"]
    if not isinstance(children, list):
        raise Finding("a structure whose parts are no list")
    kind, context = node["type"], node["context"]
    if classes and (names := _field_names(kind, context)) is not None:
        kind, context = "builtins.dict", json.dumps(names)
    return {
        "type": kind,
        "context": _checked_context(kind, context, len(children)),
        "children_spec": [_checked(child, classes=classes) for child in children],
    }


def _field_names(kind: Any, context: Any) -> list[str] | None:
    """What a class that is not known here calls its parts, if it says so.

    A class of transformers lists them; a dataclass has a second list, of those that are None.
    """
    if not isinstance(kind, str) or kind in _SEQUENCES | _MAPPINGS or not isinstance(context, str):
        return None
    match _parsed(context):
        case [list() as names, list()]:
            pass
        case list() as names:
            pass
        case _:
            return None
    return names if all(isinstance(name, str) for name in names) else None


def _checked_context(kind: Any, context: Any, child_count: int) -> str | None:
    if kind is None:
        if context is not None or child_count:
            raise Finding("a leaf with something in it")
        return None
    is_known = isinstance(kind, str) and kind in _SEQUENCES | _MAPPINGS
    if not is_known or not isinstance(context, str):
        raise Finding(
            f"inputs or outputs in a {shown(kind)}: use tensors, tuples, lists and dictionaries "
            "(wrap the model so that its forward takes and returns these)",
            is_unsupported=True,
        )
    keys = _parsed(context)
    if kind in _SEQUENCES:
        if keys is not None:
            raise Finding(f"a sequence with the context {shown(context)}")
        return "null"
    if not isinstance(keys, list) or len(keys) != child_count:
        raise Finding("a dictionary with more or fewer keys than values")
    if len({str(key) for key in keys}) < len(keys):
        raise Finding("a dictionary with the same key twice")
    for key in keys:
        if isinstance(key, str):
            check_key(key)
        elif type(key) is not int:
            raise Finding(f"a dictionary with the key {shown(key)}")
    return json.dumps(keys)
