"""In which keys two configurations differ."""

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN_CHARACTERS = 60  # of a value


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, str]:
    """The full names of the keys whose values differ, with a description of each difference.

    Args:
        theirs: a configuration as plain TOML types; unset keys are left out.
        ours: the same of the other.

    >>> differences({"seed": 1, "training": {"steps": 3}}, {"seed": 1, "training": {"steps": 4}})
    {'training.steps': 'training.steps = 3, not = 4'}
    """
    before, after = dict(leaves(theirs)), dict(leaves(ours))
    return {
        key: f"{key} {_shown(before.get(key))}, not {_shown(after.get(key))}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    }


def leaves(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of a section and its subsections, by their full names, with values."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    text = f"= {value!r}"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
