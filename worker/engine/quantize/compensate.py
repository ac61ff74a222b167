"""Round weights so that errors make up for each other, by what layers read."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Generator, Tensor

from worker.engine.coded.chain import Coded, matrix_in_sets
from worker.engine.coded.grid import Grid
from worker.engine.config import QuantizeConfig
from worker.engine.data import Rows, equal_batches
from worker.engine.errors import NotFiniteError
from worker.engine.packed import PackedWeight
from worker.engine.program import Program
from worker.engine.quantize.sample import sampled
from worker.engine.recovery.layers import Layer, layers_of
from worker.engine.recovery.lockstep import Lockstep
from worker.engine.recovery.reconstruct import rows_held
from worker.engine.recovery.setting import Setting

_DAMPING = 0.01
"""Relative to the mean square of a column."""

_BLOCK = 128
"""Columns that are worked on before the rest hears of their errors."""

_MOST_INPUTS = 2**13
"""Columns of one layer: the square of their number is held, in double precision, thrice."""

# Positions of a convolution are many and alike: of each layer as many, and twice its columns.
_ROWS = 2**15


Stored = tuple[PackedWeight, Callable[[Tensor], Grid]]
"""How a weight is stored, and what finds the grid of its sets."""


@torch.no_grad()
def compensated(
    program: Program,
    weights: Mapping[str, Stored],
    config: QuantizeConfig,
    rows: Rows,
    setting: Setting,
) -> dict[str, Coded]:
    """Round the weights of layers one after another, each with what it reads by then.

    A weight is rounded input by input, and what one loses is made up for by those not rounded yet,
    by the second moments of what the layer reads: Frantar, Ashkboos, Hoefler and Alistarh (2023),
    "GPTQ: Accurate post-training quantization for generative pre-trained transformers", section 3.

    Args:
        program: With rounded activations, if they are to be. Its weights become the rounded ones.
        weights: By name.
        config: How many rows, and how many at once.
        rows: Inputs are read.
        setting: Its seed chooses rows and positions. Zeros of its sparse weights stay zero. Told
            layers done, of all weights.

    Returns:
        The weights that can be: of layers that nobody shares, of no more than 8,192 inputs.

    Raises:
        DataMismatchError: There are fewer than 16 rows, or the program does not run on them.
        NotFiniteError: A layer reads or gives NaN or infinity.
    """
    layers = _layers(program, weights)
    if not layers:
        return {}
    order = sampled(config, rows, setting)
    most = rows_held(program, program, rows)
    size, count = equal_batches(program, config.batch_size, rows=min(most, len(order)))
    batches = [batch.inputs for batch in rows.batches(program, size, order=order[: size * count])]
    running = Lockstep(program, batches, unready=[layer.node for layer in layers])
    generator = Generator().manual_seed(setting.seed)
    found: dict[str, Coded] = {}
    for done, layer in enumerate(layers, start=1):
        running.run_to(layer.node)
        about, grid_of = weights[layer.parameter]
        moments = _moments(layer, running, generator)
        is_sparse = any(name in setting.sparse for name in about.names)
        found[layer.parameter] = _rounded(
            layer.start, moments, about, grid_of, keeps_zeros=is_sparse
        )
        program.module.get_parameter(layer.parameter).copy_(found[layer.parameter].weight)
        setting.on_progress(done, len(weights))
    return found


def _layers(program: Program, weights: Collection[str]) -> list[Layer]:
    """Layers with these weights, which nobody shares, in the order in which they run."""
    place = {node: at for at, node in enumerate(program.graph.nodes)}
    found: list[Layer] = [
        layer
        for layer in layers_of(program)
        if layer.parameter in weights and layer.start.shape[1] <= _MOST_INPUTS
    ]
    return sorted(found, key=lambda layer: place[layer.node])


def _moments(layer: Layer, running: Lockstep, generator: Generator) -> Tensor:
    """Mean products of what a layer reads: float64, ``(problems, inputs, inputs)``.

    Raises:
        NotFiniteError: It reads NaN or infinity.
    """
    problems, inputs, _ = layer.start.shape
    total = layer.start.new_zeros(problems, inputs, inputs)
    count = 0
    share = -(-(_ROWS + 2 * inputs) // len(running.values))
    for values in running.values:
        columns = layer.columns(values)
        picked = torch.randperm(len(columns), generator=generator)[:share]
        read = columns[picked.to(columns.device)].transpose(0, 1).double()
        total += read.mT @ read
        count += len(picked)
    if not bool(total.isfinite().all()):
        raise NotFiniteError(
            f"on the training data the layer of {layer.parameter} reads NaN or infinity: check "
            "the data for NaN, and its range"
        )
    return total / max(count, 1)


def _rounded(
    start: Tensor,
    moments: Tensor,
    about: PackedWeight,
    grid_of: Callable[[Tensor], Grid],
    *,
    keeps_zeros: bool,
) -> Coded:
    """Round ``(problems, inputs, outputs)`` weights, each problem by its moments."""
    rows = start.mT.flatten(0, 1)
    stays_zero = (rows == 0) & keeps_zeros
    grid = grid_of(matrix_in_sets(rows.float(), about))
    share = len(rows) // len(moments)
    parts = [slice(at * share, (at + 1) * share) for at in range(len(moments))]
    codes = torch.cat(
        [
            _one_by_one(rows[part], stays_zero[part], moment, _Grids(grid, about, part))
            for part, moment in zip(parts, moments, strict=True)
        ]
    )
    zero = grid.encode(torch.zeros(about.sets, device=codes.device))
    is_filling = matrix_in_sets(torch.zeros_like(rows), about).isnan()
    return Coded(
        about, grid, torch.where(is_filling, zero, matrix_in_sets(codes, about, filling=0))
    )


class _Grids:
    """The grid of each column, for some rows of a weight."""

    def __init__(self, grid: Grid, about: PackedWeight, rows: slice) -> None:
        self._grid, self._about, self._rows = grid, about, rows
        self._found: dict[int, Grid] = {}

    def of(self, column: int) -> Grid:
        """In which each row is a set of its own."""
        group = column // self._about.group_size if self._about.group_size else 0
        if group not in self._found:
            grid = self._grid
            parts = (grid.scale, grid.zero_point, grid.levels)
            scale, zero, levels = (self._part(each, group) for each in parts)
            self._found[group] = Grid(grid.least, grid.most, scale, zero, levels)
        return self._found[group]

    def _part(self, tensor: Tensor | None, group: int) -> Tensor | None:
        if tensor is None:
            return None
        if self._about.granularity == "per_tensor":
            return tensor.expand(self._rows.stop - self._rows.start, -1)
        return tensor.view(-1, self._about.groups, tensor.shape[1])[self._rows, group]


def _one_by_one(weight: Tensor, stays_zero: Tensor, moment: Tensor, grids: _Grids) -> Tensor:
    """Codes of ``(outputs, inputs)`` weights, each error made up for by the inputs behind it.

    Args:
        weight: float64.
        stays_zero: bool, as ``weight``: what takes none of the errors of others.
        moment: Mean products of inputs, ``(inputs, inputs)``, float64.
        grids: What the weights of each column can become.
    """
    left = weight.clone()
    codes = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    factor = _factor(moment)
    for start in range(0, weight.shape[1], _BLOCK):
        stop = min(start + _BLOCK, weight.shape[1])
        errors = torch.zeros_like(left[:, start:stop])
        for column in range(start, stop):
            grid = grids.of(column)
            here = left[:, column : column + 1].masked_fill(stays_zero[:, column : column + 1], 0.0)
            found = grid.encode(here.float())
            codes[:, column : column + 1] = found
            error = left[:, column] - grid.decode(found)[:, 0].double()
            error = error / factor[column, column]
            left[:, column:stop] -= error[:, None] * factor[column, column:stop]
            errors[:, column - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes


def _factor(moment: Tensor) -> Tensor:
    """The upper Cholesky factor of the damped moment's inverse."""
    level = moment.diagonal().mean()
    level = level if level > 0 else torch.ones_like(level)
    damped = moment + torch.eye(len(moment), dtype=moment.dtype, device=moment.device) * (
        _DAMPING * level
    )
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor
