"""What rounding an adapter loses, and what rounding its differences loses.

Two clients train one adapter (FedAvg); of the first one's updates, the norm of the rounding error
is divided by the norm of the round's movement.

``python -m bench.rounding``
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.output import publish
from fedrouter.config import load_config
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.experiment import Experiment
from fedrouter.protocol.compression import TransportDtype, decode, encode
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure
from fedrouter.protocol.movement import difference
from fedrouter.types import AdapterWeights, flatten

SETTINGS = (
    "strategy=fedavg",
    "federation.clients=2",
    "federation.transport=float32",
    "federation.rounds=6",
    "training.steps=3",
    "training.batch_size=4",
    "training.lr=0.008",
    "evaluation.enabled=false",
    "data.builtin_train=60",
    "data.builtin_test=5",
    r'model.template="{instruction}\n"',
)
DTYPES: tuple[TransportDtype, ...] = ("int8", "int4")


def norm(weights: AdapterWeights) -> float:
    """The norm of all numbers of an adapter."""
    return float(np.linalg.norm(flatten(weights)))


def lost(weights: AdapterWeights, transport: TransportDtype) -> float:
    """The norm of what rounding loses."""
    return norm(difference(decode(encode(weights, transport)), weights))


def row(
    round: int, trained: AdapterWeights, received: AdapterWeights, initial: AdapterWeights
) -> dict[str, Any]:
    """The errors of one update and of the adapter that it was trained from."""
    movement, since = difference(trained, received), difference(received, initial)
    unit = norm(movement)
    parts = {
        "trained": trained,
        "movement": movement,
        "received": received,
        "its difference": since,
    }
    return {
        "round": round,
        "adapter": norm(trained) / unit,
        **{
            f"{transport}, {name}": lost(weights, transport) / unit
            for transport in DTYPES
            for name, weights in parts.items()
        },
    }


def main() -> None:
    """Run once, and print the table."""
    rows: list[dict[str, Any]] = []
    plain = InProcessEngine.run

    def run(
        engine: InProcessEngine, requests: Sequence[ClientRequest]
    ) -> Iterator[ClientReply | Failure]:
        for request, reply in zip(requests, plain(engine, requests), strict=True):
            if isinstance(reply, ClientReply) and reply.client == 0 and engine.initial:
                for update in reply.updates:
                    received = request.adapters[str(update.adapter)]
                    rows.append(row(reply.round, update.weights, received, engine.initial))
            yield reply

    with patch.object(InProcessEngine, "run", run), tempfile.TemporaryDirectory() as folder:
        Experiment(load_config(None, [*SETTINGS])).run(Path(folder) / "run")
    publish("rounding", "What rounding loses, of a round's movement", rows)


if __name__ == "__main__":
    main()
