"""Each operator of the table computes what ONNX Runtime computes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.readers.onnx.models import (
    NEWEST,
    floats,
    graph_of_constant,
    held,
    of_one_node,
    reference,
    relative_error,
    weights,
)
from worker.engine.readers.onnx import program_of
from worker.engine.readers.onnx.operators import ON_HOST, OPERATORS


@dataclass(frozen=True)
class Case:
    name: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = NEWEST


def case(name: str, *inputs: Any, outputs: int = 1, opset: int = NEWEST, **attributes: Any) -> Case:
    return Case(name, inputs, attributes, outputs, opset)


X = floats(2, 3, 4)
IMAGE = floats(2, 4, 7, 9)
SMALL = np.clip(X, -0.9, 0.9)
POSITIVE = np.abs(X) + 0.5
FLAGS = X > 0
WHOLE = np.random.default_rng(5).integers(0, 3, (2, 3, 4))
BYTES = WHOLE.astype(np.uint8)

UNARY = "Abs Asinh Atan Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity"
UNARY += " IsNaN LeakyRelu Mish Neg Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign"
UNARY += " Tan Tanh ThresholdedRelu LpNormalization LogSoftmax Softmax Hardmax Dropout"
REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd"
REDUCTIONS += " ReduceSum ReduceSumSquare"

RESIZED = [
    {"mode": mode, "coordinate_transformation_mode": transform, **more}
    for mode, transform, more in (
        ("nearest", "asymmetric", {"nearest_mode": "floor"}),
        ("nearest", "asymmetric", {"nearest_mode": "ceil"}),
        ("nearest", "half_pixel", {}),
        ("nearest", "half_pixel", {"nearest_mode": "round_prefer_ceil"}),
        ("linear", "half_pixel", {}),
        ("linear", "asymmetric", {}),
        ("linear", "align_corners", {}),
        ("linear", "pytorch_half_pixel", {}),
        ("cubic", "half_pixel", {}),
        ("cubic", "align_corners", {}),
        ("cubic", "half_pixel", {"exclude_outside": 1, "cubic_coeff_a": -0.5}),
        ("linear", "half_pixel", {"antialias": 1}),
    )
]
RNN = {"hidden_size": 5}
STEPS = floats(4, 2, 3)

CASES = [
    *(case(name, X) for name in UNARY.split()),
    case("Dropout", X, held(0.5, np.float32), held(False, bool), outputs=2),
    *(case(name, SMALL) for name in ("Acos", "Asin", "Atanh")),
    case("Acosh", POSITIVE + 1),
    *(case(name, POSITIVE) for name in ("Log", "Reciprocal", "Sqrt")),
    case("Celu", X, alpha=0.5),
    case("Gelu", X, approximate="tanh"),
    case("HardSigmoid", X, alpha=1 / 6, beta=0.5),
    case("Selu", X, alpha=1.5, gamma=0.9),
    case("Swish", X, opset=24, alpha=0.7),
    case("Swish", X, opset=24),
    case("SwiGLU", X, X + 1, opset=28),
    case("PRelu", IMAGE, weights(4, 1, 1)),
    case("PRelu", IMAGE, weights(1)),
    case("PRelu", IMAGE, weights(9)),
    case("IsInf", np.array([1, np.inf, -np.inf], np.float32)),
    case("IsInf", np.array([1, np.inf, -np.inf], np.float32), detect_negative=0),
    case("IsInf", np.array([1, np.inf, -np.inf], np.float32), detect_positive=0),
    case("Not", FLAGS),
    case("BitwiseNot", WHOLE),
    *(case(name, X, floats(3, 1)) for name in ("Add", "Div", "Mul", "Sub")),
    *(case(name, X, held(0.7, np.float32)) for name in ("Add", "Div", "Mul", "Sub")),
    *(case(name, held(0.7, np.float32), X) for name in ("Add", "Div", "Mul", "Sub")),
    case("Div", WHOLE - 5, WHOLE + 2),
    case("Pow", POSITIVE, held(2.0, np.float32)),
    case("Pow", held(2.0, np.float32), X),
    case("Pow", POSITIVE, X),
    case("Mod", WHOLE - 5, WHOLE + 2),
    case("Mod", X, POSITIVE, fmod=1),
    case("BitShift", BYTES, BYTES, direction="LEFT"),
    case("BitShift", BYTES, BYTES, direction="RIGHT"),
    *(case(name, WHOLE, WHOLE + 1) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    *(case(name, FLAGS, FLAGS[:, ::-1].copy()) for name in ("And", "Or", "Xor")),
    *(case(name, WHOLE, WHOLE[:, ::-1].copy()) for name in ("Equal", "Greater", "Less")),
    *(case(name, WHOLE, WHOLE[:, ::-1].copy()) for name in ("GreaterOrEqual", "LessOrEqual")),
    *(case(name, X, X[:, ::-1].copy(), weights(4)) for name in ("Max", "Mean", "Min", "Sum")),
    *(case(name, X, held(0.3, np.float32)) for name in ("Max", "Min")),
    case("Where", FLAGS, X, X + 1),
    case("Where", FLAGS, X, held(-1e9, np.float32)),
    case("Where", FLAGS, held(3), WHOLE),
    case("Clip", X, held(0.0, np.float32), held(6.0, np.float32)),
    case("Clip", X, held(0.0, np.float32)),
    case("Clip", X, held(-0.3, np.float32), held(0.4, np.float32)),
    case("Clip", X, np.array(-0.3, np.float32), None),
    case("Clip", X),
    case("Cast", X, to=7),
    case("Cast", WHOLE, to=1),
    case("Cast", X, to=11),
    case("CastLike", X, WHOLE),
    case("Gemm", floats(2, 3), weights(5, 3), weights(5), transB=1),
    case("Gemm", floats(2, 3), weights(3, 5), weights(5)),
    case("Gemm", floats(3, 2), weights(3, 5), weights(2, 1), transA=1, alpha=0.5, beta=2.0),
    case("Gemm", floats(2, 3), weights(3, 5), alpha=0.5),
    case("Gemm", floats(2, 3), weights(3, 5), held(0.5, np.float32)),
    case("MatMul", X, weights(4, 5)),
    case("Einsum", X, weights(4, 5), equation="b i j, j k -> b i k"),
    case("Det", floats(2, 3, 3)),
    case("Conv", IMAGE, weights(6, 4, 3, 3), weights(6), pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", IMAGE, weights(6, 2, 3, 3), group=2, dilations=[2, 2]),
    case("Conv", IMAGE, weights(6, 4, 3, 2), weights(6), pads=[0, 1, 2, 0]),
    case("Conv", IMAGE, weights(6, 4, 3, 2), weights(6), auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, weights(6, 4, 3, 2), weights(6), auto_pad="SAME_LOWER"),
    case("Conv", X, weights(6, 3, 3)),
    case("Conv", floats(2, 3, 4, 5, 6), weights(6, 3, 3, 3, 3)),
    case("ConvTranspose", IMAGE, weights(4, 6, 3, 3), weights(6), pads=[1, 1, 1, 1]),
    case(
        "ConvTranspose", IMAGE, weights(4, 3, 3, 3), group=2, strides=[2, 2], output_padding=[1, 1]
    ),
    case("ConvTranspose", IMAGE, weights(4, 6, 3, 3), weights(6), pads=[0, 1, 2, 1]),
    case("ConvTranspose", IMAGE, weights(4, 6, 3, 3), strides=[2, 2], output_shape=[15, 18]),
    case("ConvTranspose", IMAGE, weights(4, 6, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case(
        "CausalConvWithState", X, weights(3, 1, 3), weights(3), floats(2, 3, 2), outputs=2, opset=27
    ),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], ceil_mode=1, strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], outputs=2),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 2, 0], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[0, 1, 2, 0]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2]),
    case("LpPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], p=2),
    *(case(name, IMAGE) for name in ("GlobalAveragePool", "GlobalMaxPool")),
    case("GlobalLpPool", IMAGE, opset=20),
    case(
        "MaxUnpool",
        floats(1, 1, 2, 2),
        np.array([[[[5, 7], [13, 15]]]]),
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    case(
        "BatchNormalization",
        IMAGE,
        weights(4),
        weights(4),
        weights(4),
        held([1, 2, 3, 4], np.float32),
    ),
    case("BatchNormalization", IMAGE, weights(4), weights(4), floats(4), np.abs(floats(4)) + 1),
    case(
        "BatchNormalization",
        IMAGE,
        *(weights(4), weights(4), weights(4), held([1, 2, 3, 4], np.float32)),
        outputs=3,
        training_mode=1,
    ),
    case("InstanceNormalization", IMAGE, weights(4), weights(4)),
    case("GroupNormalization", IMAGE, weights(4), weights(4), num_groups=2),
    case("GroupNormalization", IMAGE, weights(2), weights(2), num_groups=2, opset=18),
    case("LayerNormalization", X, weights(4), weights(4)),
    case("LayerNormalization", X, weights(3, 4), axis=1, outputs=3),
    case("LayerNormalization", X, weights(1), weights(4)),
    case("RMSNormalization", X, weights(4)),
    case("RMSNormalization", X, weights(1)),
    case("SimplifiedLayerNormalization", X, weights(4)),
    case("MeanVarianceNormalization", IMAGE),
    case("LRN", IMAGE, size=3, alpha=0.1, bias=2.0),
    case("Softmax", IMAGE, axis=1, opset=12),
    case("Softmax", IMAGE, axis=1),
    case("LpNormalization", X, p=1, axis=1),
    *(case(name, X, held([1, 2])) for name in REDUCTIONS.split()),
    *(case(name, X, held([-1]), keepdims=0) for name in REDUCTIONS.split()),
    case("ReduceLogSum", POSITIVE, held([0])),
    case("ReduceSum", X),
    case("ReduceSum", X, noop_with_empty_axes=1),
    case("ReduceL2", X, axes=[1], opset=13),
    case("ReduceMax", FLAGS, held([1])),
    case("ReduceMean", WHOLE * 7, held([1])),
    case("ArgMax", X, axis=1),
    case("ArgMax", WHOLE, axis=1, keepdims=0, select_last_index=1),
    case("ArgMin", X, axis=-1, keepdims=0),
    case("CumSum", X, held(1)),
    case("CumSum", X, held(1), exclusive=1, reverse=1),
    case("CumProd", X, held(1), opset=26),
    case("TopK", X, held([2]), outputs=2),
    case("TopK", WHOLE, held([2]), axis=1, largest=0, outputs=2),
    case("Reshape", X, held([0, -1])),
    case("Flatten", IMAGE),
    case("Flatten", IMAGE, axis=0),
    case("Flatten", IMAGE, axis=2),
    case("Flatten", IMAGE, axis=4),
    case("Transpose", X, perm=[2, 0, 1]),
    case("Transpose", X),
    case("Squeeze", floats(2, 1, 3), held([1])),
    case("Squeeze", floats(2, 1, 3)),
    case("Unsqueeze", X, held([0, -1])),
    case("Concat", X, X + 1, axis=-1),
    case("Split", X, held([1, 3]), axis=-1, outputs=2),
    case("Split", X, axis=-1, num_outputs=3, outputs=3),
    case("Slice", X, held([1, 0]), held([3, 9]), held([1, 2]), held([1, 2])),
    case("Slice", X, held([-1, 3]), held([-99, 0]), held([1, 2]), held([-1, -2])),
    case("Slice", X, held([-2]), held([2**62]), held([-1])),
    case("Pad", X, held([0, 0, 1, 0, 0, 2]), held(0.5, np.float32)),
    case("Pad", X, held([1, -1]), None, held([2])),
    *(case("Pad", X, held([0, 0, 1, 0, 0, 2]), mode=mode) for mode in ("edge", "reflect", "wrap")),
    *(case("Pad", X, held([0, 1, 1, 0, 2, 0]), mode=mode) for mode in ("edge", "reflect", "wrap")),
    case("Tile", X, held([1, 2, 3])),
    case("Expand", floats(3, 1), held([2, 1, 4])),
    case("DepthToSpace", IMAGE, blocksize=2),
    case("DepthToSpace", IMAGE, blocksize=2, mode="CRD"),
    case("SpaceToDepth", floats(2, 3, 4, 6), blocksize=2),
    case("Trilu", X),
    case("Trilu", X, held(-1), upper=0),
    case("CenterCropPad", X, held([5, 2]), axes=[1, 2]),
    case("ReverseSequence", X, np.array([2, 3]), batch_axis=0, time_axis=1),
    case("Col2Im", floats(1, 8, 6), held([3, 4]), held([2, 2])),
    case("Col2Im", floats(1, 8, 9), held([3, 4]), held([2, 2]), pads=[0, 0, 1, 0]),
    case("Gather", X, np.array([[2, 0], [1, -1]]), axis=1),
    case("Gather", weights(7, 4), np.array([[6, 0], [1, 2]])),
    case("Gather", X, np.array(1), axis=1),
    case("Gather", X, np.array(-1), axis=1),
    case("Gather", X, held(-1), axis=1),
    case("Gather", X, held([0, 1]), axis=1),
    case("Gather", X, held([2, 0]), axis=1),
    case("Gather", X, held([[2, 0], [-1, 1]]), axis=1),
    case("GatherElements", X, WHOLE[:, :, :2] - 1, axis=1),
    case("GatherND", X, np.array([[0, 1], [1, 2]])),
    case("GatherND", X, np.array([[1], [2]]), batch_dims=1),
    case("Scatter", X, np.array([[[0, 1, 2, 1]]] * 2), floats(2, 1, 4, seed=3), axis=1, opset=9),
    case("ScatterElements", X, np.array([[[0, -1, 2, 1]]] * 2), floats(2, 1, 4, seed=3), axis=1),
    *(
        case(
            "ScatterElements",
            X,
            np.array([[[0, 1, 2, 1]]] * 2),
            floats(2, 1, 4, seed=3),
            axis=1,
            reduction=how,
        )
        for how in ("add", "mul", "max", "min")
    ),
    *(
        case("ScatterND", X, np.array([[0, 1], [1, 2]]), floats(2, 4, seed=3), reduction=how)
        for how in ("none", "add", "mul", "max", "min")
    ),
    case("OneHot", WHOLE, held(3), held([0.0, 1.0], np.float32)),
    case("OneHot", WHOLE - 3, held([3]), held([2.0, 5.0], np.float32), axis=1),
    case("TensorScatter", floats(2, 6, 4), floats(2, 2, 4), np.array([1, 3]), opset=24, axis=1),
    case("Shape", X, start=1),
    case("Size", X),
    case("ConstantOfShape", held([100, 2])),
    case("Range", held(1), held(300), held(3)),
    case("Range", held(1.0, np.float32), held(3.0, np.float32), held(0.5, np.float32)),
    case("EyeLike", floats(3, 4), k=1),
    *(case("Resize", IMAGE, None, held([1, 1, 2.0, 3.0], np.float32), **how) for how in RESIZED),
    *(case("Resize", IMAGE, None, None, held([2, 4, 5, 7]), **how) for how in RESIZED),
    *(
        case("Resize", IMAGE, None, held([1.3, 1.7], np.float32), axes=[2, 3], **how)
        for how in RESIZED
        if how["coordinate_transformation_mode"] != "align_corners"
    ),
    case(
        "Resize",
        IMAGE,
        held([0, 0, 0.2, 0.1, 1, 1, 0.8, 1.1], np.float32),
        None,
        held([2, 4, 5, 7]),
        coordinate_transformation_mode="tf_crop_and_resize",
        mode="linear",
        extrapolation_value=3.0,
    ),
    case("Resize", X, None, held([1, 2, 2], np.float32), mode="linear"),
    case("Upsample", IMAGE, held([1, 1, 2, 2], np.float32), opset=9),
    case("Upsample", IMAGE, opset=7, scales=[1.0, 1.0, 2.0, 2.0]),
    case("Resize", IMAGE, held([1, 1, 2, 2], np.float32), opset=10),
    case("Slice", X, opset=9, starts=[0, 1], ends=[2, 9], axes=[0, 2]),
    case("TopK", X, opset=9, k=2, outputs=2),
    case("Clip", X, opset=9, min=-0.5, max=0.3),
    case("Pad", X, opset=9, pads=[0, 0, 1, 0, 0, 2], value=2.0),
    *(
        case(
            "GridSample",
            IMAGE,
            np.clip(floats(2, 5, 6, 2), -1.2, 1.2),
            mode=mode,
            padding_mode=pads,
        )
        for mode in ("linear", "nearest", "cubic")
        for pads in ("zeros", "border", "reflection")
    ),
    case("GridSample", IMAGE, floats(2, 5, 6, 2), align_corners=1, mode="bilinear", opset=16),
    case("AffineGrid", floats(2, 2, 3), held([2, 3, 5, 6])),
    *(
        case(
            name,
            STEPS,
            weights(d, g * 5, 3),
            weights(d, g * 5, 5),
            weights(d, g * 10),
            **RNN,
            **more,
        )
        for name, g in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
        for d, more in (
            (1, {"outputs": 2}),
            (1, {"outputs": 2, "direction": "reverse"}),
            (2, {"outputs": 2, "direction": "bidirectional"}),
        )
    ),
    case("LSTM", STEPS, weights(1, 20, 3), weights(1, 20, 5), hidden_size=5, outputs=3),
    case(
        "LSTM",
        STEPS,
        weights(1, 20, 3),
        weights(1, 20, 5),
        weights(1, 40),
        held([4, 4], np.int32),
        floats(1, 2, 5),
        floats(1, 2, 5, seed=2),
        hidden_size=5,
        outputs=3,
    ),
    case(
        "GRU",
        STEPS,
        weights(2, 15, 3),
        weights(2, 15, 5),
        weights(2, 30),
        hidden_size=5,
        outputs=2,
        linear_before_reset=1,
        direction="bidirectional",
    ),
    case("RNN", STEPS, weights(1, 5, 3), weights(1, 5, 5), hidden_size=5, activations=["Relu"]),
    case("Attention", floats(2, 4, 5, 6), floats(2, 4, 7, 6), floats(2, 4, 7, 6, seed=2)),
    case(
        "Attention",
        floats(2, 5, 24),
        floats(2, 5, 12),
        floats(2, 5, 12, seed=2),
        np.tril(np.ones((5, 5), bool)),
        q_num_heads=4,
        kv_num_heads=2,
        scale=0.3,
    ),
    case("Attention", floats(2, 4, 5, 6), floats(2, 4, 5, 6), floats(2, 4, 5, 6), is_causal=1),
    case("Attention", floats(2, 4, 5, 6), floats(2, 4, 7, 6), floats(2, 4, 7, 6), softcap=2.0),
    case(
        "RotaryEmbedding",
        floats(2, 4, 5, 6),
        weights(9, 3),
        weights(9, 3),
        np.arange(10).reshape(2, 5) % 9,
    ),
    case("RotaryEmbedding", floats(2, 4, 5, 6), weights(2, 5, 3), weights(2, 5, 3), interleaved=1),
    case(
        "If",
        held(True, bool),
        then_branch=graph_of_constant("then", [1.0, 2.0]),
        else_branch=graph_of_constant("else", [3.0]),
    ),
    *(case(name, held(10)) for name in ("HannWindow", "HammingWindow", "BlackmanWindow")),
    case("HannWindow", held(10), periodic=0),
    case("DFT", floats(2, 8, 1), None, held(1), onesided=1, opset=20),
    case("DFT", floats(2, 8, 2), None, held(1), inverse=1, opset=20),
    case("DFT", floats(2, 8, 1), axis=1, opset=17),
    case("STFT", floats(2, 32, 1), held(4), weights(8), held(8), onesided=1),
    case("ai.onnx.ml::ArrayFeatureExtractor", floats(3, 5), np.array([[4, 0]])),
    case("ai.onnx.ml::ArrayFeatureExtractor", held([7, 8, 9]), np.array([[2], [0]])),
    case("ai.onnx.ml::Scaler", floats(3, 2), offset=[0.5, 1.0], scale=[2.0, 0.1]),
    case("ai.onnx.ml::Normalizer", floats(3, 5), norm="L2"),
    case("ai.onnx.ml::Normalizer", floats(3, 5), norm="L1"),
    case("com.microsoft::FusedConv", IMAGE, weights(6, 4, 3, 3), weights(6), activation="Relu"),
    case("com.microsoft::Gelu", X),
    case("com.microsoft::FastGelu", X, weights(4)),
    case("com.microsoft::BiasGelu", X, weights(4)),
    case("com.microsoft::QuickGelu", X),
    case("com.microsoft::FusedMatMul", X, weights(5, 4), transB=1, alpha=0.5),
    case("com.microsoft::SkipLayerNormalization", X, X + 1, weights(4), weights(4)),
    case("com.microsoft::SkipSimplifiedLayerNormalization", X, X + 1, weights(4)),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.name}-{len(case.inputs)}-{'-'.join(case.attributes)}"
)
def test_computes_what_onnx_runtime_computes(case):
    made, given = of_one_node(case.name, case.inputs, case.attributes, case.outputs, case.opset)
    program = program_of(made).exported
    found = program.module(check_guards=False)(*map(torch.from_numpy, given.values()))
    outputs = found if isinstance(found, tuple) else (found,)
    for wanted, output in zip(reference(made, given), outputs, strict=True):
        assert relative_error(wanted, output) < 1e-4


def test_every_operator_has_a_case():
    assert OPERATORS.keys() - {case.name for case in CASES} == set()
    assert ON_HOST.keys() - OPERATORS.keys() == set()
    assert len([name for name in OPERATORS if "::" not in name]) >= 120
