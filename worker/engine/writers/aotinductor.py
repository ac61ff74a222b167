"""A package that AOTInductor compiled: no Python is needed to run it."""

import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from worker.engine.program import Program
from worker.engine.writers.inductor_codes import decomposed
from worker.engine.writers.inexpressible import InexpressibleError

_COMPILERS = ("g++", "c++", "clang++")


def write(program: Program, origin: object, path: Path) -> None:
    """Compile for the processor of this machine; what is quantized with integer kernels.

    Raises:
        InexpressibleError: There is no compiler here, or it does not take the program.
    """
    del origin  # Whatever it came from.
    if not any(map(shutil.which, _COMPILERS)):
        raise InexpressibleError(
            f"this worker has no C++ compiler (looked for {', '.join(_COMPILERS)}); compile "
            "model.pt2 yourself with torch._inductor.aoti_compile_and_package"
        )
    others = [leaf for leaf in program.example_leaves if not isinstance(leaf, Tensor)]
    if others:
        raise InexpressibleError(
            f"the program takes what is no tensor ({others[0]!r:.40}), and its package cannot be "
            "checked with that"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of the compiler's own workings.
            exported = (decomposed(program) if program.packed else program).export()
            torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - public by its documentation
                exported,
                package_path=str(path),
                # Weights of codes are made once: patterns of integer kernels want them constant.
                inductor_configs={"freezing": bool(program.packed)},
            )
    except Exception as error:
        # Whatever a compiler raises, on a program that runs without it.
        raise InexpressibleError(
            f"AOTInductor does not compile this program ({type(error).__name__})"
        ) from error


def serve(path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """The compiled package, loaded."""
    compiled = torch._inductor.aoti_load_package(str(path))  # noqa: SLF001 - as above
    structure = pytree.treespec_loads(compiled.loader.get_call_spec()[0])

    def call(leaves: Sequence[Tensor]) -> list[Tensor]:
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        outputs = pytree.tree_leaves(compiled(*args, **kwargs))
        return [output for output in outputs if isinstance(output, Tensor)]

    return call


def run(path: Path, calls: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The outputs of the compiled package."""
    call = serve(path)
    return [output for leaves in calls for output in call(leaves)]
