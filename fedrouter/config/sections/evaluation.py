"""The sections `[evaluation]` and `[compare]`."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from fedrouter.config.registry import strategy_names
from fedrouter.config.sections.base import Count, Section, check_known
from fedrouter.config.sections.data import scenario_names


def _strategy(name: str) -> str:
    return check_known(name, "a strategy", strategy_names())


def _scenario(name: str) -> str:
    return check_known(name, "a scenario", scenario_names())


def _cell(name: str) -> str:
    names = (*scenario_names(), *strategy_names())
    return check_known(name, "the name of a scenario or strategy", names)


def _assignment(text: str) -> str:
    if not re.fullmatch(r"[\w.]+\s*=.*", text, re.DOTALL):
        raise ValueError("should be KEY=VALUE, such as training.steps=5")
    return text


StrategyName = Annotated[str, AfterValidator(_strategy)]


class EvaluationConfig(Section):
    """What is measured on the test rows."""

    enabled: bool = Field(default=True, description="whether to evaluate at all")
    every: int = Field(
        default=0, ge=0, description="rounds between evaluations; 0: only at the end"
    )
    samples: Count | None = Field(default=None, description="test rows per task; unset: all")
    max_new_tokens: Count = Field(default=64, description="longest answer, in tokens")
    predictions: bool = Field(
        default=True,
        description="whether a run on one machine stores the answers to its test rows, with the "
        "rows' texts, in predictions.jsonl; a deployed server has no rows and never does",
    )


class CompareConfig(Section):
    """The grid of `fedrouter compare`: every strategy in every scenario with every seed."""

    strategies: Annotated[
        tuple[StrategyName, ...] | None,
        Field(strict=False, min_length=1),
    ] = Field(
        default=None,
        description="strategies to compare; unset: all. Only `fedrouter compare` reads this "
        "section: its grid takes the place of `strategy`, `data.scenario` and `seed`",
    )
    scenarios: Annotated[
        tuple[Annotated[str, AfterValidator(_scenario)], ...], Field(strict=False, min_length=1)
    ] = Field(default=("single", "dual", "all"), description="the scenarios to compare them in")
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (
        Field(default=(1, 2, 3), description="the seeds to compare them with")
    )
    overrides: Mapping[
        Annotated[str, AfterValidator(_cell)],
        Annotated[tuple[Annotated[str, AfterValidator(_assignment)], ...], Field(strict=False)],
    ] = Field(
        default={},
        description="other settings for the cells of one scenario or strategy: its name and a "
        'list of texts "key=value"; a scenario\'s come first',
    )
