"""What is wrong with a configuration, in one line that names every key, value and remedy."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from fedrouter.config.reference import describe
from fedrouter.config.registry import strategy_names
from fedrouter.config.sections.base import check_known
from fedrouter.config.sections.data import Source
from fedrouter.config.synonyms import SYNONYMS

_PLAIN = {  # where pydantic speaks of Python rather than of TOML
    "bool_type": "should be true or false",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "dict_type": "should be a section of keys",
    "model_type": "should be a section of keys",
    "path_type": "should be a path",
    "string_type": "should be a text",
    "tuple_type": "should be a list",
}
_PLAINER = {
    r"^(Input|String|Tuple) should": "should",
    r"greater than or equal to": "at least",
    r"less than or equal to": "at most",
    r" after validation, not \d+$": "",
}


def explain(error: ValidationError, raw: Mapping[str, Any]) -> list[str]:
    """One text per faulty key of `raw`, the configuration that was refused."""
    unknown: list[str] = []
    said: dict[str, tuple[Any, list[str]]] = {}
    whole: list[str] = []
    for fault in error.errors(include_url=False):
        key, value = _locate(fault["loc"], raw)
        if fault["type"] == "extra_forbidden":
            unknown.append(unknown_key(key))
        elif fault["type"] == "missing":
            whole.append(f"{'.'.join(map(str, fault['loc']))} is missing")
        elif fault["type"] == "value_error" and isinstance(value, Mapping):
            whole.append(str(fault["ctx"]["error"]))  # names its keys itself
        else:
            said.setdefault(key, (value, []))[1].append(_text(fault))
    lists = {key.partition("[")[0] for key in said if "[" in key}  # the faulty item says enough
    values = [f"{k} = {v!r} {_join(texts)}" for k, (v, texts) in said.items() if k not in lists]
    return [*unknown, *values, *whole]


def unknown_key(key: str) -> str:
    """Refusal of a key, with the known ones that are nearest to it."""
    section, _, strategy = key.partition(".")
    if section == "strategies" and "." not in strategy:
        return _unknown_strategy(key, strategy)
    near = " or ".join(_nearest(re.sub(r"\[\d+\]", "", key)))
    return f"unknown key {key}" + (f"; did you mean {near}?" if near else "")


def _unknown_strategy(key: str, name: str) -> str:
    """Refusal of a section in `[strategies]` that is no strategy's."""
    try:
        check_known(name, "named after a strategy", strategy_names())
    except ValueError as error:
        return f"unknown section {key}: it {error}"
    raise AssertionError(f"{key} is a known section")


def _nearest(key: str) -> Sequence[str]:
    """Known keys: those that another library's name stands for, else those of the same name in
    other sections (in the same strategy's section, where it has one), else the one spelt most
    alike."""
    known = [entry.name for entry in describe()]
    section, _, leaf = key.rpartition(".")
    within = [name for name in known if name.startswith(f"{section}.")]
    if section.startswith("strategies."):
        return get_close_matches(key, within, n=1) or within
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    known += [f"data.sources.{entry.name}" for entry in describe(Source)]
    sections = sorted({name.rpartition(".")[0] for name in known} - {""})
    return (
        SYNONYMS.get(key)
        or same
        or SYNONYMS.get(leaf)
        or get_close_matches(key, [*known, *sections], n=1)
    )


def _locate(location: Sequence[int | str], raw: Mapping[str, Any]) -> tuple[str, Any]:
    """Full name and value of the key that pydantic's `location` points at.

    The location also holds pydantic's names for the members of unions; these lead nowhere in `raw`.
    """
    key, value = "", raw
    for part in location:
        if isinstance(value, Mapping) and part in value:
            key, value = f"{key}.{part}" if key else str(part), value[str(part)]
        elif isinstance(value, list) and isinstance(part, int):
            key, value = f"{key}[{part}]", value[part]
    return key, value


def _text(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    text = str(_PLAIN.get(fault["type"], fault["msg"]))
    for pattern, plain in _PLAINER.items():
        text = re.sub(pattern, plain, text)
    return text + _nearest_value(fault) if fault["type"] == "literal_error" else text


def _nearest_value(fault: Mapping[str, Any]) -> str:
    """The allowed value that is spelt most like the one given, as a question; "" without one."""
    allowed = re.findall("'([^']*)'", str(fault["ctx"]["expected"]))
    near = get_close_matches(str(fault["input"]), allowed, n=1, cutoff=0.75)
    return f"; did you mean {near[0]!r}?" if near else ""


def _join(texts: Sequence[str]) -> str:
    """The members of a union, of which one would do."""
    unique = list(dict.fromkeys(texts))
    return " or ".join([unique[0], *(text.removeprefix("should be ") for text in unique[1:])])
