"""A class of simulated devices, one table of `federation.devices`."""

from pydantic import Field

from fedrouter.config.sections.base import Positive, Section


class DeviceClass(Section):
    """How fast some of the clients are, and how often they are absent, in a simulation."""

    share: float = Field(default=1.0, gt=0, le=1, description="share of the clients")
    speed: Positive = Field(default=1000.0, description="tokens trained on per simulated second")
    variation: float = Field(
        default=0.0,
        ge=0,
        le=3,
        description="standard deviation of the logarithm of the speed from round to round",
    )
    mb_per_s: Positive = Field(
        default=1.0, description="megabytes (10^6) per simulated second, up and down"
    )
    absent: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability that the client is absent from a round",
    )
