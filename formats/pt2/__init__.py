"""``torch.export``'s ``.pt2``: a program with its weights, checked before torch sees it.

``torch.export.load`` runs code from the file in many ways (see ``tests/attacks/README.md``).
Everything that it would read is compared here with lists of what torch writes, by the standard
library alone.
"""

from formats.pt2.program import CheckedProgram, ProgramInfo, inspect_pt2, open_pt2

__all__ = ["CheckedProgram", "ProgramInfo", "inspect_pt2", "open_pt2"]
