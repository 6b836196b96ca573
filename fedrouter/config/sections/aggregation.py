"""The section `[aggregation]`."""

from typing import Literal, Self

from pydantic import Field, model_validator

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
        'closest together); unset: "trimmed_mean", in mode "paper", with ranks = "svd" and with '
        'privacy.secure_aggregation "none"',
    )
    ranks: Literal["partition", "zero_padding", "svd"] = Field(
        default="partition",
        description="how adapters of different ranks are averaged (federation.ranks): "
        '"partition": each component over the clients that have it, the result in the order of '
        'singular values, so that low ranks receive its best part; "zero_padding": missing '
        'components count as zeros; "svd": the mean of the products B A, decomposed '
        'into adapter.rank components again (with robust = "none")',
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

    @model_validator(mode="after")
    def _products_have_no_rule(self) -> Self:
        if self.ranks == "svd" and self.robust not in (None, "none"):
            raise ValueError(
                f"aggregation.robust = {self.robust!r} works on components; set it to 'none', or "
                "aggregation.ranks to 'partition'"
            )
        return self
