"""Architectures of transformers that read tokens."""

from typing import Any

from benchmarks.architecture import Architecture, tokens
from benchmarks.hub import from_transformers

_COMMON = {"vocab_size": 199, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SMALL = {**_COMMON, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENCODER = {**_SMALL, "intermediate_size": 128, "max_position_embeddings": 64, "num_labels": 5}
_DECODER = {**_ENCODER, "use_cache": False}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_HEADS = {**_GROUPED, "head_dim": 16}
_SEQUENCE = {
    **_COMMON,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "use_cache": False,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_T5 = {
    **_COMMON,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
    "use_cache": False,
    "decoder_start_token_id": 0,
}
_N_NAMES = {
    **_COMMON,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "use_cache": False,
}


def _encoder(name: str, class_name: str, **options: Any) -> Architecture:
    settings = {**_ENCODER, **options}
    return from_transformers(name, "text encoder", class_name, tokens(), **settings)


def _decoder(name: str, class_name: str, settings: dict[str, Any], **options: Any) -> Architecture:
    settings = {**settings, **options}
    return from_transformers(name, "text decoder", class_name, tokens(), **settings)


def _both(name: str, class_name: str, settings: dict[str, Any], **options: Any) -> Architecture:
    inputs = tokens("input_ids", "decoder_input_ids")
    settings = {**settings, **options}
    return from_transformers(name, "encoder and decoder", class_name, inputs, **settings)


def _part(name: str, class_name: str, part: str, settings: dict[str, Any]) -> Architecture:
    return from_transformers(name, "text encoder", class_name, tokens(), part=part, **settings)


def _experts(name: str, class_name: str, settings: dict[str, Any], **options: Any) -> Architecture:
    settings = {**settings, **options}
    return from_transformers(name, "mixture of experts", class_name, tokens(), **settings)


def _recurrent(name: str, class_name: str, **options: Any) -> Architecture:
    settings = {**_COMMON, "hidden_size": 64, "num_hidden_layers": 2, "use_cache": False, **options}
    return from_transformers(name, "state space", class_name, tokens(), **settings)


LANGUAGE = [
    _encoder("bert", "BertForSequenceClassification"),
    _encoder(
        "distilbert",
        "DistilBertForSequenceClassification",
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=4,
    ),
    _encoder("roberta", "RobertaForSequenceClassification", pad_token_id=1, bos_token_id=0),
    _encoder("albert", "AlbertForSequenceClassification", embedding_size=32),
    _encoder("electra", "ElectraForSequenceClassification", embedding_size=32),
    _encoder("mpnet", "MPNetForSequenceClassification", pad_token_id=1, bos_token_id=0),
    _encoder(
        "deberta_v2",
        "DebertaV2ForSequenceClassification",
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
    ),
    _encoder("convbert", "ConvBertForSequenceClassification", embedding_size=32, head_ratio=2),
    _encoder("squeezebert", "SqueezeBertForSequenceClassification", embedding_size=64),
    _encoder(
        "mobilebert",
        "MobileBertForSequenceClassification",
        embedding_size=32,
        intra_bottleneck_size=32,
    ),
    _encoder("modernbert", "ModernBertForSequenceClassification", cls_token_id=1, sep_token_id=2),
    _encoder("roformer", "RoFormerForSequenceClassification", embedding_size=64),
    _encoder("layoutlm", "LayoutLMForSequenceClassification", max_2d_position_embeddings=32),
    _encoder("ernie", "ErnieForSequenceClassification"),
    _encoder("fnet", "FNetForSequenceClassification"),
    _part("t5_encoder", "T5EncoderModel", "", _T5),
    _part("bart_encoder", "BartModel", "encoder", _SEQUENCE),
    _part("clip_text", "CLIPTextModel", "", {**_ENCODER, "projection_dim": 32}),
    _part("siglip_text", "SiglipTextModel", "", {**_ENCODER, "projection_size": 64}),
    _decoder("gpt2", "GPT2LMHeadModel", _N_NAMES),
    _decoder(
        "gpt_neo",
        "GPTNeoForCausalLM",
        _DECODER,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    ),
    _decoder("gpt_neox", "GPTNeoXForCausalLM", _DECODER),
    _decoder("gptj", "GPTJForCausalLM", _N_NAMES, rotary_dim=8),
    _decoder("codegen", "CodeGenForCausalLM", _N_NAMES, rotary_dim=8),
    _decoder("gpt_bigcode", "GPTBigCodeForCausalLM", _N_NAMES),
    _decoder("opt", "OPTForCausalLM", _DECODER, ffn_dim=128, word_embed_proj_dim=64),
    _decoder("bloom", "BloomForCausalLM", _DECODER, n_layer=2, n_head=4),
    _decoder("falcon", "FalconForCausalLM", _DECODER),
    _decoder("mpt", "MptForCausalLM", _COMMON, d_model=64, n_heads=4, n_layers=2, max_seq_len=64),
    _decoder("llama", "LlamaForCausalLM", _GROUPED),
    _decoder("mistral", "MistralForCausalLM", _HEADS),
    _decoder("qwen2", "Qwen2ForCausalLM", _GROUPED),
    _decoder("qwen3", "Qwen3ForCausalLM", _HEADS),
    _decoder("gemma", "GemmaForCausalLM", _HEADS),
    _decoder("gemma2", "Gemma2ForCausalLM", _HEADS),
    _decoder("gemma3", "Gemma3ForCausalLM", _HEADS),
    _decoder("phi", "PhiForCausalLM", _DECODER),
    _decoder("phi3", "Phi3ForCausalLM", _GROUPED),
    _decoder("stablelm", "StableLmForCausalLM", _GROUPED),
    _decoder("granite", "GraniteForCausalLM", _GROUPED),
    _decoder("olmo2", "Olmo2ForCausalLM", _GROUPED),
    _decoder("cohere", "CohereForCausalLM", _GROUPED),
    _decoder("starcoder2", "Starcoder2ForCausalLM", _GROUPED),
    _decoder("smollm3", "SmolLM3ForCausalLM", _GROUPED),
    _decoder("biogpt", "BioGptForCausalLM", _DECODER),
    _both("t5", "T5ForConditionalGeneration", _T5),
    _both("bart", "BartForConditionalGeneration", _SEQUENCE),
    _both("marian", "MarianMTModel", _SEQUENCE),
    _experts("mixtral", "MixtralForCausalLM", _GROUPED, num_local_experts=4),
    _experts(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        _GROUPED,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=96,
    ),
    _recurrent("mamba", "MambaForCausalLM", state_size=8),
    _recurrent("mamba2", "Mamba2ForCausalLM", state_size=8, num_heads=8, head_dim=16, n_groups=2),
    _recurrent("rwkv", "RwkvForCausalLM", attention_hidden_size=64),
]
