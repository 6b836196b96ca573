"""Which adapters answer a request, whatever backend generates the answer."""

import asyncio
from collections.abc import Sequence

from fedrouter.data.rows import Message
from fedrouter.errors import RequestError
from fedrouter.inference.conversation import user_text
from fedrouter.inference.routed_model import Route, RoutedModel
from fedrouter.routing.types import AdapterMixture
from fedrouter.serving.requests import unknown_model


def decide(
    model: RoutedModel, prompt: str | Sequence[Message], task: str | None
) -> tuple[Route | None, AdapterMixture]:
    """The router's decision about a prompt, and the adapters that answer it.

    Args:
        model: the run.
        prompt: an instruction or a conversation.
        task: the task whose adapter is to answer; "": the base model alone; None: the router
            decides.

    Raises:
        ServingError: 404, there is no such task.
    """
    if task == "":
        return None, ()
    text = user_text(prompt)
    if task is not None:
        if task not in model.multi_adapter.names:  # a newer round may have merged it
            raise unknown_model(task)
        return model.route_to(text, task)
    [decision] = model.route_with_mixtures([text])
    return decision


async def route_prompts(model: RoutedModel, prompts: list[str]) -> list[Route]:
    """The router's decision for each prompt, in a thread of its own.

    Raises:
        RequestError: a prompt is empty.
    """
    if any(not prompt.strip() for prompt in prompts):
        raise RequestError("should hold no empty text", "prompts")
    return await asyncio.to_thread(model.route, prompts)
