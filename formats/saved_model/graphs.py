"""Functions of a SavedModel: which of them can be called, and what they may hold."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from formats.errors import UnsafeFile, UnsupportedProgram
from formats.names import checked_name
from formats.protobuf import Message, Span, Table
from formats.saved_model import tables
from formats.saved_model.operators import MEMBER, check_operators

_MAX_ATTRIBUTE_DEPTH = 16
_MAX_CALL_DEPTH = 64
_MAX_NODES = 1_000_000
# A constant may be one number and a shape: this is how much all of them may come to.
_MAX_CONSTANT_ELEMENTS = 2**28
_MAX_RANK = 64
_MAX_SIZE = 2**40


@dataclass
class Library:
    """The functions of a graph, by name: where each is, what it names, and how often it calls.

    ``node_counts`` counts the nodes of each, without those of the functions that they call.
    """

    spans: dict[str, Span] = field(default_factory=dict)
    calls: dict[str, list[str]] = field(default_factory=dict)
    operators: dict[str, set[str]] = field(default_factory=dict)
    node_counts: dict[str, int] = field(default_factory=dict)
    constant_elements: int = 0


def map_of(message: Message, name: str, table: Table) -> Iterator[tuple[str, Message]]:
    """List what a map from texts to messages holds.

    Raises:
        ProtobufError: It breaks the rules.
    """
    for entry in message.messages(name, tables.ENTRY):
        value = entry.message("value", table)
        if value is not None:
            yield entry.text("key"), value


def shape_of(message: Message | None) -> tuple[int, ...] | None:
    """Read a shape, in which -1 stands for a size that is not known; None for an unknown one.

    Raises:
        FormatError: No tensor can have it.
        ProtobufError: It breaks the rules.
    """
    if message is None or message.integer("unknown_rank"):
        return None
    sizes = tuple(size.integer("size") for size in message.messages("dim", tables.DIMENSION))
    if len(sizes) > _MAX_RANK or not all(-1 <= size < _MAX_SIZE for size in sizes):
        raise UnsafeFile(MEMBER, f"no tensor can have {len(sizes)} sizes like those it gives one")
    return sizes


def read_library(graph: Message) -> Library:
    """Look at each function of a graph.

    Raises:
        FormatError: Something in one is not to be read.
        ProtobufError: It breaks the rules.
    """
    library = Library()
    message = graph.message("library", tables.LIBRARY)
    if message is None:
        return library
    for function in message.messages("function", tables.FUNCTION):
        signature = function.message("signature", tables.FUNCTION_SIGNATURE)
        name = checked_name(signature.text("name")) if signature else ""
        if not name or name in library.spans:
            raise UnsafeFile(name, "two functions have this name, or one has none")
        library.spans[name] = function.span
        library.calls[name] = []
        library.operators[name] = set()
        library.node_counts[name] = 0
        for node in function.messages("node_def", tables.NODE):
            operator = read_node(node, library, library.calls[name])
            library.operators[name].add(operator)
            library.node_counts[name] += 1
        for _, attribute in map_of(function, "attr", tables.ATTRIBUTE):
            _read_attribute(attribute, library, library.calls[name])
    return library


def read_node(node: Message, library: Library, calls: list[str]) -> str:
    """Check a node, and add what it calls; returns its operation.

    Raises:
        FormatError: Something in it is not to be read.
        ProtobufError: It breaks the rules.
    """
    checked_name(node.text("name"))
    for _, attribute in map_of(node, "attr", tables.ATTRIBUTE):
        _read_attribute(attribute, library, calls)
    return checked_name(node.text("op"))


def _read_attribute(
    attribute: Message, library: Library, calls: list[str], *, depth: int = 0
) -> None:
    if depth > _MAX_ATTRIBUTE_DEPTH:
        raise UnsafeFile(MEMBER, "functions are named within functions without end")
    _read_values(attribute, ("func", "tensor"), library, calls, depth=depth)
    values = attribute.message("list", tables.ATTRIBUTE_LIST)
    if values is not None:
        _read_values(values, ("func", "tensor"), library, calls, depth=depth)


def _read_values(
    holder: Message, names: tuple[str, str], library: Library, calls: list[str], *, depth: int
) -> None:
    for function in holder.messages(names[0], tables.NAMED_FUNCTION):
        calls.append(checked_name(function.text("name")))
        for _, attribute in map_of(function, "attr", tables.ATTRIBUTE):
            _read_attribute(attribute, library, calls, depth=depth + 1)
    for tensor in holder.messages(names[1], tables.TENSOR):
        if tensor.has("resource_handle_val") or tensor.has("variant_val"):
            raise UnsafeFile(MEMBER, "a constant in it is no number and no text")
        shape = shape_of(tensor.message("tensor_shape", tables.SHAPE)) or ()
        library.constant_elements += math.prod(shape)
        if min(shape, default=0) < 0 or library.constant_elements > _MAX_CONSTANT_ELEMENTS:
            raise UnsafeFile(
                MEMBER, f"its constants have more than {_MAX_CONSTANT_ELEMENTS} elements"
            )


def reachable(library: Library, names: Iterable[str]) -> list[str]:
    """List the functions that can be called from some, these first; each may hold what is allowed.

    Raises:
        FormatError: One is not there, holds what is not allowed, or becomes too large.
    """
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in library.spans:
            raise UnsafeFile(name, "a function of this name is called, and is not there")
        found[name] = None
        check_operators(library.operators[name], is_kept=True)
        waiting.extend(library.calls[name])
    _check_size_when_inlined(library, found)
    return list(found)


def _check_size_when_inlined(library: Library, names: Iterable[str]) -> None:
    known: dict[str, int] = {}

    def nodes_of(name: str, depth: int) -> int:
        if depth > _MAX_CALL_DEPTH:
            raise UnsupportedProgram(
                f"its functions call each other more than {_MAX_CALL_DEPTH} deep, or themselves"
            )
        if name not in known:
            total = library.node_counts[name]
            for called in library.calls[name]:
                total += nodes_of(called, depth + 1)
                if total > _MAX_NODES:
                    raise UnsupportedProgram(f"it comes to more than {_MAX_NODES} nodes")
            known[name] = total
        return known[name]

    for name in names:
        nodes_of(name, 0)
