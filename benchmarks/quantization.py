"""Quantization, against that of onnxruntime and of torchao (pt2e).

    python -m benchmarks.quantization [PART ...] --data FOLDER [--write]

The parts are `static`, `pruned`, `weights`, `training` and `sequences`; without any, all are run.
The folder has `cifar10_jpeg_train10k.npz`, `cifar10_jpeg_test2k.npz` and
`cifar_resnet20.safetensors`; `sequences` needs none of them. `--write` puts what a part found into
docs/quantization.md.

All sides get the same float network, the same 512 rows to calibrate on, the same test rows. A
ratio of two times is the median of rounds in which one follows the other.
"""

import argparse
import platform
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import torch

from benchmarks import (
    quantization_pruned,
    quantization_sequences,
    quantization_static,
    quantization_training,
    quantization_weights,
)
from benchmarks.page import put
from benchmarks.quantized import Bench

PARTS = {
    "static": quantization_static.lines,
    "pruned": quantization_pruned.lines,
    "weights": quantization_weights.lines,
    "training": quantization_training.lines,
    "sequences": quantization_sequences.lines,
}
_PAGE = Path("docs/quantization.md")


def main() -> None:
    """Run the parts, and print what they found."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.data, Path(folder))
        for part in options.parts or PARTS:
            began = time.perf_counter()
            lines = [*PARTS[part](bench), "", _where()]
            print("\n".join(lines), flush=True)
            print(f"{part}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
            if options.write:
                put(_PAGE, f"python -m benchmarks.quantization {part}", lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--data", type=Path, default=Path(), help="folder with the three files")
    parser.add_argument("--write", action="store_true", help=f"into {_PAGE}")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part!r}: the parts are {', '.join(PARTS)}")
    return options


def _where() -> str:
    libraries = ("torch", "onnxruntime", "torchao")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in libraries)
    return f"{versions}; {torch.get_num_threads()} threads of {platform.machine()}."


if __name__ == "__main__":
    main()
