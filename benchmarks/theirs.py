"""What Torch-Pruning does with the same architecture, as it is, without hints."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.architecture import Inputs
from benchmarks.masking import Masking
from benchmarks.ours import LEAST_REMOVED, described
from worker.engine.difference import relative_error

TOLERANCE = 1e-4
_LAYERS = (
    nn.Linear,
    nn.modules.conv._ConvNd,  # noqa: SLF001 (there is no other name for all convolutions)
    nn.Embedding,
    nn.RNNBase,
    nn.MultiheadAttention,
)


@dataclass
class Theirs:
    """One row of results.

    Attributes:
        removed: Parameters removed, in percent.
        runs: The pruned model takes the example inputs.
        exact: ``exact``, ``exempt`` (a normalization lost channels: not compared), ``no``, or
            ``n/a`` where it cannot be told.
        error: Relative difference to the masked original.
        failure: What went wrong.
    """

    removed: float = 0.0
    runs: bool = False
    exact: str = "n/a"
    error: float | None = None
    failure: str = ""

    @property
    def works(self) -> bool:
        return self.runs and self.removed >= LEAST_REMOVED


def build(model: nn.Module, inputs: Inputs, ignored: list[nn.Module]) -> Any:
    """Their pruner: half of every layer's channels, by group magnitude."""
    args, kwargs = inputs
    return torch_pruning.pruner.BasePruner(
        model,
        kwargs or args,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        global_pruning=False,
        ignored_layers=ignored,
        # The defaults are dictionaries that all pruners of a process would share.
        in_channel_groups={},
        out_channel_groups={},
        num_heads={},
    )


def output_layers(model: nn.Module, inputs: Inputs) -> list[str]:
    """Names of the layers between which and the outputs there is no other layer."""
    made: dict[Any, str] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            for tensor in pytree.tree_leaves(output):
                if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                    made[tensor.grad_fn] = name

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS)
    ]
    with torch.enable_grad():
        outputs = pytree.tree_leaves(model(*inputs[0], **inputs[1]))
    for hook in hooks:
        hook.remove()
    waiting = [output.grad_fn for output in outputs if isinstance(output, Tensor)]
    seen: set[Any] = set()
    found: dict[str, None] = {}
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in made:
            found[made[node]] = None
        else:
            waiting += [following for following, _ in node.next_functions]
    return list(found)


def prepared(model: nn.Module, names: list[str]) -> tuple[nn.Module, list[nn.Module]]:
    """A copy to prune, and the layers in it that must keep their outputs."""
    own = copy.deepcopy(model)
    return own, [own.get_submodule(name) for name in names]


def prune(model: nn.Module, inputs: Inputs, ignored: list[nn.Module]) -> None:
    """All that a user waits for between a model and its pruned form."""
    build(model, inputs, ignored).step()


def measure(model: nn.Module, inputs: Inputs) -> Theirs:
    """One row, as far as it goes."""
    row = Theirs()
    masking = Masking(model)
    try:
        with _silent_gradients(model):
            own, ignored = prepared(model, output_layers(model, inputs))
            pruner = build(own, inputs, ignored)
            for group in pruner.step(interactive=True):
                masking.note(pruner.DG, group)
                group.prune()
        before = sum(parameter.numel() for parameter in model.parameters())
        row.removed = 100 * (1 - sum(p.numel() for p in own.parameters()) / before)
        with torch.no_grad():
            found = _outputs(own, inputs)
            row.runs = True
            _compare(row, masking, found, inputs)
    except Exception as error:  # noqa: BLE001 (their crash is a result)
        row.failure = described(error)
    return row


def _compare(row: Theirs, masking: Masking, found: list[Tensor], inputs: Inputs) -> None:
    expected = _outputs(masking.masked(), inputs)
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        row.exact, row.failure = "no", "the outputs lost channels"
    elif masking.normalized:
        row.exact = "exempt"
    elif masking.unknown:
        row.failure = f"not compared: {', '.join(sorted(masking.unknown))}"
    else:
        row.error = relative_error(found, expected)
        row.exact = "exact" if row.error < TOLERANCE else "no"
        row.failure = "" if row.exact == "exact" else f"differs by {row.error:.2g}"


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    leaves = pytree.tree_leaves(model(*inputs[0], **inputs[1]))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@contextmanager
def _silent_gradients(model: nn.Module) -> Iterator[None]:
    """Tracing needs parameters that ask for gradients; put them back as they were."""
    asked = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in asked.items():
            parameter.requires_grad_(flag)
