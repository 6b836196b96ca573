"""The sections `[clustering]` and `[router]`."""

from typing import Literal

from pydantic import Field

from fedrouter.config.sections.base import Count, Section

AUTO: Literal["auto"] = "auto"
SpaceName = Literal["raw", "standardized", "whitened"]
FallbackName = Literal["nearest", "base", "average", "mix"]


class ClusteringConfig(Section):
    """How many tasks to look for."""

    n_local: Count | Literal["auto"] | None = Field(
        default=None,
        description='local tasks of each client, or "auto": those that it has samples of; unset: '
        'auto, in mode "paper" as many as the task names among its rows, 2 where rows name no task',
    )
    n_global: Count | Literal["auto"] | None = Field(
        default=None,
        description='global tasks, or "auto": groups of prompts become one task where the adapter '
        'of each serves the other as well; unset: auto, in mode "paper" as many as there are task '
        "names, 4 where rows name no task",
    )
    space: SpaceName | None = Field(
        default=None,
        description="where prompts are compared, for clustering and routing: embeddings as they "
        "are, divided by their deviations, or whitened by the covariance within the tasks; the "
        "latter two take three more exchanges of profiles before the first round; unset: "
        '"whitened", in mode "paper" "raw"',
    )


class RouterConfig(Section):
    """Which adapter answers a prompt."""

    scope: Literal["global", "local"] = Field(
        default="global",
        description='"global": among all tasks; "local": among those of the client that is named',
    )
    top_k: Count = Field(
        default=1, description="a mix of so many nearest adapters answers, the closer the more"
    )
    fallback: FallbackName | None = Field(
        default=None,
        description="what answers a prompt from outside every known task: "
        '"nearest", the nearest all the same; "base", the base model; "average", the mean of all '
        'adapters; "mix", a mix of the two nearest; unset: "base", in mode "paper" "nearest"',
    )
    threshold: float = Field(
        default=4.0,
        description="a prompt is from outside where its squared distance to the nearest task lies "
        "more than so many standard deviations above that of the clients' own prompts",
    )
