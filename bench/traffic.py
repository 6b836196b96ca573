"""What travels in a run, by kind of request, and what of it the client had received before.

FedRouter finds its tasks, so that all kinds of requests occur. An array counts as received before
if the client was sent the same bytes in this run.

``python -m bench.traffic [--transport float16] [--rounds 8]``
"""

import argparse
import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.output import publish
from fedrouter.config import load_config
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.experiment import Experiment
from fedrouter.protocol.codec import pack_request
from fedrouter.protocol.compression import WeightsEncoder
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure
from fedrouter.protocol.sizes import adapter_bytes, array_bytes

SETTINGS = (
    "data.scenario=dual",
    "data.builtin_train=60",
    "data.builtin_test=10",
    r'model.template="{instruction}\n"',
    "training.steps=2",
    "training.batch_size=4",
    "evaluation.samples=5",
    "evaluation.max_new_tokens=1",
)
PARTS = ("adapters down", "other down", "received before", "adapters up", "other up")


class Meter:
    """Counts the bytes of an engine's messages by kind of request and part."""

    def __init__(self) -> None:
        self.bytes: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(PARTS, 0))
        self._received: defaultdict[int, set[bytes]] = defaultdict(set)
        self._run = InProcessEngine.run

    def run(
        self, engine: InProcessEngine, requests: Sequence[ClientRequest]
    ) -> Iterator[ClientReply | Failure]:
        """As `InProcessEngine.run`."""
        encoder = WeightsEncoder(engine.initial)
        for request in requests:
            self._count(request, engine, encoder)
        for request, reply in zip(requests, self._run(engine, requests), strict=True):
            if isinstance(reply, ClientReply):
                row = self.bytes[kind(request)]
                for update in reply.updates:
                    shapes = {name: array.shape for name, array in update.weights.items()}
                    row["adapters up"] += adapter_bytes(shapes, engine.transport)
                row["other up"] += array_bytes(replace(reply, updates=()))
            yield reply

    def _count(
        self, request: ClientRequest, engine: InProcessEngine, encoder: WeightsEncoder
    ) -> None:
        row, seen = self.bytes[kind(request)], self._received[request.client]
        other = array_bytes(replace(request, adapters={}))
        _, arrays = pack_request(request, engine.transport, encoder)
        row["other down"] += other
        row["adapters down"] += sum(array.nbytes for array in arrays.values()) - other
        for array in arrays.values():
            digest = hashlib.sha256(array.tobytes()).digest()
            row["received before"] += array.nbytes if digest in seen else 0
            seen.add(digest)


def kind(request: ClientRequest) -> str:
    """What a request is for."""
    if request.profile is not None:
        return request.profile.kind
    parts = {"compare": request.compare, "train": request.train, "evaluate": request.evaluate}
    return " and ".join(name for name, part in parts.items() if part)


def main() -> None:
    """Run once, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", default="float16")
    parser.add_argument("--rounds", type=int, default=8)
    asked = parser.parse_args()
    sets = [f"federation.transport={asked.transport}", f"federation.rounds={asked.rounds}"]
    meter = Meter()

    def run(engine: InProcessEngine, requests: Sequence[ClientRequest]) -> Iterator[Any]:
        return meter.run(engine, requests)

    with patch.object(InProcessEngine, "run", run), tempfile.TemporaryDirectory() as folder:
        Experiment(load_config(None, [*SETTINGS, *sets])).run(Path(folder) / "run")
    rows = [
        {"request": name, **{part: number / 1e6 for part, number in parts.items()}}
        for name, parts in meter.bytes.items()
    ]
    note = f"nano, built-in tasks, dual, 8 clients, {asked.rounds} rounds; MB of all clients."
    publish("traffic", f"What travels, {asked.transport}", rows, [note])


if __name__ == "__main__":
    main()
