"""ONNX files in onnxruntime: what they give, how long they take, what is computed with integers."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx
import onnxruntime

_BATCH = 250


def session(
    path: Path, *, threads: int = 1, optimized: Path | None = None
) -> onnxruntime.InferenceSession:
    """On a CPU; ``optimized`` is where the graph goes that onnxruntime made of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors: it tells of every node it could not make faster.
    options.intra_op_num_threads = threads
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    """The first output, for rows of one input."""
    loaded = session(path)
    [given] = loaded.get_inputs()
    parts = [inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH)]
    return np.concatenate([loaded.run(None, {given.name: part})[0] for part in parts])


def ratios(
    files: Mapping[str, Path],
    inputs: np.ndarray,
    *,
    base: str,
    threads: int = 1,
    rounds: int = 100,
) -> dict[str, float]:
    """Milliseconds of one call of ``base``, and by how much those of the others are of it.

    Each round runs all files once, one after the other: what else the machine does meets all of
    them. A ratio is the median of those of single rounds.

    Args:
        files: By name.
        inputs: Of the call.
        base: The name that others are compared with; its own number is in milliseconds.
        threads: Of onnxruntime, in one operator.
        rounds: Those that count; as many as a tenth of them run before.
    """
    calls = {}
    for name, path in files.items():
        loaded = session(path, threads=threads)
        calls[name] = (loaded, {loaded.get_inputs()[0].name: inputs})
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds + rounds // 10):
        for name, (loaded, feed) in calls.items():
            start = perf_counter()
            loaded.run(None, feed)
            seconds[name].append(perf_counter() - start)
    counted = {name: np.array(found[-rounds:]) for name, found in seconds.items()}
    found = {name: float(median(each / counted[base])) for name, each in counted.items()}
    return {**found, base: 1e3 * float(median(counted[base]))}


def operators(path: Path, folder: Path) -> list[str]:
    """The types of the nodes that onnxruntime runs, in their order."""
    optimized = folder / "optimized.onnx"
    session(path, optimized=optimized)
    return [node.op_type for node in onnx.load(optimized).graph.node]
