"""Programs with codes as ONNX has them: QuantizeLinear, DequantizeLinear, integers of few bits.

A program says in plain ATen how its weights are made and what is rounded. Here that is found again
and said in ONNX's own words, by which onnxruntime knows what it can compute with integers:

* a rounded activation becomes QuantizeLinear and DequantizeLinear, and a weight that meets one
  DequantizeLinear of int8: onnxruntime makes integer kernels of them;
* a linear layer whose input is rounded in the range of each call becomes DynamicQuantizeLinear and
  MatMulInteger;
* a linear layer's weight alone becomes DequantizeLinear in front of MatMul, for which onnxruntime
  has kernels that read codes of 4 and 8 bits;
* all others are cast and multiplied, which onnxruntime does once, when it loads the file.

Codes of other widths are stored in the next one that ONNX has: 2, 4 or 8 bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir
import torch
from onnx_ir import DataType
from torch import Tensor
from torch.fx import Node

from worker.engine.arguments import argument
from worker.engine.coded.bits import packed_bits
from worker.engine.coded.chain import Coded, made_at, made_of, read_back, shaped
from worker.engine.coded.rounding import Rounded, rounded_activations
from worker.engine.draft import Draft, free_name
from worker.engine.graph.weights import WeightCall, bias_of, weight_calls
from worker.engine.packed import NOTHING_PACKED
from worker.engine.program import Program, attribute
from worker.engine.writers.onnx_operators import (
    dequantized,
    integer_product,
    padded_codes,
    rounded_static,
)

aten = torch.ops.aten

OPSET = 21
"""The first with integers of four bits, and scales for blocks."""

_OPSET_OF_2_BITS, _IR_OF_2_BITS = 25, 13
_WIDTHS = {1: 2, 2: 2, 3: 4, 4: 4}
"""Bits that ONNX has, by those that a code has; 8 for all others."""

_TYPES = {2: DataType.UINT2, 4: DataType.UINT4}

_MOVES = {
    aten.flatten.using_ints,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.max_pool3d.default,
    aten.permute.default,
    aten.reshape.default,
    aten.slice.Tensor,
    aten.squeeze.dim,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
}
"""What onnxruntime lets codes through."""


@dataclass
class Lowered:
    """A program in which custom operators stand for what ONNX has words for.

    ``bits`` says how many a code in a buffer has, by the buffer's name: there they have eight.
    """

    program: Program
    bits: dict[str, int] = field(default_factory=dict)

    def is_foldable(self, node: onnx_ir.Node) -> bool | None:
        """Whether a node may be computed beforehand: no weight of codes, which would be floats."""
        if any(value is not None and value.name in self.bits for value in node.inputs):
            return False
        return None


def lowered(program: Program) -> Lowered:
    """Put custom operators in the place of codes and rounded activations."""
    return _Lowering(program).done()


def pack_codes(model: onnx_ir.Model, bits: Mapping[str, int]) -> None:
    """Store codes of few bits as the integers that ONNX has for them.

    Args:
        model: In which each code has a byte.
        bits: Of a code, by the name of its initializer.
    """
    for name, wanted in bits.items():
        value = model.graph.initializers.get(name)
        width = _WIDTHS.get(wanted, 8)
        if width == 8 or value is None or value.const_value is None:
            continue
        codes = torch.from_numpy(value.const_value.numpy().copy())
        packed = packed_bits(codes, width).numpy()
        tensor = onnx_ir.PackedTensor(packed, _TYPES[width], shape=tuple(codes.shape), name=name)
        value.const_value = tensor
        value.type = onnx_ir.TensorType(_TYPES[width])
        if width == 2:
            model.opset_imports[""] = _OPSET_OF_2_BITS
            model.ir_version = _IR_OF_2_BITS


class _Lowering:
    """One program on its way to ONNX."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._found = Lowered(program)
        self._draft = Draft(program)
        self._graph, self._copies = self._draft.graph, self._draft.copies
        self._rounded = {each.result: each for each in rounded_activations(program)}
        weights = program.packed.weights
        self._made = {made_at(program, about): about for about in weights}
        self._calls: dict[str, list[WeightCall]] = {}
        for call in weight_calls(program, {made: each.name for made, each in self._made.items()}):
            self._calls.setdefault(call.parameter, []).append(call)

    def done(self) -> Lowered:
        for made, about in self._made.items():
            self._lower_weight(read_back(self._program, about), self._copies[made])
        for each in self._rounded.values():
            self._lower_rounded(each)
        self._graph.eliminate_dead_code()
        self._draft.module.recompile()
        self._found.program = replace(self._draft.program_as_is(), packed=NOTHING_PACKED)
        return self._found

    def _lower_rounded(self, each: Rounded) -> None:
        if each.scale is None:
            return  # Products have taken it; what else reads it computes as the program does.
        result = self._copies[each.result]
        arguments = (self._copies[each.source], each.scale, each.zero_point)
        with self._graph.inserting_before(result):
            found = self._graph.call_function(rounded_static, arguments)
        result.replace_all_uses_with(found)
        self._round_again(found, each)

    def _round_again(self, node: Node, each: Rounded) -> None:
        """Round behind what moves codes alone, which changes nothing: it may move codes then.

        Additions are of integers if both of their summands are codes.
        """
        for reader in list(node.users):
            if any(end.op == "output" for end in reader.users):
                continue
            if _pads_zeros(reader):
                ends = argument(reader, "pad")
                with self._graph.inserting_before(reader):
                    arguments = (node, ends, each.scale, each.zero_point)
                    again = self._graph.call_function(padded_codes, arguments)
                reader.replace_all_uses_with(again)
                self._round_again(again, each)
            elif reader.target in _MOVES:
                with self._graph.inserting_after(reader):
                    again = self._graph.call_function(
                        rounded_static, (reader, each.scale, each.zero_point)
                    )
                reader.replace_all_uses_with(again)
                again.replace_input_with(again, reader)
                self._round_again(again, each)

    def _lower_weight(self, weight: Coded, place: Node) -> None:
        about = weight.about
        for call in self._calls.get(about.name, ()):
            reads = self._rounded_behind(call.source)
            if _is_product(call.node) and _can_be_blocks(weight):
                self._lower_product(weight, call, reads)
            elif reads is not None and not reads.is_dynamic and about.is_signed:
                self._lower_convolution(weight, call, place)
        if place.users and about.bits == 8:
            self._found.bits[about.codes] = 8
        elif place.users:
            with self._graph.inserting_before(place):
                codes = self._put(about.codes, weight.codes, bits=about.bits)
                scale = self._graph.get_attr(about.scale)
                zero = self._graph.get_attr(about.zero_point) if about.has_zero_point else None
                found = made_of(self._graph, codes, about, scale, zero)
            place.replace_all_uses_with(found)

    def _rounded_behind(self, node: Node) -> Rounded | None:
        """What is rounded of what a call reads, behind what moves it alone."""
        while node not in self._rounded and node.target in _MOVES:
            source = node.args[0]
            assert isinstance(source, Node)
            node = source
        return self._rounded.get(node)

    def _lower_convolution(self, weight: Coded, call: WeightCall, place: Node) -> None:
        about = weight.about
        codes = shaped(weight.numbers, about)
        scale = weight.scale.flatten()
        if about.granularity == "per_tensor":
            scale = scale[0]
        with self._graph.inserting_before(place):
            arguments = (self._put(about.codes, codes), self._put(about.scale, scale), None)
            found = self._graph.call_function(dequantized, (*arguments, about.axis, 0))
        self._copies[call.node].replace_input_with(place, found)

    def _lower_product(self, weight: Coded, call: WeightCall, reads: Rounded | None) -> None:
        """A matrix product with codes as ``(inputs, outputs)``: the order that kernels read."""
        node, source = self._copies[call.node], self._copies[call.source]
        with self._graph.inserting_before(node):
            if (
                reads is not None
                and reads.is_dynamic
                and reads.result is call.source
                and weight.about.is_signed
            ):
                codes, scale, _, _ = self._blocks(weight)
                arguments = (self._copies[reads.source], codes, scale)
                found = self._graph.call_function(integer_product, arguments)
            else:
                blocks = self._blocks_along(weight, has_zero=reads is not None)
                made = self._graph.call_function(dequantized, blocks)
                found = self._graph.call_function(aten.matmul.default, (source, made))
            found = self._with_bias(found, weight, call, reads)
        node.replace_all_uses_with(found)
        self._graph.erase_node(node)
        # What it gives may be rounded: that is looked for later.
        self._copies[call.node] = found

    def _with_bias(
        self, product: Node, weight: Coded, call: WeightCall, reads: Rounded | None
    ) -> Node:
        bias = bias_of(call.node)
        if bias is None:
            return product
        if (rounded := self._rounded_bias(weight, bias, reads)) is not None:
            return self._graph.call_function(aten.add.Tensor, (product, rounded))
        # Less what is negative: of a product and a sum onnxruntime makes one of floats.
        less = self._graph.call_function(aten.neg.default, (self._copies[bias],))
        return self._graph.call_function(aten.sub.Tensor, (product, less))

    def _rounded_bias(self, weight: Coded, bias: Node, reads: Rounded | None) -> Node | None:
        """A bias in steps of the products that it is added to, as integer kernels want it.

        None where there are no such steps, or the bias is computed.
        """
        if reads is None or reads.scale is None or bias.op != "get_attr":
            return None
        name = str(bias.target)
        values = attribute(self._program.module, name)
        assert isinstance(values, Tensor)
        step = weight.scale.flatten().double() * reads.scale
        if values.dim() != 1 or weight.about.group_size:
            return None
        codes = (values.detach().double() / step).round().clamp(-(2**31), 2**31 - 1).int()
        scale = step.float()[0] if weight.about.granularity == "per_tensor" else step.float()
        arguments = (self._put(name, codes), self._put(f"{name}_scale", scale), None, 0, 0)
        return self._graph.call_function(dequantized, arguments)

    def _blocks_along(self, weight: Coded, *, has_zero: bool) -> tuple[Node | int | None, ...]:
        """The arguments of DequantizeLinear: codes, scale, zero point, axis, block.

        ``has_zero`` spells zero points out that are zero: integer kernels are made of no others.
        """
        codes, scale, zero, block = self._blocks(weight)
        if zero is None and has_zero:
            shape = [] if weight.about.granularity == "per_tensor" else [len(weight.scale)]
            zero = self._put(weight.about.zero_point, torch.zeros(shape, dtype=torch.int8))
        return codes, scale, zero, 0 if block else 1, block

    def _blocks(self, weight: Coded) -> tuple[Node, Node, Node | None, int]:
        about = weight.about
        outputs = about.shape[about.axis]
        bits = about.bits
        matrix = self._put(about.codes, weight.numbers.reshape(outputs, -1).T, bits=bits)

        def of_sets(tensor: Tensor) -> Tensor:
            if about.granularity == "per_tensor":
                return tensor.flatten()[0]
            return tensor.view(outputs, -1).T if about.group_size else tensor.flatten()

        scale = self._put(about.scale, of_sets(weight.scale))
        if about.is_signed:
            return matrix, scale, None, about.group_size
        assert weight.grid.zero_point is not None
        zero = of_sets(weight.grid.zero_point.to(torch.uint8))
        place = self._put(about.zero_point, zero, bits=bits)
        return matrix, scale, place, about.group_size

    def _put(self, name: str, tensor: Tensor, *, bits: int = 8) -> Node:
        """A buffer of the lowered program alone."""
        free = free_name(self._draft.module, f"{name}_0")
        self._found.bits[free] = bits
        return self._draft.add(free, tensor.contiguous())


def _pads_zeros(node: Node) -> bool:
    """Whether a call pads by zeros, to sizes that are known."""
    if node.target != aten.pad.default or argument(node, "mode") != "constant":
        return False
    sizes = argument(node, "pad")
    return not argument(node, "value") and all(isinstance(size, int) for size in sizes)


def _is_product(node: Node) -> bool:
    """Whether a call is a matrix product, and perhaps a sum, without factors."""
    if node.target == aten.addmm.default:
        return bool(argument(node, "alpha") == 1 and argument(node, "beta") == 1)
    return node.target in (aten.linear.default, aten.matmul.default, aten.mm.default)


def _can_be_blocks(weight: Coded) -> bool:
    """Whether kernels read the codes: integers, in groups that are whole, of a float32 weight.

    Those of onnxruntime 1.32 for codes of 2 bits are wrong for some sizes.
    """
    about = weight.about
    if len(about.shape) != 2 or about.dtype != "float32" or about.format not in ("int8", "int4"):
        return False
    return not about.group_size or about.shape[1 - about.axis] % about.group_size == 0
