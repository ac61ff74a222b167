"""The sizes that layers of ``torch.nn`` hold besides their tensors, after a cut.

A rule for each kind of layer reads the shapes that its tensors will have, and gives the attributes
that have to say the same. Nothing here imports PyTorch.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.plan import WrittenSize


class LayerRefused(Exception):
    """The layer cannot be told what the cut leaves of it. The message is the reason."""


@dataclass(frozen=True)
class Layer:
    """A layer as its rule sees it, before anything is cut.

    Attributes:
        module: The layer.
        shape: The shape of one of its tensors after the cut.
        kept: The indices of a tensor's dimension that stay, or None where all do.
        sizes: Sizes that the program spells out in the place of this layer, and that change.
    """

    module: Any
    shape: Callable[[Any], tuple[int, ...]]
    kept: Callable[[Any, int], list[int] | None]
    sizes: Sequence[WrittenSize]

    @property
    def tensors(self) -> dict[str, Any]:
        """Parameters and buffers by name."""
        return {
            **dict(self.module.named_parameters(remove_duplicate=False)),
            **dict(self.module.named_buffers(remove_duplicate=False)),
        }

    @property
    def is_cut(self) -> bool:
        changed = any(self.shape(each) != tuple(each.shape) for each in self.tensors.values())
        return changed or bool(self.sizes)

    def tensor(self, name: str, rank: int) -> Any:
        """A tensor of the layer, or the one of its shape that it is computed from; None without.

        ``torch.nn.utils`` computes weights: ``prune`` and ``spectral_norm`` from ``weight_orig``,
        ``weight_norm`` from ``weight_v``, ``parametrizations`` from what is called original.
        """
        found = self.tensors
        inner = f"parametrizations.{name}.original"
        names = (name, f"{name}_orig", f"{name}_v", f"{inner}1", inner)
        fitting = (each for each in names if each in found and len(found[each].shape) == rank)
        return next((found[each] for each in fitting), None)

    def needed(self, name: str, rank: int) -> Any:
        """The same, of a tensor that the layer's sizes are read from.

        Raises:
            LayerRefused: There is none.
        """
        tensor = self.tensor(name, rank)
        if tensor is None:
            raise LayerRefused(
                f"it has no parameter or buffer of the shape of its {name}, which is computed from "
                "others: use the downloaded program, or make the computed weight a parameter (as "
                "torch.nn.utils.parametrize.remove_parametrizations does) and export again"
            )
        return tensor

    def rows_kept(self, tensor: Any) -> list[int]:
        """The indices of a tensor's first dimension that stay."""
        kept = self.kept(tensor, 0)
        return list(range(tensor.shape[0])) if kept is None else kept

    def size_after(self, operator: str, before: Sequence[int]) -> list[int] | None:
        """What the program writes now where it wrote ``before``."""
        for size in self.sizes:
            if operator in size.operator and size.before == list(before):
                return size.after
        return None


Rule = Callable[[Layer], Mapping[str, Any]]


def rule_of(module: Any) -> Rule | None:
    """The rule for a layer of ``torch.nn``, or for a class made from one."""
    for kind in type(module).__mro__:
        if is_of_torch(kind) and kind.__name__ in LAYERS:
            return LAYERS[kind.__name__]
    return None


def is_of_torch(kind: type) -> bool:
    return kind.__module__ == "torch.nn" or kind.__module__.startswith("torch.nn.")


_RECURRENT_PARAMETER = re.compile(r"(weight|bias)_(ih|hh|hr)_l\d+(_reverse)?")


def flatten_recurrent(module: Any) -> None:
    """Lay out the weights of a recurrent layer anew: on a GPU they share one block.

    A layer that computes weights has the old ones at hand until it runs, and is left alone.
    """
    names = [name for name, _ in module.named_parameters()]
    if hasattr(module, "flatten_parameters") and all(map(_RECURRENT_PARAMETER.fullmatch, names)):
        module.flatten_parameters()


def _linear(layer: Layer) -> Mapping[str, Any]:
    rows, columns = layer.shape(layer.needed("weight", 2))
    return {"in_features": columns, "out_features": rows}


def _bilinear(layer: Layer) -> Mapping[str, Any]:
    rows, first, second = layer.shape(layer.needed("weight", 3))
    return {"in1_features": first, "in2_features": second, "out_features": rows}


def _convolution(layer: Layer) -> Mapping[str, Any]:
    weight = _conv_weight(layer)
    rows, columns, *_ = layer.shape(weight)
    groups = _conv_groups(layer, weight)
    return {"in_channels": columns * groups, "out_channels": rows, "groups": groups}


def _transposed_convolution(layer: Layer) -> Mapping[str, Any]:
    weight = _conv_weight(layer)
    rows, columns, *_ = layer.shape(weight)
    groups = _conv_groups(layer, weight)
    return {"in_channels": rows, "out_channels": columns * groups, "groups": groups}


def _conv_weight(layer: Layer) -> Any:
    return layer.needed("weight", 2 + len(layer.module.kernel_size))


def _conv_groups(layer: Layer, weight: Any) -> int:
    """How many conv groups have a row left."""
    rows_per_group = weight.shape[0] // layer.module.groups
    return len({row // rows_per_group for row in layer.rows_kept(weight)})


def _norm_of_channels(layer: Layer) -> Mapping[str, Any]:
    for name in ("weight", "running_mean"):
        if (tensor := layer.tensor(name, 1)) is not None:
            return {"num_features": layer.shape(tensor)[0]}
    return {}


def _norm_of_features(layer: Layer) -> Mapping[str, Any]:
    weight = layer.tensor("weight", len(layer.module.normalized_shape))
    if weight is not None:
        return {"normalized_shape": layer.shape(weight)}
    after = layer.size_after("norm", layer.module.normalized_shape)
    return {} if after is None else {"normalized_shape": tuple(after)}


def _norm_of_groups(layer: Layer) -> Mapping[str, Any]:
    norm = layer.module
    size = norm.num_channels // norm.num_groups
    weight = layer.tensor("weight", 1)
    if norm.num_groups == 1:  # A layer norm over channels and space: it loses any of them.
        return {} if weight is None else {"num_channels": layer.shape(weight)[0]}
    if weight is not None:
        channels = layer.shape(weight)[0]
    elif (after := layer.size_after("group_norm", [norm.num_groups])) is not None:
        channels = after[0] * size
    else:
        return {}
    return {"num_channels": channels, "num_groups": channels // size}


def _embedding(layer: Layer) -> Mapping[str, Any]:
    return {"embedding_dim": layer.shape(layer.needed("weight", 2))[1]}


def _prelu(layer: Layer) -> Mapping[str, Any]:
    return {"num_parameters": layer.shape(layer.needed("weight", 1))[0]}


def _unflatten(layer: Layer) -> Mapping[str, Any]:
    after = layer.size_after("unflatten", layer.module.unflattened_size)
    return {} if after is None else {"unflattened_size": tuple(after)}


def _recurrent(layer: Layer) -> Mapping[str, Any]:
    module = layer.module
    first, *others = [
        layer.needed(f"weight_ih_l{number}{direction}", 2)
        for number in range(module.num_layers)
        for direction in (("", "_reverse") if module.bidirectional else ("",))
    ]
    gates = first.shape[0] // module.hidden_size
    hidden = {layer.shape(weight)[0] // gates for weight in (first, *others)}
    if len(hidden) > 1:
        raise LayerRefused(
            f"its layers would have {_either(hidden)} hidden units, and the module has one number "
            "for all: keep the same in each, or use the downloaded program"
        )
    sizes = {"hidden_size": hidden.pop(), "input_size": layer.shape(first)[1]}
    if module.proj_size:
        sizes["proj_size"] = layer.shape(layer.needed("weight_hr_l0", 2))[0]
    return sizes


def _recurrent_cell(layer: Layer) -> Mapping[str, Any]:
    weight = layer.needed("weight_ih", 2)
    gates = weight.shape[0] // layer.module.hidden_size
    rows, columns = layer.shape(weight)
    return {"hidden_size": rows // gates, "input_size": columns}


def _attention(layer: Layer) -> Mapping[str, Any]:
    """Heads may go whole if as much of the embedding goes: the module has one number for both."""
    module = layer.module
    width, old = module.head_dim, module.embed_dim
    if (packed := layer.tensor("in_proj_weight", 2)) is not None:
        rows = layer.rows_kept(packed)
        parts = [[row % old for row in rows if row // old == part] for part in range(3)]
        columns = [layer.shape(packed)[1]] * 3
    else:
        weights = [layer.needed(f"{part}_proj_weight", 2) for part in "qkv"]
        parts = [layer.rows_kept(weight) for weight in weights]
        columns = [layer.shape(weight)[1] for weight in weights]
    heads = sorted({row // width for row in parts[0]})
    whole = [head * width + at for head in heads for at in range(width)]
    if any(part != whole for part in parts) or len(whole) != columns[0]:
        left = "/".join(str(len(part)) for part in parts)
        raise LayerRefused(
            f"nn.MultiheadAttention needs query, key and value as wide as its embedding, in whole "
            f"heads of {width}; this cut leaves {left} and an embedding of {columns[0]}: use the "
            "downloaded program, or edit the plan to keep all heads and the embedding of this "
            "module"
        )
    return {
        "embed_dim": columns[0],
        "kdim": columns[1],
        "vdim": columns[2],
        "num_heads": len(heads),
    }


def _either(numbers: set[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))


LAYERS: Mapping[str, Rule] = {
    "Linear": _linear,
    "Bilinear": _bilinear,
    "_ConvNd": _convolution,
    "_ConvTransposeNd": _transposed_convolution,
    "_NormBase": _norm_of_channels,
    "LayerNorm": _norm_of_features,
    "RMSNorm": _norm_of_features,
    "GroupNorm": _norm_of_groups,
    "Embedding": _embedding,
    "EmbeddingBag": _embedding,
    "PReLU": _prelu,
    "Unflatten": _unflatten,
    "RNNBase": _recurrent,
    "RNNCellBase": _recurrent_cell,
    "MultiheadAttention": _attention,
}
"""A rule for each class of ``torch.nn`` whose attributes hold sizes of its tensors."""
