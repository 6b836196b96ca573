"""The sections `[model]` and `[adapter]`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedrouter.config.sections.base import Count, Name, Names, Section

TEMPLATES = ("auto", "chat", "alpaca")


def _template(text: str) -> str:
    if text not in TEMPLATES and text.count("{instruction}") != 1:
        names = ", ".join(repr(name) for name in TEMPLATES)
        raise ValueError(f"should be {names} or a text with exactly one {{instruction}}")
    return text


Template = Annotated[str, AfterValidator(_template)]
# A number of layers, or a share of all of them.
Layer = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, le=1)]
Pooling = Literal["mean", "mean_without_first"]


class ModelConfig(Section):
    """The base model and its prompts."""

    name: Name = Field(
        default="nano", description='"nano" (built in), a folder, a GGUF file, or a hub name'
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description='"float32", "bfloat16", "float16"; auto: float32 on a CPU, bfloat16 elsewhere',
    )
    quantization: Literal["int8", "nf4"] | None = Field(
        default=None,
        description='weights of the linear layers in 8 bits ("int8") or 4 bits ("nf4"), by '
        "bitsandbytes: less memory, more time; the same on every machine of a federation; unset: "
        "as stored, in `dtype`",
    )
    max_length: int = Field(
        default=512,
        ge=32,
        description="tokens of prompt and response together; a longer conversation loses its "
        "oldest turns, a longer instruction its end, never the template or the response",
    )
    template: Template = Field(
        default="auto",
        description='"chat": the tokenizer\'s own chat template; "alpaca"; or a text with exactly '
        "one {instruction}; auto: chat where the tokenizer has a chat template, else alpaca",
    )
    embedding_layer: Layer | Literal["auto"] | None = Field(
        default=None,
        description="layer whose hidden states embed a prompt for clustering and routing: its "
        "number from 1, or a fraction of the depth such as 0.5; 1.0: the last, after the final "
        'norm; "auto": 0.77, without the layers above; unset: auto, in mode "paper" 1.0',
    )
    embedding_pooling: Pooling | None = Field(
        default=None,
        description='how they become one vector: "mean" over all tokens, or "mean_without_first", '
        "as in many models the first token is an attention sink, whose huge activations would hide "
        'all others; unset: "mean_without_first", in mode "paper" "mean"',
    )


class AdapterConfig(Section):
    """The LoRA adapters."""

    rank: Count = Field(default=8, description="rank of the low-rank product")
    alpha: Count = Field(default=16, description="the product is scaled by alpha / rank")
    dropout: float = Field(
        default=0.05, ge=0, lt=1, description="on the adapter's input, in training"
    )
    targets: Names | Name | None = Field(
        default=None,
        description="modules to adapt: a list of names, or one pattern, as PEFT's `target_modules`;"
        " unset: PEFT's default for the architecture, or else the attention projections",
    )
