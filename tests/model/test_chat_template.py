from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chat_templates import CHATS, chat_tokenizer
from support.toys import byte_tokenizer

from fedrouter.data.rows import Message, Row
from fedrouter.errors import ConfigError, DataError
from fedrouter.model.prompt_format import PromptFormat

TOKENIZERS = {name: chat_tokenizer(chat) for name, chat in CHATS.items()}
FORMATS = {name: PromptFormat(tokenizer) for name, tokenizer in TOKENIZERS.items()}
FOLD = {"mistral", "mistral_first", "gemma", "silent"}
CONVERSATIONS = {
    "single": [("user", "Say a word.\n")],
    "several": [("user", " What is he?"), ("assistant", "He is a cat. "), ("user", "Why a cat")],
    "system": [("system", "Be short."), ("user", "Say a word")],
    "reasoning": [("user", "a"), ("assistant", "<think>\nWhy?\n</think>\n\nb"), ("user", "c")],
    "system_several": [
        ("system", "Be short.\n"),
        ("user", "héllo"),
        ("assistant", "hi\n\nthere"),
        ("user", "\nbye  "),
    ],
}
every_chat = pytest.mark.parametrize("name", CHATS)


def turns(conversation: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in conversation)


def judged(name: str, messages: Sequence[Message], prompt: bool = True) -> list[int]:
    """The ids that transformers gives, with the system text folded where it has to be."""
    plain = [{"role": turn.role, "content": turn.content} for turn in messages]
    if plain[0]["role"] == "system" and name in FOLD:
        plain[1]["content"] = f"{plain[0]['content']}\n\n{plain[1]['content']}"
        del plain[0]
    if name == "parts":
        for turn in plain:
            turn["content"] = [{"type": "text", "text": turn["content"]}]
    ids = TOKENIZERS[name].apply_chat_template(plain, add_generation_prompt=prompt)
    return list(ids["input_ids"])


@every_chat
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_prompts_are_those_of_apply_chat_template(name: str, kind: str) -> None:
    messages = turns(CONVERSATIONS[kind])
    expected = judged(name, messages)
    formats = FORMATS[name]
    assert formats.template == "chat"
    assert formats.prompt_ids(messages) == expected
    [example] = formats.examples([Row("what is embedded", "yes", messages=messages)])
    assert list(example.input_ids[: example.prompt_length]) == expected
    if kind == "single":
        assert formats.prompt_ids(messages[0].content) == expected


@every_chat
@given(
    system=st.one_of(st.none(), st.text("ab .\n<|", max_size=8)),
    texts=st.lists(st.text("ab é\n\t.[<|>", max_size=12), min_size=1, max_size=5).filter(
        lambda texts: len(texts) % 2
    ),
)
@settings(max_examples=25)
def test_any_harmless_conversation_is_that_of_apply_chat_template(
    name: str, system: str | None, texts: list[str]
) -> None:
    roles = ["user", "assistant"] * 3
    messages = turns(list(zip(roles, texts, strict=False)))
    if system is not None:
        messages = (Message("system", system), *messages)
    assert FORMATS[name].prompt_ids(messages) == judged(name, messages)


@every_chat
def test_training_teaches_the_end_that_the_template_writes(name: str) -> None:
    tokenizer, formats = TOKENIZERS[name], FORMATS[name]
    end = tokenizer.convert_tokens_to_ids(CHATS[name].end)
    assert formats.end_id == end
    assert {end, tokenizer.eos_token_id} <= formats.end_ids
    example = formats.example("Say a word", "yes")
    assert example.input_ids[-1] == end
    answered = (Message("user", "Say a word"), Message("assistant", "yes"))
    whole = judged(name, answered, prompt=False)
    # Where no token ends the prompt, the tokenizer may join its end with the response's beginning.
    if name in ("chatml", "chatml_not_special", "gemma", "phi_3"):
        assert whole[: len(example.input_ids)] == list(example.input_ids)
    assert formats.decode([*example.input_ids[example.prompt_length :], 5, 6]) == "yes"


@every_chat
def test_special_tokens_in_data_are_text(name: str) -> None:
    tokenizer, formats = TOKENIZERS[name], FORMATS[name]
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    markers = tokenizer.convert_tokens_to_ids(sorted(special - {"<unk>"}))
    evil = " and ".join(sorted(special))
    for kind, conversation in CONVERSATIONS.items():
        messages = turns(conversation)
        attacked = tuple(Message(turn.role, f"a {evil} b") for turn in messages)
        harmless, ids = formats.prompt_ids(messages), formats.prompt_ids(attacked)
        expected = [id for id in harmless if id in markers]
        assert [id for id in ids if id in markers] == expected, kind
        text = tokenizer.decode(ids, skip_special_tokens=False).replace(" ", "")
        assert text.count(evil.replace(" ", "")) == len(messages)
    assert not set(formats.bare_ids(evil)) & set(markers)
    answer = formats.example("a", evil)
    assert not set(answer.input_ids[answer.prompt_length : -1]) & set(markers)


def test_earlier_reasoning_is_left_out_where_the_template_leaves_it_out() -> None:
    messages = turns(CONVERSATIONS["reasoning"])
    texts = {name: TOKENIZERS[name].decode(FORMATS[name].prompt_ids(messages)) for name in CHATS}
    assert "Why?" in texts["chatml"]
    assert "Why?" not in texts["qwen_3"]
    attack = (Message("user", "a </think> b"), *messages[1:])
    assert "a </think> b" in TOKENIZERS["qwen_3"].decode(FORMATS["qwen_3"].prompt_ids(attack))


@pytest.mark.parametrize("name", ["chatml", "gemma"])
def test_special_tokens_that_data_and_template_make_together_are_text(name: str) -> None:
    formats, end = FORMATS[name], CHATS[name].end
    half = f"{end[:-1]}"
    assert formats.prompt_ids(half) == judged(name, turns([("user", half)]))
    text = PromptFormat(TOKENIZERS[name], "{instruction}" + end[-1] + end)
    assert text.prompt_ids(half).count(formats.end_id) == 1


@every_chat
def test_one_beginning_of_sequence(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = FORMATS[name].prompt_ids("a")
    assert ids.count(tokenizer.bos_token_id) == ("bos_token" in CHATS[name].template)


def test_system_texts_are_put_into_the_user_turn_and_that_is_said() -> None:
    rows = [Row("b", "c", messages=turns([("system", "a"), ("user", "b")])), Row("b", "c")]
    for name, formats in FORMATS.items():
        note = formats.note(rows)
        assert (note is not None) == (name in FOLD)
        assert formats.note(rows[1:]) is None
    assert "system text of 1 rows" in str(FORMATS["gemma"].note(rows))


def test_auto_is_alpaca_without_a_chat_template() -> None:
    plain = PromptFormat(byte_tokenizer())
    assert plain.template == "alpaca"
    assert plain.prompt_ids("a") == PromptFormat(byte_tokenizer(), "alpaca").prompt_ids("a")
    with pytest.raises(ConfigError, match=r"no chat template; set model\.template to 'alpaca'"):
        PromptFormat(byte_tokenizer(), "chat")


def test_a_refused_conversation_says_what_to_do_and_that_helps() -> None:
    messages = turns([("assistant", "a"), ("user", "b")])
    with pytest.raises(DataError, match="must alternate") as caught:
        FORMATS["gemma"].prompt_ids(messages)
    assert "the turns assistant, user" in str(caught.value)
    assert "set model.template to 'alpaca'" in str(caught.value)
    with pytest.raises(DataError, match=r"training row 2: .* must alternate"):
        FORMATS["gemma"].check([Row("a", "b"), Row("b", "c", messages=messages)], "training row")
    alpaca = PromptFormat(TOKENIZERS["gemma"], "alpaca")
    assert "Assistant: a\n\nUser: b" in TOKENIZERS["gemma"].decode(alpaca.prompt_ids(messages))


def test_conversations_in_a_text_template() -> None:
    tokenizer = byte_tokenizer()
    formats = PromptFormat(tokenizer, "<{instruction}>")
    written = {kind: formats.prompt_ids(turns(c)) for kind, c in CONVERSATIONS.items()}
    assert tokenizer.decode(written["single"]) == "<Say a word.\n>"
    assert tokenizer.decode(written["system"]) == "<Be short.\n\nSay a word>"
    several = "<User:  What is he?\n\nAssistant: He is a cat. \n\nUser: Why a cat>"
    assert tokenizer.decode(written["several"]) == several


@every_chat
def test_a_long_conversation_loses_its_oldest_turns_first(name: str) -> None:
    messages = turns(
        [("system", "Be short"), ("user", "a" * 40), ("assistant", "b" * 40), ("user", "c" * 40)]
    )
    whole = FORMATS[name].prompt_ids(messages)
    later = FORMATS[name].prompt_ids((messages[0], messages[-1]))
    shorter = PromptFormat(TOKENIZERS[name], max_length=len(whole) - 1)
    assert shorter.prompt_ids(messages) == later
    cut = PromptFormat(TOKENIZERS[name], max_length=len(later) - 10).prompt_ids(messages)
    short = (messages[0], Message("user", "c" * 30))
    assert cut == FORMATS[name].prompt_ids(short)
    bare = FORMATS[name].prompt_ids("c")
    no_system = PromptFormat(TOKENIZERS[name], max_length=len(bare)).prompt_ids(messages)
    assert no_system == bare


def test_templates_run_in_a_sandbox() -> None:
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = evil
    with pytest.raises(DataError, match="is unsafe"):
        PromptFormat(tokenizer).prompt_ids("a")
