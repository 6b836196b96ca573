"""Validated configuration: TOML in, unknown keys refused, all faults reported at once."""

from fedrouter.config.load import (
    config_table,
    dump_config,
    load_config,
    load_resolved,
    override,
    parse_resolved,
)
from fedrouter.config.registry import register_strategy, registered, strategy_names
from fedrouter.config.resolve import (
    ResolvedAggregationConfig,
    ResolvedConfig,
    ResolvedDataConfig,
    ResolvedRouterConfig,
)
from fedrouter.config.schema import Config
from fedrouter.config.sections.aggregation import AggregationConfig
from fedrouter.config.sections.base import Section
from fedrouter.config.sections.data import Columns, DataConfig, Source, scenario_names
from fedrouter.config.sections.devices import DeviceClass
from fedrouter.config.sections.evaluation import CompareConfig, EvaluationConfig
from fedrouter.config.sections.federation import EngineConfig, FederationConfig, TrainingConfig
from fedrouter.config.sections.model import AdapterConfig, ModelConfig
from fedrouter.config.sections.privacy import PrivacyConfig
from fedrouter.config.sections.routing import AUTO, ClusteringConfig, RouterConfig

__all__ = [
    "AUTO",
    "AdapterConfig",
    "AggregationConfig",
    "ClusteringConfig",
    "Columns",
    "CompareConfig",
    "Config",
    "DataConfig",
    "DeviceClass",
    "EngineConfig",
    "EvaluationConfig",
    "FederationConfig",
    "ModelConfig",
    "PrivacyConfig",
    "ResolvedAggregationConfig",
    "ResolvedConfig",
    "ResolvedDataConfig",
    "ResolvedRouterConfig",
    "RouterConfig",
    "Section",
    "Source",
    "TrainingConfig",
    "config_table",
    "dump_config",
    "load_config",
    "load_resolved",
    "override",
    "parse_resolved",
    "register_strategy",
    "registered",
    "scenario_names",
    "strategy_names",
]
