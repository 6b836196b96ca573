"""Validated configuration: TOML in, unknown keys refused, all faults reported at once."""

from fedrouter.config.load import dump_config, load_config, override, parse_config
from fedrouter.config.registry import register_strategy, registered, strategy_names
from fedrouter.config.schema import (
    AUTO,
    AdapterConfig,
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
)
from fedrouter.config.section import Section

__all__ = [
    "AUTO",
    "AdapterConfig",
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
    "Section",
    "Source",
    "TrainingConfig",
    "dump_config",
    "load_config",
    "override",
    "parse_config",
    "register_strategy",
    "registered",
    "scenario_names",
    "strategy_names",
]
