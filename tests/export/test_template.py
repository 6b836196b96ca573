from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.toys import byte_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from fedrouter.errors import ExportError
from fedrouter.export.template import around_instruction, chat_template
from fedrouter.model.chat_template import TEMPLATES
from fedrouter.model.prompt_format import PromptFormat

TEXTS = st.text(st.characters(codec="utf-8"))


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = chat_template(template, tokenizer)
    return tokenizer


def rendered(tokenizer: PreTrainedTokenizerFast, *turns: Sequence[str]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@given(before=TEXTS, after=TEXTS, instruction=TEXTS)
def test_one_turn_is_the_filled_template(before: str, after: str, instruction: str) -> None:
    template = f"{before}{{instruction}}{after}"
    if template.count("{instruction}") != 1:
        return
    text = rendered(with_template(template), ("user", instruction))
    assert text == f"{before}{instruction}{after}"


def test_a_template_of_jinjas_own_signs() -> None:
    template = 'a\n {{ b }} {% c %} {# d #} "e" \\n \U0001f600\n{instruction}\n\n'
    text = rendered(with_template(template), ("user", "{{ x }}"))
    assert text == template.replace("{instruction}", "{{ x }}")


def test_the_alpaca_template_by_its_name() -> None:
    text = rendered(with_template("alpaca"), ("user", "Add 2 and 2."))
    assert text == TEMPLATES["alpaca"].replace("{instruction}", "Add 2 and 2.")


def test_several_turns_say_whose_they_are() -> None:
    tokenizer = with_template("[{instruction}]")
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye")]
    assert rendered(tokenizer, *turns) == ("[Be kind.\n\nUser: Hi\n\nAssistant: Yes?\n\nUser: Bye]")
    assert rendered(tokenizer, *turns[:2]) == "[Be kind.\n\nHi]"


def test_a_beginning_of_sequence_that_the_tokenizer_puts_before_texts() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    bos = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A", None, [bos])
    tokenizer.chat_template = chat_template("Q: {instruction} A:", tokenizer)
    text = rendered(tokenizer, ("user", "who"))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == PromptFormat(tokenizer, "Q: {instruction} A:").prompt_ids("who")
    assert around_instruction(tokenizer) == ("Q: ", " A:")


def test_chat_is_the_tokenizers_own() -> None:
    tokenizer = byte_tokenizer()
    with pytest.raises(ExportError, match="no chat template"):
        chat_template("chat", tokenizer)
    assert chat_template("auto", tokenizer) == chat_template("alpaca", tokenizer)
    tokenizer.chat_template = "<u>{{ messages[0]['content'] }}</u>"
    assert chat_template("chat", tokenizer) == tokenizer.chat_template
    assert chat_template("auto", tokenizer) == tokenizer.chat_template
    assert around_instruction(tokenizer) == ("<u>", "</u>")
