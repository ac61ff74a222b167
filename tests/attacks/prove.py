"""Run attacks on torch as it is, each in the order given; the markers tell which of them worked.

Usage: ``python tests/attacks/prove.py FILE...``, in a process and folder of its own: it does run
the attacks' code.
"""

import contextlib
import logging
import sys
import warnings
from pathlib import Path

import torch

PLANTED = "planted_by_the_attacks"


def run(path: Path) -> None:
    planted = Path(f"{PLANTED}.py")
    marker = path.with_suffix(".marker")
    planted.write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    sys.modules.pop(PLANTED, None)
    program = torch.export.load(path)
    args, kwargs = program.example_inputs
    program.module()(*args, **kwargs)


if __name__ == "__main__":
    sys.path.insert(0, "")
    # Each planted module is another file of the same name: no compiled copy may stand in.
    sys.dont_write_bytecode = True
    logging.disable()
    warnings.simplefilter("ignore")
    for name in sys.argv[1:]:
        # Most attacks break the program that they ride on, after they have run.
        with contextlib.suppress(Exception):
            run(Path(name))
