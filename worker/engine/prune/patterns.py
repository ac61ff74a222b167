"""What becomes zero as one: N of M inputs, or blocks of outputs by inputs."""

from torch import Tensor


def n_of_m(pattern: str) -> tuple[int, int]:
    most, _, of = pattern.partition(":")
    return int(most), int(of)


def block_of(pattern: str) -> tuple[int, int]:
    high, _, wide = pattern.partition("x")
    return int(high), int(wide)


def lines_of(weight: Tensor, inputs: int, of: int) -> Tensor | None:
    """The inputs of each output, in whole runs of M: ``(..., runs, M)``; None where none is."""
    lines = weight.movedim(inputs, -1)
    runs = lines.shape[-1] // of
    return lines[..., : runs * of].reshape(*lines.shape[:-1], runs, of) if runs else None


def outputs_first(weight: Tensor, inputs: int) -> Tensor:
    """A view with outputs in the first dimension: they lie before inputs, or behind them."""
    is_behind = inputs != 1 and inputs + 1 < weight.dim()
    return weight.movedim((inputs + 1, inputs), (0, 1)) if is_behind else weight


def as_matrix(weight: Tensor, inputs: int) -> Tensor:
    """Outputs by inputs, each input with its kernel."""
    return outputs_first(weight, inputs).flatten(1)
