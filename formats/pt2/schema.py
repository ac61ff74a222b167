"""The program's JSON: every field that it may have, and what may be in it.

The tables follow ``torch/_export/serde/schema.py`` (major version 8), in its order. torch itself
checks none of this: it takes any value for any field. A field that is not in a table is refused,
since nobody here knows what a reader would do with it.
"""

from typing import Any

from formats.errors import shown
from formats.pt2.checks import (
    Check,
    Maybe,
    boolean,
    integer,
    list_of,
    map_of,
    natural,
    number,
    one_of,
    optional,
    record,
    text,
    union,
    unsupported,
)
from formats.pt2.expressions import SYMBOL, check_expression
from formats.pt2.findings import Finding
from formats.pt2.guards import check_guard
from formats.pt2.operators import check_operator
from formats.pt2.strings import (
    check_fqn,
    check_fqn_or_root,
    check_key,
    check_name,
    check_name_or_none,
    check_text,
    check_version,
)
from formats.pt2.treespecs import check_in_spec, check_out_spec

SCHEMA_MAJOR = 8

# The numbers of torch's ScalarType, with the bytes of one element.
DTYPES: dict[int, tuple[str, int]] = {
    1: ("uint8", 1),
    2: ("int8", 1),
    3: ("int16", 2),
    4: ("int32", 4),
    5: ("int64", 8),
    6: ("float16", 2),
    7: ("float32", 4),
    8: ("float64", 8),
    9: ("complex32", 4),
    10: ("complex64", 8),
    11: ("complex128", 16),
    12: ("bool", 1),
    13: ("bfloat16", 2),
    28: ("uint16", 2),
    29: ("float8_e4m3fn", 1),
    30: ("float8_e5m2", 1),
    31: ("float8_e4m3fnuz", 1),
    32: ("float8_e5m2fnuz", 1),
    33: ("float8_e8m0fnu", 1),
    34: ("uint32", 4),
    35: ("uint64", 8),
}
_DEVICES = frozenset(("cpu", "cuda", "mps", "xpu"))
_STRIDED = 7
_UNBACKED = ("u", "zuf")

name = text(check_name)
fqn = text(check_fqn)
scalar_type = one_of(*DTYPES)
memory_format = one_of(1, 2, 3, 4)
layout = one_of(_STRIDED)


def _later(table: str) -> Check:
    """Refer to a check that is defined further down, as graphs hold graphs."""

    def check(value: Any) -> Any:
        return _LATER[table](value)

    return check


def _check_device_type(device: str) -> str:
    if device not in _DEVICES:
        raise Finding(f"device {shown(device)} is not one of {', '.join(sorted(_DEVICES))}")
    # A program that was exported on a GPU must load where there is none; the engine moves it on.
    return "cpu"


def _no_index(value: Any) -> None:
    optional(natural)(value)


def _check_ranged(expression: str) -> str:
    """Check what a range is given for: a symbol, or an expression of them.

    torch reads the number of an unbacked symbol (``u3``) and counts up to it in a loop.
    """
    if expression.startswith(_UNBACKED) and not SYMBOL.fullmatch(expression):
        raise Finding(f"{shown(expression)} is not a symbol that torch makes")
    return check_expression(expression)


def _check_dialect(dialect: str) -> str:
    if dialect not in ("ATEN", "TRAINING"):
        raise Finding(
            f"a program in the dialect {shown(dialect)}: export it with torch.export.export alone",
            is_unsupported=True,
        )
    return dialect


def _module_stack_only(value: Any) -> dict[str, str]:
    """Keep which module a node came from; leave out traces, sources and custom notes.

    Nothing here needs the rest, and torch looks up more names with ``getattr`` in it. The paths of
    modules become source when a program is unflattened, so one with a quote in it is left out too.
    """
    notes = map_of(check_key, text(str))(value)
    stack = notes.get("nn_module_stack")
    if stack is None:
        return {}
    try:
        for module in stack.split(";"):
            check_key(module)
    except Finding:
        return {}
    return {"nn_module_stack": stack}


def _nothing(value: Any) -> dict[str, str]:
    map_of(check_key, text(str))(value)
    return {}


_custom_object = unsupported("a custom object (ScriptObject)")
_token = unsupported("a program with effect tokens")

device = record({"type": text(_check_device_type), "index": Maybe(_no_index)})
sym_expr = record(
    {
        "expr_str": text(check_expression),
        "hint": Maybe(optional(union({"as_int": integer, "as_bool": boolean, "as_float": number}))),
    }
)
sym_int = union({"as_expr": sym_expr, "as_int": integer})
sym_float = union({"as_expr": sym_expr, "as_float": number})
sym_bool = union({"as_expr": sym_expr, "as_bool": boolean})
tensor_meta = record(
    {
        "dtype": scalar_type,
        "sizes": list_of(sym_int),
        "requires_grad": boolean,
        "device": device,
        "strides": list_of(sym_int),
        "storage_offset": sym_int,
        "layout": layout,
    }
)
sym_int_argument = union({"as_name": name, "as_int": integer})
sym_float_argument = union({"as_name": name, "as_float": number})
sym_bool_argument = union({"as_name": name, "as_bool": boolean})
tensor_argument = record({"name": name})
optional_tensor_argument = union({"as_tensor": tensor_argument, "as_none": boolean})
graph_argument = record({"name": name, "graph": _later("graph")})
_VALUES: dict[str, Check] = {
    "as_none": boolean,
    "as_tensor": tensor_argument,
    "as_tensors": list_of(tensor_argument),
    "as_int": integer,
    "as_ints": list_of(integer),
    "as_float": number,
    "as_floats": list_of(number),
    "as_string": text(check_text),
    "as_strings": list_of(text(check_text)),
    "as_sym_int": sym_int_argument,
    "as_sym_ints": list_of(sym_int_argument),
    "as_scalar_type": scalar_type,
    "as_memory_format": memory_format,
    "as_layout": layout,
    "as_device": device,
    "as_bool": boolean,
    "as_bools": list_of(boolean),
    "as_sym_bool": sym_bool_argument,
    "as_sym_bools": list_of(sym_bool_argument),
    "as_graph": graph_argument,
    "as_optional_tensors": list_of(optional_tensor_argument),
    "as_custom_obj": _custom_object,
    "as_operator": text(check_operator),
    "as_sym_float": sym_float_argument,
    "as_sym_floats": list_of(sym_float_argument),
    "as_optional_tensor": optional_tensor_argument,
    "as_complex": record({"real": number, "imag": number}),
    "as_nested_tensors": list_of(list_of(tensor_argument)),
    "as_int_lists": list_of(list_of(integer)),
    "as_string_to_argument": map_of(check_key, _later("argument")),
    "as_float_lists": list_of(list_of(number)),
}
argument = union(_VALUES)
# A text that is an input of the whole program becomes part of a guard, between quotes.
input_argument = union(_VALUES | {"as_string": text(check_key)})
named_argument = record(
    {
        "name": text(check_name_or_none),
        "arg": argument,
        "kind": Maybe(optional(one_of(0, 1, 2))),
    }
)
node = record(
    {
        "target": text(check_operator),
        "inputs": list_of(named_argument),
        "outputs": list_of(argument),
        "metadata": _module_stack_only,
        "is_hop_single_tensor_return": Maybe(optional(boolean)),
        "name": Maybe(optional(name)),
    }
)
graph = record(
    {
        "inputs": list_of(input_argument),
        "outputs": list_of(argument),
        "nodes": list_of(node),
        "tensor_values": map_of(check_name, tensor_meta),
        "sym_int_values": map_of(check_name, sym_int),
        "sym_bool_values": map_of(check_name, sym_bool),
        "is_single_tensor_return": Maybe(boolean),
        "custom_obj_values": Maybe(map_of(check_name, _custom_object)),
        "sym_float_values": Maybe(map_of(check_name, sym_float)),
    }
)
_LATER: dict[str, Check] = {"argument": argument, "graph": graph}

constant_value = union(
    {
        "as_none": boolean,
        "as_int": integer,
        "as_float": number,
        "as_string": text(check_key),
        "as_bool": boolean,
    }
)
input_spec = union(
    {
        "user_input": record({"arg": input_argument}),
        "parameter": record({"arg": tensor_argument, "parameter_name": fqn}),
        "buffer": record({"arg": tensor_argument, "buffer_name": fqn, "persistent": boolean}),
        "tensor_constant": record({"arg": tensor_argument, "tensor_constant_name": fqn}),
        "custom_obj": _custom_object,
        "token": _token,
        "constant_input": record({"name": name, "value": constant_value}),
    }
)
output_spec = union(
    {
        "user_output": record({"arg": input_argument}),
        "loss_output": record({"arg": tensor_argument}),
        "buffer_mutation": record({"arg": tensor_argument, "buffer_name": fqn}),
        "gradient_to_parameter": unsupported("a program that computes gradients"),
        "gradient_to_user_input": unsupported("a program that computes gradients"),
        "user_input_mutation": record({"arg": tensor_argument, "user_input_name": name}),
        "token": _token,
        "parameter_mutation": record({"arg": tensor_argument, "parameter_name": fqn}),
    }
)
module_call_signature = record(
    {
        "inputs": list_of(input_argument),
        "outputs": list_of(input_argument),
        "in_spec": text(check_in_spec),
        "out_spec": text(check_out_spec),
        "forward_arg_names": Maybe(optional(list_of(name))),
    }
)
module_call_entry = record(
    {"fqn": text(check_fqn_or_root), "signature": Maybe(optional(module_call_signature))}
)
graph_module = record(
    {
        "graph": graph,
        "signature": record(
            {"input_specs": list_of(input_spec), "output_specs": list_of(output_spec)}
        ),
        "module_call_graph": list_of(module_call_entry),
        "metadata": Maybe(_nothing),
        "treespec_namedtuple_fields": Maybe(
            map_of(check_fqn, unsupported("a named tuple among the inputs or outputs"))
        ),
    }
)
exported_program = record(
    {
        "graph_module": graph_module,
        "opset_version": map_of(check_name, natural),
        "range_constraints": map_of(
            _check_ranged,
            record({"min_val": optional(integer), "max_val": optional(integer)}),
        ),
        "schema_version": record({"major": one_of(SCHEMA_MAJOR), "minor": natural}),
        "verifiers": Maybe(list_of(text(_check_dialect))),
        "torch_version": Maybe(text(check_version)),
        "guards_code": Maybe(list_of(text(check_guard))),
    }
)
