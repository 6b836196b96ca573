"""The order of components where some clients have a lower rank."""

from types import SimpleNamespace

import numpy as np
import pytest

from fedrouter.config import load_config
from fedrouter.config.resolve import resolve
from fedrouter.server.low_ranks import with_best_components_first
from fedrouter.strategies import ServerState
from fedrouter.types import AdapterWeights

A, B = "m.lora_A.weight", "m.lora_B.weight"


def weights(seed: int) -> AdapterWeights:
    draws = np.random.default_rng(seed)
    return {
        A: draws.normal(size=(4, 6)).astype(np.float32),
        B: draws.normal(size=(6, 4)).astype(np.float32),
    }


def after(
    ranks: list[int | None], mean: str = "partition", *, feedback: bool = False
) -> ServerState:
    """The state after a round in which the adapter "new" was trained and "old" was not."""
    sets = [
        "federation.transport=int4",
        f"federation.error_feedback={str(feedback).lower()}",
        "adapter.rank=4",
        f"aggregation.ranks={mean}",
        "aggregation.robust=none",
    ]
    config = resolve(load_config(None, sets), {"a"})
    before = ServerState(round=1, base="base", adapters={"old": weights(0), "new": weights(1)})
    state = ServerState(
        round=2, base="base", adapters={"old": before.adapters["old"], "new": weights(2)}
    )
    engine = SimpleNamespace(rank=lambda client: ranks[client])
    return with_best_components_first(config, engine, range(len(ranks)), before, state)


def test_new_adapters_are_ordered_if_one_client_has_a_lower_rank() -> None:
    state, start = after([None, 2, 4]), weights(2)
    norms = [
        np.linalg.norm(state.adapters["new"][A][i]) * np.linalg.norm(state.adapters["new"][B][:, i])
        for i in range(4)
    ]
    np.testing.assert_allclose(norms, np.linalg.svd(start[B] @ start[A])[1][:4], rtol=1e-5)
    np.testing.assert_array_equal(state.adapters["old"][A], weights(0)[A])


@pytest.mark.parametrize(
    ("ranks", "mean", "feedback"),
    [
        ([None, None], "partition", False),
        ([4, 4], "partition", False),
        ([2, 4], "svd", False),
        ([2, 4], "partition", True),
    ],
)
def test_otherwise_nothing_changes(ranks: list[int | None], mean: str, feedback: bool) -> None:
    found = after(ranks, mean, feedback=feedback).adapters["new"]
    np.testing.assert_array_equal(found[A], weights(2)[A])
