"""Architectures of transformers that see and hear."""

from collections.abc import Callable
from typing import Any

from benchmarks.architecture import Architecture, Inputs, floats, named_floats
from benchmarks.hub import from_transformers

_TRANSFORMER = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 8,
    "num_labels": 7,
}
_SOUND = {
    "vocab_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32, 32, 32],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "pad_token_id": 0,
}
_WHISPER = {
    "vocab_size": 199,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_mel_bins": 20,
    "max_source_positions": 32,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}


def _vision(
    name: str, family: str, class_name: str, size: int = 64, **options: Any
) -> Architecture:
    inputs = named_floats(pixel_values=(3, size, size))
    return from_transformers(name, family, class_name, inputs, **options)


def _vit(name: str, class_name: str, **options: Any) -> Architecture:
    return _vision(name, "ViT", class_name, **{**_TRANSFORMER, **options})


def _other(
    name: str, family: str, class_name: str, inputs: Callable[[], Inputs], **options: Any
) -> Architecture:
    return from_transformers(name, family, class_name, inputs, **options)


PERCEPTION = [
    _vit("vit", "ViTForImageClassification"),
    _vit("deit", "DeiTForImageClassification"),
    _vit("beit", "BeitForImageClassification", use_relative_position_bias=True),
    _vit("data2vec_vision", "Data2VecVisionForImageClassification"),
    _vit("dinov2", "Dinov2ForImageClassification", mlp_ratio=2),
    _vit("dinov2_registers", "Dinov2WithRegistersForImageClassification", mlp_ratio=2),
    _vit("dinov3_vit", "DINOv3ViTModel", num_register_tokens=2),
    _vit("ijepa", "IJepaForImageClassification"),
    _vit("vit_msn", "ViTMSNForImageClassification"),
    _vit("clip_vision", "CLIPVisionModel", projection_dim=32),
    _vit("siglip_vision", "SiglipVisionModel"),
    _vit("yolos", "YolosForObjectDetection", image_size=[64, 64], num_detection_tokens=5),
    _vit(
        "dpt",
        "DPTForDepthEstimation",
        patch_size=16,
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 32, 48, 64],
        fusion_hidden_size=32,
        is_hybrid=False,
    ),
    _vision(
        "swin",
        "Swin",
        "SwinForImageClassification",
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        image_size=64,
    ),
    _vision(
        "swinv2",
        "Swin",
        "Swinv2ForImageClassification",
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        image_size=64,
    ),
    _vision(
        "focalnet",
        "ConvNeXt",
        "FocalNetForImageClassification",
        embed_dim=32,
        depths=[2, 2],
        hidden_sizes=[32, 64],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
        image_size=64,
    ),
    _vision(
        "convnext",
        "ConvNeXt",
        "ConvNextForImageClassification",
        hidden_sizes=[24, 48, 64, 96],
        depths=[1, 1, 2, 1],
    ),
    _vision(
        "convnextv2",
        "ConvNeXt",
        "ConvNextV2ForImageClassification",
        hidden_sizes=[24, 48, 64, 96],
        depths=[1, 1, 2, 1],
    ),
    _vision(
        "segformer",
        "segmentation",
        "SegformerForSemanticSegmentation",
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=64,
    ),
    _vision(
        "glpn",
        "depth",
        "GLPNForDepthEstimation",
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 8],
        decoder_hidden_size=32,
    ),
    _vision(
        "pvt",
        "PVT",
        "PvtForImageClassification",
        image_size=64,
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 64, 96],
        num_attention_heads=[1, 2, 4, 8],
    ),
    _vision(
        "pvt_v2",
        "PVT",
        "PvtV2ForImageClassification",
        image_size=64,
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 64, 96],
        num_attention_heads=[1, 2, 4, 8],
    ),
    _vision(
        "cvt",
        "convolutional ViT",
        "CvtForImageClassification",
        embed_dim=[16, 32, 64],
        num_heads=[1, 2, 4],
        depth=[1, 2, 3],
    ),
    _vision(
        "mobilevit",
        "mobile ViT",
        "MobileViTForImageClassification",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 96],
    ),
    _vision(
        "mobilevit_v2",
        "mobile ViT",
        "MobileViTV2ForImageClassification",
        image_size=64,
        width_multiplier=0.5,
    ),
    _vision(
        "swiftformer",
        "mobile ViT",
        "SwiftFormerForImageClassification",
        depths=[1, 1, 2, 1],
        embed_dims=[16, 32, 48, 64],
    ),
    _vision(
        "levit",
        "LeViT",
        "LevitForImageClassification",
        64,
        image_size=64,
        hidden_sizes=[64, 96, 128],
        depths=[1, 1, 1],
        num_attention_heads=[4, 4, 4],
    ),
    _vision(
        "poolformer",
        "MetaFormer",
        "PoolFormerForImageClassification",
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 2, 1],
    ),
    _vision(
        "hiera", "Hiera", "HieraForImageClassification", 224, embed_dim=32, depths=[1, 1, 2, 1]
    ),
    _vision(
        "resnet",
        "residual",
        "ResNetForImageClassification",
        embedding_size=16,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 2, 1, 1],
    ),
    _vision(
        "bit",
        "residual",
        "BitForImageClassification",
        embedding_size=16,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 2, 1, 1],
        num_groups=8,
    ),
    _vision(
        "regnet",
        "grouped",
        "RegNetForImageClassification",
        embedding_size=16,
        hidden_sizes=[32, 64, 96, 128],
        depths=[1, 2, 1, 1],
        groups_width=16,
    ),
    _vision("mobilenet_v1", "mobile", "MobileNetV1ForImageClassification", depth_multiplier=0.5),
    _vision("mobilenet_v2", "mobile", "MobileNetV2ForImageClassification", depth_multiplier=0.5),
    _vision(
        "efficientnet",
        "mobile",
        "EfficientNetForImageClassification",
        width_coefficient=0.5,
        depth_coefficient=0.5,
        hidden_dim=640,
    ),
    _vision("textnet", "plain", "TextNetForImageClassification"),
    _other(
        "videomae",
        "video",
        "VideoMAEForVideoClassification",
        named_floats(pixel_values=(4, 3, 32, 32)),
        **{**_TRANSFORMER, "image_size": 32, "num_frames": 4},
    ),
    _other(
        "timesformer",
        "video",
        "TimesformerForVideoClassification",
        named_floats(pixel_values=(4, 3, 32, 32)),
        **{**_TRANSFORMER, "image_size": 32, "num_frames": 4},
    ),
    _other(
        "vivit",
        "video",
        "VivitForVideoClassification",
        named_floats(pixel_values=(4, 3, 32, 32)),
        **{**_TRANSFORMER, "image_size": 32, "num_frames": 4, "tubelet_size": [2, 16, 16]},
    ),
    from_transformers(
        "whisper_encoder", "sound", "WhisperModel", floats(20, 64), part="encoder", **_WHISPER
    ),
    _other("wav2vec2", "sound", "Wav2Vec2ForCTC", named_floats(input_values=(1600,)), **_SOUND),
    _other("hubert", "sound", "HubertForCTC", named_floats(input_values=(1600,)), **_SOUND),
    _other("wavlm", "sound", "WavLMForCTC", named_floats(input_values=(1600,)), **_SOUND),
    _other(
        "ast",
        "sound",
        "ASTForAudioClassification",
        named_floats(input_values=(64, 32)),
        **{**_TRANSFORMER, "max_length": 64, "num_mel_bins": 32},
    ),
    _other(
        "patchtst",
        "time series",
        "PatchTSTForPrediction",
        named_floats(past_values=(32, 3)),
        num_input_channels=3,
        context_length=32,
        prediction_length=8,
        patch_length=4,
        patch_stride=4,
        d_model=32,
        num_attention_heads=4,
        ffn_dim=64,
        num_hidden_layers=2,
    ),
    _other(
        "patchtsmixer",
        "time series",
        "PatchTSMixerForPrediction",
        named_floats(past_values=(32, 3)),
        num_input_channels=3,
        context_length=32,
        prediction_length=8,
        patch_length=4,
        patch_stride=4,
        d_model=16,
        num_layers=2,
    ),
]
