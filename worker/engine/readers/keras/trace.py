"""A model of Keras as an exported program, with its weights under the names that it gives them."""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Node

from worker.engine.dynamic import placeholders
from worker.engine.errors import ExportError, UnreadableModelError, UnsupportedModelError
from worker.engine.program import Program, attribute, tensor_value
from worker.engine.readers.keras.calls import Calls, Recurrent, recurrent_weights
from worker.engine.readers.keras.origin import KerasVariable
from worker.engine.readers.keras.passes import simplified
from worker.engine.readers.keras.runtime import keras

_ROWS = 2
# Tried in turn for what has no size of its own: networks that halve an image need a large one.
_OPEN_SIZES = (16, 64, 256)
_MAX_ELEMENTS = 2**31
_TOLERANCE, _HALF_TOLERANCE, _TINY = 1e-4, 2e-2, 1e-9
_HALVES = frozenset({"float16", "bfloat16"})
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")
# What modules have for themselves.
_TAKEN = frozenset(dir(GraphModule(nn.Module(), Graph()))) | frozenset({"forward", "training"})


@dataclass(frozen=True)
class Traced:
    """A model, exported; where its variables went; and what there is to say of it."""

    exported: ExportedProgram
    variables: tuple[KerasVariable, ...]
    warnings: tuple[str, ...]


def traced(model: Any) -> Traced:
    """Export a model whose weights have been loaded.

    Raises:
        ExportError: torch cannot export it.
        UnsupportedModelError: It makes more numbers than any honest model does.
    """
    model.trainable = True
    for layer in model._flatten_layers():  # noqa: SLF001 - layers within layers are not public
        # A loss, of use in training alone, that divides by the number of rows.
        layer.activity_regularizer = None
    calls = Calls()
    wrapped = _Wrapped(model, calls)
    exported = _exported(wrapped, calls)
    program = Program.from_exported(exported)
    _check_size(program)
    permutations = simplified(program.module)
    module, renamed = _renamed(program, wrapped)
    args = tuple(program.example_leaves)
    again = _export_again(module, args)
    _check_outputs(model, again)
    told = [*calls.warnings, *_fixed(model, Program.from_exported(again))]
    variables = tuple(
        _variable(number, variable, wrapped, renamed, permutations)
        for number, variable in enumerate(model.variables)
    )
    return Traced(again, variables, tuple(told))


class _Wrapped(nn.Module):
    """A model whose variables are parameters and buffers of its own, by number."""

    def __init__(self, model: Any, calls: Calls) -> None:
        super().__init__()
        # In a list: a model of Keras is a module too, and must not be one of this one's.
        self.held = [model]
        self.calls = calls
        for number, variable in enumerate(model.variables):
            value = variable.value.detach()
            if variable.trainable and value.is_floating_point():
                self.register_parameter(f"v{number}", nn.Parameter(value))
            else:
                self.register_buffer(f"v{number}", value)
        self.recurrent: list[Recurrent] = []
        for layer in _recurrent_layers(model):
            weights = recurrent_weights(layer)
            if weights is None:
                continue
            for name, tensor in weights.tensors.items():
                self.register_parameter(f"r{len(self.recurrent)}_{name}", nn.Parameter(tensor))
            self.recurrent.append(weights)

    @property
    def model(self) -> Any:
        return self.held[0]

    def forward(self, *inputs: Tensor) -> Any:
        model = self.model
        library = keras()
        mapping = [
            (variable, getattr(self, f"v{number}"))
            for number, variable in enumerate(model.variables)
        ]
        for number, weights in enumerate(self.recurrent):
            self.calls.weights[id(weights.layer)] = [
                getattr(self, f"r{number}_{name}") for name in weights.tensors
            ]
        structure = library.tree.pack_sequence_as(input_structure(model), list(inputs))
        with library.StatelessScope(state_mapping=mapping), self.calls.replaced():
            outputs = model(structure, training=False)
        flat = library.tree.flatten(outputs)
        return flat[0] if len(flat) == 1 else tuple(flat)


def input_structure(model: Any) -> Any:
    """Placeholders as the model takes its inputs: one, a list, a dictionary."""
    functional = getattr(model, "_functional", None) or model
    return functional._inputs_struct  # noqa: SLF001 - nothing public says it


def _recurrent_layers(model: Any) -> Iterator[Any]:
    layers = keras().layers
    seen = set()
    for layer in model._flatten_layers():  # noqa: SLF001 - layers within wrappers are not public
        if isinstance(layer, layers.RNN) and layer.built and id(layer) not in seen:
            seen.add(id(layer))
            if getattr(layer.cell, "kernel", None) is not None:
                yield layer


def example_inputs(model: Any, open_size: int) -> tuple[Tensor, ...]:
    """Inputs of two rows that any model of these shapes takes: noise, and small indices."""
    layers = keras().layers
    tables = [
        layer.input_dim
        for layer in model._flatten_layers()  # noqa: SLF001 - layers within wrappers
        if isinstance(layer, layers.Embedding)
    ]
    most = min(tables, default=2)
    generator = torch.Generator().manual_seed(0)
    found = []
    for tensor in model.inputs:
        shape = [
            size if size is not None else (_ROWS if at == 0 else open_size)
            for at, size in enumerate(tensor.shape)
        ]
        dtype = getattr(torch, keras().backend.standardize_dtype(tensor.dtype))
        if dtype.is_floating_point and not tables:
            found.append(torch.randn(shape, generator=generator).to(dtype))
        elif dtype.is_floating_point:
            # Keras takes indices as floats, and cuts off what comes after the point.
            found.append((torch.rand(shape, generator=generator) * most).to(dtype))
        else:
            found.append(torch.randint(0, most, shape, generator=generator).to(dtype))
    return tuple(found)


def _exported(wrapped: _Wrapped, calls: Calls) -> ExportedProgram:
    """Export with as many dynamic dimensions as the model allows."""
    model = wrapped.model
    is_open = any(size is None for tensor in model.inputs for size in tensor.shape[1:])
    reasons: list[Exception] = []
    for open_size in _OPEN_SIZES if is_open else _OPEN_SIZES[:1]:
        args = example_inputs(model, open_size)
        for is_dynamic in (_everywhere, _rows_alone, _nowhere):
            calls.warnings.clear()
            shapes = tuple(
                {at: Dim.AUTO for at, size in enumerate(tensor.shape) if is_dynamic(at, size)}
                for tensor in model.inputs
            )
            try:
                with _quietly(), torch.no_grad():
                    return torch.export.export(
                        wrapped, args, dynamic_shapes=(shapes,), strict=False
                    )
            except (UserError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                reasons.append(error)
    last = reasons[-1]
    raise ExportError(
        f"this Keras model cannot be exported ({type(last).__name__}: "
        f"{str(last).strip().splitlines()[:1]})"
    ) from last


def _everywhere(_: int, size: int | None) -> bool:
    return size is None


def _rows_alone(at: int, size: int | None) -> bool:
    return size is None and at == 0


def _nowhere(_at: int, _size: int | None) -> bool:
    return False


@contextmanager
def _quietly() -> Iterator[None]:
    """What torch and Keras warn of while they trace is about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(program: Program) -> None:
    """Refuse what would make far more numbers than its weights and inputs explain."""
    for node in program.graph.nodes:
        value = tensor_value(node)
        if value is None:
            continue
        elements = 1
        for size in value.shape:
            elements *= max(program.size(size), 1)
        if elements > _MAX_ELEMENTS:
            raise UnsupportedModelError(
                f"a layer of this model gives {elements} numbers for {_ROWS} rows; at most "
                f"{_MAX_ELEMENTS} are allowed"
            )


def _renamed(program: Program, wrapped: _Wrapped) -> tuple[GraphModule, dict[str, str]]:
    """A module with the weights under the model's names, and which names they had before."""
    wanted = _wanted_names(wrapped)
    root = nn.Module()
    graph = Graph()
    inputs = _input_names(wrapped.model)
    copied: dict[Node, Node] = {}
    renamed: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            new = graph.placeholder(next(inputs))
            new.meta.update(node.meta)
        elif node.op == "get_attr":
            old = str(node.target)
            if old not in renamed:
                renamed[old] = _held_as(root, wanted.get(old, old), attribute(program.module, old))
            new = graph.get_attr(renamed[old])
        elif node.op == "output":
            new = graph.output(_flat(node.args[0], copied))
        else:
            new = graph.node_copy(node, lambda each: copied[each])
        copied[node] = new
    return GraphModule(root, graph), renamed


def _flat(value: Any, copied: Mapping[Node, Node]) -> Any:
    if isinstance(value, Node):
        return copied[value]
    found = tuple(copied[each] for each in value)
    return found[0] if len(found) == 1 else found


def _wanted_names(wrapped: _Wrapped) -> dict[str, str]:
    """The model's name for each parameter and buffer."""
    wanted = {
        f"v{number}": _dotted(variable.path, wrapped.model.name)
        for number, variable in enumerate(wrapped.model.variables)
    }
    for number, weights in enumerate(wrapped.recurrent):
        # `lstm/lstm_cell/kernel` is part of `lstm`.
        owner = _dotted(weights.layer.cell.kernel.path, wrapped.model.name).rpartition(".")[0]
        for name in weights.tensors:
            wanted[f"r{number}_{name}"] = f"{owner}.{name}"
    return wanted


def _dotted(path: str, model: str) -> str:
    """``conv2d/kernel`` as ``conv2d.kernel``, in characters that names of parameters have.

    A Sequential model puts its own name in front of all.
    """
    path = path.removeprefix(f"{model}/")
    return ".".join(_plain(part) for part in path.split("/"))


def _plain(part: str) -> str:
    plain = _NOT_IN_NAMES.sub("_", part)
    # A name between double underscores would reach for what Python keeps for itself.
    if not plain or plain[0].isdigit() or plain in _TAKEN or plain.startswith("__"):
        plain = f"k_{plain.strip('_')}"
    return plain


def _held_as(root: nn.Module, wanted: str, tensor: object) -> str:
    """Put a tensor into a tree of modules under a name, or one like it where it is taken."""
    assert isinstance(tensor, Tensor)
    *owners, leaf = wanted.split(".")
    owner = root
    found = []
    for part in owners:
        name = part
        while isinstance(getattr(owner, name, None), Tensor):
            name += "_"
        if not hasattr(owner, name):
            owner.add_module(name, nn.Module())
        owner = owner.get_submodule(name)
        found.append(name)
    name = leaf
    at = 1
    while hasattr(owner, name):
        name, at = f"{leaf}_{at}", at + 1
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(name, tensor)
    else:
        owner.register_buffer(name, tensor)
    return ".".join([*found, name])


def _input_names(model: Any) -> Iterator[str]:
    seen: set[str] = set()
    for tensor in model.inputs:
        name = _plain(tensor.name)
        while name in seen:
            name += "_"
        seen.add(name)
        yield name


def _export_again(module: GraphModule, args: tuple[Any, ...]) -> ExportedProgram:
    """Export what was simplified, with the same dimensions open."""
    sizes = [tensor_value(node) for node in placeholders(module)]
    last: Exception | None = None
    for rows in (_named_rows(), _any_rows):
        shapes = tuple(
            {
                at: rows(size) if at == 0 else Dim.AUTO
                for at, size in enumerate(value.shape)
                if _is_open(size)
            }
            for value in sizes
            if value is not None
        )
        with _quietly():
            try:
                return torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
            except (UserError, RuntimeError, ValueError, TypeError) as error:
                last = error
    raise ExportError(f"this Keras model cannot be exported ({type(last).__name__})") from last


def _named_rows() -> Callable[[int | torch.SymInt], Any]:
    """One dimension for each number of rows. One row is enough: the exporter would ask for two."""
    made: dict[str, Any] = {}

    def rows(size: int | torch.SymInt) -> Any:
        return made.setdefault(str(size), Dim(f"rows_{len(made)}" if made else "batch", min=1))

    return rows


def _is_open(size: int | torch.SymInt) -> bool:
    """Whether a size may be another. What the layers fixed is a symbol still, of one number."""
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def _any_rows(_: int | torch.SymInt) -> Any:
    return Dim.AUTO


@torch.no_grad()
def _check_outputs(model: Any, exported: ExportedProgram) -> None:
    """Compare the program with the model as Keras runs it, on the example inputs.

    Raises:
        UnsupportedModelError: They differ.
    """
    assert exported.example_inputs is not None
    args, _ = exported.example_inputs
    library = keras()
    structure = library.tree.pack_sequence_as(input_structure(model), list(args))
    with _quietly():
        theirs = library.tree.flatten(model(structure, training=False))
        ours = exported.module(check_guards=False)(*args)
    ours = [ours] if isinstance(ours, Tensor) else ours
    is_half = any(layer.compute_dtype in _HALVES for layer in model._flatten_layers())  # noqa: SLF001
    tolerance = _HALF_TOLERANCE if is_half else _TOLERANCE
    for our, their in zip(ours, theirs, strict=True):
        if not torch.isfinite(their).all():
            continue
        error = (our.double() - their.double()).norm()
        if our.shape != their.shape or not error <= tolerance * their.double().norm() + _TINY:
            raise UnsupportedModelError(
                "the program that was made of this model gives other outputs than Keras; this is "
                "a defect of the reader, report it with the model"
            )


def _fixed(model: Any, program: Program) -> Iterator[str]:
    """What is to be said of dimensions that the model leaves open and the program does not."""
    for tensor, sizes in zip(model.inputs, program.input_sizes, strict=True):
        assert sizes is not None
        for at, (size, fixed) in enumerate(zip(tensor.shape, sizes, strict=True)):
            if size is None and fixed is not None:
                what = "the number of rows" if at == 0 else f"dimension {at}"
                yield (
                    f"{what} of input {tensor.name!r}, which the model leaves open, was fixed at "
                    f"{fixed}: its layers do not allow another size to be exported"
                )


def _variable(
    number: int,
    variable: Any,
    wrapped: _Wrapped,
    renamed: Mapping[str, str],
    permutations: Mapping[str, tuple[int, ...]],
) -> KerasVariable:
    own = f"v{number}"
    if own in renamed:
        return KerasVariable(
            path=variable.path,
            names=(renamed[own],),
            layout="same",
            permutation=permutations.get(own, ()),
            value=None,
        )
    for at, weights in enumerate(wrapped.recurrent):
        for name, (layout, tensors) in weights.variables.items():
            names = [renamed.get(f"r{at}_{tensor}") for tensor in tensors]
            if getattr(weights.layer.cell, name) is variable and all(names):
                if any(f"r{at}_{tensor}" in permutations for tensor in tensors):
                    raise UnreadableModelError(
                        f"the weights of {variable.path} are used in two ways"
                    )
                return KerasVariable(
                    path=variable.path,
                    names=tuple(str(each) for each in names),
                    layout=layout,
                    permutation=(),
                    value=None,
                )
    value = variable.value.detach().clone()
    return KerasVariable(variable.path, (), "same", (), value)
