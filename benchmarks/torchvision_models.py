"""Architectures of torchvision."""

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.architecture import Architecture, floats, image
from worker.engine.readers.architecture.torchvision_import import import_torchvision


def _build(name: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import_torchvision()
        from torchvision.models import get_model

        return get_model(name, weights=None, **options)

    return build


def _net(family: str, name: str, size: int, **options: Any) -> Architecture:
    return Architecture(f"tv/{name}", family, _build(name, options), image(size))


def _heads(family: str, name: str) -> Architecture:
    options = {"weights_backbone": None, "num_classes": 5}
    return Architecture(f"tv/{name}", family, _build(name, options), image(96))


TORCHVISION = [
    _net("plain", "alexnet", 96),
    _net("plain", "vgg11", 64),
    _net("plain", "vgg16_bn", 64),
    _net("residual", "resnet18", 64),
    _net("residual", "resnet34", 64),
    _net("residual", "resnet50", 224),
    _net("residual", "wide_resnet50_2", 64),
    _net("grouped", "resnext50_32x4d", 64),
    _net("grouped", "regnet_x_400mf", 64),
    _net("grouped", "regnet_y_400mf", 64),
    _net("dense", "densenet121", 224),
    _net("dense", "densenet169", 64),
    _net("inception", "googlenet", 64, init_weights=False),
    _net("inception", "inception_v3", 128, init_weights=False),
    _net("squeeze", "squeezenet1_1", 64),
    _net("shuffle", "shufflenet_v2_x0_5", 64),
    _net("shuffle", "shufflenet_v2_x1_0", 64),
    _net("mobile", "mobilenet_v2", 64),
    _net("mobile", "mobilenet_v3_small", 64),
    _net("mobile", "mobilenet_v3_large", 64),
    _net("NAS", "mnasnet0_5", 64),
    _net("NAS", "mnasnet1_0", 64),
    _net("mobile", "efficientnet_b0", 224),
    _net("mobile", "efficientnet_v2_s", 64),
    _net("ConvNeXt", "convnext_tiny", 224),
    _net("ViT", "vit_b_16", 224),
    _net("ViT", "vit_b_32", 224),
    _net("Swin", "swin_t", 224),
    _net("Swin", "swin_v2_t", 64),
    _net("MaxViT", "maxvit_t", 224),
    _heads("segmentation", "fcn_resnet50"),
    _heads("segmentation", "deeplabv3_resnet50"),
    _heads("segmentation", "deeplabv3_mobilenet_v3_large"),
    _heads("segmentation", "lraspp_mobilenet_v3_large"),
    Architecture("tv/r3d_18", "video", _build("r3d_18", {}), floats(3, 8, 32, 32)),
    Architecture("tv/mc3_18", "video", _build("mc3_18", {}), floats(3, 8, 32, 32)),
    Architecture("tv/r2plus1d_18", "video", _build("r2plus1d_18", {}), floats(3, 8, 32, 32)),
    Architecture(
        "tv/mvit_v2_s", "video", _build("mvit_v2_s", {}), floats(3, 16, 224, 224, batch=1)
    ),
]
