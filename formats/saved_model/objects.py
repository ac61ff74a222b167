"""The objects of a SavedModel: what TensorFlow builds when it reads one."""

import math
from dataclasses import dataclass, field

from formats.errors import UnsafeFile, UnsupportedProgram
from formats.names import checked_name
from formats.protobuf import Message
from formats.saved_model import tables
from formats.saved_model.graphs import map_of, shape_of
from formats.saved_model.operators import MEMBER

# Names as torch and NumPy have them, and bits; by the numbers of TensorFlow's DataType.
DTYPES = {
    1: ("float32", 32),
    2: ("float64", 64),
    3: ("int32", 32),
    4: ("uint8", 8),
    5: ("int16", 16),
    6: ("int8", 8),
    8: ("complex64", 64),
    9: ("int64", 64),
    10: ("bool", 8),
    14: ("bfloat16", 16),
    17: ("uint16", 16),
    18: ("complex128", 128),
    19: ("float16", 16),
    22: ("uint32", 32),
    23: ("uint64", 64),
}
_REFUSED = {
    "asset": "it has files of its own (assets), as lookup tables of texts do",
    "resource": "it has a lookup table, or another object that is no variable",
}
_OF_CLASSES = ("registered_name", "serialized_user_proto", "registered_saver")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, which may be in several places in the tree of objects."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def element_count(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        bits = dict(DTYPES.values())[self.dtype]
        return -(-self.element_count * bits // 8)


@dataclass
class Objects:
    """What was found among the objects.

    ``functions`` are the names of those that objects have; ``constants`` those of the nodes of the
    graph itself that hold the value of one. ``bound`` says which objects a function takes besides
    its arguments; ``signatures`` which function each signature is.
    """

    functions: set[str] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)
    variables: dict[int, Variable] = field(default_factory=dict)
    bound: dict[str, tuple[int, ...]] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)

    def variables_of(self, signature: str) -> list[Variable]:
        """List the variables that one signature reads."""
        indices = self.bound.get(self.signatures.get(signature, ""), ())
        return [
            self.variables[index] for index in dict.fromkeys(indices) if index in self.variables
        ]


def read_objects(graph: Message) -> Objects:
    """Look at each object.

    Raises:
        FormatError: One is not to be built.
        ProtobufError: It breaks the rules.
    """
    objects = Objects()
    children: list[dict[str, int]] = []
    bare: dict[int, str] = {}
    for index, node in enumerate(graph.messages("nodes", tables.OBJECT)):
        _check_kind(node)
        children.append(
            {
                checked_name(child.text("local_name")): child.integer("node_id")
                for child in node.messages("children", tables.REFERENCE)
            }
        )
        for function in node.messages("function", tables.OBJECT_FUNCTION):
            objects.functions.update(map(checked_name, function.texts("concrete_functions")))
        for function in node.messages("bare_concrete_function", tables.BARE_FUNCTION):
            bare[index] = checked_name(function.text("concrete_function_name"))
            objects.functions.add(bare[index])
        for captured in node.messages("captured_tensor", tables.CAPTURED):
            objects.functions.add(checked_name(captured.text("concrete_function")))
        for constant in node.messages("constant", tables.CONSTANT):
            objects.constants.add(checked_name(constant.text("operation")))
        for variable in node.messages("variable", tables.VARIABLE):
            objects.variables[index] = _read_variable(variable)
    for name, bound in map_of(graph, "concrete_functions", tables.BOUND):
        objects.functions.add(checked_name(name))
        objects.bound[name] = bound.integers("bound_inputs")
    signatures = children[0].get("signatures", 0) if children else 0
    if 0 < signatures < len(children):
        for name, index in children[signatures].items():
            if index in bare:
                objects.signatures[name] = bare[index]
    return objects


def _check_kind(node: Message) -> None:
    kinds = [name for number, name in tables.OBJECT.one.items() if number < 13 and node.has(name)]
    if len(kinds) > 1:
        raise UnsafeFile(MEMBER, f"one of its objects is of {len(kinds)} kinds")
    for kind, reason in _REFUSED.items():
        if node.has(kind):
            raise UnsupportedProgram(f"{reason}; save the part behind it, which takes numbers")
    # Each names a class, or a function of one, that whoever reads the file should have.
    if any(node.has(name) for name in _OF_CLASSES):
        raise UnsupportedProgram("one of its objects is of a class of its own")


def _read_variable(variable: Message) -> Variable:
    dtype, _ = DTYPES.get(variable.integer("dtype"), ("", 0))
    shape = shape_of(variable.message("shape", tables.SHAPE))
    if not dtype or shape is None or min(shape, default=0) < 0:
        raise UnsupportedProgram(
            "it has a variable whose data type or shape is not fixed, or that holds texts"
        )
    return Variable(dtype=dtype, shape=shape)
