"""The server sees sums alone, and they are those that it computes without masks."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.configs import resolved
from support.masked_clients import MaskedEngine, Vanishes
from support.scripted_clients import DIMENSION, INITIAL, ScriptedClient, ScriptedEngine

from fedrouter.deploy.certificates import make_node_key
from fedrouter.errors import ConfigError
from fedrouter.progress import Progress
from fedrouter.protocol.messages import ClientReply, ClientRequest, EvaluateOrder, TrainOrder
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    DescribeEmbeddings,
    ProfileOrder,
)
from fedrouter.protocol.serving_rules import SingleAdapter
from fedrouter.routing.federated_kmeans import lloyd_step, standardization
from fedrouter.routing.types import Standardization, TaskGeometry
from fedrouter.routing.whitening import fit_geometry, sum_scatters
from fedrouter.secure_aggregation.keys import Secrets
from fedrouter.secure_aggregation.messages import (
    ConfirmOrder,
    KeysOrder,
    MaskOrder,
    SharesOrder,
    UnmaskOrder,
)
from fedrouter.secure_aggregation.signatures import SigningKeys, read_signing_keys
from fedrouter.server.rounds import FinishedRound, exchanges, replies_to, rounds
from fedrouter.strategies import ServerState, make_strategy

STANDARD = Standardization(
    np.full(DIMENSION, 2.0, np.float32), np.linspace(3, 4, DIMENSION).astype(np.float32)
)
SECURE = ("privacy.secure_aggregation=true", "federation.clients=8", "federation.rounds=2")


def engine(folder: Path, *sets: str, number: int = 8, vanishes: Vanishes = lambda c, r: False):
    config = resolved(*SECURE, *sets)
    clients = {id: ScriptedClient(id, 2) for id in range(number)}
    return config, MaskedEngine(config, clients, folder, DIMENSION, vanishes)


def together(folder: Path, order: ProfileOrder):
    """The profile of all clients from their sum, and their single profiles."""
    config, masked = engine(folder, "strategy=fedavg", "privacy.min_clients=2")
    requests = [ClientRequest(c, 0, profile=order) for c in range(8)]
    replies = replies_to(config, masked, requests, masked.expected, {})
    *_, sums = replies
    assert replies.failures == []
    assert sums.profile is not None
    return sums.profile, [ScriptedClient(c, 2).profile(order) for c in range(8)]


def test_mean_and_variances_are_those_of_all_samples(tmp_path: Path) -> None:
    profile, single = together(tmp_path, DescribeEmbeddings())
    ours, theirs = standardization([profile]), standardization(single)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-5)
    np.testing.assert_allclose(ours.deviation, theirs.deviation, rtol=1e-5)


def test_an_iteration_of_k_means_is_that_of_all_samples(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    starts = tuple(draws.normal(0, 1, (2, DIMENSION)).astype(np.float32) for _ in range(4))
    profile, single = together(tmp_path, AssignToStarts(starts, STANDARD))
    for ours, theirs in zip(lloyd_step(starts, [profile]), lloyd_step(starts, single), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_geometry_is_that_of_all_samples(tmp_path: Path) -> None:
    places = np.eye(DIMENSION).astype(np.float32)
    before = TaskGeometry(("a", "b", "c", "d"), places, 0.0, 0.0, 0.0, STANDARD)
    profile, single = together(tmp_path, AssignToNearest(before, scatter=True))
    fitted = []
    for profiles in ([profile], single):
        kept, scatters = sum_scatters(profiles)
        assigned = [one.tasks for one in kept]
        fitted.append(
            fit_geometry(kept, scatters, assigned, before=before, projected=np.eye(DIMENSION))
        )
    ours, theirs = fitted
    np.testing.assert_allclose(ours.centroids, theirs.centroids, atol=1e-5)
    np.testing.assert_allclose(ours.space, theirs.space, rtol=1e-3, atol=1e-3)
    assert ours.mean == pytest.approx(theirs.mean, rel=1e-3)
    assert ours.deviation == pytest.approx(theirs.deviation, rel=1e-3)


def run_rounds(folder: Path, *sets: str, vanishes: Vanishes = lambda c, r: False):
    config, masked = engine(folder, *sets, vanishes=vanishes)
    return go(config, masked), masked


def go(config, masked) -> list[FinishedRound]:
    strategy = make_strategy(config)
    requests = strategy.profile(masked.online())
    found = [
        reply.profile
        for reply in replies_to(config, masked, requests, masked.expected, {})
        if reply.profile is not None
    ]
    state: ServerState = strategy.init(found, INITIAL, "base")
    state, _ = exchanges(strategy, masked, state, masked.expected, Progress())
    return list(rounds(strategy, masked, state, config, masked.expected))


def adapters(state: ServerState) -> np.ndarray:
    arrays = [w.ravel() for a in state.adapters.values() for w in a.values()]
    return np.concatenate([np.ones(1), *arrays])


def plain_rounds(*sets: str) -> list[FinishedRound]:
    config = resolved("federation.clients=8", "federation.rounds=2", *sets)
    return go(config, ScriptedEngine(config, lambda request, wire: wire))


@pytest.mark.parametrize(
    "strategy",
    [
        "fedavg",
        "ffa",
        "ifca",
        pytest.param("fedprox", marks=pytest.mark.slow),
        pytest.param("ditto", marks=pytest.mark.slow),
        pytest.param("fedsa", marks=pytest.mark.slow),
        pytest.param("local", marks=pytest.mark.slow),
        pytest.param("feddpa", marks=pytest.mark.slow),
        pytest.param("fedavg-ft", marks=pytest.mark.slow),
    ],
)
def test_rounds_end_as_without_masks(tmp_path: Path, strategy: str) -> None:
    sets = (f"strategy={strategy}", "training.steps=2", "privacy.min_clients=2")
    config, masked = engine(tmp_path, *sets)
    for id, client in masked.clients.items():
        client.level = id / 10  # further from the received adapter than 1 it would be clipped
    ours = go(config, masked)
    plain = resolved("federation.clients=8", "federation.rounds=2", *sets)
    scripted = ScriptedEngine(plain, lambda request, wire: wire)
    for id, client in scripted.clients.items():
        client.level = id / 10
    theirs = go(plain, scripted)
    for one, other in zip(ours, theirs, strict=True):
        a, b = adapters(one.state), adapters(other.state)
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)
        assert one.record.loss == pytest.approx(other.record.loss)
        assert one.record.tokens == pytest.approx(other.record.tokens, abs=1)
        assert one.record.failures == []


FEDROUTER = (
    "strategy=fedrouter",
    "clustering.n_local=2",
    "clustering.n_global=4",
    "clustering.space=whitened",
)


def test_fedrouter_finds_the_tasks_from_sums(tmp_path: Path) -> None:
    ours, masked = run_rounds(tmp_path, *FEDROUTER)
    state = ours[-1].state
    assert len(state.adapters) == 4
    for client in masked.clients.values():
        tasks = [
            state.assignment[client.id][label] for label in (client.labels[0], client.labels[-1])
        ]
        assert len(set(tasks)) == 2
        same = (client.id + 4) % 8
        assert set(state.assignment[client.id]) == set(state.assignment[same])
    assert sum(sum(counts) for counts in state.counts.values()) == 8 * 24
    assert [one.record.failures for one in ours] == [[], []]


def test_nothing_but_masked_values_arrives(tmp_path: Path) -> None:
    _, masked = run_rounds(tmp_path, *FEDROUTER)
    assert len(masked.seen) > 100
    for _, reply in masked.seen:
        assert reply.sum_reply is not None
        assert reply.profile is reply.evaluation is None
        assert reply.updates == reply.losses == ()


def test_tasks_that_few_clients_have_are_merged_with_the_nearest(tmp_path: Path) -> None:
    """Each of the four tasks has four clients: with five as the least, two tasks are left."""
    ours, _ = run_rounds(tmp_path, *FEDROUTER, "privacy.min_clients=5")
    state = ours[-1].state
    assert 1 <= len(state.adapters) <= 2
    assert {event.kind for event in state.history} == {"merged"}
    for task in state.adapters:
        assert sum(task in tasks for tasks in state.assignment.values()) >= 5


@pytest.mark.parametrize("order", [KeysOrder, SharesOrder, MaskOrder, UnmaskOrder])
def test_clients_vanish_before_any_exchange(tmp_path: Path, order: type) -> None:
    def vanishes(client: int, request: ClientRequest) -> bool:
        return client in (1, 6) and request.round == 1 and isinstance(request.sum_order, order)

    ours, _ = run_rounds(tmp_path, "strategy=fedavg", vanishes=vanishes)
    assert [f["client"] for f in ours[0].record.failures] == [1, 6]
    assert ours[0].record.tokens == 7 * (8 if order is UnmaskOrder else 6)
    assert ours[1].record.failures == []


@pytest.mark.parametrize("order", [SharesOrder, MaskOrder, UnmaskOrder])
def test_below_the_threshold_the_round_fails_and_the_next_one_does_not(
    tmp_path: Path, order: type
) -> None:
    def vanishes(client: int, request: ClientRequest) -> bool:
        return client < 4 and request.round == 1 and isinstance(request.sum_order, order)

    ours, _ = run_rounds(tmp_path, "strategy=fedavg", vanishes=vanishes)
    assert ours[0].record.tokens == 0
    reasons = {str(failure["reason"]) for failure in ours[0].record.failures}
    assert any("expected 5 clients or more" in r and "nothing was opened" in r for r in reasons)
    assert all(np.array_equal(ours[0].state.adapters["global"][n], INITIAL[n]) for n in INITIAL)
    assert ours[1].record.tokens == 7 * 8


def test_updates_of_too_few_clients_are_left_out_and_told(tmp_path: Path) -> None:
    def vanishes(client: int, request: ClientRequest) -> bool:
        return request.round == 1 and client % 4 in (1, 2)

    ours, _ = run_rounds(tmp_path, *FEDROUTER, vanishes=vanishes)
    told = {str(failure["reason"]) for failure in ours[0].record.failures}
    assert any(
        "fewer than 3 clients (privacy.min_clients) trained adapter task-" in t for t in told
    )


def test_late_clients_join(tmp_path: Path) -> None:
    def vanishes(client: int, request: ClientRequest) -> bool:
        return client == 3 and request.round == 0

    ours, _ = run_rounds(tmp_path, *FEDROUTER, "federation.rounds=3", vanishes=vanishes)
    assert [3 in one.state.assignment for one in ours] == [True, True, True]
    assert ours[0].record.tokens == 7 * 2 * 7
    assert ours[1].record.tokens == 7 * 2 * 8


def test_scores_are_means_over_clients(tmp_path: Path) -> None:
    config, masked = engine(tmp_path, "strategy=fedavg")
    order = EvaluateOrder(SingleAdapter("global"), ("local",))
    requests = [ClientRequest(c, 1, evaluate=order, adapters={"global": INITIAL}) for c in range(8)]
    replies = replies_to(config, masked, requests, masked.expected, {})
    list(replies)
    [report] = replies.evaluation.values()
    assert report.scores["local"][""].rows == 8 * 4
    assert report.scores["local"][""].scores["rouge1"] == pytest.approx(0.5)
    assert report.scores["local"][""].scores["loss"] == pytest.approx(1.0)
    assert not report.routed and not report.local_tasks


def test_a_client_refuses_an_order_of_another_session(tmp_path: Path) -> None:
    config, masked = engine(tmp_path, "strategy=fedavg")
    train = (TrainOrder(("global",), 1),)
    requests = [ClientRequest(c, 1, train=train, adapters={"global": INITIAL}) for c in range(8)]
    list(replies_to(config, masked, requests, masked.expected, {}))
    old = next(r for r, _ in masked.seen if isinstance(r.sum_order, SharesOrder))
    [failure] = masked.run([old])
    assert "the exchange of keys first" in failure.reason


@cache
def signing_keys() -> dict[int, SigningKeys]:
    pairs = [make_node_key(f"client {c}") for c in range(8)]
    trusted = "".join(f"{c} {pair.public.decode()}" for c, pair in enumerate(pairs))
    return {c: read_signing_keys(pair.private, trusted, c) for c, pair in enumerate(pairs)}


def signed_rounds(folder: Path, lying: bool) -> tuple[list[FinishedRound], MaskedEngine]:
    """FedAvg with clients that sign; a lying server replaces the keys of client 2 in round 1."""

    class Lying(MaskedEngine):
        def answer(self, request: ClientRequest) -> ClientReply:
            order = request.sum_order
            if lying and request.round == 1 and isinstance(order, SharesOrder):
                keys = order.keys.copy()
                keys[2] = np.frombuffer(Secrets.draw().public, np.uint8)
                request = replace(request, sum_order=replace(order, keys=keys))
            return super().answer(request)

    config = resolved(*SECURE, "strategy=fedavg")
    clients = {id: ScriptedClient(id, 2) for id in range(8)}
    signed = Lying(config, clients, folder, DIMENSION, keys=signing_keys())
    return go(config, signed), signed


def test_signed_sums_end_as_others_do(tmp_path: Path) -> None:
    ours, signed = signed_rounds(tmp_path, lying=False)
    (tmp_path / "unsigned").mkdir()
    theirs, _ = run_rounds(tmp_path / "unsigned", "strategy=fedavg")
    np.testing.assert_array_equal(adapters(ours[-1].state), adapters(theirs[-1].state))
    assert [one.record.failures for one in ours] == [[], []]
    confirmed = [reply for r, reply in signed.seen if isinstance(r.sum_order, ConfirmOrder)]
    assert len(confirmed) == 2 * 8


def test_a_server_that_replaces_a_key_opens_nothing(tmp_path: Path) -> None:
    ours, _ = signed_rounds(tmp_path, lying=True)
    told = {str(failure["reason"]) for failure in ours[0].record.failures}
    assert any("expected the keys of client 2 signed by its trusted key" in t for t in told)
    assert all(np.array_equal(ours[0].state.adapters["global"][n], INITIAL[n]) for n in INITIAL)
    assert ours[1].record.failures == []


def test_what_does_not_go_together_is_refused_at_once() -> None:
    sets = ["mode=auto", "aggregation.robust=median", "privacy.threshold=9", *SECURE]
    sets += ["federation.ranks=[2,4]", "federation.budget_mb=9.0"]
    with pytest.raises(ConfigError) as caught:
        make_strategy(resolved(*sets))
    text = str(caught.value)
    for part in (
        "threshold = 9",
        "'median'",
        "ranks",
        "budget_mb",
        "clustering.n_local and clustering.n_global",
    ):
        assert part in text
    with pytest.raises(ConfigError, match=r"strategy 'clustered' needs .* choose one of .*fedavg"):
        make_strategy(resolved("strategy=clustered", *SECURE))
    with pytest.raises(ConfigError, match="space = 'raw'"):
        make_strategy(resolved("clustering.n_global=2", "clustering.n_local=1", *SECURE))
