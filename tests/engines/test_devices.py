"""Simulated devices over clients without a model; times are computed by hand."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.configs import resolved
from support.scripted_clients import INITIAL, A, B, ScriptedEngine, server

from fedrouter.config import ResolvedConfig, dump_config
from fedrouter.engines.devices import SimulatedDevices, closing_time, device_classes
from fedrouter.progress import Progress
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure, TrainOrder
from fedrouter.server.engine import Closing, Late
from fedrouter.server.rounds import rounds
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import make_strategy

FAST_AND_SLOW = (  # an update of a scripted client has 7 tokens: 1 s and 2.8 s
    "federation.devices=[{share=0.67, speed=7.0, mb_per_s=1e12}, "
    "{share=0.33, speed=2.5, mb_per_s=1e12}]"
)
FEDAVG = ("strategy=fedavg", "federation.clients=3", "evaluation.enabled=false")


def devices(config: ResolvedConfig) -> SimulatedDevices:
    engine = ScriptedEngine(config, lambda request, wire: wire)
    return SimulatedDevices(engine, config, engine.expected)


def finished(folder: Path, config: ResolvedConfig) -> tuple[list[dict[str, Any]], Any]:
    """The records of a run, and the arrays of its last state."""
    run = RunFolder.create(folder, dump_config(config))
    server(config, devices(config)).execute(run)
    checkpoint, _ = run.latest_checkpoint()
    assert checkpoint is not None
    return run.read_metrics(), checkpoint


def slow_client(config: ResolvedConfig) -> int:
    return [one.speed for one in device_classes(config)].index(2.5)


@pytest.mark.parametrize(
    ("closing", "seconds"),
    [
        (Closing(4, 4), 4.0),  # all
        (Closing(2, 1), 2.0),  # the wanted number
        (Closing(4, 1, 2.5), 2.5),  # the deadline
        (Closing(4, 3, 2.5), 3.0),  # the least number, after the deadline
        (Closing(4, 1, 9.0), 4.0),  # all, before the deadline
        (Closing(2, 1, 0.5), 1.0),  # the first after the deadline
    ],
)
def test_when_a_round_is_closed(closing: Closing, seconds: float) -> None:
    assert closing_time([3.0, 1.0, 4.0, 2.0], [], closing, timeout_s=100) == seconds


def test_an_absent_client_is_waited_for_until_the_deadline_or_the_timeout() -> None:
    assert closing_time([1.0], [inf], Closing(2, 2), 100) == 100
    assert closing_time([1.0], [inf], Closing(2, 1, 5.0), 100) == 5
    assert closing_time([1.0], [inf], Closing(1, 1), 100) == 1
    assert closing_time([1.0], [3.0], Closing(2, 2), 100) == 3  # failed: nothing more to wait for
    assert closing_time([], [inf], Closing(1, 1, 5.0), 100) == 100
    assert closing_time([], [], Closing(0, 0, 5.0), 100) == 0


def test_shares_are_of_the_clients() -> None:
    config = resolved(
        "federation.clients=10",
        "federation.devices=[{share=0.25, speed=1.0}, {share=0.55, speed=2.0}, {share=0.2}]",
    )
    speeds = [one.speed for one in device_classes(config)]
    assert Counter(speeds) == {1.0: 3, 2.0: 5, 1000.0: 2}
    other = device_classes(config.replace(seed=1))
    assert speeds != [one.speed for one in other]


def test_a_late_reply_counts_when_it_arrives(tmp_path: Path) -> None:
    """Rounds close at 1.5 s (the deadline), 2.5 s, 3.5 s; the late reply comes at 2.8 s."""
    config = resolved(*FEDAVG, "federation.rounds=4", "federation.deadline_s=1.5", FAST_AND_SLOW)
    slow = slow_client(config)
    fast = [client for client in range(3) if client != slow]
    records, checkpoint = finished(tmp_path / "run", config)
    assert [record["clients"] for record in records] == [[0, 1, 2], fast, fast, [0, 1, 2]]
    assert [record["late"] for record in records] == [[slow], [], [], [slow]]
    assert [record["late_replies"] for record in records] == [
        [],
        [],
        [{"client": slow, "round": 1}],
        [],
    ]
    assert [round(record["simulated_s"], 6) for record in records] == [1.5, 2.5, 3.5, 5.0]
    assert [record["tokens"] for record in records] == [14, 14, 21, 14]
    assert [len(record["failures"]) for record in records] == [0, 0, 0, 0]
    assert [one["request"]["client"] for one in checkpoint.meta["state"]["open_requests"]] == [slow]


def test_the_weight_of_a_late_reply(tmp_path: Path) -> None:
    config = resolved(*FEDAVG, "federation.rounds=3", "federation.deadline_s=1.5", FAST_AND_SLOW)
    slow = slow_client(config)
    levels = [1.0 + client for client in range(3) if client != slow]  # of their updates
    before, stale = sum(levels) / 2, 3**-0.5  # asked in round 1, counted in round 3
    _, checkpoint = finished(tmp_path / "run", config)
    adapter = checkpoint.meta["state"]["adapters"]["global"]
    for name in (A, B):
        moved = before + stale * (1.0 + slow - INITIAL[name].flat[0])
        found = checkpoint.arrays[adapter[name]]
        np.testing.assert_allclose(found, np.full_like(found, (sum(levels) + moved) / 3), rtol=1e-6)


def test_a_dropped_reply_changes_nothing_but_keeps_its_client_busy(tmp_path: Path) -> None:
    config = resolved(
        *FEDAVG,
        "federation.rounds=4",
        "federation.deadline_s=1.5",
        "federation.late=drop",
        FAST_AND_SLOW,
    )
    records, _ = finished(tmp_path / "run", config)
    assert [len(record["clients"]) for record in records] == [3, 2, 2, 3]
    assert [record["tokens"] for record in records] == [14, 14, 14, 14]
    assert not any(record["late_replies"] for record in records)


def test_over_selection_closes_with_the_wanted_number(tmp_path: Path) -> None:
    config = resolved(
        *FEDAVG,
        "federation.rounds=2",
        "federation.fraction=0.67",
        "federation.over_selection=1.5",
        FAST_AND_SLOW,
    )
    records, _ = finished(tmp_path / "run", config)
    assert [len(record["clients"]) for record in records] == [3, 2]
    assert [round(record["simulated_s"], 6) for record in records] == [1.0, 2.0]
    assert records[0]["late"] == [slow_client(config)]


def test_without_a_deadline_the_slowest_holds_the_round(tmp_path: Path) -> None:
    config = resolved(*FEDAVG, "federation.rounds=2", FAST_AND_SLOW)
    records, _ = finished(tmp_path / "run", config)
    assert [round(record["simulated_s"], 6) for record in records] == [2.8, 5.6]
    assert [record["tokens"] for record in records] == [21, 21]


def test_devices_without_a_deadline_change_no_result(tmp_path: Path) -> None:
    given = (*FEDAVG, "federation.rounds=2")
    config = resolved(*given)
    usual = RunFolder.create(tmp_path / "usual", dump_config(config))
    server(config, ScriptedEngine(config, lambda request, wire: wire)).execute(usual)
    _, timed = finished(tmp_path / "timed", resolved(*given, FAST_AND_SLOW))
    checkpoint, _ = usual.latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.meta["simulated_s"] is None
    assert checkpoint.meta["state"] == timed.meta["state"]
    assert checkpoint.meta["traffic"] == timed.meta["traffic"]
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(array, timed.arrays[name])


def test_a_run_ends_when_its_simulated_time_is_over(tmp_path: Path) -> None:
    given = (*FEDAVG, "federation.rounds=9", FAST_AND_SLOW)  # rounds of 2.8 s
    records, _ = finished(tmp_path / "run", resolved(*given, "federation.budget_s=5.7"))
    assert [round(record["simulated_s"], 6) for record in records] == [2.8, 5.6, 8.4]


def test_equal_time_gives_slow_clients_fewer_steps() -> None:
    """The scripted clients' tokens do not depend on steps, so that only requests are looked at."""
    config = resolved(
        *FEDAVG,
        "federation.rounds=3",
        "training.steps=14",
        "federation.equal_time=true",
        FAST_AND_SLOW,
    )
    asked: list[Sequence[ClientRequest]] = []

    class Recording(ScriptedEngine):
        def run(self, requests: Sequence[ClientRequest]) -> Iterator[ClientReply | Failure]:
            asked.append(requests)
            return super().run(requests)

    engine = Recording(config, lambda request, wire: wire)
    method = make_strategy(config)
    state = method.init([], INITIAL, "base")
    simulated = SimulatedDevices(engine, config, engine.expected)
    [first, *_] = list(rounds(method, simulated, state, config, engine.expected))
    slow = slow_client(config)
    assert first.state.speeds == pytest.approx({c: 5.0 if c == slow else 14.0 for c in range(3)})
    assert [request.train[0].steps for request in asked[0]] == [14, 14, 14]
    expected = [5 if client == slow else 14 for client in range(3)]
    assert [request.train[0].steps for request in asked[1]] == expected


def test_times_depend_neither_on_the_order_nor_on_other_clients() -> None:
    config = resolved(
        "strategy=fedavg",
        "federation.clients=6",
        "federation.devices=[{speed=5.0, variation=0.5, absent=0.3}]",
    )
    orders, adapters = (TrainOrder(("global",), 1),), {"global": INITIAL}
    requests = [ClientRequest(c, 2, train=orders, adapters=adapters) for c in range(6)]

    def answers(order: Sequence[int]) -> dict[int, Any]:
        simulated = devices(config)
        closing = Closing(len(order), 1, 1.0)
        found = simulated.run_until([requests[client] for client in order], closing)
        return dict(zip(order, found, strict=True))

    together, reverse = answers(range(6)), answers(range(5, -1, -1))
    kinds = {client: type(answer) for client, answer in together.items()}
    assert {Failure, Late} <= set(kinds.values())
    assert kinds == {client: type(answer) for client, answer in reverse.items()}
    for client, answer in together.items():
        other = reverse[client]
        if isinstance(answer, Late):
            assert isinstance(other, Late)
            assert answer.seconds == other.seconds


class Killed(BaseException):
    """Stands for a process that ends without any clean-up of ours."""


class KillIn(Progress):
    """Ends the run when a round begins."""

    def __init__(self, round: int) -> None:
        self.at = round

    def round(self, number: int, of: int) -> None:
        if number == self.at:
            raise Killed


@pytest.mark.parametrize("killed", [2, 3, 4])
def test_a_resumed_run_has_its_late_replies(tmp_path: Path, killed: int) -> None:
    config = resolved(
        *FEDAVG,
        "federation.rounds=5",
        "federation.deadline_s=1.5",
        "federation.equal_time=true",
        FAST_AND_SLOW,
    )
    whole, last = finished(tmp_path / "whole", config)
    run = RunFolder.create(tmp_path / "run", dump_config(config))
    first = server(config, devices(config))
    first._progress = KillIn(killed)
    with pytest.raises(Killed):
        first.execute(run)
    server(config, devices(config)).execute(run)  # a process of its own, with engines of its own
    resumed = run.read_metrics()
    for records in (whole, resumed):
        for record in records:
            del record["seconds"]
    assert resumed == whole
    checkpoint, _ = run.latest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.meta["state"] == last.meta["state"]
    assert checkpoint.meta["simulated_s"] == last.meta["simulated_s"]
    for name, array in last.arrays.items():
        np.testing.assert_array_equal(checkpoint.arrays[name], array)
