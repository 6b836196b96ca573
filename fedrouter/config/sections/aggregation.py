"""The section `[aggregation]`."""

from typing import Literal

from pydantic import Field

from fedrouter.config.sections.base import Section

RobustName = Literal["none", "clip", "median", "trimmed_mean", "geometric_median", "krum"]


class AggregationConfig(Section):
    """How clients' updates become one adapter, if some clients may be hostile."""

    robust: RobustName | None = Field(
        default=None,
        description='"none": the mean weighted by samples; "clip": that mean of updates whose '
        "norms and weights are bounded by those of the other clients; the rest, after "
        '"clip", for adapters that five or more clients trained: "median" and "trimmed_mean" of '
        'each number, "geometric_median", or "krum" (Multi-Krum: the mean of the updates that lie '
        'closest together); unset: "trimmed_mean", in mode "paper" "none"',
    )
    hostile: float = Field(
        default=0.25,
        ge=0,
        lt=0.5,
        description="largest share of an adapter's clients that may be hostile: what trimmed_mean "
        "leaves out on each side, and krum in all",
    )
    agreement: bool = Field(
        default=True,
        description="leave out clients whose updates point against those of the other clients, "
        'compared over the adapters of tasks (from four clients on; not where robust is "none")',
    )
