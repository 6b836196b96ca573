"""Which adapters answer a request, whatever backend generates the answer."""

import asyncio
from collections.abc import Sequence

from fedrouter.data.rows import Message
from fedrouter.errors import RequestError
from fedrouter.inference.conversation import user_text
from fedrouter.inference.routed_model import RoutedModel
from fedrouter.inference.types import Route
from fedrouter.routing.types import AdapterMixture
from fedrouter.serving.requests import unknown_model

Decision = tuple[Route | None, AdapterMixture]


def decide(
    model: RoutedModel, requests: Sequence[tuple[str | Sequence[Message], str | None]]
) -> list[Decision]:
    """The router's decision about each prompt, and the adapters that answer it.

    Args:
        model: the run.
        requests: for each an instruction or a conversation, and the task whose adapter is to
            answer; "": the base model alone; None: the router decides, for all such prompts in one
            pass.

    Raises:
        ServingError: 404, there is no such task.
    """
    routed = iter(model.route_with_mixtures([user_text(p) for p, task in requests if task is None]))
    return [next(routed) if task is None else _forced(model, p, task) for p, task in requests]


def _forced(model: RoutedModel, prompt: str | Sequence[Message], task: str) -> Decision:
    if task == "":
        return None, ()
    if task not in model.multi_adapter.names:  # a newer round may have merged it
        raise unknown_model(task)
    return model.route_to(user_text(prompt), task)


async def route_prompts(model: RoutedModel, prompts: list[str]) -> list[Route]:
    """The router's decision for each prompt, in a thread of its own.

    Raises:
        RequestError: a prompt is empty.
    """
    if any(not prompt.strip() for prompt in prompts):
        raise RequestError("should hold no empty text", "prompts")
    return await asyncio.to_thread(model.route, prompts)
