"""One module per family of operators. Importing a module registers its rules."""

from importlib import import_module

FAMILIES = (
    "attention",
    "convolution",
    "embedding",
    "factory",
    "linear",
    "movement",
    "normalization",
    "pointwise",
    "pooling",
    "recurrent",
    "reduction",
)


def load_rules() -> None:
    """Fill the table of rules."""
    for family in FAMILIES:
        import_module(f"worker.engine.graph.rules.{family}")
