"""A base model and data small enough for every test, made on the spot."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedrouter.data.rows import Row

COLOURS = ["red", "green", "blue", "black", "white", "brown"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, end of sequence and padding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def save_tiny_base(folder: Path, seed: int) -> Path:
    """A random two-layer Llama over bytes, as a folder that transformers can load."""
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def toy_rows(per_task: int, start: int = 0) -> list[Row]:
    """Three tasks whose prompts look quite different."""
    rows = []
    for i in range(start, start + per_task):
        colour = COLOURS[i % len(COLOURS)]
        rows += [
            Row(f"{i} {i + 1} {i + 2}", str(i + 3), "count"),
            Row(f"WHICH COLOUR: {colour.upper()} {i}", colour, "colour"),
            Row(f"[{{x={i}}}];;", f"x={i}", "strip"),
        ]
    return rows


def write_toy(folder: Path) -> Path:
    """train.jsonl (72 rows) and test.jsonl (18 rows) of the toy tasks."""
    for name, rows in (("train", toy_rows(24)), ("test", toy_rows(6, start=100))):
        lines = [
            json.dumps({"instruction": r.instruction, "response": r.response, "task": r.task})
            for r in rows
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def toy_settings(base: Path, data: Path) -> list[str]:
    """What `--set` needs for a run of seconds on the toy tasks."""
    return [
        f"model.name={base}",
        "model.max_length=96",
        r'model.template="{instruction}\n"',
        f"data.train={data / 'train.jsonl'}",
        f"data.test={data / 'test.jsonl'}",
        "federation.clients=3",
        "federation.rounds=3",
        "clustering.n_local=2",
        "clustering.n_global=3",
        "adapter.rank=2",
        "training.steps=2",
        "training.batch_size=4",
        "training.lr=0.01",
        "evaluation.max_new_tokens=4",
    ]
