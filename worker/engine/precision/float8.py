"""Weights of products in 8 bits, with a float32 scale for each output channel."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from worker.engine.graph.rules.convolution import TRANSPOSED
from worker.engine.graph.weights import weight_calls
from worker.engine.precision.choice import Choice, readers_of
from worker.engine.precision.kinds import Kind, kind_of
from worker.engine.program import Program, named_parameters

FLOAT8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Scaled:
    """A weight in 8 bits: ``codes * scale``.

    Attributes:
        codes: float8_e4m3fn, in the weight's shape.
        scale: float32, of the same number of dimensions, 1 in all but that of the outputs.
        scale_name: Of the buffer that holds it.
    """

    codes: Tensor
    scale: Tensor
    scale_name: str

    @property
    def weight(self) -> Tensor:
        return self.codes.float() * self.scale

    @property
    def size_bytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes


def scaled_weights(program: Program, choice: Choice) -> Mapping[str, Scaled]:
    """Each parameter that products alone read, and that few bits are enough for, in 8 bits.

    The largest of each output channel becomes 448, the largest of the type.

    Source: Micikevicius et al., "FP8 Formats for Deep Learning", 2022, section 3 (E4M3).
    """
    found: dict[str, Scaled] = {}
    dims = _output_dims(program)
    taken = {name for name, _ in program.module.named_buffers()}
    for names, tensor in named_parameters(program):
        is_weight = tensor.dim() > 1 and tensor.numel() > 0
        stored = [name for name in names if name in choice.stored]
        if not stored or not is_weight or not bool(tensor.isfinite().all()):
            continue
        readers = readers_of(program, names)
        if not readers or any(kind_of(each) is not Kind.PRODUCT for each in readers):
            continue
        scale_name = f"{stored[0]}_scale"
        while scale_name in taken:
            scale_name += "_"
        made = scaled(tensor.detach(), dims.get(stored[0], 0), scale_name)
        found.update(dict.fromkeys(stored, made))
    return found


def scaled(weight: Tensor, dim: int, scale_name: str) -> Scaled:
    """A weight in 8 bits, with a scale for each index of a dimension, that of the outputs."""
    others = [at for at in range(weight.dim()) if at != dim]
    most = weight.abs().amax(others, keepdim=True)
    # A channel of zeros is zero with any scale.
    scale = torch.where(most > 0, most / torch.finfo(FLOAT8).max, 1.0)
    return Scaled((weight / scale).to(FLOAT8), scale, scale_name)


def _output_dims(program: Program) -> dict[str, int]:
    """Where the outputs are in each weight for which that is known; else they come first."""
    found = {
        call.parameter: 1 - call.weight_dim
        for call in weight_calls(program)
        if program.module.get_parameter(call.parameter).dim() == 2
    }
    for node in program.graph.nodes:
        if node.target in TRANSPOSED and isinstance(node.args[1], Node):
            found[str(node.args[1].target)] = 1
    return found
