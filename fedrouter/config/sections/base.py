"""What sections of the configuration are made of, a strategy's own section included."""

from difflib import get_close_matches
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1)]
# Strict mode would refuse TOML's lists for tuples.
Names = Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of all sections: read-only, no unknown keys, no conversions, no NaN or infinity.

    >>> from pydantic import Field
    >>> from fedrouter import Section
    >>> class MySettings(Section):
    ...     server_lr: float = Field(default=1.0, gt=0, description="learning rate of the server")
    >>> MySettings().server_lr
    1.0
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def replace(self, **values: Any) -> Self:
        """A copy with other values of some keys, validated as a whole (`model_copy` is not).

        Raises:
            pydantic.ValidationError: the values are not allowed, or not beside the others.
        """
        return type(self).model_validate({**dict(self), **values})


def check_known(name: str, what: str, names: tuple[str, ...]) -> str:
    """The name, if it is one of `names`.

    Args:
        name: to be checked.
        what: what it should be, with its article: "a strategy".
        names: the known ones.

    Raises:
        ValueError: it is not; the message suggests the known name that is spelt most alike.
    """
    if name in names:
        return name
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        raise ValueError(f"should be {what}; did you mean {near[0]!r}?")
    raise ValueError(f"should be one of {', '.join(names)}")
