"""Analyse a program of billions of parameters without its weights: ``python -m benchmarks.large``.

Its tensors are fake: they have shapes and no contents. So this shows what the analysis needs on
top of the weights themselves.
"""

import argparse
import resource
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from torch.export import ExportedProgram

from worker.engine.graph.coupling import couple
from worker.engine.program import Program
from worker.engine.readers.architecture.torchvision_import import import_torchvision

_SIZES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "layers": 22, "heads": 32, "groups": 4},
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "layers": 32, "heads": 32},
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "layers": 80,
        "heads": 64,
        "groups": 8,
    },
}


def main() -> None:
    """Export, analyse, and print what it took."""
    parser = argparse.ArgumentParser(description="Analyse a large Llama without its weights.")
    parser.add_argument("--size", choices=_SIZES, default="7b")
    size = parser.parse_args().size
    warnings.filterwarnings("ignore")
    with _timed("export, with fake weights"):
        exported = fake_llama(size)
    with _timed("read"):
        program = Program.from_exported(exported)
    parameters = sum(parameter.numel() for parameter in program.module.parameters())
    print(f"parameters: {parameters / 1e9:.2f} billion ({len(program.graph.nodes)} operators)")
    with _timed("couple"):
        coupling = couple(program)
    print(f"channel groups: {len(coupling.groups)}, channels: {coupling.channel_count}")
    print(f"operators that may not lose channels: {len(coupling.frozen)}")
    print(
        f"peak memory: {_peak_mib():.0f} MiB; the weights in bfloat16 would be "
        f"{parameters * 2 / 2**20:.0f} MiB"
    )


def fake_llama(size: str) -> ExportedProgram:
    """A Llama of this size, exported with tensors that hold nothing."""
    import_torchvision()
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = _SIZES[size]
    config = LlamaConfig(
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape.get("groups", shape["heads"]),
        use_cache=False,
        dtype=torch.bfloat16,
    )
    with FakeTensorMode():
        model = LlamaForCausalLM(config).eval()
        words = torch.zeros(2, 16, dtype=torch.int64)
        return torch.export.export(model, (), {"input_ids": words}, strict=False)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    start = perf_counter()
    yield
    print(f"{what}: {perf_counter() - start:.1f} s", flush=True)


def _peak_mib() -> float:
    """Of this process since it began."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
