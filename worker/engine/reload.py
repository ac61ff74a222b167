"""Run a saved program on its own example inputs, in a process of its own.

``python -m worker.engine.reload MODEL OUTPUTS`` loads the file the way every upload is loaded and
writes its outputs as safetensors: proof that the file stands alone.
"""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.engine.errors import OutputsDifferError
from worker.engine.load import load_program
from worker.engine.program import Program

_ROOT = Path(__file__).resolve().parents[2]


def outputs_in_fresh_process(model: Path, scratch: Path) -> list[Tensor]:
    """The outputs of a saved program on its example inputs, from a new interpreter.

    Raises:
        OutputsDifferError: The new process could not load or run the file.
    """
    written = scratch / "reloaded.safetensors"
    done = subprocess.run(  # noqa: S603 (this interpreter, on a file that this job made)
        [sys.executable, "-m", "worker.engine.reload", str(model), str(written)],
        cwd=_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OutputsDifferError(
            "the saved model does not load or run in a fresh process; its last words: "
            f"{done.stderr.strip().splitlines()[-1:]}"
        )
    outputs = load_file(written)
    written.unlink()
    return [outputs[str(at)] for at in range(len(outputs))]


@torch.no_grad()
def outputs_on_examples(program: Program) -> list[Tensor]:
    """The outputs on the example inputs; a model that draws draws the same in every process."""
    torch.manual_seed(0)
    return program.run(program.example_leaves)


def main(model: Path, written: Path) -> None:
    program = Program.from_exported(load_program(model))
    outputs = outputs_on_examples(program)
    save_file({str(at): output.contiguous() for at, output in enumerate(outputs)}, written)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
