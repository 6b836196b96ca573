"""The run's prompt template as a chat template, which is how other programs take templates."""

import json

from transformers import PreTrainedTokenizerBase

from fedrouter.errors import ExportError
from fedrouter.model.chat_template import FIELD, TEMPLATES

_PLACEHOLDER = "\ue000"  # a private-use character that no template writes

# A conversation of several turns is one text, in which each turn says whose it is.
_JINJA = """\
{{- START -}}
{{- BEFORE -}}
{%- set turns = messages | rejectattr("role", "equalto", "system") | list -%}
{%- for message in messages -%}
  {%- if not loop.first -%}{{- "\\n\\n" -}}{%- endif -%}
  {%- if turns | length > 1 and message["role"] == "user" -%}{{- "User: " -}}{%- endif -%}
  {%- if turns | length > 1 and message["role"] == "assistant" -%}{{- "Assistant: " -}}{%- endif -%}
  {{- message["content"] -}}
{%- endfor -%}
{{- AFTER -}}
"""


def chat_template(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A Jinja chat template that writes the prompts of a run.

    Args:
        template: `model.template`: "chat" (the tokenizer's own), "auto" (the tokenizer's own where
            it has one, else "alpaca"), a name in `TEMPLATES`, or a text with ``{instruction}``. The
            last two become a template that writes the same text for one user turn.
        tokenizer: the base model's. If it puts a beginning of sequence before texts, so does the
            template: servers add no special tokens to what a chat template has written.

    Raises:
        ExportError: the template is "chat", and the tokenizer has none.
    """
    if template in ("auto", "chat"):
        if tokenizer.chat_template is not None:
            return tokenizer.get_chat_template()
        if template == "chat":
            raise ExportError("model.template is 'chat', but the tokenizer has no chat template")
    text = TEMPLATES.get("alpaca" if template == "auto" else template, template)
    before, after = text.split(FIELD)
    start = "bos_token" if starts_with_bos(tokenizer) else '""'
    parts = {"START": start, "BEFORE": _literal(before), "AFTER": _literal(after)}
    jinja = _JINJA
    for name, value in parts.items():
        jinja = jinja.replace(f"{{{{- {name} -}}}}", f"{{{{- {value} -}}}}")
    return jinja


def around_instruction(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text that the tokenizer's chat template writes before and after one user turn.

    A beginning of sequence is left out: programs that take these two texts add it themselves.
    """
    turn = [{"role": "user", "content": _PLACEHOLDER}]
    text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    before, _, after = text.partition(_PLACEHOLDER)
    return before.removeprefix(str(tokenizer.bos_token or "")), after


def starts_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a beginning of sequence before a text."""
    ids, bare = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (True, False))
    return bool(ids != bare and ids[:1] == [tokenizer.bos_token_id])


def _literal(text: str) -> str:
    """A text as a string in Jinja, whose escapes are Python's; JSON's are among them."""
    return json.dumps(text, ensure_ascii=False)
