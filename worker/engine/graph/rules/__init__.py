"""One module per family of operators. Importing a module registers its rules."""

from importlib import import_module

FAMILIES = (
    "along",
    "attention",
    "convolution",
    "embedding",
    "factory",
    "indexing",
    "linear",
    "movement",
    "normalization",
    "patches",
    "pointwise",
    "pooling",
    "recurrent",
    "refused",
)


def load_rules() -> None:
    """Fill the table of rules."""
    for family in FAMILIES:
        import_module(f"worker.engine.graph.rules.{family}")
