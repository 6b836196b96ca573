"""Validated configuration: TOML in, unknown keys refused, all faults reported at once."""

from fedrouter.config.load import dump_config, load_config
from fedrouter.config.schema import (
    AdapterConfig,
    ClusteringConfig,
    Columns,
    Config,
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    FederationConfig,
    ModelConfig,
    RouterConfig,
    Source,
    TrainingConfig,
)

__all__ = [
    "AdapterConfig",
    "ClusteringConfig",
    "Columns",
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
]
