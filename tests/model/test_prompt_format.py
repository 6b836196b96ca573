from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.places import SHARED
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fedrouter.data.rows import Row
from fedrouter.errors import ConfigError, DataError, ModelError
from fedrouter.model.chat_template import TEMPLATES
from fedrouter.model.prompt_format import PromptFormat

SPECIALS = ["<unk>", "<s>", "</s>"]
CORPUS = [
    TEMPLATES["alpaca"].format(instruction="Is 'the sky is blue.' a fact? OPTIONS:\n- yes\n- no"),
    "Translate the word to German: cat\nThe answer is Katze. Below is naïve café text, 123 + 45.",
    "positive negative neutral yes no maybe it is  a   test\n\n### Response:\n yes",
]


def wrap(tokenizer: Tokenizer, **specials: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def byte_level(add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """As GPT-2: no special token is added, one token is begin, end and padding at once."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrap(tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def llama3() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose split lets punctuation swallow line breaks, with a bos."""
    pattern = r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern_of(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return wrap(with_bos(tokenizer), bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def pattern_of(text: str) -> object:
    from tokenizers import Regex

    return Regex(text)


def with_bos(tokenizer: Tokenizer, and_eos: bool = False) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if and_eos else "<s> $A",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return tokenizer


def llama2() -> PreTrainedTokenizerFast:
    """As Llama-2's: a space put before each text by the normaliser, bytes for what is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIALS + byte_tokens, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrap(with_bos(tokenizer), unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def unigram(prepend: str = "always") -> PreTrainedTokenizerFast:
    """SentencePiece's other model; this one adds an eos too, which a prompt must not have."""
    pieces = sorted(set("".join(CORPUS).replace(" ", "▁")) | {"▁"})
    words = ["▁yes", "▁no", "yes", "▁Below", "▁is", "▁the", "Response", "###", "▁answer"]
    vocabulary = [(token, 0.0) for token in SPECIALS]
    vocabulary += [(piece, -8.0) for piece in pieces] + [(word, -4.0) for word in words]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    return wrap(
        with_bos(tokenizer, and_eos=True), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def word_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrap(tokenizer, unk_token="<unk>", eos_token="</s>")


MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "byte_level_prefix_space": lambda: byte_level(add_prefix_space=True),
    "llama3": llama3,
    "llama2": llama2,
    "unigram": unigram,
    "unigram_never": lambda: unigram("never"),
    "word_level": word_level,
}
TOKENIZERS = {name: make() for name, make in MAKERS.items()}
WITH_BOS = {"llama3", "llama2", "unigram", "unigram_never"}
# Templates that end in every way that can fuse with what follows.
ENDINGS = ["{instruction}\n", "{instruction} ", "### Response: {instruction}", "{instruction}\n\n "]
INSTRUCTION = "Is the sky blue? OPTIONS:\n- yes\n- no."

every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)
every_template = pytest.mark.parametrize("template", ["alpaca", *ENDINGS])


@every_tokenizer
@every_template
def test_training_sees_what_generation_sees_token_by_token(name: str, template: str) -> None:
    prompts = PromptFormat(TOKENIZERS[name], template)
    prompt = prompts.prompt_ids(INSTRUCTION)
    for response in ["yes", "no maybe", " yes", "\nyes", ".", "1"]:
        example = prompts.example(INSTRUCTION, response)
        assert example.prompt_length == len(prompt)
        for place, token in enumerate(prompt):
            assert example.input_ids[place] == token
        assert example.input_ids[-1] == prompts.eos_id


@every_tokenizer
@every_template
def test_prompt_is_the_text_as_the_tokenizer_reads_it(name: str, template: str) -> None:
    tokenizer = TOKENIZERS[name]
    text = TEMPLATES.get(template, template).replace("{instruction}", INSTRUCTION)
    expected = tokenizer(text).input_ids
    if name.startswith("unigram"):
        assert expected.pop() == tokenizer.eos_token_id
    prompt = PromptFormat(tokenizer, template).prompt_ids(INSTRUCTION)
    assert prompt == expected
    assert tokenizer.eos_token_id not in prompt
    assert (prompt[0] == tokenizer.bos_token_id) == (name in WITH_BOS)


def test_word_level_example_by_hand() -> None:
    tokenizer = TOKENIZERS["word_level"]
    prompts = PromptFormat(tokenizer, "Is {instruction} a fact?")
    words = ["Is", "the", "sky", "a", "fact", "?", "yes", "</s>"]
    example = prompts.example("the sky", "yes")
    assert list(example.input_ids) == tokenizer.convert_tokens_to_ids(words)
    assert example.prompt_length == 6


@every_tokenizer
@pytest.mark.parametrize("response", ["yes", "no", "yes no", "a test", "maybe"])
def test_decode_gives_the_response_back(name: str, response: str) -> None:
    prompts = PromptFormat(TOKENIZERS[name])
    example = prompts.example(INSTRUCTION, response)
    assert prompts.decode(example.input_ids[example.prompt_length :]) == response


@pytest.mark.parametrize(
    "name", ["byte_level", "byte_level_prefix_space", "llama3", "llama2", "unigram_never"]
)
@pytest.mark.parametrize("response", ["a  b", "x .", "it 's", "- yes\n- no", "yes "])
def test_decode_keeps_spaces_and_punctuation(name: str, response: str) -> None:
    prompts = PromptFormat(TOKENIZERS[name])
    example = prompts.example("x", response)
    assert prompts.decode(example.input_ids[example.prompt_length :]) == response


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=50)
def test_byte_level_decode_inverts_any_text(text: str) -> None:
    for name in ("byte_level", "llama3"):
        prompts = PromptFormat(TOKENIZERS[name])
        example = prompts.example("x", text)
        assert prompts.decode(example.input_ids[example.prompt_length :]) == text


def test_decode_stops_at_the_first_eos_and_drops_padding() -> None:
    tokenizer = TOKENIZERS["llama3"]
    prompts = PromptFormat(tokenizer)
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids for word in ("yes", " no"))
    pad, eos = prompts.pad_id, prompts.eos_id
    assert prompts.decode([*yes, eos, *no, eos, pad, pad]) == "yes"
    assert prompts.decode([*yes, *no]) == "yes no"
    assert prompts.decode([eos, pad]) == ""
    assert prompts.decode([]) == ""


# Unigram is left out: its model holds "</s>" as a piece like any other.
@pytest.mark.parametrize("name", sorted(set(TOKENIZERS) - {"unigram", "unigram_never"}))
def test_special_tokens_in_data_are_text(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    eos = tokenizer.eos_token
    prompts = PromptFormat(tokenizer)
    example = prompts.example(f"What is {eos} for?", f"It ends {eos} text")
    assert example.input_ids.count(prompts.eos_id) == 1
    assert prompts.eos_id not in prompts.bare_ids(f"{eos} {eos}")


def test_a_template_may_call_special_tokens() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    prompts = PromptFormat(tokenizer, "<|endoftext|>{instruction}\n")
    assert prompts.prompt_ids("yes")[0] == tokenizer.bos_token_id


@every_tokenizer
def test_examples_are_the_same_in_a_batch(name: str) -> None:
    prompts = PromptFormat(TOKENIZERS[name], max_length=150)
    pairs = [("the sky", "yes"), (INSTRUCTION * 20, "no maybe"), ("", "yes"), ("a  test", " no")]
    rows = [Row(instruction, response) for instruction, response in pairs]
    assert prompts.examples(rows) == [prompts.example(*pair) for pair in pairs]
    assert prompts.examples([]) == []


@every_tokenizer
def test_long_instruction_is_cut_at_its_end_and_nothing_else_is(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompts = PromptFormat(tokenizer, "the answer {instruction} Below:\n", max_length=60)
    long = "is the sky blue. " * 60
    response = prompts.example("x", "maybe yes no")
    tail = response.input_ids[response.prompt_length :]
    example = prompts.example(long, "maybe yes no")
    assert 55 <= len(example.input_ids) <= 60
    assert example.input_ids[-len(tail) :] == tail
    assert example.prompt_length == len(example.input_ids) - len(tail)
    prompt = list(example.input_ids[: example.prompt_length])
    shorter = [prompts.prompt_ids(long[:cut]) for cut in range(len(long) // 2)]
    assert prompt in shorter  # a whole template around a start of the instruction


@every_tokenizer
def test_long_prompt_is_cut_for_generation_too(name: str) -> None:
    prompts = PromptFormat(TOKENIZERS[name], "{instruction} Below:\n", max_length=40)
    empty = prompts.prompt_ids("")
    ids = prompts.prompt_ids("is the sky blue, " * 100)
    assert 36 <= len(ids) <= 40
    assert ids[-2:] == empty[-2:]


def test_prompt_that_just_fits_is_left_alone() -> None:
    tokenizer = TOKENIZERS["word_level"]
    whole = PromptFormat(tokenizer, "Is {instruction} a fact?").example("the sky is", "yes no")
    assert len(whole.input_ids) == 10
    at = [
        PromptFormat(tokenizer, "Is {instruction} a fact?", n).example("the sky is", "yes no")
        for n in (10, 9, 7)
    ]
    assert at[0] == whole
    words = [tokenizer.convert_ids_to_tokens(list(example.input_ids)) for example in at[1:]]
    assert words[0] == ["Is", "the", "sky", "a", "fact", "?", "yes", "no", "</s>"]
    assert words[1] == ["Is", "a", "fact", "?", "yes", "no", "</s>"]


def test_response_that_does_not_fit_says_what_to_change() -> None:
    prompts = PromptFormat(TOKENIZERS["word_level"], "Is {instruction} a fact?", max_length=8)
    with pytest.raises(DataError) as caught:
        prompts.example("the sky", "yes no yes no")
    assert str(caught.value) == (
        "the template takes 4 tokens and the response 5, more than model.max_length = 8 allows; "
        "set model.max_length to 9 or more, or shorten the response"
    )
    with pytest.raises(DataError, match=r"takes 4 tokens, more than model\.max_length = 3"):
        PromptFormat(TOKENIZERS["word_level"], "Is {instruction} a fact?", 3).prompt_ids("sky")


@every_tokenizer
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
@settings(max_examples=15)
def test_lengths_hold_for_any_text(name: str, text: str) -> None:
    prompts = PromptFormat(TOKENIZERS[name], "### {instruction}\n", max_length=24)
    example = prompts.example(text, "yes")
    assert len(example.input_ids) <= 24
    assert len(prompts.prompt_ids(text)) <= 24
    assert 1 <= len(prompts.bare_ids(text)) <= 24
    assert prompts.eos_id not in prompts.prompt_ids(text)


@every_tokenizer
def test_bare_ids_are_the_instruction_alone(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    prompts = PromptFormat(tokenizer, max_length=20)
    plain = tokenizer(INSTRUCTION, add_special_tokens=False).input_ids
    assert prompts.bare_ids(INSTRUCTION) == plain[:20]
    assert not set(prompts.bare_ids("the sky")) & {tokenizer.bos_token_id, tokenizer.eos_token_id}


def test_bare_ids_of_nothing_are_one_token() -> None:
    prompts = PromptFormat(TOKENIZERS["word_level"])
    assert prompts.bare_ids(" ") == [prompts.eos_id]


def test_padding_falls_back_to_eos() -> None:
    with_pad, without = (PromptFormat(TOKENIZERS[name]) for name in ("llama3", "word_level"))
    assert with_pad.pad_id == TOKENIZERS["llama3"].pad_token_id != with_pad.eos_id
    assert without.pad_id == without.eos_id
    assert len(TOKENIZERS["word_level"]) == TOKENIZERS["word_level"].vocab_size  # nothing added


def test_tokenizer_without_eos_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    with pytest.raises(ModelError, match="eos_token in its tokenizer_config"):
        PromptFormat(wrap(tokenizer, unk_token="<unk>"))


def test_truncation_saved_with_a_tokenizer_is_ignored() -> None:
    tokenizer = word_level()
    plain = PromptFormat(tokenizer).prompt_ids("the sky")
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    assert PromptFormat(tokenizer).prompt_ids("the sky") == plain


@pytest.mark.parametrize("template", ["alpacca", "", "{instruction} {instruction}", "{}"])
def test_bad_template(template: str) -> None:
    with pytest.raises(
        ConfigError, match=r"neither one of auto, chat, alpaca nor a text with exactly one"
    ):
        PromptFormat(TOKENIZERS["word_level"], template)


def test_other_braces_in_a_template_are_text() -> None:
    prompts = PromptFormat(TOKENIZERS["byte_level"], '{"q": {instruction}, {0} {}')
    assert TOKENIZERS["byte_level"].decode(prompts.prompt_ids("{x}")) == '{"q": {x}, {0} {}'


@pytest.mark.slow
def test_trial_base_tokenizer() -> None:
    folder = SHARED / "trial_base"
    if not folder.is_dir():
        pytest.skip("needs the shared trial base")
    prompts = PromptFormat(AutoTokenizer.from_pretrained(folder))
    assert (prompts.eos_id, prompts.pad_id) == (1, 0)
    for response in ["yes", " yes", "no .", "12.5", "naïve <eos> café\n"]:
        prompt = prompts.prompt_ids(INSTRUCTION)
        example = prompts.example(INSTRUCTION, response)
        assert list(example.input_ids[: example.prompt_length]) == prompt
        assert prompts.decode(example.input_ids[example.prompt_length :]) == response
