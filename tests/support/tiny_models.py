"""Tiny random models of the architectures that the tests run on."""

import torch
from transformers import (
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
