"""The example inputs: a pickle in a zip in the zip, read as data and never unpickled.

``torch.export.load`` reads this member with ``weights_only=True`` and, when that fails, unpickles
it with everything that pickle can do. Here a small machine follows the pickle's instructions and
builds only tuples, lists, dictionaries, numbers, texts and descriptions of tensors. An instruction
or a global name that is not in its tables ends it. The tables hold what ``torch.save`` writes for
tensors: with ``STACK_GLOBAL`` and its like left out, a global's name stands in the instruction
itself.
"""

import io
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from formats.archive import Archive, Limits
from formats.errors import shown
from formats.pt2.findings import Finding
from formats.pt2.strings import check_key
from formats.tensors import bytes_needed

_LIMITS = Limits(member_count=2_000, member_bytes=2**28, total_bytes=2**29)
_MAX_PICKLE_BYTES = 2**22
_MAX_LEAVES = 10_000
_MAX_DEPTH = 50
_MAX_INTEGER = 2**63
_PROTOCOL = 2

_OTHER_MEMBERS = re.compile(
    r"(?:data/[0-9]{1,9}|version|byteorder|\.format_version|\.storage_alignment|"
    r"\.data/serialization_id)"
)

_MARKS = re.compile(r"_(?:specialize_on|dynamo_[a-z_]{1,40})")

_ITEMSIZES = {
    "torch BoolStorage": 1,
    "torch ByteStorage": 1,
    "torch CharStorage": 1,
    "torch ShortStorage": 2,
    "torch IntStorage": 4,
    "torch LongStorage": 8,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch FloatStorage": 4,
    "torch DoubleStorage": 8,
    "torch ComplexFloatStorage": 8,
    "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
}
_DTYPES = {
    "torch bool": 1,
    "torch uint8": 1,
    "torch int8": 1,
    "torch int16": 2,
    "torch int32": 4,
    "torch int64": 8,
    "torch uint16": 2,
    "torch uint32": 4,
    "torch uint64": 8,
    "torch float16": 2,
    "torch bfloat16": 2,
    "torch float32": 4,
    "torch float64": 8,
    "torch complex64": 8,
    "torch complex128": 16,
    "torch float8_e4m3fn": 1,
    "torch float8_e5m2": 1,
}


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    itemsize: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ExampleTensor:
    """A tensor among the example inputs."""

    shape: tuple[int, ...]


class _Mark:
    """Where a list of operands begins on the stack."""


# What Python raises where a hostile pickle takes what is not there, or not of that type.
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError, RecursionError)
_MARK = _Mark()
_LEAVES = (ExampleTensor, str, int, float, type(None))


def read_example_inputs(member: bytes) -> list[Any]:
    """Check the member that holds the example inputs.

    Returns:
        The inputs in order, positional ones first: an :class:`ExampleTensor` or a plain value each.
        Empty where the program was exported without keeping them.

    Raises:
        Finding: It holds anything but tensors, plain values and containers of them.
        FormatError: The zip inside is not well formed.
    """
    if not member:
        return []
    with Archive(io.BytesIO(member), limits=_LIMITS) as archive:
        root = archive.root
        sizes = {
            name.removeprefix(root): found.size_bytes for name, found in archive.members.items()
        }
        for name in sizes:
            if name != "data.pkl" and not _OTHER_MEMBERS.fullmatch(name):
                raise Finding(f"member {shown(name)} of the example inputs is unknown")
        if not root or "data.pkl" not in sizes:
            raise Finding("the example inputs have no data.pkl")
        if "byteorder" in sizes:
            order = archive.read(f"{root}byteorder", max_bytes=16)
            if order != b"little":
                raise Finding(f"byte order {shown(order)} cannot be taken", is_unsupported=True)
        instructions = archive.read(f"{root}data.pkl", max_bytes=_MAX_PICKLE_BYTES)
        machine = _Machine(storages=sizes)
        inputs = machine.run(instructions)
        # Reading each member once has zipfile compare its checksum.
        for name in archive.members:
            for _ in archive.chunks(name):
                pass
    match inputs:
        case (tuple() | list() as positional, dict() as by_name):
            return _leaves((positional, by_name))
        case _:
            raise Finding("the example inputs are not a pair of positional and named ones")


def _leaves(tree: Any) -> list[Any]:
    """Flatten, with a limit: a container that holds another twice, twenty deep, has a million."""
    leaves: list[Any] = []
    visited = 0
    waiting: list[tuple[Any, int]] = [(tree, 0)]
    while waiting:
        value, depth = waiting.pop()
        visited += 1
        if visited > _MAX_LEAVES or depth > _MAX_DEPTH:
            raise Finding("the example inputs are nested too deep, or hold too many values")
        match value:
            case ExampleTensor():
                leaves.append(value)
            case dict():
                waiting += [(item, depth + 1) for item in reversed(value.values())]
            case tuple() | list():
                waiting += [(item, depth + 1) for item in reversed(value)]
            case _ if isinstance(value, _LEAVES):
                leaves.append(value)
            case _:
                raise Finding(f"{shown(value)} among the example inputs")
    return leaves


@dataclass(slots=True)
class _Machine:
    """Follows a pickle's instructions without doing what they say."""

    storages: dict[str, int]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, instructions: bytes) -> Any:
        """Follow all instructions; returns what the pickle describes."""
        end = 0
        try:
            for opcode, operand, position in pickletools.genops(instructions):
                if opcode.name == "STOP":
                    end = (position or 0) + 1
                    break
                self._step(opcode.name, operand)
        except _DAMAGE as error:
            raise Finding(f"the pickle is damaged ({shown(str(error))})") from None
        if end != len(instructions) or len(self.stack) != 1:
            raise Finding("the pickle does not end where it should")
        return self.stack[0]

    def _step(self, name: str, operand: Any) -> None:
        if name in _PUSHED:
            self.stack.append(_plain(operand))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, operand)
        else:
            raise Finding(f"the pickle has the instruction {name}, which no tensor needs")

    def mark_operands(self) -> list[Any]:
        operands: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            operands.append(value)
        operands.reverse()
        return operands

    def last_operands(self, count: int) -> list[Any]:
        operands = self.stack[-count:]
        if len(operands) < count:
            raise IndexError("the stack is empty")
        del self.stack[-count:]
        return operands


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return check_key(value)
    if isinstance(value, int) and abs(value) >= _MAX_INTEGER:
        raise Finding("an integer of more than 64 bits")
    return value


def _check_protocol(_: _Machine, protocol: int) -> None:
    if protocol != _PROTOCOL:
        raise Finding(f"pickle protocol {protocol}: torch.export.save writes {_PROTOCOL}")


def _push_global(machine: _Machine, name: str) -> None:
    if not any(name in known for known in (_ITEMSIZES, _DTYPES, _CALLS, _NAMED)):
        raise Finding(f"the pickle names {shown(name.replace(' ', '.'))}, which no tensor needs")
    machine.stack.append(_Global(name))


def _push_storage(machine: _Machine, _: object) -> None:
    match machine.stack.pop():
        case ("storage", _Global(kind), str(key), str(), int(count)) if kind in _ITEMSIZES:
            itemsize = _ITEMSIZES[kind]
            held = machine.storages.get(f"data/{key}")
            if held != count * itemsize:
                raise Finding(f"a storage of {count} elements in a member of {held} bytes")
            machine.stack.append(_Storage(key, itemsize, held))
        case other:
            raise Finding(f"{shown(other)} is no storage")


def _call(machine: _Machine, _: object) -> None:
    function, arguments = machine.last_operands(2)
    if not isinstance(function, _Global) or function.name not in _CALLS:
        raise Finding(f"the pickle calls {shown(function)}")
    if not isinstance(arguments, tuple):
        raise Finding("a call without a tuple of arguments")
    machine.stack.append(_CALLS[function.name](*arguments))


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any, *rest: Any
) -> ExampleTensor:
    itemsize = 0
    match rest:
        case () | (None,):
            itemsize = storage.itemsize if isinstance(storage, _Storage) else 0
        case (_Global(dtype), *metadata) if dtype in _DTYPES and metadata in ([], [None]):
            itemsize = _DTYPES[dtype]
    is_plain = (
        isinstance(storage, _Storage)
        and itemsize > 0
        and isinstance(requires_grad, bool)
        and hooks == {}
        and all(map(_is_size, (offset, *shape, *strides)))
        and len(shape) == len(strides)
    )
    if not is_plain:
        raise Finding("a tensor of an unusual kind")
    needed = bytes_needed(tuple(shape), tuple(strides), offset, itemsize=itemsize)
    if needed > storage.bytes or len(shape) > _MAX_DEPTH:
        raise Finding(f"a tensor of {needed} bytes in a storage of {storage.bytes}")
    return ExampleTensor(tuple(shape))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_INTEGER


def _rebuild_from_type(function: Any, kind: Any, arguments: Any, marks: Any) -> ExampleTensor:
    """A tensor that wears Python attributes: ``torch.export`` marks dynamic dimensions that way."""
    is_plain = (
        isinstance(function, _Global)
        and function.name in _REBUILDS
        and kind == _Global("torch Tensor")
        and isinstance(arguments, tuple)
        and isinstance(marks, dict)
    )
    if not is_plain:
        raise Finding("a tensor of a class of its own")
    for name in marks:
        if not isinstance(name, str) or not _MARKS.fullmatch(name):
            raise Finding(f"a tensor with the attribute {shown(name)}")
    _leaves(marks)
    assert isinstance(function, _Global)
    return _REBUILDS[function.name](*arguments)


def _rebuild_parameter(tensor: Any, requires_grad: Any, hooks: Any) -> ExampleTensor:
    is_plain = isinstance(tensor, ExampleTensor) and isinstance(requires_grad, bool)
    if not is_plain or hooks != {}:
        raise Finding("a parameter of an unusual kind")
    assert isinstance(tensor, ExampleTensor)
    return tensor


def _empty() -> dict[Any, Any]:
    return {}


def _size(sizes: Any) -> tuple[int, ...]:
    if not isinstance(sizes, tuple) or not all(map(_is_size, sizes)):
        raise Finding(f"{shown(sizes)} is no size")
    return sizes


def _set_items(machine: _Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict) or len(pairs) % 2:
        raise Finding("items are set on what is no dictionary")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if type(key) not in (str, int) or key in target:
            raise Finding(f"a dictionary with the key {shown(key)}, or with that key twice")
        target[key] = value


def _append_items(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise Finding("items are appended to what is no list")
    target += items


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _remember(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


_PUSHED = frozenset(("BINFLOAT", "BININT", "BININT1", "BININT2", "BINUNICODE", "LONG1"))
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
    "NEWFALSE": lambda: False,
    "NEWTRUE": lambda: True,
    "NONE": lambda: None,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "APPEND": lambda machine, _: _append_items(machine, machine.last_operands(1)),
    "APPENDS": lambda machine, _: _append_items(machine, machine.mark_operands()),
    "BINGET": lambda machine, index: _push(machine, machine.memo[index]),
    "BINPERSID": _push_storage,
    "BINPUT": _remember,
    "GLOBAL": _push_global,
    "LONG_BINGET": lambda machine, index: _push(machine, machine.memo[index]),
    "LONG_BINPUT": _remember,
    "PROTO": _check_protocol,
    "REDUCE": _call,
    "SETITEM": lambda machine, _: _set_items(machine, machine.last_operands(2)),
    "SETITEMS": lambda machine, _: _set_items(machine, machine.mark_operands()),
    "TUPLE": lambda machine, _: _push(machine, tuple(machine.mark_operands())),
    "TUPLE1": lambda machine, _: _push(machine, tuple(machine.last_operands(1))),
    "TUPLE2": lambda machine, _: _push(machine, tuple(machine.last_operands(2))),
    "TUPLE3": lambda machine, _: _push(machine, tuple(machine.last_operands(3))),
}
# What may be called: the name as pickle writes it, and what stands for the result here.
_REBUILDS: dict[str, Callable[..., ExampleTensor]] = {
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v3": _rebuild_tensor,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _empty,
    "torch Size": _size,
    "torch._tensor _rebuild_from_type_v2": _rebuild_from_type,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    **_REBUILDS,
}
# What may be named besides, and never called.
_NAMED = frozenset(("torch Tensor",))
