"""How the next token is drawn from a model's logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from fedrouter.errors import RequestError


@dataclass(frozen=True)
class Sampling:
    """How a response is generated.

    Attributes:
        max_tokens: the largest number of generated tokens, at least 1.
        temperature: divides the logits, 0 to 2; 0: always the most probable token (greedy).
        top_p: draw from the smallest set of tokens that have this probability together, in (0, 1].
        seed: the same seed gives the same response; None: any.
        stop: texts that end the response and are not part of it; at most 16, none empty.
        logprobs: number of the most probable tokens that are reported beside each token, 0 to 20;
            None: no log probabilities.

    Raises:
        RequestError: names the first value that is out of its range.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise RequestError("should be 1 or more", "max_tokens")
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= 2):
            raise RequestError("should be between 0 and 2", "temperature")
        if not (math.isfinite(self.top_p) and 0 < self.top_p <= 1):
            raise RequestError("should be greater than 0 and at most 1", "top_p")
        if len(self.stop) > 16 or "" in self.stop:
            raise RequestError("should be at most 16 texts, none of them empty", "stop")
        if self.logprobs is not None and not 0 <= self.logprobs <= 20:
            raise RequestError("should be between 0 and 20", "logprobs")


class SamplingOptions(TypedDict, total=False):
    """What callers may say of how a response is generated; all of it may be left out.

    Attributes:
        temperature: 0, the default: the most probable token each time (greedy); up to 2: more
            random.
        top_p: draw from the most probable tokens that have this probability together; default 1.
        seed: the same seed gives the same response; None, the default: the run's.
        stop: a text, or texts, that end the response and are not part of it.
    """

    temperature: float
    top_p: float
    seed: int | None
    stop: str | Sequence[str]


@dataclass(frozen=True)
class TokenLogprob:
    """The log probability of a generated token, under the model's own distribution.

    Attributes:
        token: the token's id.
        logprob: natural logarithm of its probability, before temperature and top_p.
        top: the most probable tokens with theirs, the most probable first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: Tensor, sampling: Sampling, draws: torch.Generator) -> int:
    """Draw a token.

    Args:
        logits: float32, shape (vocabulary,).
        sampling: temperature and top_p.
        draws: a CPU generator.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.cpu().double() / sampling.temperature, dim=0)
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    # The first token that reaches top_p is the last one to draw from.
    ordered[ordered.cumsum(0) - ordered >= sampling.top_p] = 0
    return int(tokens[torch.multinomial(ordered, 1, generator=draws)])


def logprob(logits: Tensor, token: int, top: int) -> TokenLogprob:
    """The log probability of a token, and the most probable ones.

    Args:
        logits: float32, shape (vocabulary,).
        token: the token's id.
        top: number of the most probable tokens.
    """
    logprobs = torch.log_softmax(logits.float(), dim=0)
    values, tokens = logprobs.topk(min(top, len(logprobs)))
    best = zip(tokens.tolist(), values.tolist(), strict=True)
    return TokenLogprob(token, float(logprobs[token]), tuple(best))
