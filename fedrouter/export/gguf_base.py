"""Llama base models as GGUF files, as llama.cpp's `convert_hf_to_gguf.py` writes them."""

from pathlib import Path

import torch
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType, quantize
from transformers import PreTrainedConfig, PreTrainedModel

from fedrouter.export.gguf_adapter import write_file
from fedrouter.export.gguf_tokenizer import add_tokenizer, split_name
from fedrouter.export.llama_names import LlamaCppNames
from fedrouter.export.source import ExportSource

_TYPES = {
    torch.float16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    torch.bfloat16: (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    torch.float32: (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
}


def can_write_base(source: ExportSource) -> bool:
    """Whether `write_gguf_base` knows the base model's architecture, weights and tokenizer."""
    config = source.base_config
    if config.model_type != "llama" or split_name(source.tokenizer) is None:
        return False
    plain = (config.dtype or torch.float32) in _TYPES and not hasattr(config, "quantization_config")
    biases = config.attention_bias or config.mlp_bias
    return plain and not biases and config.rope_parameters["rope_type"] == "default"


def write_gguf_base(source: ExportSource, path: Path) -> None:
    """Write the base model in the dtype in which it is stored, vectors in float32.

    Args:
        source: the run; `can_write_base` is true of it.
        path: the file to write.

    Raises:
        ModelError: the base model cannot be loaded, or is not the one that the run was trained on.
    """
    model = source.load_base()
    names = LlamaCppNames(model.config)
    _, file_type = _TYPES[model.dtype]
    writer = GGUFWriter(path, names.architecture)
    writer.add_type("model")
    writer.add_name(source.base_name or "base")
    writer.add_file_type(file_type)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    _add_sizes(writer, model.config)
    split = split_name(source.tokenizer)
    assert split is not None
    add_tokenizer(writer, source.tokenizer, split, model.config.vocab_size)
    _add_weights(writer, model, names)
    write_file(writer)


def _add_sizes(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_weights(writer: GGUFWriter, model: PreTrainedModel, names: LlamaCppNames) -> None:
    """Add all weights; a tied output layer is left out, as llama.cpp ties it by its absence."""
    for name, parameter in model.named_parameters():
        array = names.reorder(name, parameter.detach().float().numpy())
        kind = _TYPES[model.dtype][0] if array.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(names.tensor(name), quantize(array, kind), raw_dtype=kind)
