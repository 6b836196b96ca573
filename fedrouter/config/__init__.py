"""Validated configuration: TOML in, unknown keys refused, all faults reported at once."""

from fedrouter.config.load import dump_config, load_config, override, parse_config
from fedrouter.config.schema import (
    AdapterConfig,
    BaselinesConfig,
    ClusteringConfig,
    Columns,
    CompareConfig,
    Config,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    FederationConfig,
    ModelConfig,
    RouterConfig,
    Source,
    TrainingConfig,
    scenario_names,
    strategy_names,
)

__all__ = [
    "AdapterConfig",
    "BaselinesConfig",
    "ClusteringConfig",
    "Columns",
    "CompareConfig",
    "Config",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FederationConfig",
    "ModelConfig",
    "RouterConfig",
    "Source",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "override",
    "parse_config",
    "scenario_names",
    "strategy_names",
]
