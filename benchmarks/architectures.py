"""The architectures that the benchmarks run over, by name, with random weights."""

from benchmarks.architecture import Architecture
from benchmarks.language import LANGUAGE
from benchmarks.own import OWN
from benchmarks.timm_models import TIMM
from benchmarks.torchvision_models import TORCHVISION
from benchmarks.transformers_models import PERCEPTION

__all__ = ["ARCHITECTURES", "Architecture"]

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for architecture in (*TORCHVISION, *TIMM, *LANGUAGE, *PERCEPTION, *OWN)
}
"""Every architecture, in the order in which the benchmarks run them."""
