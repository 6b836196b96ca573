"""The bodies of responses, as OpenAI's API defines them, with a `routing` object beside `usage`."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedrouter.inference.sampling import TokenLogprob
from fedrouter.serving.requests import Chunk, Started

TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "RequestTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}
Json = dict[str, Any]


def error_body(message: str, status: int, parameter: str | None = None) -> Json:
    """An error in OpenAI's shape."""
    kind = TYPES.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": parameter, "code": status}}


def routing_body(started: Started, forced: bool) -> Json:
    """What the router decided and which adapters answer.

    `adapters` holds what answers, with weights; it is empty if the base model alone does.
    """
    route = started.route
    adapters = [{"task": name, "weight": weight} for name, weight in started.mixture]
    if route is None:
        return {"task": None, "forced": forced, "adapters": adapters, "round": started.round}
    return {
        "task": route.task,
        "confidence": round(route.confidence, 6),
        "known": route.known,
        "forced": forced,
        "nearest": [{"task": t, "distance": round(d, 6)} for t, d in route.distances],
        "adapters": adapters,
        "round": started.round,
    }


def routing_headers(started: Started) -> dict[str, str]:
    """The choice in headers, as the semantic router of vLLM does."""
    round = {"x-fedrouter-round": str(started.round)}
    if started.route is None:
        return round
    return {
        **round,
        "x-fedrouter-task": started.route.task,
        "x-fedrouter-confidence": f"{started.route.confidence:.4f}",
        "x-fedrouter-known": str(started.route.known).lower(),
    }


@dataclass
class Choice:
    """One response that is put together from its chunks."""

    text: str = ""
    tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, chunk: Chunk) -> None:
        """Append the next part."""
        self.text += chunk.text
        self.tokens += chunk.tokens
        self.logprobs += chunk.logprobs
        self.finish_reason = chunk.finish_reason


class Shape:
    """Bodies of one answer: all its parts have the same id and time.

    Args:
        chat: whether it answers a chat, else a completion.
        model: the model's name as the request gave it.
        fingerprint: of the base model.
        decode: the text of a token.
        logprobs: whether the request wants log probabilities.
    """

    def __init__(
        self,
        chat: bool,
        model: str,
        fingerprint: str,
        decode: Callable[[int], str],
        logprobs: bool,
    ) -> None:
        self._chat = chat
        self._decode = decode
        self._logprobs = logprobs
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"fp_{fingerprint[:12]}",
        }

    def whole(self, choices: Sequence[Choice], prompt_tokens: int, routing: Any) -> Json:
        """The answer in one piece."""
        return {
            **self._head,
            "object": "chat.completion" if self._chat else "text_completion",
            "choices": [self._choice(i, one) for i, one in enumerate(choices)],
            "usage": usage(prompt_tokens, sum(one.tokens for one in choices)),
            "routing": routing,
        }

    def part(self, choices: Sequence[Json], **more: Any) -> Json:
        """A part of a stream."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": list(choices), **more}

    def first(self, index: int) -> Json:
        """The choice that opens a stream of a chat."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, index: int, chunk: Chunk, offset: int) -> Json:
        """The choice that a chunk of a response is in a stream.

        Args:
            index: of the choice.
            chunk: the part.
            offset: number of characters of the response before it.
        """
        content: Mapping[str, Any] = {"text": chunk.text}
        if self._chat:
            content = {"delta": {"content": chunk.text} if chunk.text else {}}
        return {
            "index": index,
            **content,
            "logprobs": self._logprobs_body(chunk.logprobs, offset),
            "finish_reason": chunk.finish_reason,
        }

    def _choice(self, index: int, choice: Choice) -> Json:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        return {
            "index": index,
            **({"message": message} if self._chat else {"text": choice.text}),
            "logprobs": self._logprobs_body(choice.logprobs, 0),
            "finish_reason": choice.finish_reason,
        }

    def _logprobs_body(self, logprobs: Sequence[TokenLogprob], offset: int) -> Json | None:
        if not self._logprobs:
            return None
        return self._chat_logprobs(logprobs) if self._chat else self._completion(logprobs, offset)

    def _chat_logprobs(self, logprobs: Sequence[TokenLogprob]) -> Json:
        def one(token: int, value: float) -> Json:
            text = self._decode(token)
            return {"token": text, "logprob": value, "bytes": list(text.encode())}

        return {
            "content": [
                {
                    **one(entry.token, entry.logprob),
                    "top_logprobs": [one(token, value) for token, value in entry.top],
                }
                for entry in logprobs
            ],
            "refusal": None,
        }

    def _completion(self, logprobs: Sequence[TokenLogprob], offset: int) -> Json:
        tokens = [self._decode(entry.token) for entry in logprobs]
        offsets = [offset + sum(map(len, tokens[:i])) for i in range(len(tokens))]
        return {
            "tokens": tokens,
            "token_logprobs": [entry.logprob for entry in logprobs],
            "top_logprobs": [
                {self._decode(token): value for token, value in entry.top} for entry in logprobs
            ],
            "text_offset": offsets,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """The number of tokens of a request and its answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
