"""What stands around small networks of scikit-learn: scaled inputs, and classes by their places."""

import torch
from torch import Tensor

from worker.engine.readers.onnx.registry import Call, Unmet, operator


@operator("ai.onnx.ml::ArrayFeatureExtractor")
def array_feature_extractor(_: Call, x: Tensor, places: Tensor) -> Tensor:
    """Look up along the last axis."""
    found = x.index_select(-1, places.reshape(-1).long())
    return found.unsqueeze(0) if x.dim() == 1 else found


@operator("ai.onnx.ml::Scaler")
def scaler(call: Call, x: Tensor) -> Tensor:
    """Subtract an offset from each feature, and scale it."""
    offset = torch.tensor(list(call.get("offset", [0.0])), dtype=torch.float32)
    scale = torch.tensor(list(call.get("scale", [1.0])), dtype=torch.float32)
    return (x.float() - offset) * scale


@operator("ai.onnx.ml::Normalizer")
def normalizer(call: Call, x: Tensor) -> Tensor:
    """Divide each row by its norm."""
    orders = {"L1": 1, "L2": 2}
    norm = call.get("norm", "MAX")
    if norm not in orders:
        # Of the largest number or of the largest absolute value: its runtimes do not agree.
        raise Unmet(f"its norm is {norm!r}")
    length = torch.linalg.vector_norm(x.float(), orders[norm], dim=-1, keepdim=True)
    return x.float() / torch.where(length == 0, torch.ones_like(length), length)
