"""Random models of a few thousand parameters, one for each model family that `families` tries.

Each is built from transformers' own config class with the features that set the family apart:
sliding windows, softcaps, sinks, logit scales, experts, convolutions. Norms, biases and sinks are
random too, so that leaving one out changes the log-probs.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
WINDOW = 16
BOTH = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GROUPED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
GRANITE = {
    "logits_scaling": 8.0,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0156,
}
GEMMA = {"query_pre_attn_scalar": 8, **BOTH}
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}


def _rope(kind: str, original: int, **options: Any) -> dict[str, Any]:
    base = {"rope_type": kind, "rope_theta": 10000.0, "original_max_position_embeddings": original}
    return {"rope_parameters": {**base, **options}}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama3-rope": (
        "llama",
        _rope("llama3", 64, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "llama-yarn": ("llama", _rope("yarn", 24, factor=4.0)),
    "llama-dynamic": (
        "llama",
        {"max_position_embeddings": 24, **_rope("dynamic", 24, factor=4.0)},
    ),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": WINDOW}),
    "ministral": ("ministral", BOTH),
    "ministral3": ("ministral3", {"sliding_window": None}),
    "mixtral": ("mixtral", {**MIXTRAL, "sliding_window": None}),
    "gemma": ("gemma", {}),
    "gemma2": (
        "gemma2",
        {**GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": ("gemma3_text", GEMMA),
    "gemma4": (
        "gemma4_text",
        {
            **BOTH,
            "final_logit_softcapping": 3.0,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "global_head_dim": 8,
        },
    ),
    "phi3": ("phi3", {"sliding_window": None, "original_max_position_embeddings": 512}),
    "phi3-window": ("phi3", {"sliding_window": WINDOW, "original_max_position_embeddings": 512}),
    "phi3-longrope": (
        "phi3",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 40,
            **_rope("longrope", 40, **FACTORS),
        },
    ),
    "phi4-mini": (
        "phi3",
        {
            "sliding_window": None,
            "original_max_position_embeddings": 512,
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen2-window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen2-moe": (
        "qwen2_moe",
        {**EXPERTS, "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3-tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3-moe": ("qwen3_moe", {**EXPERTS, "decoder_sparse_step": 1}),
    "qwen3-next": ("qwen3_next", {**EXPERTS, **LINEAR, "shared_expert_intermediate_size": 32}),
    "qwen3.5": ("qwen3_5_text", LINEAR),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", BOTH),
    "olmoe": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("granite", GRANITE),
    "granite4": (
        "granitemoehybrid",
        {
            **GRANITE,
            **MAMBA,
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 64,
            "layer_types": ["attention", "attention"],
        },
    ),
    "granite4-hybrid": (
        "granitemoehybrid",
        {
            **GRANITE,
            **MAMBA,
            **MIXTRAL,
            "mamba_expand": 2,
            "shared_intermediate_size": 64,
            "layer_types": ["mamba", "attention"],
        },
    ),
    "glm4": ("glm4", {"partial_rotary_factor": 0.5}),
    "glm4-moe": ("glm4_moe", GROUPED),
    "gpt-oss": ("gpt_oss", {**MIXTRAL, **BOTH}),
    "falcon": ("falcon", {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon-h1": (
        "falcon_h1",
        {**MAMBA, "mamba_d_ssm": 64, "mamba_chunk_size": 16, "lm_head_multiplier": 0.25},
    ),
    "cohere": ("cohere", {"logit_scale": 0.0625}),
    "cohere2": ("cohere2", {"logit_scale": 0.25, **BOTH}),
    "lfm2": (
        "lfm2",
        {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8, "conv_L_cache": 3},
    ),
    "jamba": (
        "jamba",
        {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 4,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
    ),
    "deepseek-v3": (
        "deepseek_v3",
        {
            **GROUPED,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "num_key_value_heads": 4,
        },
    ),
    "internlm3": ("internlm3", {}),
    "seed-oss": ("seed_oss", {}),
}
"""transformers' model type and options of each family with a text-only checkpoint."""

VISION: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "mistral3-vision": (
        "mistral3",
        "mistral",
        {
            "model_type": "pixtral",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 16,
        },
        {"image_token_index": 5},
    ),
    "gemma3-vision": (
        "gemma3",
        "gemma3",
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 16,
        },
        {"mm_tokens_per_image": 4},
    ),
    "qwen3.5-vision": (
        "qwen3_5",
        "qwen3.5",
        {
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 16,
            "deepstack_visual_indexes": [],
        },
        {},
    ),
}
"""Checkpoints with a picture encoder: model type, family of the text model, encoder, options."""

ALL = (*FAMILIES, *VISION)


def config_of(family: str, *, vocab_size: int = 512, **changes: Any) -> Any:
    """Transformers' config of the tiny model of a family."""
    if family in VISION:
        kind, text, vision, options = VISION[family]
        inner = config_of(text, vocab_size=vocab_size, **changes).to_dict()
        return AutoConfig.for_model(kind, text_config=inner, vision_config=vision, **options)
    kind, options = FAMILIES[family]
    sizes = {**SIZES, "vocab_size": vocab_size}
    if kind == "gemma4_text":
        sizes["vocab_size_per_layer_input"] = vocab_size
    if kind == "falcon":
        sizes = {name: size for name, size in sizes.items() if name not in _NOT_IN_FALCON}
    return AutoConfig.for_model(kind, **{**sizes, **options, **changes})


_NOT_IN_FALCON = {"intermediate_size", "num_key_value_heads", "head_dim", "max_position_embeddings"}


def tiny_model(family: str, *, attention: str | None = None, **changes: Any) -> PreTrainedModel:
    """A random model of a family in fp32, in evaluation mode."""
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(
        config_of(family, **changes), attn_implementation=attention
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("norm", "sinks", "bias")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    made: PreTrainedModel = model.eval()
    return made
