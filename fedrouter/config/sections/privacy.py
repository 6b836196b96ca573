"""The section `[privacy]`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedrouter.config.sections.base import Count, Positive, Section


class PrivacyConfig(Section):
    """What a run may tell about its training data."""

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
    epsilon: Positive | None = Field(
        default=None,
        description="differential privacy: bound on the privacy loss of a whole run's adapters and "
        "router; unset: no noise is added",
    )
    delta: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="probability with which the bound may fail; less than 1 / number of clients "
        '(of samples, if privacy.unit is "sample"); needed with epsilon',
    )
    unit: Literal["client", "sample"] = Field(
        default="client",
        description='what is protected: "client": all rows of a client together, by noise on the '
        "sums over clients, which the server adds or, with secure_aggregation, the clients in "
        'shares; "sample": single rows, by noise on the gradients in every client',
    )
    max_norm: Positive = Field(
        default=1.0,
        description="norm to which the movement of a client is clipped, that of all its adapters "
        "together, in round 1; in later rounds it falls with the learning rate. If privacy.unit is "
        '"sample": norm to which the gradient of a row is clipped',
    )
    profile_share: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="share of the budget for the tasks' centroids and distances (of 1 / "
        "noise_multiplier^2); the rest is for the adapters. A strategy without tasks has all of it "
        "for its adapter",
    )
    seeded_noise: bool = Field(
        default=False,
        description="derive the noise from the run's seed, which every client knows, so that a run "
        "can be repeated: for experiments. Otherwise it is derived from a secret of the server or, "
        'if clients add it (privacy.unit is "sample", or secure_aggregation), of each client',
    )

    @model_validator(mode="after")
    def _both_numbers(self) -> Self:
        for given, missing in (("epsilon", "delta"), ("delta", "epsilon")):
            if getattr(self, given) is not None and getattr(self, missing) is None:
                raise ValueError(f"privacy.{given} needs privacy.{missing} too")
        return self
