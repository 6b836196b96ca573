"""What an engine calls the base model and the run's adapters, asked when fedrouter starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx

from fedrouter.errors import ConfigError
from fedrouter.serving.names import ModelNames

UpstreamApi = Literal["vllm", "openai", "llamacpp"]


@dataclass(frozen=True)
class UpstreamModels:
    """The models of an engine.

    Attributes:
        base: the base model's name there.
        numbers: task -> its adapter's number; empty unless the engine is llama.cpp.
    """

    base: str
    numbers: Mapping[str, int] = field(default_factory=dict)


def find_models(
    client: httpx.Client, api: UpstreamApi, names: ModelNames, folder: Path
) -> UpstreamModels:
    """Find the run's adapters at an engine; vLLM is asked to load those that it lacks.

    Args:
        client: speaks to the engine; its base URL is the engine's, without ``/v1``.
        api: what kind of engine it is.
        names: the run's.
        folder: the run folder, as the engine's machine sees it.

    Raises:
        ConfigError: the engine does not answer, or lacks adapters.
    """
    try:
        if api == "llamacpp":
            return UpstreamModels(names.base, _numbers(client, names.tasks))
        return UpstreamModels(_base_name(client, api, names, folder))
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--upstream {client.base_url}: {type(error).__name__} while asking for its adapters; "
            "is the engine up, and is --upstream-api right?"
        ) from error


def _base_name(client: httpx.Client, api: UpstreamApi, names: ModelNames, folder: Path) -> str:
    """The base model's name at an engine that has all adapters, or has been made to load them."""
    cards = client.get("/v1/models").raise_for_status().json()["data"]
    present = {str(card["id"]) for card in cards}
    for task in sorted(set(names.tasks) - present):
        _load(client, api, task, folder / "tasks" / task)
    bases = [str(c["id"]) for c in cards if not c.get("parent") and c["id"] not in names.tasks]
    return bases[0] if bases and names.base not in bases else names.base


def _load(client: httpx.Client, api: UpstreamApi, task: str, path: Path) -> None:
    body = {"lora_name": task, "lora_path": str(path)}
    if api == "vllm" and client.post("/v1/load_lora_adapter", json=body).is_success:
        return
    raise ConfigError(
        f"--upstream {client.base_url} has no adapter {task!r}; start it with "
        f"--lora-modules {task}={path}"
    )


def _numbers(client: httpx.Client, tasks: Sequence[str]) -> dict[str, int]:
    numbers = {}
    for entry in client.get("/lora-adapters").raise_for_status().json():
        names = {str(entry.get("task_name", "")), Path(str(entry["path"])).stem}
        for task in names & set(tasks):
            numbers[task] = int(entry["id"])
    if missing := sorted(set(tasks) - numbers.keys()):
        raise ConfigError(
            f"--upstream {client.base_url} has no adapter {missing[0]!r}; start it with "
            f"--lora {missing[0]}.gguf (fedrouter export --to gguf)"
        )
    return numbers
