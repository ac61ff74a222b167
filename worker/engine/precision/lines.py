"""What became of each weight, for the report."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.changed import KEPT, LayerLine, relative_change
from worker.engine.precision.choice import Asked, Choice, readers_of
from worker.engine.precision.float8 import Scaled
from worker.engine.precision.kinds import Kind, kind_of
from worker.engine.program import Program, named_parameters


def lines_of(
    program: Program,
    asked: Asked,
    choice: Choice,
    scaled: Mapping[str, Scaled],
    errors: Mapping[Node, float],
) -> Iterator[LayerLine]:
    """A line for each parameter with two dimensions or more, in the order of the module."""
    for own, parameter in named_parameters(program):
        tensor = parameter.detach()
        if tensor.dim() > 1 and tensor.is_floating_point():
            yield _line(program, own, tensor, asked, choice, scaled.get(own[0]), errors)


def _line(
    program: Program,
    names: Sequence[str],
    tensor: Tensor,
    asked: Asked,
    choice: Choice,
    scaled: Scaled | None,
    errors: Mapping[Node, float],
) -> LayerLine:
    readers = readers_of(program, names)
    if names[0] not in choice.stored:
        reason = _reason(names, tensor, readers, asked, choice)
        return LayerLine(names[0], KEPT, tensor.nbytes, tensor.nbytes, reason=reason)
    if scaled is None:
        after, became = tensor.to(asked.low), _name(asked.low)
        weight, size_bytes = after.float(), after.nbytes
    else:
        weight, size_bytes, became = scaled.weight, scaled.size_bytes, _name(scaled.codes.dtype)
    products = [errors[each] for each in readers if each in errors]
    # What 8 bits cost a layer was not measured: it computes in bfloat16.
    output_error = max(products) if products and scaled is None else None
    return LayerLine(
        names[0],
        became,
        tensor.nbytes,
        size_bytes,
        weight_error=relative_change(weight, tensor),
        output_error=output_error,
    )


def _reason(
    names: Sequence[str], tensor: Tensor, readers: set[Node], asked: Asked, choice: Choice
) -> str:
    if tensor.dtype != torch.float32:
        return f"it is {_name(tensor.dtype)} already"
    if asked.kept & set(names):
        return "named in keep_float"
    for reader in sorted(readers, key=lambda node: node.name):
        if reader in asked.islands:
            return asked.islands[reader]
    for reader in sorted(readers, key=lambda node: node.name):
        if reader in choice.wide:
            kind = "it" if kind_of(reader) is Kind.WIDE else "which has to be exact, and"
            return f"read by {reader.target}; {kind} computes in float32"
    return "it holds numbers that the type does not, or is written in place"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
