"""Cast a program: choose, write, compare, and keep in float32 what few bits are too few for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch.fx import Node

from worker.engine.changed import Changed
from worker.engine.config import CastConfig
from worker.engine.data import Rows
from worker.engine.difference import LOW_PRECISION, relative_error
from worker.engine.errors import ExportError, NotFiniteError
from worker.engine.precision.choice import Asked, choose, readers_of
from worker.engine.precision.float8 import Scaled, scaled_weights
from worker.engine.precision.lines import lines_of
from worker.engine.precision.look import Leaves, Seen, first_infinite, look
from worker.engine.precision.rewrite import Rewritten, UnsupportedError, rewritten
from worker.engine.program import Program
from worker.engine.recovery.setting import Setting

_FAR = 4.0
"""How much farther off outputs may be than rounding explains before layers are kept in float32."""

_COARSE = "its rounding alone moves the model's outputs too far"


@torch.no_grad()
def cast(program: Program, config: CastConfig, rows: Rows | None, setting: Setting) -> Changed:
    """Compute in a floating-point type of fewer bits wherever it holds what is computed.

    Products and elementwise calls are in that type, and what only they read is stored in it. Norms,
    softmax, powers and long sums are float32, as is what overflows on the data, and as many layers
    as it takes for the outputs to be near those of the program.

    Args:
        program: Read, never written.
        config: The type, and what stays as it is.
        rows: Training data, of which inputs are read; the example inputs stand in for it.
        setting: Seed and progress.

    Returns:
        The program with casts, and a line for each weight.

    Raises:
        DataMismatchError: The program does not run on the rows.
        NotFiniteError: The outputs are NaN or infinite, whatever stays in float32.
        ExportError: The program with casts does not export.

    Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3, for which
    operators need float32.
    """
    is_float8 = config.dtype == "float8_e4m3fn"
    low = torch.bfloat16 if is_float8 else getattr(torch, config.dtype)
    batches = _batches(program, config, rows, setting)
    seen = look(program, batches, low, setting.on_progress)
    kept, warnings = _kept(program, config)
    islands = dict.fromkeys(readers_of(program, kept), "named in keep_float")
    asked = Asked(low, config.cast_inputs, kept, {**seen.islands, **islands})
    found, asked, scaled, error = _near(program, asked, batches, seen, is_float8=is_float8)
    if not error <= _FAR * LOW_PRECISION[low]:
        warnings.append(
            f"in {config.dtype}, outputs differ from the model's by {error:.2g} of the largest, "
            "with every layer that can be in float32: check the model's quality"
        )
    exported = Program.from_exported(found.program.export())
    if exported.input_sizes != program.input_sizes:
        raise ExportError(
            f"the program in {config.dtype} takes inputs of shapes {exported.input_sizes} where "
            f"the model takes {program.input_sizes} (None is any size): export the model with "
            "other dynamic shapes"
        )
    lines = tuple(lines_of(program, asked, found.choice, scaled, seen.errors))
    return Changed(exported, lines, tuple(warnings))


def _batches(
    program: Program, config: CastConfig, rows: Rows | None, setting: Setting
) -> list[Leaves]:
    """Flat inputs to look at: rows that the seed draws, or the example inputs."""
    if rows is None:
        return [program.example_leaves]
    order = np.random.default_rng(setting.draw(0)).permutation(len(rows))[: config.sample_count]
    return [b.inputs for b in rows.batches(program, config.batch_size, order=np.sort(order))]


def _kept(program: Program, config: CastConfig) -> tuple[frozenset[str], list[str]]:
    """The parameters that patterns name, and a warning for each pattern that names none."""
    names = [name for name, _ in program.module.named_parameters(remove_duplicate=False)]
    matched = {
        pattern: [name for name in names if fnmatchcase(name, pattern)]
        for pattern in config.keep_float
    }
    warnings = [
        f"keep_float: no parameter is called {pattern!r}"
        for pattern in matched
        if not matched[pattern]
    ]
    return frozenset(name for own in matched.values() for name in own), warnings


def _near(
    program: Program, asked: Asked, batches: Sequence[Leaves], seen: Seen, *, is_float8: bool
) -> tuple[Rewritten, Asked, Mapping[str, Scaled], float]:
    """A program with casts whose outputs are near, by as many layers in float32 as that takes.

    Those come first whose rounding alone changes their own output most: one, then two in all, then
    four, until it is enough or all.

    Raises:
        NotFiniteError: Outputs are not finite where the program's are.
    """
    expected = [program.run(leaves) for leaves in batches]
    worst = sorted(seen.errors, key=lambda node: (-seen.errors[node], node.name))
    count = 1
    while True:
        found, asked, scaled = _written(program, asked, is_float8=is_float8)
        error = _difference(found.program, batches, expected)
        if error <= _FAR * LOW_PRECISION[asked.low]:
            return found, asked, scaled, error
        first = None
        if error == float("inf"):
            first = first_infinite(found.program, dict(found.origins), batches, seen.infinite)
        if first is not None and first not in asked.islands:
            more = {first: "it gives NaN or infinity in that type"}
        elif left := [node for node in worst if node not in asked.islands]:
            more, count = dict.fromkeys(left[:count], _COARSE), 2 * count
        elif error == float("inf"):
            raise NotFiniteError(
                "the model gives NaN or infinity in that type, even with all its layers in "
                "float32: ask for bfloat16, which has the range of float32, or leave the step out",
                pointer="/dtype",
            )
        else:
            return found, asked, scaled, error
        asked = replace(asked, islands={**more, **asked.islands})


def _written(
    program: Program, asked: Asked, *, is_float8: bool
) -> tuple[Rewritten, Asked, Mapping[str, Scaled]]:
    """Write the casts; what torch does not compute in the type is float32."""
    while True:
        scaled = scaled_weights(program, choose(program, asked)) if is_float8 else {}
        try:
            return rewritten(program, asked, scaled), asked, scaled
        except UnsupportedError as error:
            if error.node in asked.islands:
                raise
            more: dict[Node, str] = {error.node: str(error)}
            asked = replace(asked, islands={**asked.islands, **more})


def _difference(
    program: Program, batches: Sequence[Leaves], expected: Sequence[Sequence[torch.Tensor]]
) -> float:
    """The largest relative difference of any batch, in the types of what is expected."""
    worst = 0.0
    for leaves, outputs in zip(batches, expected, strict=True):
        found = [
            one.to(other.dtype) for one, other in zip(program.run(leaves), outputs, strict=True)
        ]
        worst = max(worst, relative_error(found, outputs))
    return worst
