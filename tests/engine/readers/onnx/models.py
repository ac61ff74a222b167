"""Models of ONNX made by hand, and what they compute elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

NEWEST = 23
"""The opset of most cases."""


@dataclass(frozen=True)
class Held:
    """An input of a node that the file holds."""

    array: np.ndarray


def held(values: Any, dtype: Any = np.int64) -> Held:
    return Held(np.array(values, dtype=dtype))


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights(*shape: int, seed: int = 1) -> Held:
    return Held(floats(*shape, seed=seed))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, np.ndarray],
    outputs: Sequence[str] = ("y",),
    constants: dict[str, np.ndarray] | None = None,
    *,
    opset: int = NEWEST,
    shapes: dict[str, list[int | str | None]] | None = None,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    given = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(array.dtype),
            (shapes or {}).get(name, list(array.shape)),
        )
        for name, array in inputs.items()
    ]
    made = [onnx.ValueInfoProto(name=name) for name in outputs]
    stored = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "graph", given, made, stored)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)


def of_one_node(
    name: str, inputs: Sequence[Any], attributes: dict[str, Any], outputs: int, opset: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node; ``None`` is an input that is left out."""
    names = [f"x{at}" if one is not None else "" for at, one in enumerate(inputs)]
    arrays = dict(zip(names, inputs, strict=True))
    given = {n: one for n, one in arrays.items() if isinstance(one, np.ndarray)}
    constants = {n: one.array for n, one in arrays.items() if isinstance(one, Held)}
    domain, _, op_type = name.rpartition("::")
    results = [f"y{at}" for at in range(outputs)]
    node = helper.make_node(op_type, names, results, name="node", domain=domain, **attributes)
    made = model([node], given, results, constants, opset=opset, domains=[domain] if domain else [])
    return made, given


def reference(made: onnx.ModelProto, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes; ONNX's own evaluator where it has not the operator."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(made.SerializeToString())
    except Exception:  # noqa: BLE001 (it has not the operator, in one of many words)
        return [np.asarray(one) for one in ReferenceEvaluator(made).run(None, given)]
    return session.run(None, given)


def relative_error(wanted: np.ndarray, found: torch.Tensor) -> float:
    assert tuple(found.shape) == wanted.shape
    one, other = wanted.astype(np.float64), found.detach().double().numpy()
    if not one.size:
        return 0.0
    return float(np.linalg.norm(one - other) / max(float(np.linalg.norm(one)), 1e-12))


def graph_of_constant(name: str, values: list[float]) -> onnx.GraphProto:
    node = helper.make_node("Constant", [], [name], value_floats=values)
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([node], name, [], [result])
