"""Take a model in: read its program, and refuse what no recipe can be done on."""

import torch

from worker.engine.arguments import needed_by
from worker.engine.config import Request
from worker.engine.errors import (
    BaselineError,
    NotFiniteError,
    NothingToPruneError,
    TrainingModeError,
)
from worker.engine.program import Program, attribute
from worker.engine.quantized import check_not_quantized
from worker.engine.readers import Source, read_model
from worker.engine.recovery.modes import training_calls


def admitted(request: Request) -> tuple[Program, Source]:
    """The program of a request, on its device, and what it was read from.

    Raises:
        UnreadableModelError: No program can be made of the file.
        UnsupportedModelError: A part of the model is unknown to the reader of its format.
        TrainingModeError: It was exported for training.
        QuantizedModelError: It is quantized already.
        NothingToPruneError: No output is computed from a parameter.
        BaselineError: It does not run on its own example inputs.
        NotFiniteError: All that it computes from them is NaN or infinite.
    """
    source = read_model(request.model, request.model_format)
    program = Program.from_exported(source.exported)
    if calls := training_calls(program.module):
        raise TrainingModeError(
            f"the model was exported for training ({calls[0].target}, node {calls[0].name!r}), so "
            "that its outputs depend on chance or on the other rows of a batch: call model.eval() "
            "and export it again"
        )
    check_not_quantized(program)
    if not _reads_parameters(program):
        raise NothingToPruneError(
            "there are no parameters that the outputs are computed from: a model needs at least "
            "one inner layer, such as two linear layers in a row"
        )
    program = program.to(request.device)
    _check_runs(program)
    return program, source


@torch.no_grad()
def _check_runs(program: Program) -> None:
    try:
        outputs = program.run(program.example_leaves)
    except Exception as error:
        # Whatever it raises comes from the user's graph: it is the baseline that fails.
        raise BaselineError(
            f"the model does not run on its own example inputs ({type(error).__name__}); export it "
            "again and check that torch.export.load(path).module()(*example_inputs) works"
        ) from error
    if outputs and not any(bool(output.isfinite().any()) for output in outputs):
        raise NotFiniteError(
            "all that the model computes from its own example inputs is NaN or infinite, so that "
            "nothing can be compared with it: look at its weights and its inputs"
        )


def _reads_parameters(program: Program) -> bool:
    """Whether any output is computed from a parameter."""
    needed = (node for node in needed_by(program.graph) if node.op == "get_attr")
    read = (attribute(program.module, str(node.target)) for node in needed)
    return any(isinstance(found, torch.nn.Parameter) for found in read)
