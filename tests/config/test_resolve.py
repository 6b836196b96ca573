from pathlib import Path

import pytest
from pydantic import ValidationError
from support.configs import resolved

from fedrouter.config import (
    AdapterConfig,
    Config,
    ResolvedConfig,
    TrainingConfig,
    dump_config,
    load_config,
    load_resolved,
    parse_resolved,
)
from fedrouter.config.resolve import resolve
from fedrouter.errors import ConfigError


def test_a_run_folders_configuration_is_read_back_as_resolved(tmp_path: Path) -> None:
    config = resolve(load_config(None, ["data.scenario=single"]), {"a", "b"})
    (tmp_path / "config.toml").write_text(dump_config(config))
    read = load_resolved(tmp_path / "config.toml")
    assert type(read) is ResolvedConfig
    assert read == config == parse_resolved(dump_config(config))


def test_a_resolved_configuration_is_resolved_to_itself() -> None:
    config = resolve(Config(), {"a", None})
    assert resolve(config, ()) == config


def test_what_a_resolved_configuration_lacks_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_resolved("seed = 1\n[model]\n[data]\n[clustering]\n[router]\n[engine]\nfuse = 0\n")
    assert str(caught.value).split("; ") == [
        "engine.fuse = 0 should be at least 1",
        "model.embedding_layer is missing",
        "model.embedding_pooling is missing",
        "data.scenario is missing",
        "clustering.n_global is missing",
        "clustering.space is missing",
        "aggregation is missing",
        "router.fallback is missing",
    ]


def test_a_resolved_configuration_is_validated() -> None:
    config = resolved()
    with pytest.raises(ValidationError, match="scenario"):
        config.data.replace(scenario=None)
    with pytest.raises(ValidationError, match="fuse"):
        config.engine.replace(fuse="auto")
    with pytest.raises(ValidationError, match="ResolvedDataConfig"):
        config.replace(data=Config().data)


def test_replacing_values_validates_the_section_as_a_whole() -> None:
    assert AdapterConfig(rank=4).replace(alpha=4) == AdapterConfig(rank=4, alpha=4)
    with pytest.raises(ValidationError, match=r"lr_min = 0\.1 should be at most"):
        TrainingConfig(lr=0.01).replace(lr_min=0.1)
    with pytest.raises(ValidationError, match="ranks"):
        AdapterConfig().replace(ranks=4)
