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
from torch.fx import Graph, GraphModule, Node

from worker.engine.coded.chain import Coded, made_at, read_back
from worker.engine.coded.rounding import Rounded, rounded_activations
from worker.engine.graph.weights import weight_calls
from worker.engine.packed import NOTHING_PACKED
from worker.engine.program import Program

_operators = torch.ops.quantized_decomposed

# Kernels of x64 multiply uint8 with int8: the codes of activations are all greater by 128.
_SHIFT = 128


def decomposed(program: Program) -> Program:
    """Put pairs of quantize and dequantize in the place of rounded activations and int8 weights."""
    graph = program.copied_graph()
    module = program.module_with(graph)
    copies = dict(zip(program.graph.nodes, module.graph.nodes, strict=True))
    rounded = {each.result: each for each in rounded_activations(program) if not each.is_dynamic}
    made = {made_at(program, about): about for about in program.packed.weights}
    for call in weight_calls(program, {node: each.name for node, each in made.items()}):
        place, about = next(item for item in made.items() if item[1].name == call.parameter)
        if call.source in rounded and about.is_signed:
            found = _dequantized(module, read_back(program, about), copies[place])
            copies[call.node].replace_input_with(copies[place], found)
    for each in rounded.values():
        _round(module.graph, each, copies[each.source], copies[each.result])
    module.graph.eliminate_dead_code()
    module.recompile()
    return replace(program.with_module(module), packed=NOTHING_PACKED)


def _round(graph: Graph, each: Rounded, source: Node, result: Node) -> None:
    assert each.zero_point is not None
    about = (each.scale, each.zero_point + _SHIFT, 0, 255, torch.uint8)
    with graph.inserting_before(result):
        codes = graph.call_function(_operators.quantize_per_tensor.default, (source, *about))
        found = graph.call_function(_operators.dequantize_per_tensor.default, (codes, *about))
    result.replace_all_uses_with(found)


def _dequantized(module: GraphModule, weight: Coded, place: Node) -> Node:
    about = weight.about
    signed = weight.codes.int().sub(about.middle).to(torch.int8)
    codes = signed.view(about.outputs_first).movedim(0, about.axis).contiguous()
    scale = weight.scale.flatten()
    graph = module.graph
    with graph.inserting_before(place):
        held = _put(module, f"{about.name}_int8", codes)
        if about.granularity == "per_tensor":
            one = (held, float(scale[0]), 0, -128, 127, torch.int8)
            return graph.call_function(_operators.dequantize_per_tensor.default, one)
        scales = _put(module, f"{about.name}_scales", scale)
        zeros = _put(module, f"{about.name}_zeros", torch.zeros(len(scale), dtype=torch.int64))
        each = (held, scales, zeros, about.axis, -128, 127, torch.int8)
        return graph.call_function(_operators.dequantize_per_channel.default, each)


def _put(module: GraphModule, name: str, tensor: Tensor) -> Node:
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    number = 0
    while hasattr(holder, fresh := f"{leaf}_{number}"):
        number += 1
    holder.register_buffer(fresh, tensor)
    return module.graph.get_attr(f"{owner}.{fresh}" if owner else fresh)
