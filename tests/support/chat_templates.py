"""Well-known chat templates as their models publish them, and tokenizers with their tokens."""

from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
    "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + _ALTERNATE + "{% if message['role'] == 'user' "
    "%}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception("
    "'Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    + _ALTERNATE
    + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + "
    "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
PHI_3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + "
    "message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
SILENT = (  # leaves out a system turn without a word
    "{% for message in messages %}{% if message['role'] == 'user' %}Q: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}A: {{ message['content'] }}{{ eos_token }}\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
)
PARTS = (  # as SmolVLM's, which reads texts only out of lists of parts
    "{% for message in messages %}{{ message['role'] | capitalize }}:{% for line in "
    "message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}"
    "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
    "{% for message in loop_messages %}" + _ALTERNATE + "{% if loop.index0 == 0 and system_message "
    "!= false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + "
    "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
    "{% endif %}{% endfor %}"
)
QWEN_3 = (  # without its parts for tools
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + "
    "'<|im_end|>\\n' }}{%- endif %}{%- set ns = namespace(last_query_index=messages|length - 1, "
    "searching=true) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - "
    "loop.index0 %}{%- if ns.searching and message.role == 'user' %}{%- set ns.searching = false "
    "%}{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}{%- for message in messages "
    "%}{%- set content = message.content %}{%- if (message.role == 'user') or (message.role == "
    "'system' and not loop.first) %}{{- '<|im_start|>' + message.role + '\\n' + content + "
    "'<|im_end|>' + '\\n' }}{%- elif message.role == 'assistant' %}{%- set reasoning = '' %}"
    "{%- if '</think>' in content %}{%- set reasoning = content.split('</think>')[0].rstrip('\\n')"
    ".split('<think>')[-1].lstrip('\\n') %}{%- set content = content.split('</think>')[-1]"
    ".lstrip('\\n') %}{%- endif %}{%- if loop.index0 > ns.last_query_index %}{{- '<|im_start|>' "
    "+ message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + "
    "content.lstrip('\\n') }}{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}"
    "{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Chat:
    """A template, the added tokens that it needs, and the token that ends a turn."""

    template: str
    added: tuple[AddedToken, ...]
    end: str
    sentencepiece: str | None = None  # prepend scheme; None: byte-level


def _special(*names: str, **flags: bool) -> tuple[AddedToken, ...]:
    return tuple(
        AddedToken(name, **{"special": True, "normalized": False, **flags}) for name in names
    )


CHATS = {
    "chatml": Chat(CHATML, _special("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "chatml_not_special": Chat(
        CHATML, _special("<|im_start|>", "<|im_end|>", special=False), "<|im_end|>"
    ),
    "llama_3": Chat(
        LLAMA_3,
        _special("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
    ),
    "mistral": Chat(MISTRAL, (), "</s>", "legacy"),
    "mistral_first": Chat(MISTRAL, _special("[INST]", "[/INST]"), "</s>", "first"),
    "gemma": Chat(GEMMA, _special("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "phi_3": Chat(
        PHI_3,
        _special("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", rstrip=True),
        "<|end|>",
        "legacy",
    ),
    "silent": Chat(SILENT, (), "</s>"),
    "llama_2": Chat(LLAMA_2, (), "</s>", "legacy"),
    "qwen_3": Chat(QWEN_3, _special("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "parts": Chat(PARTS, _special("<end_of_utterance>"), "<end_of_utterance>"),
}


def chat_tokenizer(chat: Chat) -> PreTrainedTokenizerFast:
    """A small tokenizer with the template and its tokens."""
    tokenizer = _byte_level() if chat.sentencepiece is None else _sentencepiece(chat.sentencepiece)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=chat.template
    )
    fast.add_tokens(list(chat.added))
    return fast


def _byte_level() -> Tokenizer:
    """Each byte is a token, but for some pairs that join across the edges of turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ċ", "Ċ"), ("h", "e"), (".", "Ċ"), ("Ġ", "a")]
    words = ["<s>", "</s>", *alphabet, *(a + b for a, b in pairs)]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(scheme: str) -> Tokenizer:
    """As Llama 2's ("legacy": a space before every stretch of text) or Mistral v0.3's ("first")."""
    letters = [chr(i) for i in range(33, 127)]
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        "▁",
        *letters,
        "▁a",
        "he",
    ]
    merges = [("▁", "a"), ("h", "e")]
    model = models.BPE(
        {word: i for i, word in enumerate(words)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    if scheme == "legacy":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)])
    return tokenizer
