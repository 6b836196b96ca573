"""The key `tracking`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

TrackerName = Literal["tensorboard", "mlflow", "wandb"]


def _distinct(names: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
    return tuple(dict.fromkeys(names))


TrackerNames = Annotated[tuple[TrackerName, ...], Field(strict=False), AfterValidator(_distinct)]
