"""The whole configuration: its sections, and the sections of strategies.

Every key has a type, a range, a default and a description. The descriptions are the documentation:
docs/configuration.md is generated from them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, create_model, model_validator

from fedrouter.config.registry import registered
from fedrouter.config.sections.aggregation import AggregationConfig
from fedrouter.config.sections.base import Section
from fedrouter.config.sections.data import DataConfig
from fedrouter.config.sections.evaluation import CompareConfig, EvaluationConfig, StrategyName
from fedrouter.config.sections.federation import EngineConfig, FederationConfig, TrainingConfig
from fedrouter.config.sections.model import AdapterConfig, ModelConfig
from fedrouter.config.sections.privacy import PrivacyConfig
from fedrouter.config.sections.routing import ClusteringConfig, RouterConfig
from fedrouter.config.sections.tracking import TrackerNames


def _strategy_sections(value: Any) -> Any:
    """The sections in `[strategies]`, each by the schema that its strategy registered."""
    if not isinstance(value, Mapping):
        return value  # which pydantic refuses
    schemas: dict[str, Any] = {
        name: (entry.settings, None) for name, entry in registered().items() if name in value
    }
    sections = create_model("StrategySections", __base__=Section, **schemas).model_validate(value)
    return {name: getattr(sections, name) for name in value}


class Config(Section):
    """A run's whole configuration. Every key has a default; `docs/configuration.md` lists them.

    >>> from fedrouter import Config
    >>> config = Config()
    >>> config.strategy, config.training.batch_size
    ('fedrouter', 16)
    """

    strategy: StrategyName = Field(
        default="fedrouter", description="the federated method, one of those listed below"
    )
    seed: int = Field(default=0, ge=0, description="every random draw of the run derives from it")
    mode: Literal["auto", "paper"] = Field(
        default="auto",
        description='"paper": the paper\'s choices wherever nothing else is set; "auto": what '
        "measured best",
    )
    tracking: TrackerNames = Field(
        default=(),
        description='trackers of the metrics, all offline: a list of "tensorboard", "mlflow" and '
        '"wandb", each an extra of its own (docs/tracking.md)',
    )
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = DataConfig()
    federation: FederationConfig = FederationConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    training: TrainingConfig = TrainingConfig()
    aggregation: AggregationConfig = AggregationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    strategies: Annotated[
        Mapping[str, SerializeAsAny[Section]], BeforeValidator(_strategy_sections)
    ] = {}
    router: RouterConfig = RouterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    engine: EngineConfig = EngineConfig()
    compare: CompareConfig = CompareConfig()

    @model_validator(mode="after")
    def _possible_ranks(self) -> Self:
        ranks, most = self.federation.ranks or (), self.adapter.rank
        if max(ranks, default=1) > most:
            raise ValueError(
                f"federation.ranks = {list(ranks)} should be at most adapter.rank = {most}"
            )
        return self

    @model_validator(mode="after")
    def _components_keep_their_places(self) -> Self:
        kept, means = self.federation.kept_components, self.aggregation.ranks
        moves = means == "svd" or (means == "partition" and self.federation.ranks is not None)
        if kept and moves:
            raise ValueError(
                f"{kept} adds to components what was trained in an earlier round, and "
                f"aggregation.ranks = {means!r} puts them in another order in each round; set "
                "federation.late = 'drop' and federation.error_feedback = false"
            )
        return self

    @property
    def strategy_settings(self) -> Section:
        """The section of the strategy in use, `[strategies.NAME]`, with defaults for unset keys."""
        given = self.strategies.get(self.strategy)
        return registered()[self.strategy].settings() if given is None else given
