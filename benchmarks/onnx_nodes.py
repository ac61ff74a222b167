"""Run ONNX's own tests of its operators: ``python -m benchmarks.onnx_nodes``.

The onnx package makes them: a model of one node (or of the function that defines an operator),
inputs, and the outputs that are right. Each is imported, exported, and run. Inputs that say a shape
are given as constants, as exporters write them; so are those that are empty or of size one in the
test, as no dimension of theirs could be dynamic.
"""

import argparse
import json
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper

from benchmarks.page import put
from worker.engine.errors import EngineError
from worker.engine.readers.onnx import program_of
from worker.engine.readers.onnx.operators import ON_HOST, OPERATORS
from worker.engine.readers.onnx.registry import key_of

OUTCOMES = ("passed", "refused", "failed")


@dataclass
class Results:
    """What became of each test.

    Attributes:
        outcomes: ``passed``, ``refused`` or ``failed``, by the name of the test.
        reasons: Why, of those that did not pass.
    """

    outcomes: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def count(self, outcome: str) -> int:
        return sum(found == outcome for found in self.outcomes.values())


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of names of tests")
    parser.add_argument("--verbose", action="store_true", help="say why each was not passed")
    parser.add_argument("--json", type=Path, help="write outcomes and reasons to this file")
    parser.add_argument("--write", type=Path, help="put the numbers into this page")
    arguments = parser.parse_args()
    results = run(arguments.only)
    if arguments.verbose:
        for name, reason in results.reasons.items():
            print(f"{results.outcomes[name]:8} {name}: {reason}")
    if arguments.json:
        found = {"outcomes": results.outcomes, "reasons": results.reasons}
        arguments.json.write_text(json.dumps(found, indent=1))
    print("\n".join(summary(results)))
    if arguments.write:
        put(arguments.write, "python -m benchmarks.onnx_nodes", summary(results))


def run(patterns: Sequence[str] = ("*",)) -> Results:
    """Run the tests whose names match."""
    results = Results()
    for case in _cases():
        if any(fnmatchcase(case.name, pattern) for pattern in patterns):
            outcome, reason = _outcome(case)
            results.outcomes[case.name] = outcome
            if reason:
                results.reasons[case.name] = reason
    return results


def _cases() -> list[Any]:
    arguments, sys.argv = sys.argv, sys.argv[:1]
    with warnings.catch_warnings():
        # Its tests divide by zero, to say what comes of it.
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    sys.argv = arguments
    return [case for case in cases if case.model is not None]


def _outcome(case: Any) -> tuple[str, str]:
    inputs, expected = case.data_sets[0]
    names = [given.name for given in case.model.graph.input]
    if any(isinstance(array, onnx.TensorProto) for array in (*inputs, *expected)):
        return "refused", "inputs of a type that PyTorch does not have"
    if not all(isinstance(array, np.ndarray | np.generic) for array in (*inputs, *expected)):
        return "refused", "inputs or outputs are sequences or left out"
    inputs, expected = ([np.asarray(array) for array in arrays] for arrays in (inputs, expected))
    given = dict(zip(names, inputs, strict=False))
    try:
        model = with_constants(case.model, given)
        program = program_of(model).exported
        rest = [torch.from_numpy(given[info.name].copy()) for info in _inputs(model)]
        with torch.no_grad():
            found = program.module(check_guards=False)(*rest)
    except EngineError as error:
        return "refused", str(error)
    except TypeError as error:
        if "can't convert np.ndarray" in str(error):
            return "refused", f"inputs of a type that PyTorch does not have: {error}"
        return "failed", f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 (whatever is raised: it is what became of the test)
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    outputs = found if isinstance(found, tuple) else (found,)
    for wanted, made in zip(expected, outputs, strict=True):
        if reason := _difference(wanted, made, case.rtol, case.atol):
            return "failed", reason
    return "passed", ""


def _difference(wanted: np.ndarray, made: torch.Tensor, rtol: float, atol: float) -> str:
    if tuple(made.shape) != wanted.shape:
        return f"shape {tuple(made.shape)} instead of {wanted.shape}"
    array = made.detach()
    array = array.float().numpy() if array.dtype == torch.bfloat16 else array.numpy()
    if wanted.dtype != array.dtype and str(wanted.dtype) != "bfloat16":
        return f"type {array.dtype} instead of {wanted.dtype}"
    numbers = [each.astype(np.float64) for each in (array, wanted)]
    # Half precision has three digits.
    least = 1e-6 if wanted.dtype.itemsize > 2 else 1e-3
    if np.allclose(*numbers, rtol=max(rtol, 1e-3), atol=max(atol, least), equal_nan=True):
        return ""
    return f"differs by up to {np.nanmax(np.abs(numbers[0] - numbers[1])):.3g}"


def with_constants(model: ModelProto, given: dict[str, np.ndarray]) -> ModelProto:
    """A copy in which inputs that say shapes are constants."""
    made = ModelProto()
    made.CopyFrom(model)
    readers = defaultdict(list)
    for node in made.graph.node:
        for at, name in enumerate(node.input):
            readers[name].append((node, at))
    shapes = {name for name in given if any(_is_shape(*r, readers) for r in readers[name])}
    constants = [n for n in given if n in shapes]
    for name in constants:
        made.graph.initializer.append(numpy_helper.from_array(given[name], name))
    return made


def _is_shape(node: Any, at: int, readers: dict[str, list[Any]]) -> bool:
    operator = OPERATORS.get(key_of(node))
    if operator is None:
        return False
    if at in operator.host or (node.op_type in ("LSTM", "GRU", "RNN") and at == 4):
        return True
    # What a shape is computed from, as in the functions that define operators.
    made = [reader for name in node.output for reader in readers.get(name, ())]
    return key_of(node) in ON_HOST and any(_is_shape(*reader, readers) for reader in made)


def _inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {stored.name for stored in model.graph.initializer}
    return [given for given in model.graph.input if given.name not in constants]


def summary(results: Results) -> list[str]:
    """Numbers, and the reasons for which tests were refused, as a list of Markdown."""
    total = len(results.outcomes)
    counts = ", ".join(f"{results.count(outcome)} {outcome}" for outcome in OUTCOMES)
    lines = [f"- Tests of operators in onnx {onnx.__version__}: {total}, of which {counts}."]
    kinds = Counter(
        _kind(results.reasons[n]) for n, o in results.outcomes.items() if o == "refused"
    )
    lines += [f"- Refused, {count}: {kind}." for kind, count in kinds.most_common()]
    failed = [name for name, outcome in results.outcomes.items() if outcome == "failed"]
    lines += [f"- Failed: {name}: {results.reasons[name]}" for name in failed]
    return lines


_KINDS = {
    "already quantized": "a quantized operator",
    "cannot be taken: ": "an operator that is not in the table",
    "has tensors of type": "a type that PyTorch does not compute with",
    "of a type that PyTorch": "a type that PyTorch does not compute with",
    "only tensors can be taken": "sequences or optional values",
    "are sequences": "sequences or optional values",
    "depends on the values": "a shape or a choice that depends on values",
    "depend on the values": "a shape or a choice that depends on values",
    "opset": "an opset that is too old",
    "training": "a model in training",
}


def _kind(reason: str) -> str:
    found = [
        kind
        for part, kind in _KINDS.items()
        if part in reason and "cannot be taken: it" not in reason
    ]
    if "node" in reason and "cannot be taken: " in reason and "operators that" not in reason:
        found = [
            kind for part, kind in _KINDS.items() if part in reason and part != "cannot be taken: "
        ]
        return found[0] if found else "an attribute or a combination that is not computed"
    return found[0] if found else "another reason"


if __name__ == "__main__":
    main()
