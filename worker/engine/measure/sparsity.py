"""How much of a program is zero."""

from worker.engine.program import Program


def sparsity(program: Program) -> float:
    """Fraction of the elements of all parameters that are exactly zero, in [0, 1]."""
    zeros = elements = 0
    for parameter in program.module.parameters():
        zeros += int((parameter == 0).sum())
        elements += parameter.numel()
    return zeros / elements if elements else 0.0
