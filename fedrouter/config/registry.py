"""Strategies by name, those of other packages included.

A strategy registers itself where it is defined::

    class DittoSettings(Section):
        proximal_weight: float = Field(default=0.1, ge=0, description="...")

    @register_strategy("ditto", settings=DittoSettings)
    class Ditto(Strategy):
        settings: DittoSettings

The registry stands below the strategies and knows their classes only by what they register. The
built-in ones are imported when a name is first looked up, and with them the modules that installed
packages name in the entry-point group ``fedrouter.strategies``::

    [project.entry-points."fedrouter.strategies"]
    mine = "my_package.my_strategy"
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, TypeVar

from fedrouter.config.sections.base import Section
from fedrouter.errors import ConfigError

BUILTIN_MODULE = "fedrouter.strategies"
ENTRY_POINT_GROUP = "fedrouter.strategies"

StrategyClass = TypeVar("StrategyClass", bound=type[Any])


@dataclass(frozen=True)
class StrategyEntry:
    """A registered strategy.

    Attributes:
        name: the value of the key `strategy`, and its section's name in `[strategies.NAME]`.
        cls: the subclass of `Strategy`.
        settings: the schema of its section.
        factory: makes a strategy from the configuration.
    """

    name: str
    cls: type[Any]
    settings: type[Section]
    factory: Callable[[Any], Any]

    @property
    def description(self) -> str:
        """The first paragraph of the class's docstring, on one line."""
        return " ".join((inspect.getdoc(self.cls) or "").partition("\n\n")[0].split())


_entries: dict[str, StrategyEntry] = {}


def register_strategy(
    name: str,
    *,
    settings: type[Section] = Section,
    factory: Callable[[Any], Any] | None = None,
) -> Callable[[StrategyClass], StrategyClass]:
    """Class decorator that makes a subclass of `Strategy` known under a name.

    Args:
        name: lower-case letters, digits and hyphens; the value of the key `strategy`.
        settings: the schema of the section `[strategies.NAME]`, in which every key has a default;
            by default a section without keys. The strategy reads it as `self.settings`.
        factory: called with the configuration to make a strategy, where a method has variants; by
            default the class itself.

    Raises:
        ConfigError: the name is taken by another class.
        ValueError: the name is malformed, or a key has no default.

    >>> from fedrouter import SingleAdapter, Strategy, TrainOrder, load_config, register_strategy
    >>> @register_strategy("shared")
    ... class Shared(Strategy):
    ...     def orders(self, state, round, client):
    ...         return (TrainOrder(("global",), self.config.training.steps),)
    ...     def serve(self, state, client):
    ...         return SingleAdapter("global")
    >>> load_config(None, ["strategy=shared"]).strategy
    'shared'
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"strategy name {name!r} should be lower-case words joined by hyphens")
    required = [key for key, field in settings.model_fields.items() if field.is_required()]
    if required:
        raise ValueError(f"strategy {name!r}: the keys {', '.join(required)} need defaults")

    def register(cls: StrategyClass) -> StrategyClass:
        before = _entries.get(name)
        if before is not None and _path(before.cls) != _path(cls):
            raise ConfigError(
                f"strategy {name!r} is registered by both {_path(before.cls)} and {_path(cls)}; "
                "rename one, or uninstall its package"
            )
        _entries[name] = StrategyEntry(name, cls, settings, factory or cls)
        return cls

    return register


def registered() -> Mapping[str, StrategyEntry]:
    """All strategies by name: the built-in ones in a fixed order, then all others.

    Raises:
        ConfigError: a strategy of an installed package cannot be imported.
    """
    load()
    return MappingProxyType(_entries)


def strategy_names() -> tuple[str, ...]:
    """The values of the key `strategy`."""
    return tuple(registered())


@lru_cache(maxsize=1)
def load() -> None:
    """Import the modules that register strategies, once in a process."""
    import_module(BUILTIN_MODULE)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            point.load()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"the installed strategy {point.name!r} ({point.value}) cannot be imported: "
                f"{type(error).__name__}: {error}; repair or uninstall its package"
            ) from error


def _path(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
