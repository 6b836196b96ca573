"""Tiny random models of the architectures that the tests run on."""

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 96
KINDS = ("llama", "qwen2", "gemma2", "gpt2")

_SHARED = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,  # larger than usual, so that outputs differ visibly
}
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, _SIZES),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, _SIZES),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {**_SIZES, "head_dim": 8}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}),
}


def tiny_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random causal language model in eval mode; `kind` is one of KINDS."""
    model_class, config_class, sizes = _MODELS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config_class(**_SHARED, **sizes)).eval()


_ALL_SIZES = {
    **{**_SIZES, "max_position_embeddings": 600},
    "vocab_size": 258,
    "head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_VISION_SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_SPECIAL_SIZES: dict[str, dict[str, object]] = {
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "n_groups": 1},
    "gemma3": {
        "text_config": {**_ALL_SIZES, "model_type": "gemma3_text"},
        "vision_config": {**_VISION_SIZES, "model_type": "siglip_vision_model"},
        "image_token_id": 7,
        "boi_token_index": 8,
        "eoi_token_index": 9,
        "mm_tokens_per_image": 4,
    },
    "llava": {
        "text_config": {**_ALL_SIZES, "model_type": "llama"},
        "vision_config": {**_VISION_SIZES, "model_type": "clip_vision_model"},
    },
    "qwen2_vl": {
        "text_config": {
            **_ALL_SIZES,
            "model_type": "qwen2_vl_text",
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [1, 1, 2],
                "rope_theta": 10000.0,
            },
        },
        "vision_config": {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32},
    },
    "llama4": {
        "text_config": {**_ALL_SIZES, "model_type": "llama4_text"},
        "vision_config": {**_VISION_SIZES, "model_type": "llama4_vision_model"},
    },
}


def random_architecture(kind: str, **settings: object) -> PreTrainedModel:
    """A frozen random model of any architecture that writes text, for 258 tokens.

    Args:
        kind: its `model_type` in transformers.
        settings: of its configuration, besides small sizes.
    """
    special = _SPECIAL_SIZES.get(kind, {})
    sizes = {} if "text_config" in special else _ALL_SIZES
    config = AutoConfig.for_model(kind, **{**sizes, **special, **settings})
    texts_only = "text_config" not in special or kind == "gemma3"
    auto = AutoModelForCausalLM if texts_only else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto.from_config(config).eval().requires_grad_(False)
