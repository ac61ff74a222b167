"""Graphs of an ONNX model: what they hold, in graphs within graphs, and what they come to."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from formats.errors import UnsafeFile, UnsupportedProgram, shown
from formats.names import checked_name
from formats.onnx import tables
from formats.onnx.tensors import DTYPES, Tensor, read_tensor
from formats.protobuf import Message
from formats.tensors import Dimension, TensorInfo

Key = tuple[str, str, str]
_MAX_GRAPH_DEPTH = 16
_MAX_CALL_DEPTH = 64
_MAX_NODES = 1_000_000
_MAX_RANK = 64


@dataclass
class Contents:
    """What was found in a model, graph by graph.

    ``calls`` says how often the graph itself calls each operator; ``functions`` the same of the
    model's own functions, each by what it is called by.
    """

    parameter_count: int = 0
    external: list[Tensor] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    calls: Counter[Key] = field(default_factory=Counter)
    functions: dict[Key, Counter[Key]] = field(default_factory=dict)


def standard_domain(domain: str) -> str:
    """Write the domain of the standard's own operators in one of its two ways."""
    return "" if domain == "ai.onnx" else domain


def read_graph(
    graph: Message, contents: Contents, calls: Counter[Key], *, depth: int = 0
) -> set[str]:
    """Check a graph and those within it, and add up what is there.

    Returns:
        The names of its initializers.

    Raises:
        FormatError: Something in it is not to be read.
        ProtobufError: It breaks the rules.
    """
    if depth > _MAX_GRAPH_DEPTH:
        raise UnsupportedProgram(
            f"graphs lie in graphs more than {_MAX_GRAPH_DEPTH} deep (If, Loop and Scan)"
        )
    if graph.has("sparse_initializer"):
        raise UnsupportedProgram("it has sparse initializers; save it with dense ones")
    seen: set[str] = set()
    for message in graph.messages("initializer", tables.TENSOR):
        tensor = _take_tensor(message, contents)
        if tensor.name in seen or not tensor.name:
            raise UnsafeFile(tensor.name, "two initializers have this name, or one has none")
        seen.add(tensor.name)
        if tensor.shape and "float" in tensor.dtype:
            contents.parameter_count += tensor.element_count
    for message in graph.messages("node", tables.NODE):
        _read_node(message, contents, calls, depth=depth)
    return seen


def read_function(function: Message, contents: Contents) -> None:
    """Check one of the model's own functions.

    Raises:
        FormatError: Something in it is not to be read.
        ProtobufError: It breaks the rules.
    """
    key = _key(function, "name")
    if key in contents.functions or not key[1]:
        raise UnsafeFile(key[1], "two functions have this name, or one has none")
    calls = contents.functions[key] = Counter()
    for name in ("input", "output", "attribute"):
        for text in function.texts(name):
            checked_name(text)
    for attribute in function.messages("attribute_proto", tables.ATTRIBUTE):
        _read_attribute(attribute, contents, calls, depth=0)
    for node in function.messages("node", tables.NODE):
        _read_node(node, contents, calls, depth=0)


def check_size_when_inlined(contents: Contents) -> None:
    """Check that the graph stays small when each call of a function is replaced by its nodes.

    Raises:
        FormatError: It does not, or a function calls itself.
    """
    known: dict[Key, int] = {}

    def nodes_of(calls: Counter[Key], depth: int) -> int:
        if depth > _MAX_CALL_DEPTH:
            raise UnsupportedProgram(
                f"its functions call each other more than {_MAX_CALL_DEPTH} deep, or themselves"
            )
        total = 0
        for key, times in calls.items():
            if key in contents.functions and key not in known:
                known[key] = nodes_of(contents.functions[key], depth + 1)
            total += times * known.get(key, 1)
            if total > _MAX_NODES:
                raise UnsupportedProgram(f"it comes to more than {_MAX_NODES} nodes")
        return total

    nodes_of(contents.calls, 0)
    for calls in contents.functions.values():
        nodes_of(calls, 0)


def read_values(graph: Message, name: str) -> Iterator[TensorInfo | None]:
    """Describe inputs or outputs; None stands for one without a shape.

    Sizes that the file leaves open have names that begin with ``?``, one for each.

    Raises:
        FormatError: One is no tensor.
        ProtobufError: It breaks the rules.
    """
    for value in graph.messages(name, tables.VALUE):
        label = checked_name(value.text("name"))
        kind = value.message("type", tables.TYPE)
        tensor = kind.message("tensor_type", tables.TENSOR_TYPE) if kind else None
        if kind is None or tensor is None or _count_kinds(kind) != 1:
            what = "no tensor (perhaps a sequence or a map)" if kind else "without a type"
            raise UnsupportedProgram(
                f"{name} {shown(label)} is {what}; all inputs and outputs must be tensors"
            )
        data_type = tensor.integer("elem_type")
        if data_type not in DTYPES:
            raise UnsupportedProgram(
                f"{name} {shown(label)} has {data_type} as its data type; texts and unknown types "
                "are not taken"
            )
        shape = tensor.message("shape", tables.SHAPE)
        if shape is None:
            yield None
            continue
        sizes = [_dimension(size, label) for size in shape.messages("dim", tables.DIMENSION)]
        if len(sizes) > _MAX_RANK:
            raise UnsafeFile(label, f"a tensor cannot have {len(sizes)} dimensions")
        yield TensorInfo(name=label, dtype=DTYPES[data_type][0], shape=tuple(sizes))


def _dimension(size: Message, label: str) -> Dimension:
    if size.has("dim_value") and size.has("dim_param"):
        raise UnsafeFile(label, "one of its sizes has two values")
    parameter = checked_name(size.text("dim_param"))
    if parameter:
        return parameter
    # Exporters write 0 and -1 for sizes that they do not know.
    return max(size.integer("dim_value"), 0) or ""


def _count_kinds(kind: Message) -> int:
    return sum(kind.has(name) for name in tables.TYPE.one.values())


def _read_node(node: Message, contents: Contents, calls: Counter[Key], *, depth: int) -> None:
    key = _key(node, "op_type")
    domain, operator, _ = key
    checked_name(node.text("name"))
    for name in ("input", "output"):
        for text in node.texts(name):
            checked_name(text)
    contents.operators[f"{domain}::{operator}" if domain else operator] += 1
    calls[key] += 1
    for attribute in node.messages("attribute", tables.ATTRIBUTE):
        _read_attribute(attribute, contents, calls, depth=depth)


def _read_attribute(
    attribute: Message, contents: Contents, calls: Counter[Key], *, depth: int
) -> None:
    checked_name(attribute.text("name"))
    checked_name(attribute.text("ref_attr_name"))
    if attribute.has("sparse_tensor") or attribute.has("sparse_tensors"):
        raise UnsupportedProgram("it has sparse tensors; save it with dense ones")
    for name in ("t", "tensors"):
        for tensor in attribute.messages(name, tables.TENSOR):
            _take_tensor(tensor, contents)
    for name in ("g", "graphs"):
        for graph in attribute.messages(name, tables.GRAPH):
            for values in ("input", "output"):
                for value in graph.messages(values, tables.VALUE):
                    checked_name(value.text("name"))
            read_graph(graph, contents, calls, depth=depth + 1)


def _take_tensor(message: Message, contents: Contents) -> Tensor:
    tensor = read_tensor(message, name=checked_name(message.text("name")))
    if tensor.external is not None:
        contents.external.append(tensor)
    return tensor


def _key(message: Message, name: str) -> Key:
    domain = standard_domain(checked_name(message.text("domain")))
    return domain, checked_name(message.text(name)), checked_name(message.text("overload"))
