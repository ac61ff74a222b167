"""Run a saved model, in a process of its own: proof that the file stands alone.

``python -m worker.engine.reload RUNNER MODEL CALLS OUTPUTS``: RUNNER names a function, as
``module:name``, of the model's path and a list of calls. Calls and outputs are safetensors files:
tensor ``C.I`` is the I-th flat input of the C-th call, and tensor ``N`` the N-th output of all.
"""

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.engine.errors import OutputsDifferError
from worker.engine.load import load_program
from worker.engine.program import Program
from worker.engine.wording import first_line

_ROOT = Path(__file__).resolve().parents[2]
_PT2 = "worker.engine.reload:run_on_examples"

Calls = Sequence[Sequence[Tensor]]
Runner = Callable[[Path, Calls], list[Tensor]]


def outputs_in_fresh_process(
    model: Path,
    scratch: Path,
    *,
    runner: str = _PT2,
    calls: Calls = (),
    environment: Mapping[str, str] | None = None,
) -> list[Tensor]:
    """The outputs of a saved model, from a new interpreter.

    Args:
        model: The file.
        scratch: A folder for what goes in and comes out.
        runner: What loads and runs it; by default as a ``.pt2`` on its own example inputs.
        calls: The flat inputs of each call.
        environment: Variables that the new process has besides those of this one.

    Raises:
        OutputsDifferError: The new process could not load or run the file.
    """
    written, given = scratch / "reloaded.safetensors", scratch / "calls.safetensors"
    save_file(
        {
            f"{number}.{at}": leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
            for number, call in enumerate(calls)
            for at, leaf in enumerate(call)
        },
        given,
    )
    files = [str(path) for path in (model, given, written)]
    command = [sys.executable, "-m", "worker.engine.reload", runner, *files]
    done = subprocess.run(  # noqa: S603 (this interpreter, on a file that this job made)
        command,
        cwd=_ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    given.unlink()
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise OutputsDifferError(
            f"the saved model does not load or run in a fresh process ({said[0]})"
        )
    outputs = load_file(written)
    written.unlink()
    return [outputs[str(at)] for at in range(len(outputs))]


@torch.no_grad()
def outputs_on_examples(program: Program) -> list[Tensor]:
    """The outputs on the example inputs; a model that draws draws the same in every process."""
    torch.manual_seed(0)
    return program.run(program.example_leaves)


def run_on_examples(path: Path, calls: Calls) -> list[Tensor]:
    """The outputs of a ``.pt2`` on the inputs that are in it."""
    assert not calls
    return outputs_on_examples(Program.from_exported(load_program(path)))


@torch.no_grad()
def main(runner: str, model: Path, given: Path, written: Path) -> None:
    calls: list[list[Tensor]] = []
    inputs = load_file(given)
    for name in sorted(inputs, key=lambda name: tuple(map(int, name.split(".")))):
        if name.endswith(".0"):
            calls.append([])
        calls[-1].append(inputs[name])
    run: Runner = resolve_name(runner)
    outputs = run(model, calls)
    # Copies: one tensor may be given twice.
    plain = {str(at): output.contiguous().clone() for at, output in enumerate(outputs)}
    save_file(plain, written)


if __name__ == "__main__":
    try:
        main(sys.argv[1], *map(Path, sys.argv[2:]))
    except Exception as failure:  # noqa: BLE001 - the end of the process
        # The last line is for the user; what comes before it is for the log.
        traceback.print_exc()
        sys.exit(first_line(failure))
