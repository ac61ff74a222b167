"""Programs with codes as Inductor knows them: the operators of `quantized_decomposed`.

Inductor has patterns of these, of which it makes integer kernels of oneDNN on a processor with
VNNI: a rounded activation becomes a pair of quantize and dequantize, and a weight that meets one
the dequantization of int8 codes. All other weights stay as they are; frozen, they are made once,
when the package is compiled.
"""

from dataclasses import replace

import torch
import torch.ao.quantization.fx._decomposed  # It registers the operators.
from torch import Tensor
from torch.fx import Node

from worker.engine.coded.chain import Coded, made_at, read_back, shaped
from worker.engine.coded.rounding import Rounded, rounded_activations
from worker.engine.draft import Draft, free_name
from worker.engine.graph.weights import weight_calls
from worker.engine.packed import NOTHING_PACKED
from worker.engine.program import Program

_operators = torch.ops.quantized_decomposed

# Kernels of x64 multiply uint8 with int8: the codes of activations are all greater by 128.
_SHIFT = 128


def decomposed(program: Program) -> Program:
    """Put pairs of quantize and dequantize in the place of rounded activations and int8 weights."""
    draft = Draft(program)
    rounded = {each.result: each for each in rounded_activations(program) if not each.is_dynamic}
    made = {made_at(program, about): about for about in program.packed.weights}
    places = {about.name: node for node, about in made.items()}
    for call in weight_calls(program, {node: about.name for node, about in made.items()}):
        place = places[call.parameter]
        if call.source in rounded and made[place].is_signed:
            weight = read_back(program, made[place])
            found = _dequantized(draft, weight, draft.copies[place])
            draft.copies[call.node].replace_input_with(draft.copies[place], found)
    for each in rounded.values():
        _round(draft, each)
    draft.graph.eliminate_dead_code()
    draft.module.recompile()
    return replace(draft.program_as_is(), packed=NOTHING_PACKED)


def _round(draft: Draft, each: Rounded) -> None:
    assert each.zero_point is not None
    call, result = draft.graph.call_function, draft.copies[each.result]
    about = (each.scale, each.zero_point + _SHIFT, 0, 255, torch.uint8)
    with draft.graph.inserting_before(result):
        source = draft.copies[each.source]
        codes = call(_operators.quantize_per_tensor.default, (source, *about))
        found = call(_operators.dequantize_per_tensor.default, (codes, *about))
    result.replace_all_uses_with(found)


def _dequantized(draft: Draft, weight: Coded, place: Node) -> Node:
    about, call = weight.about, draft.graph.call_function
    scale = weight.scale.flatten()
    with draft.graph.inserting_before(place):
        held = _put(draft, f"{about.name}_int8", shaped(weight.numbers, about))
        if about.granularity == "per_tensor":
            one = (held, float(scale[0]), 0, -128, 127, torch.int8)
            return call(_operators.dequantize_per_tensor.default, one)
        scales = _put(draft, f"{about.name}_scales", scale)
        zeros = _put(draft, f"{about.name}_zeros", torch.zeros(len(scale), dtype=torch.int64))
        each = (held, scales, zeros, about.axis, -128, 127, torch.int8)
        return call(_operators.dequantize_per_channel.default, each)


def _put(draft: Draft, name: str, tensor: Tensor) -> Node:
    return draft.add(free_name(draft.module, name), tensor)
