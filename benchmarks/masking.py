"""The original with the channels silenced that Torch-Pruning removed: what it should compute."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

_NORMS = (nn.LayerNorm, nn.GroupNorm)
_PASSING = (
    nn.modules.batchnorm._BatchNorm,  # noqa: SLF001
    nn.modules.instancenorm._InstanceNorm,  # noqa: SLF001
    nn.PReLU,
    nn.Embedding,
    nn.Identity,
)


class Masking:
    """Collects what is removed, in the numbering of the original.

    Attributes:
        normalized: Names of the normalizations over a dimension that lost channels.
        unknown: Types of the layers whose silencing is not defined here.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.normalized: set[str] = set()
        self.unknown: set[str] = set()
        self.columns: dict[str, set[int]] = {}
        self.left: dict[str, list[int]] = {}
        self.layers = dict(model.named_modules())

    def note(self, graph: Any, group: Any) -> None:
        """Take down one group, before it is pruned."""
        for dependency, places in group.items:
            target = dependency.target.module
            if isinstance(target, nn.Parameter):
                name = graph._param_to_name.get(target, "")  # noqa: SLF001 (they keep it private)
                self._note_parameter(name)
                continue
            if not isinstance(target, nn.Module) or target not in graph._module2name:  # noqa: SLF001
                continue
            name = graph._module2name[target]  # noqa: SLF001
            if name not in self.layers:
                continue  # One of their own, for an operator without parameters.
            reads = graph.is_in_channel_pruning_fn(dependency.handler)
            writes = graph.is_out_channel_pruning_fn(dependency.handler)
            self._note_layer(name, reads, reads and writes, [int(place) for place in places])

    def _note_parameter(self, name: str) -> None:
        owner = self.layers[name.rpartition(".")[0]]
        if "norm" in type(owner).__name__.lower():
            self.normalized.add(name)

    def _note_layer(self, name: str, reads: bool, passes: bool, places: list[int]) -> None:
        layer = self.layers[name]
        if isinstance(layer, _NORMS):
            self.normalized.add(name)
        elif isinstance(layer, _PASSING) or (passes and _is_depthwise(layer)):
            return
        elif isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):  # noqa: SLF001
            if reads:
                if "std" in type(layer).__name__.lower():
                    self.normalized.add(name)  # Its weights are normalized over what it reads.
                size = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
                gone = self._original(name, size, places)
                self.columns.setdefault(name, set()).update(gone)
        elif any(True for _ in layer.parameters(recurse=False)):
            self.unknown.add(type(layer).__name__)

    def _original(self, name: str, size: int, places: list[int]) -> list[int]:
        """Places in a layer that may have lost some before, as places in the original."""
        left = self.left.setdefault(name, list(range(size)))
        gone = [left[place] for place in places]
        for number in gone:
            left.remove(number)
        return gone

    @torch.no_grad()
    def masked(self) -> nn.Module:
        """A copy of the original in which no layer reads a removed channel."""
        model = copy.deepcopy(self.model)
        for name, gone in self.columns.items():
            layer = model.get_submodule(name)
            _silence(layer, layer.weight, sorted(gone))
        return model


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == layer.out_channels > 1  # noqa: SLF001


def _silence(layer: nn.Module, weight: Tensor, gone: list[int]) -> None:
    if isinstance(layer, nn.Linear):
        weight[:, gone] = 0
        return
    assert isinstance(layer, nn.modules.conv._ConvNd)  # noqa: SLF001
    if layer.transposed:
        weight[gone] = 0
        return
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    for place in gone:
        group, column = divmod(place, inputs)
        weight[group * outputs : (group + 1) * outputs, column] = 0
