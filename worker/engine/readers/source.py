"""A model as a reader gives it, whatever file it came in."""

from dataclasses import dataclass

from torch.export import ExportedProgram


@dataclass(frozen=True)
class Source:
    """A model that was read.

    Attributes:
        exported: The program, in evaluation mode, on the CPU, with example inputs; its parameters
            have the names that they have in the file.
        warnings: What users should know of how it was read, such as a dimension that became fixed.
        origin: What the writer of the same format needs to give the model back; None where it needs
            nothing but the program.
    """

    exported: ExportedProgram
    warnings: tuple[str, ...] = ()
    origin: object = None
