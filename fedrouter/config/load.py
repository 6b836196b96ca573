"""Configuration from a TOML file and ``--set`` overrides, and back to TOML."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError

from fedrouter.config.explain import explain
from fedrouter.config.resolve import ResolvedConfig
from fedrouter.config.schema import Config
from fedrouter.config.sections.evaluation import CompareConfig
from fedrouter.errors import ConfigError

AnyConfig = TypeVar("AnyConfig", bound=Config)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a file (None: all defaults) with overrides laid over it.

    Args:
        path: a TOML file. Relative paths in it are relative to the current folder, as they are
            in a shell command.
        overrides: texts ``section.key=value``. The value is read as TOML, and as plain text where
            it is none: ``training.steps=5``, ``strategy=fedavg``, ``data.train=../rows.jsonl``.

    Raises:
        ConfigError: one line that lists every fault.

    >>> from fedrouter import load_config
    >>> config = load_config(None, ["strategy=fedavg", "training.steps=5"])
    >>> config.strategy, config.training.steps, config.federation.clients
    ('fedavg', 5, 8)
    """
    return _overridden(Config, {} if path is None else _read(path), overrides)


def load_resolved(path: Path) -> ResolvedConfig:
    """The resolved configuration of a run folder's `config.toml`.

    Raises:
        ConfigError: another version of fedrouter wrote it, or it was edited; one line that lists
            every fault.
    """
    try:
        return _overridden(ResolvedConfig, _read(path), ())
    except ConfigError as error:
        raise ConfigError(
            f"{path} does not fit this version of fedrouter ({error}); start a new run, or use the "
            "version that wrote it"
        ) from None


def parse_resolved(text: str) -> ResolvedConfig:
    """The resolved configuration that `dump_config` wrote as a text, which may come from elsewhere.

    Raises:
        ConfigError: one line that lists every fault.
    """
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"the configuration is not valid TOML: {_fault(error)}") from error
    return _overridden(ResolvedConfig, raw, ())


def override(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with overrides laid over it, written as those of `load_config`.

    Raises:
        ConfigError: one line that lists every fault.
    """
    return _overridden(Config, config_table(config), overrides)


def dump_config(config: Config) -> str:
    """The whole configuration as TOML that `load_config` reads back; unset keys are left out, and
    so are the sections `compare` and `strategies` where they are empty."""
    return tomli_w.dumps(config_table(config))


def config_table(config: Config) -> dict[str, Any]:
    """What `dump_config` writes, as a table of plain TOML types."""
    empty = {"compare"} if config.compare == CompareConfig() else set()
    empty |= set() if config.strategies else {"strategies"}
    return config.model_dump(mode="json", exclude_none=True, exclude=empty)


def _overridden(
    schema: type[AnyConfig], raw: dict[str, Any], overrides: Sequence[str]
) -> AnyConfig:
    faults = [fault for text in overrides if (fault := _override(raw, text))]
    config: AnyConfig | None = None
    try:
        config = schema.model_validate(raw)
    except ValidationError as error:
        faults += explain(error, raw)
    if faults or config is None:
        raise ConfigError("; ".join(faults))
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {_fault(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: it is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a TOML file") from error


def _fault(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _override(raw: dict[str, Any], text: str) -> str | None:
    """Lay one override over `raw`; returns what is wrong with it, if anything."""
    key, equals, value = text.partition("=")
    *sections, leaf = (part.strip() for part in key.split("."))
    if not equals or not leaf or not all(sections):
        return f"--set {text!r} should be KEY=VALUE, such as training.steps=5"
    place = raw
    for depth, section in enumerate(sections, start=1):
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            name = ".".join(sections[:depth])
            return f"--set {text!r} sets a key inside {name}, which is not a section"
        place = inner
    place[leaf] = _value(value)
    return None


def _value(text: str) -> Any:
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    return document["value"] if len(document) == 1 else text
