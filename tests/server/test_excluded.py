"""A client whose updates point against the others' is left out, and the record says so."""

from collections.abc import Iterator, Sequence

import numpy as np
from support.configs import resolved

from fedrouter.protocol.messages import ClientReply, ClientRequest, Update
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.routing.types import TaskProfile
from fedrouter.server.engine import Traffic
from fedrouter.server.rounds import rounds
from fedrouter.strategies import TaskState, make_strategy

A = "m.lora_A.weight"
INITIAL = {A: np.zeros((1, 300), np.float32)}
CONFIG = resolved(
    "federation.rounds=2",
    "clustering.n_global=2",
    "clustering.n_local=2",
    "aggregation.robust=clip",
)


class Federation:
    """Six clients with the same two tasks; client 4 sends the opposite of what it learns."""

    traffic = Traffic()

    def online(self) -> Sequence[int]:
        return range(6)

    def rank(self, client: int) -> int | None:
        return None

    def run(self, tasks: Sequence[ClientRequest]) -> Iterator[ClientReply]:
        for task in tasks:
            draws = np.random.default_rng([task.client, task.round])
            step = (np.ones(300) + draws.normal(0, 1, 300)) * (-1 if task.client == 4 else 1)
            yield ClientReply(
                task.client,
                task.round,
                updates=tuple(
                    Update(
                        slot,
                        order.adapters[0],
                        {A: (task.adapters[order.adapters[0]][A] + step).astype(np.float32)},
                        samples=2,
                        loss=1.0,
                        tokens=5,
                    )
                    for slot, order in enumerate(task.train)
                ),
            )


def test_the_client_is_left_out_and_recorded_in_every_round() -> None:
    method = make_strategy(CONFIG)
    centroids = np.array([[0, 0], [9, 9]], np.float32)
    ones = (1.0, 1.0)
    profiles = [TaskProfile(client, centroids, (2, 2), ones, ones) for client in range(6)]
    state = method.init(profiles, INITIAL, "base")
    expected = ExpectedArrays({A: (1, 300)}, dimension=2)
    done = list(rounds(method, Federation(), state, CONFIG, expected))
    for one in done:
        assert one.state.excluded == (4,)
        [failure] = one.record.failures
        assert failure["client"] == 4
        assert "point against" in str(failure["reason"])
        assert "aggregation.agreement = false" in str(failure["reason"])
    for weights in done[-1].state.adapters.values():
        assert weights[A].mean() > 1.8  # two rounds of about 1 by the other five clients
    restored = TaskState.unpack(*done[-1].state.pack())
    assert restored.excluded == (4,)
