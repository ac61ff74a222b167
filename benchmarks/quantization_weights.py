"""Weights alone of few bits: what rounding, and what biases do."""

from collections.abc import Mapping

from benchmarks.quantized import Bench, table, told

_FORMATS: Mapping[str, Mapping[str, object]] = {
    "int8": {},
    "int4": {"weights": "int4"},
    "int4, groups of 64": {"weights": "int4", "granularity": "per_group"},
    "int4, clipping `max`": {"weights": "int4", "clipping": "max"},
    "int4, not symmetric": {"weights": "int4", "symmetric": False},
    "int2": {"weights": "int2"},
    "ternary": {"weights": "ternary"},
    "codebook of 16": {"weights": "codebook", "codebook_size": 16},
    "codebook of 4": {"weights": "codebook", "codebook_size": 4},
}
_WAYS: Mapping[str, Mapping[str, object]] = {
    "nearest": {},
    "nearest, biases": {"bias_correction": True},
    "compensated": {"rounding": "compensated"},
    "compensated, biases": {"rounding": "compensated", "bias_correction": True},
}


def lines(bench: Bench) -> list[str]:
    """Accuracies in torch, and bytes of files over those of the float network."""
    subject = bench.subject
    rows = []
    for name, asked in _FORMATS.items():
        programs = {way: subject.quantized(**asked, **more) for way, more in _WAYS.items()}
        accuracies = [f"{subject.in_torch(each).accuracy:.2%}" for each in programs.values()]
        sizes = subject.sizes(programs["nearest"])
        shares = [f"{size / subject.float_sizes[each]:.3f}" for each, size in sizes.items()]
        rows.append(told([name, *accuracies, *shares]))
    endings = [f"`.{each}`" for each in subject.float_sizes]
    return table(["", *_WAYS, *endings], rows)
