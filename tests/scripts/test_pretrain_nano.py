import gzip
import json
import math
import re
import subprocess
import sys
from datetime import date

import pytest
import torch
from support.places import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedrouter.data.builtin import builtin_rows, words

SCRIPTS = ROOT / "scripts"
TINY = {"--hidden": 64, "--layers": 1, "--vocabulary": 300, "--domain-documents": 60, "--seed": 3}


@pytest.fixture(scope="module", autouse=True)
def _scripts_importable():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    _write(
        folder / "p3.jsonl.gz",
        [json.dumps({"prompt": f"Is {i} odd?", "completion": "yes or no"}) for i in range(300)],
    )
    _write(
        folder / "gsm8k.jsonl.gz",
        [json.dumps({"question": f"What is {i} + 1?", "answer": str(i + 1)}) for i in range(20)],
    )
    _write(folder / "wikitext2.txt.gz", [f" Paragraph number {i} . " for i in range(300)])
    return folder


def _write(path, lines):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _pretrain(corpus, out, checkpoints, steps):
    folders = {"--corpus": corpus, "--out": out, "--checkpoints": checkpoints}
    settings = {**folders, "--steps": steps, **TINY}
    words = [str(word) for pair in settings.items() for word in pair]
    script = SCRIPTS / "pretrain_nano.py"
    subprocess.run([sys.executable, script, *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    _pretrain(corpus, folder / "out", folder / "checkpoints", 3)
    return folder / "out"


def test_the_script_makes_a_model_that_transformers_loads(made):
    model = AutoModelForCausalLM.from_pretrained(made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert model.config.model_type == "llama" and model.config.tie_word_embeddings
    assert model.config.max_position_embeddings >= 1024
    assert model.dtype == torch.float16
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert len(tokenizer("2024").input_ids) == 4
    text = "From: Żoë\n\n  naïve 12,5 "
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_card_says_what_was_done(made):
    card = (made / "README.md").read_text(encoding="utf-8")
    assert "3 steps of 4,096 tokens" in card
    assert "| Wikipedia |" in card and "| prompts |" in card
    assert not re.search(r"\bnan\b|[{}]", card)


def test_same_arguments_same_weights_also_when_resumed(corpus, tmp_path):
    from nano_corpus import TokenStream, train_tokenizer, training_texts
    from pretrain_nano import new_model, train

    def pretrained(folder, *stops):
        for steps in stops:
            texts = training_texts(corpus, 60, seed=3)
            tokenizer = train_tokenizer(texts, 300)
            model = new_model(tokenizer, hidden=64, layers=1, seed=3)
            train(model, TokenStream(texts, tokenizer, seed=3), steps, folder)
        return model.state_dict()

    whole = pretrained(tmp_path / "whole", 4)
    again = pretrained(tmp_path / "again", 4)
    resumed = pretrained(tmp_path / "resumed", 2, 4)
    for other in (again, resumed):
        assert whole.keys() == other.keys()
        assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_rate_is_constant_then_falls_to_zero():
    from pretrain_nano import rate

    assert rate(0, 1000) == 1 / 100
    assert rate(99, 1000) == rate(500, 1000) == 1
    assert rate(750, 1000) == 0.5
    assert rate(999, 1000) == pytest.approx(1 / 500)
    assert all(rate(s, 1000) == rate(s, 900) for s in range(450))  # before either falls


def test_stream_shuffles_every_pass_and_loses_nothing(corpus):
    from nano_corpus import TokenStream, train_tokenizer

    texts = [f"text {i}" for i in range(50)]
    tokenizer = train_tokenizer(texts, 300)
    stream = TokenStream(texts, tokenizer, seed=0)
    first, second = stream.read(0, stream.size), stream.read(stream.size, stream.size)
    assert sorted(first) == sorted(second) and list(first) != list(second)
    across = stream.read(stream.size - 5, 10)
    assert list(across) == [*first[-5:], *second[:5]]
    assert sorted(tokenizer.decode(first).split("<eos>")[:-1]) == sorted(texts)


def test_held_out_text_is_not_trained_on(corpus):
    from nano_corpus import held_out_texts, training_texts

    training = "\n".join(training_texts(corpus, 10, seed=0)).splitlines()
    for texts in held_out_texts(corpus).values():
        assert texts
        assert not {text.splitlines()[0] for text in texts} & set(training)


def test_bits_per_byte_of_a_model_that_knows_nothing(made, tmp_path):
    from bits_per_byte import bits_per_byte

    model, tokenizer = (c.from_pretrained(made) for c in (AutoModelForCausalLM, AutoTokenizer))
    torch.nn.init.zeros_(model.get_input_embeddings().weight)  # tied: all logits are 0
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    tokens = len(tokenizer("abc 12").input_ids) + 1  # and the end
    expected = tokens * math.log2(len(tokenizer)) / 6
    assert bits_per_byte(tmp_path, ["abc 12"]) == pytest.approx(expected, rel=1e-5)


def test_the_base_reads_no_instance_person_brand_or_day_of_the_tasks():
    from domain_text import domain_documents

    documents = domain_documents(3000, seed=0)
    text = "\n".join(documents)
    train, test = builtin_rows(500, 100)
    assert not any(row.instruction in text for row in train + test)
    of_the_tasks = {*words.FIRST_NAMES, *words.LAST_NAMES, *words.BRANDS}
    read = set("".join(c if c.isalpha() else " " for c in text.lower()).split())
    assert not {word.lower() for word in of_the_tasks} & read


def test_days_of_the_text_do_not_belong_to_the_tasks():
    import numpy as np
    from domain_text import free_day

    rng = np.random.default_rng(0)
    days = {free_day(rng) for _ in range(2000)}
    assert len(days) > 500
    assert not any(words.belongs_to_tasks(day) for day in days)
    assert all(date(2000, 1, 1) <= day <= date(2029, 12, 31) for day in days)
