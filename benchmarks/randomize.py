"""Give a network with random weights no zeros and ones that a wrong cut could hide behind."""

from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.architecture import Inputs

# An output that moves by less than this share of its size between two rows shows too little.
_LEAST_DIFFERENCE = 1e-3
_LARGEST_OUTPUT = 1e8


def randomize(model: nn.Module, inputs: Inputs, *, seed: int) -> float:
    """Draw again what is constant; where the output shows too little then, do more.

    More is to enlarge small weights, and to settle the batch norms.

    Returns:
        How much the outputs of two rows differ, relative to their size; NaN for one row.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if _is_constant(parameter):
                parameter.copy_(_drawn(parameter, generator))
        for name, buffer in model.named_buffers():
            if buffer.dim() == 1 and buffer.numel() > 1 and _is_constant(buffer):
                positive = name.endswith("running_var")
                noise = torch.rand(buffer.shape, generator=generator) + 0.5
                buffer.copy_(noise if positive else _drawn(buffer, generator))
        found = _difference(model, inputs)
        if not found >= _LEAST_DIFFERENCE:
            _enlarge(model)
            found = _difference(model, inputs)
        if not found >= _LEAST_DIFFERENCE:
            _settle(model, inputs)
            found = _difference(model, inputs)
    return found


def _is_constant(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    return bool((tensor == tensor.flatten()[0]).all()) and abs(float(tensor.flatten()[0])) <= 1


def _drawn(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Around what it was; layer scales and gains of nearly zero become a tenth or more."""
    value = float(tensor.flatten()[0])
    if tensor.numel() == 1:
        return torch.full_like(tensor, value if abs(value) > 0.01 else 0.3)
    noise = torch.randn(tensor.shape, generator=generator).to(tensor)
    return value + 0.1 * noise if abs(value) > 0.01 else 0.1 * noise


def _difference(model: nn.Module, inputs: Inputs) -> float:
    """Of the two rows of every output, relative; 0 where an output is not finite or too large."""
    outputs = [
        output
        for output in pytree.tree_leaves(model(*inputs[0], **inputs[1]))
        if isinstance(output, Tensor) and output.is_floating_point()
    ]
    if not all(bool((output.abs() < _LARGEST_OUTPUT).all()) for output in outputs):
        return 0.0
    rows = [output for output in outputs if output.dim() and output.shape[0] == 2]
    if not rows:
        return float("nan")
    return max(float((r[0] - r[1]).abs().max() / r.abs().max().clamp(min=1e-30)) for r in rows)


def _enlarge(model: nn.Module) -> None:
    """Scale up weights under which a signal fades away, layer by layer."""
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            usual, found = parameter[0].numel() ** -0.5, float(parameter.std())
            if 0 < found < usual / 2:
                parameter.mul_(usual / found)


def _settle(model: nn.Module, inputs: Inputs) -> None:
    """Set the statistics of batch norms to those of the inputs."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    # One value per channel has no variance: then the statistics stay as they are.
    with suppress(ValueError):
        model(*inputs[0], **inputs[1])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
        if norm.running_var is not None:
            norm.running_var.clamp_(min=1e-4)
