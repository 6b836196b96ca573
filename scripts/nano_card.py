"""The model card of nano, filled in by the script that trains it."""
# ruff: noqa: E501 - a row of a Markdown table is one line

from collections.abc import Mapping

from transformers import LlamaForCausalLM

TEMPLATE = """\
---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# nano

The built-in base model of fedrouter: a causal language model that is small enough to ship with the
package and to fine-tune on two CPU cores, for tests, demos and benchmarks.

| | |
| --- | --- |
| architecture | Llama: {layers} layers, hidden size {hidden}, {heads} heads, feed-forward {inner}, tied embeddings |
| parameters | {parameters:.2f} million, saved in half precision |
| tokenizer | byte-level BPE of {vocabulary:,} tokens, numbers split into digits; `<eos>` also begins a text, `<pad>` pads |
| context | {context:,} tokens; one step in {long_every} trained on sequences of {context:,}, the others on {length} |
| training | {steps:,} steps of {per_step:,} tokens = {seen:.1f} million tokens ({passes:.2f} passes over {size:.1f} million) |
| optimizer | Muon for the matrices of the layers, AdamW for the rest; constant rate, then linear to zero |
| loss at the end | {loss:.3f} nats per token of training text, {recent} steps' mean |

## Held-out text

{scores}

Bits per byte, lower is better. Held out by a hash of the document: 2 % of the Wikipedia paragraphs
and of the prompts. Other wordings of a held-out prompt, over the same passage, may be in the
training text: the collection holds several wordings of many examples.

## What it read

| text | licence |
| --- | --- |
| prompts of P3, the Public Pool of Prompts, over many public data sets | Apache-2.0; each data set behind it has its own terms |
| Wikipedia articles: WikiText-2, read {wikipedia_passes} times a pass | CC BY-SA 3.0 |
| grade-school arithmetic: GSM8K, training part | MIT |
| made-up text of the built-in tasks' domains, by `scripts/domain_text.py` | Apache-2.0 |

The made-up text has the words and forms of the built-in tasks (tickets, chats, letters, products,
dates), and some of its documents say the same thing twice in two forms. It shares no person, brand
or day with the tasks, hence no instance, and knows no instructions and responses.

## What it can and cannot do

It writes grammatical but aimless English, and it follows the form of what it is given. LoRA
adapters on it learn labels and short answers that copy from the prompt, and the means of its last
hidden states tell tasks of different form apart. It has no knowledge to rely on, cannot reason or
calculate, follows no instruction without an adapter, and repeats whatever bias is in its text.
Use it to try methods out, never to answer people.

## Made by

`scripts/pretrain_nano.py`, deterministic given its arguments on one machine:

    {command}
"""


def card(model: LlamaForCausalLM, scores: Mapping[str, float], facts: Mapping[str, object]) -> str:
    """The card's text.

    Args:
        model: the finished model.
        scores: bits per byte on held-out text, by its source.
        facts: the other values of `TEMPLATE`.
    """
    table = ["| text | bits per byte |", "| --- | --- |"]
    table += [f"| {source} | {score:.3f} |" for source, score in scores.items()]
    config = model.config
    return TEMPLATE.format(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
        context=config.max_position_embeddings,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        scores="\n".join(table),
        **facts,
    )
