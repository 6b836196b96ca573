"""GGUF files made with the package that llama.cpp's own converter uses."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer


def write_gguf(folder: Path, path: Path, quantised: Any = None, leave_out: str = "") -> Path:
    """A Llama folder as a GGUF file.

    Args:
        folder: with a model and a byte-level tokenizer without merges.
        path: of the new file.
        quantised: the `gguf.GGMLQuantizationType` of the matrices whose width is a multiple of a
            block, 32; None: all tensors in float32.
        leave_out: a tensor not to write, by its name in transformers.
    """
    import gguf

    model = AutoModelForCausalLM.from_pretrained(folder)
    writer = gguf.GGUFWriter(str(path), "llama")
    _write_config(writer, model.config)
    _write_tokenizer(writer, AutoTokenizer.from_pretrained(folder))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    heads = {
        "q_proj": model.config.num_attention_heads,
        "k_proj": model.config.num_key_value_heads,
    }
    for name, tensor in model.state_dict().items():
        array = tensor.numpy().astype(np.float32)
        if count := heads.get(name.split(".")[-2]):  # llama.cpp pairs rotary dimensions otherwise
            array = array.reshape(count, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        if name == leave_out:
            continue
        target = names.get_name(name, (".weight",))
        if quantised is not None and array.ndim == 2 and array.shape[1] % 32 == 0:
            writer.add_tensor(target, gguf.quantize(array, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(target, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: Any, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, tokenizer: Any) -> None:
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    control = set(tokenizer.added_tokens_decoder)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in control else 1 for i in range(len(tokens))])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
