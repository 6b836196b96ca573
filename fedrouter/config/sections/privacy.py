"""The section `[privacy]`."""

from typing import Annotated

from pydantic import Field

from fedrouter.config.sections.base import Count, Section


class PrivacyConfig(Section):
    """What the server may see of single clients."""

    secure_aggregation: bool = Field(
        default=False,
        description="the server sees sums over clients only, of profiles, updates and scores "
        "(docs/privacy.md); needs the extra privacy, numbers for clustering.n_local and n_global "
        'with strategy fedrouter, and aggregation.robust = "none"',
    )
    min_clients: Annotated[int, Field(ge=2)] = Field(
        default=3,
        description="least number of clients in a sum; a task that fewer clients have is merged "
        "into the nearest one",
    )
    threshold: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="number of clients that have to work together to open a sum; fewer that "
        "collude with the server learn nothing of another client, and if fewer are left, a round "
        "fails; unset: more than half of those that take part",
    )
    min_samples: Count | None = Field(
        default=None,
        description="a client never describes a local task of fewer samples: they are assigned to "
        "its nearest larger one; on nodes of a deployment at least 10, unless their owners set "
        "another number; unset: 1 if all clients are on this machine",
    )
