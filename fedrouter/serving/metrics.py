"""What a server counts, for Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from fedrouter.serving.requests import Chunk, Event, Failed, Started

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters and histograms of one server.

    Args:
        running: number of requests that are being answered.
        waiting: number of requests that wait.
        round: the round of the run that answers new requests.
    """

    def __init__(
        self,
        running: Callable[[], float],
        waiting: Callable[[], float],
        round: Callable[[], float],
    ) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fedrouter_requests_total",
            "Requests by the task that answered and how they ended",
            ["task", "finish_reason"],
            registry=self._registry,
        )
        self._prompts = self._counter("fedrouter_prompt_tokens_total", "Tokens of prompts")
        self._generated = self._counter("fedrouter_generation_tokens_total", "Generated tokens")
        self._unknown = self._counter(
            "fedrouter_unknown_prompts_total", "Routed prompts outside every task"
        )
        self._first = self._histogram(
            "fedrouter_time_to_first_token_seconds", "From a request's arrival to its first token"
        )
        self._whole = self._histogram(
            "fedrouter_request_duration_seconds", "From a request's arrival to its last token"
        )
        for name, text, value in (
            ("fedrouter_requests_running", "Requests that are being answered", running),
            ("fedrouter_requests_waiting", "Requests that wait for a place", waiting),
            ("fedrouter_round", "Round of the run that answers new requests", round),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def observer(self) -> Callable[[Event], None]:
        """What to call with each event of one request that has just arrived."""
        arrived, task, first = time.monotonic(), "", True

        def observe(event: Event) -> None:
            nonlocal task, first
            now = time.monotonic() - arrived
            if isinstance(event, Started):
                self._prompts.inc(event.prompt_tokens)
                if event.route is not None:
                    task = event.route.task
                    self._unknown.inc(not event.route.known)
            elif isinstance(event, Chunk):
                self._generated.inc(event.tokens)
                if first:
                    self._first.observe(now)
                    first = False
                if event.finish_reason is not None:
                    self._whole.observe(now)
                    self._requests.labels(task, event.finish_reason).inc()
            elif isinstance(event, Failed):
                self._requests.labels(task, f"error {event.error.status}").inc()

        return observe

    def canceled(self) -> None:
        """Count a request whose client went away."""
        self._requests.labels("", "canceled").inc()

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, buckets=SECONDS, registry=self._registry)
