"""Every method on two tiny clients, with numbers that can be checked by hand.

The clients train by adding: client 0 adds 1 to every number it trains, client 1 adds 5. They hold
30 and 10 samples, so that the mean of what both send has moved by (30 * 1 + 10 * 5) / 40 = 2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from numpy.typing import NDArray
from safetensors.numpy import load, save
from support.configs import resolved
from support.profiles import assigned, described

from fedrouter.config import strategy_names
from fedrouter.errors import ConfigError
from fedrouter.protocol.messages import (
    ClientReply,
    ClientRequest,
    FrozenCompanion,
    Proximal,
    TrainOrder,
    Update,
)
from fedrouter.protocol.profile_orders import ClusterPrompts, DescribeEmbeddings, GroupByLabel
from fedrouter.protocol.serving_rules import (
    InstanceMixture,
    LowestLoss,
    RouteByTask,
    SingleAdapter,
    TrueTask,
)
from fedrouter.routing.types import Scatter, TaskGeometry, TaskProfile
from fedrouter.strategies import ServerState, Strategy, TaskState, make_strategy, strategy_class
from fedrouter.strategies.clustered import last_layer, ward
from fedrouter.types import AdapterWeights, select_matrices

A = "base_model.model.layers.0.q_proj.lora_A.weight"
B = "base_model.model.layers.0.q_proj.lora_B.weight"


def adapter(a: float, b: float) -> AdapterWeights:
    """An adapter of rank 1 on one module of 2 by 2."""
    return {A: np.full((1, 2), a, np.float32), B: np.full((2, 1), b, np.float32)}


INITIAL = adapter(1, 0)


def numbers(weights: AdapterWeights) -> tuple[float | None, float | None]:
    """The (equal) numbers of A and those of B; None for a matrix that is missing."""
    return tuple(float(weights[name].flat[0]) if name in weights else None for name in (A, B))


@dataclass
class Toy:
    """A client as the messages describe it, which trains by adding `push`.

    Client 0 holds the true tasks x and y, at 0 and 10; client 1 holds y and z, at 10 and 20.
    Its loss with an adapter is how far the adapter's B is from `likes`.
    """

    id: int
    counts: tuple[int, ...]
    push: float
    names: tuple[str, ...]
    places: tuple[float, ...]
    n_local: int = 2
    likes: float = 0.0
    kept: dict[str, AdapterWeights] = field(default_factory=dict)

    def profile(self, by_name: bool) -> TaskProfile:
        centroids = np.array([[place, 0.0] for place in self.places], np.float32)
        second_moments = (1.0,) * len(self.counts)
        names = self.names if by_name else ()
        return TaskProfile(self.id, centroids, self.counts, second_moments, second_moments, names)

    def start(self, task: ClientRequest, received: str | None, keep: str | None) -> AdapterWeights:
        return {
            **INITIAL,
            **({} if received is None else task.adapters[received]),
            **({} if keep is None else self.kept.get(keep, {})),
        }

    def chosen(self, task: ClientRequest, order: TrainOrder) -> str | None:
        losses = {
            name: abs(numbers(self.start(task, name, None))[1] - self.likes)
            for name in order.adapters
        }
        return min(losses, key=losses.get, default=None)

    def answer(self, task: ClientRequest) -> ClientReply:
        updates, kept = [], {}
        for slot, order in enumerate(task.train):
            received = self.chosen(task, order)
            start = self.start(task, received, order.keep)
            trained = {name: array + np.float32(self.push) for name, array in start.items()}
            result = {**start, **select_matrices(trained, order.train_parts)}
            if order.keep is not None:
                kept[order.keep] = select_matrices(result, order.keep_parts)
            own = order.local_task
            samples = sum(self.counts) if own is None else self.counts[own]
            sent = select_matrices(result, order.send)
            updates.append(Update(slot, received, sent, samples, loss=1.0, tokens=10))
        self.kept |= kept
        profile = task.profile and self.profile(isinstance(task.profile, GroupByLabel))
        return ClientReply(self.id, task.round, profile, updates=tuple(updates))

    def batches(self, task: ClientRequest) -> int:
        return sum(
            order.steps * (self.n_local if order.local_task is None else 1) for order in task.train
        )


@pytest.fixture
def toys() -> list[Toy]:
    return make_toys()


def make_toys() -> list[Toy]:
    return [
        Toy(0, (20, 10), 1.0, ("x", "y"), (0.0, 10.0)),
        Toy(1, (5, 5), 5.0, ("y", "z"), (10.0, 20.0)),
    ]


def strategy(name: str, *sets: str) -> Strategy:
    few = ["federation.rounds=6", "federation.clients=2", "training.steps=7"]
    tasks = ["clustering.n_local=2", "clustering.n_global=3"]
    return make_strategy(resolved(f"strategy={name}", *few, *tasks, *sets))


def begin(method: Strategy, toys: Sequence[Toy]) -> ServerState:
    tasks = method.profile([toy.id for toy in toys])
    replies = [toys[task.client].answer(task) for task in tasks]
    return method.init([reply.profile for reply in replies], INITIAL, "base")


def go(method: Strategy, state: ServerState, toys: Iterable[Toy], rounds: int = 1) -> ServerState:
    """The state after some more rounds in which `toys` take part."""
    by_id = {toy.id: toy for toy in toys}
    for _ in range(rounds):
        tasks = method.plan(state, state.round + 1, sorted(by_id))
        replies = (by_id[task.client].answer(task) for task in tasks)
        state = method.aggregate(state, state.round + 1, replies)
    return state


def orders(method: Strategy, state: ServerState, round: int, client: int = 0) -> tuple:
    (task,) = method.plan(state, round, [client])
    named = {name for order in task.train for name in order.adapters}
    others = [order.proximal.toward for order in task.train if order.proximal]
    others += [order.companion.adapter for order in task.train if order.companion]
    assert set(task.adapters) == {*named, *others}
    return task.train


def answers_with(method: Strategy, state: ServerState, toy: Toy) -> tuple[float, float]:
    """A and B of the one adapter that a client answers with."""
    rule = method.serve(state, toy.id)
    assert isinstance(rule, SingleAdapter)
    task = ClientRequest(toy.id, 1, adapters={name: state.adapters[name] for name in rule.needs})
    return numbers(toy.start(task, rule.adapter, rule.keep))


# One method after the other


def test_local_shares_nothing(toys: list[Toy]) -> None:
    method = strategy("local")
    state = begin(method, toys)
    assert orders(method, state, 1) == (TrainOrder((), 7, keep="personal", send=""),)
    state = go(method, state, toys, rounds=2)
    assert state.adapters == {}
    assert [answers_with(method, state, toy) for toy in toys] == [(3, 2), (11, 10)]
    assert answers_with(method, state, Toy(9, (1,), 1.0, (), ())) == numbers(INITIAL)


def test_fedavg_averages_by_samples(toys: list[Toy]) -> None:
    method = strategy("fedavg")
    state = begin(method, toys)
    assert orders(method, state, 1) == (TrainOrder(("global",), 7),)
    state = go(method, state, toys)
    assert numbers(state.adapters["global"]) == (3, 2)
    assert [answers_with(method, state, toy) for toy in toys] == [(3, 2), (3, 2)]
    assert [toy.kept for toy in toys] == [{}, {}]


def test_fedprox_is_fedavg_near_the_received_adapter(toys: list[Toy]) -> None:
    method = strategy("fedprox", "strategies.fedprox.proximal_weight=0.3")
    state = begin(method, toys)
    assert orders(method, state, 1) == (
        TrainOrder(("global",), 7, proximal=Proximal(0.3, "global")),
    )
    assert numbers(go(method, state, toys).adapters["global"]) == (3, 2)


def test_fedavg_ft_goes_on_from_the_average_alone(toys: list[Toy]) -> None:
    method = strategy("fedavg-ft", "federation.rounds=4", "strategies.fedavg-ft.finetune_rounds=2")
    state = go(method, begin(method, toys), toys, rounds=2)
    assert [answers_with(method, state, toy) for toy in toys] == [(5, 4), (5, 4)]
    assert orders(method, state, 3) == (TrainOrder(("global",), 7, keep="personal", send=""),)
    state = go(method, state, toys[:1])  # client 1 misses a round
    state = go(method, state, toys)
    assert numbers(state.adapters["global"]) == (5, 4)
    assert [answers_with(method, state, toy) for toy in toys] == [(7, 6), (10, 9)]


@pytest.mark.parametrize("name", ["fedavg-ft", "feddpa-f"])
def test_each_of_two_phases_has_its_whole_cosine(name: str) -> None:
    method = strategy(
        name,
        "training.lr=0.5",
        "training.lr_min=0.1",
        "federation.rounds=5",
        f"strategies.{name}.finetune_rounds=2",
    )
    rates = [method.learning_rate(round) for round in range(1, 6)]
    assert rates == pytest.approx([0.5, 0.3, 0.1, 0.5, 0.1])


def test_fine_tuning_takes_a_fifth_of_the_rounds_unless_told() -> None:
    assert strategy("fedavg-ft", "federation.rounds=25").shared_rounds == 20
    assert strategy("fedavg-ft", "federation.rounds=2").shared_rounds == 1


def test_ditto_keeps_a_second_adapter_near_the_global_one(toys: list[Toy]) -> None:
    method = strategy("ditto", "strategies.ditto.proximal_weight=0.2")
    state = begin(method, toys)
    assert orders(method, state, 1) == (
        TrainOrder(("global",), 4),
        TrainOrder(("global",), 3, keep="personal", send="", proximal=Proximal(0.2, "global")),
    )
    state = go(method, state, toys[:1])  # client 1 joins in round 2, with the global adapter
    state = go(method, state, toys)
    assert numbers(state.adapters["global"]) == (4, 3)  # 1 + 2 more
    assert [answers_with(method, state, toy) for toy in toys] == [(3, 2), (7, 6)]


def test_feddpa_trains_a_local_adapter_beside_the_global_one_from_round_2(
    toys: list[Toy],
) -> None:
    method = strategy(
        "feddpa", "strategies.feddpa.local_weight=0.4", "strategies.feddpa.similarity_samples=3"
    )
    state = begin(method, toys)
    assert orders(method, state, 1) == (TrainOrder(("global",), 7),)
    state = go(method, state, toys)
    assert [answers_with(method, state, toy) for toy in toys] == [(3, 2), (3, 2)]
    companion = FrozenCompanion("global", 0.4)
    assert orders(method, state, 2) == (
        TrainOrder(("global",), 4),
        TrainOrder((), 3, keep="personal", send="", companion=companion),
    )
    state = go(method, state, toys, rounds=2)
    assert numbers(state.adapters["global"]) == (7, 6)
    assert [numbers(toy.kept["personal"]) for toy in toys] == [(3, 2), (11, 10)]
    assert method.serve(state, 0) == InstanceMixture("global", "personal", scale=0.5, samples=3)


def test_feddpa_f_trains_the_local_adapter_beside_the_finished_global_one(
    toys: list[Toy],
) -> None:
    method = strategy(
        "feddpa-f", "strategies.feddpa-f.finetune_rounds=2", "strategies.feddpa-f.mixture_scale=0.7"
    )
    state = go(method, begin(method, toys), toys, rounds=4)
    assert [answers_with(method, state, toy) for toy in toys] == [(9, 8), (9, 8)]
    companion = FrozenCompanion("global", 0.5)
    assert orders(method, state, 5) == (
        TrainOrder((), 7, keep="personal", send="", companion=companion),
    )
    state = go(method, state, toys, rounds=2)
    assert numbers(state.adapters["global"]) == (9, 8)
    assert [numbers(toy.kept["personal"]) for toy in toys] == [(3, 2), (11, 10)]
    assert method.serve(state, 1) == InstanceMixture("global", "personal", scale=0.7, samples=5)


def test_fedsa_shares_a_and_keeps_b(toys: list[Toy]) -> None:
    method = strategy("fedsa")
    state = begin(method, toys)
    assert numbers(state.adapters["global"]) == (1, None)
    assert orders(method, state, 1) == (
        TrainOrder(("global",), 7, keep="personal", keep_parts="B", send="A"),
    )
    state = go(method, state, toys, rounds=2)
    assert numbers(state.adapters["global"]) == (5, None)
    assert [numbers(toy.kept["personal"]) for toy in toys] == [(None, 2), (None, 10)]
    assert [answers_with(method, state, toy) for toy in toys] == [(5, 2), (5, 10)]


def test_ffa_trains_and_shares_b_alone(toys: list[Toy]) -> None:
    method = strategy("ffa")
    state = begin(method, toys)
    assert numbers(state.adapters["global"]) == (None, 0)
    assert orders(method, state, 1) == (TrainOrder(("global",), 7, train_parts="B", send="B"),)
    state = go(method, state, toys, rounds=2)
    assert numbers(state.adapters["global"]) == (None, 4)
    assert [answers_with(method, state, toy) for toy in toys] == [(1, 4), (1, 4)]


def test_clustered_parts_clients_that_move_apart(toys: list[Toy]) -> None:
    toys[1].push = -5.0  # the mean moves by (30 * 1 - 10 * 5) / 40 = -0.5
    method = strategy(
        "clustered", "strategies.clustered.clusters=2", "strategies.clustered.clustering_round=2"
    )
    state = go(method, begin(method, toys), toys)
    assert numbers(state.adapters["global"]) == (0.5, -0.5)
    assert {client: delta.tolist() for client, delta in state.deltas.items()} == {
        0: [1, 1],
        1: [-5, -5],
    }
    state = go(method, state, toys)
    assert state.clusters == {0: "cluster-00", 1: "cluster-01"}
    assert [numbers(one) for one in state.adapters.values()] == [(0, -1), (0, -1)]
    assert state.deltas == {}
    state = go(method, state, toys)
    assert orders(method, state, 4, client=1) == (TrainOrder(("cluster-01",), 7),)
    assert [numbers(one) for one in state.adapters.values()] == [(1, 0), (-5, -6)]
    assert [answers_with(method, state, toy) for toy in toys] == [(1, 0), (-5, -6)]


def test_clustered_places_clients_by_their_last_delta_and_strangers_in_the_largest_cluster(
    toys: list[Toy],
) -> None:
    toys[1].push = -5.0
    third = Toy(2, (1, 1), -1.0, ("x", "y"), (0.0, 10.0))
    method = strategy(
        "clustered", "strategies.clustered.clusters=2", "strategies.clustered.clustering_round=2"
    )
    state = go(method, begin(method, toys), [*toys, third])
    state = go(method, state, toys[1:])  # client 0 and 2 miss the round of the clustering
    assert state.clusters == {0: "cluster-00", 1: "cluster-01", 2: "cluster-01"}
    assert method.serve(state, 9) == SingleAdapter("cluster-01")


def test_clusters_are_formed_late_where_nobody_answered() -> None:
    method = strategy("clustered", "strategies.clustered.clustering_round=1")
    toys = make_toys()
    state = method.aggregate(begin(method, toys), 1, [])
    assert list(state.adapters) == ["global"]
    assert list(go(method, state, toys).adapters) == ["cluster-00", "cluster-01"]


def test_ward_groups_by_direction_not_by_length() -> None:
    angles = {"10": (3, 0.1), "2": (0, 1), "0": (0, 9), "1": (1, 0), "3": (-1, -1)}
    deltas = {client: np.array(delta, np.float32) for client, delta in angles.items()}
    assert ward(deltas, 3) == {"0": 0, "1": 1, "2": 0, "3": 2, "10": 1}
    assert ward({"0": np.zeros(2, np.float32)}, 3) == {"0": 0}


def test_the_last_layer_is_the_one_with_the_highest_number() -> None:
    stems = {"h.2.q": 1, "h.10.v": 2, "h.10.q": 3, "lm_head": 4}
    weights = {
        f"model.{stem}.lora_{part}.weight": np.full((1, 1), value, np.float32)
        for stem, value in stems.items()
        for part in "AB"
    }
    assert last_layer(weights).tolist() == [3, 2]


def test_ifca_trains_the_adapter_that_fits(toys: list[Toy]) -> None:
    toys[0].likes, toys[1].likes = 5.0, 1.0  # what the other one's adapter will be
    method = strategy("ifca", "strategies.ifca.clusters=2")
    state = begin(method, toys)
    dealt = [orders(method, state, 1, toy.id)[0].adapters for toy in toys]
    assert sorted(dealt) == [("cluster-00",), ("cluster-01",)]
    state = go(method, state, toys)
    (zero,), (one,) = dealt
    assert numbers(state.adapters[zero]) == (2, 1)
    assert numbers(state.adapters[one]) == (6, 5)
    assert orders(method, state, 2) == (TrainOrder(("cluster-00", "cluster-01"), 7),)
    state = go(method, state, toys)
    assert numbers(state.adapters[one]) == (7, 6)  # trained by client 0, which likes it
    assert numbers(state.adapters[zero]) == (7, 6)
    assert method.serve(state, 0) == LowestLoss(("cluster-00", "cluster-01"))


def test_ifca_deals_every_adapter_to_as_many_clients() -> None:
    method = strategy("ifca", "federation.clients=8")
    dealt = [method.dealt(client) for client in range(8)]
    assert sorted(dealt) == sorted(2 * method.names)
    assert dealt != [strategy("ifca", "federation.clients=8", "seed=1").dealt(c) for c in range(8)]


def test_fedrouter_joins_the_local_tasks_of_different_clients(toys: list[Toy]) -> None:
    state = begin(strategy("fedrouter"), toys)
    assert state.router.geometry.tasks == ("task-00", "task-01", "task-02")
    assert state.router.geometry.centroids.tolist() == [[0, 0], [10, 0], [20, 0]]
    assert state.assignment == {0: ("task-00", "task-01"), 1: ("task-01", "task-02")}
    assert state.counts == {0: (20, 10), 1: (5, 5)}
    assert (state.router.geometry.mean, state.router.geometry.deviation) == (1, 0)


def test_fedrouter_averages_what_the_clients_of_a_task_trained_on_its_samples(
    toys: list[Toy],
) -> None:
    method = strategy("fedrouter")
    state = begin(method, toys)
    assert orders(method, state, 1, client=1) == (
        TrainOrder(("task-01",), 7, local_task=0),
        TrainOrder(("task-02",), 7, local_task=1),
    )
    state = go(method, state, toys)
    shared = 1 + (10 * 1 + 5 * 5) / 15
    found = [numbers(one)[0] for one in state.adapters.values()]
    assert found == pytest.approx([2, shared, 6])
    rule = method.serve(state, 1)
    assert isinstance(rule, RouteByTask)
    assert (rule.needs, rule.own) == (state.router.geometry.tasks, ("task-01", "task-02"))
    assert rule.geometry is state.router.geometry


def test_a_task_that_nobody_returned_keeps_its_adapter(toys: list[Toy]) -> None:
    method = strategy("fedrouter")
    before = begin(method, toys)
    after = go(method, before, toys[:1])
    assert after.adapters["task-02"] is before.adapters["task-02"]
    assert method.aggregate(before, 1, []).adapters == before.adapters


@pytest.mark.parametrize("name", ["fedrouter", "oracle"])
def test_a_client_that_joins_late_is_profiled_and_then_trains(name: str, toys: list[Toy]) -> None:
    late = Toy(2, (4, 3), 2.0, ("z", "w"), (18.0, 1.0))
    method = strategy(name)
    state = go(method, begin(method, toys), toys)
    asked = method.plan(state, 2, [0, 2])
    assert [task.profile for task in asked] == [None, method.profile_order()]
    assert asked[1].train == ()
    state = go(method, state, [*toys, late])
    assert state.assignment[2] == ("task-02", "task-00")
    assert state.counts[2] == (4, 3)
    before = numbers(state.adapters["task-02"])[0]
    state = go(method, state, [*toys, late])
    moved = (5 * 5 + 4 * 2) / 9
    assert numbers(state.adapters["task-02"])[0] == pytest.approx(before + moved)


def test_the_oracle_groups_and_routes_by_true_task(toys: list[Toy]) -> None:
    toys[1].places = (13.0, 2.0)  # nearer to another task: K-means would be misled
    method = strategy("oracle")
    state = begin(method, toys)
    assert state.labels == {"x": "task-00", "y": "task-01", "z": "task-02"}
    assert state.assignment == {0: ("task-00", "task-01"), 1: ("task-01", "task-02")}
    middle = (10 * 10 + 5 * 13) / 15
    np.testing.assert_allclose(state.router.geometry.centroids, [[0, 0], [middle, 0], [2, 0]])
    assert orders(method, state, 1, client=1) == (
        TrainOrder(("task-01",), 7, local_task=0),
        TrainOrder(("task-02",), 7, local_task=1),
    )
    assert method.serve(state, 0) == TrueTask(state.labels)


def test_the_oracle_remembers_the_names_that_late_clients_bring(toys: list[Toy]) -> None:
    method = strategy("oracle")
    late = Toy(2, (4, 3), 2.0, ("z", "w"), (0.0, 11.0))
    state = go(method, begin(method, toys), [*toys, late])
    assert state.assignment[2] == ("task-02", "task-01")  # z by name, w by its place
    assert state.labels["w"] == "task-01"


def test_the_oracle_keeps_the_budget_of_n_local_tasks(toys: list[Toy]) -> None:
    method = strategy("oracle", "clustering.n_local=3", "training.steps=1")
    state = begin(method, toys)
    steps = [[order.steps for order in orders(method, state, round)] for round in (1, 2)]
    assert steps == [[1, 2], [2, 1]]
    scarce = strategy("oracle", "clustering.n_local=1", "training.steps=1")
    turns = [[order.local_task for order in orders(scarce, state, round)] for round in (1, 2)]
    assert turns == [[1], [0]]


def test_centralized_trains_on_client_0_what_all_would_have_trained(toys: list[Toy]) -> None:
    method = strategy("centralized")
    state = begin(method, toys)
    tasks = method.plan(state, 1, [0, 1])
    assert [task.train for task in tasks] == [(TrainOrder(("global",), 14),), ()]
    absent = method.plan(state, 1, [1, 4, 5])
    assert [task.client for task in absent] == [0, 1, 4, 5]
    assert absent[0].train == (TrainOrder(("global",), 21),)
    state = go(method, state, toys)
    assert [answers_with(method, state, toy) for toy in toys] == [(2, 1), (2, 1)]


# What holds for all


@pytest.mark.parametrize("name", strategy_names())
@given(steps=some.integers(2, 60))
def test_every_method_trains_as_many_batches(name: str, steps: int) -> None:
    method, toys = strategy(name, f"training.steps={steps}"), make_toys()
    state = begin(method, toys)
    for round in range(1, 7):
        tasks = method.plan(state, round, [0, 1])
        batches = [toys[task.client].batches(task) for task in tasks]
        assert batches == ([4 * steps, 0] if method.pooled else [2 * steps, 2 * steps])
        assert all(order.steps > 0 for task in tasks for order in task.train)
        state = go(method, state, toys)


def packed_and_unpacked(state: ServerState) -> ServerState:
    arrays, meta = state.pack()
    return type(state).unpack(load(save(dict(arrays))), meta)


@pytest.mark.parametrize("name", strategy_names())
def test_a_state_survives_packing(name: str) -> None:
    method = strategy(name, "strategies.clustered.clustering_round=3")
    there, back = make_toys(), make_toys()
    state = begin(method, there)
    again = packed_and_unpacked(begin(method, back))
    for _ in range(6):
        assert same(state, again)
        state, again = go(method, state, there), packed_and_unpacked(go(method, again, back))
    assert same(state, again)
    assert [answer(method.serve(state, c)) for c in (0, 1)] == [
        answer(method.serve(again, c)) for c in (0, 1)
    ]


def same(one: ServerState, other: ServerState) -> bool:
    (arrays, meta), (others, rest) = one.pack(), other.pack()
    np.testing.assert_equal(dict(arrays), dict(others))
    return meta == rest and one.round == other.round


def answer(rule: object) -> object:
    """A serving rule that compares with ==."""
    return (
        (rule.needs, rule.own, rule.geometry.centroids.tolist())
        if isinstance(rule, RouteByTask)
        else rule
    )


@pytest.mark.parametrize("name", strategy_names())
def test_a_client_may_join_in_any_round(name: str) -> None:
    keys = ["clustered.clustering_round", "fedavg-ft.finetune_rounds", "feddpa-f.finetune_rounds"]
    method = strategy(name, *(f"strategies.{key}=2" for key in keys))
    for joins in range(1, 6):
        toys, late = make_toys(), Toy(7, (2, 2), 3.0, ("x", "z"), (1.0, 19.0))
        state = go(method, begin(method, toys), toys, rounds=joins - 1)
        needed = method.serve(state, 7).needs
        assert set(needed) <= set(state.adapters)
        state = go(method, state, [*toys, late])
        (*_, task) = method.plan(state, joins + 1, [0, 7])
        assert task.client == 7
        assert late.batches(task) == (0 if method.pooled else 14)


def test_the_rate_falls_as_a_cosine_from_lr_to_lr_min(toys: list[Toy]) -> None:
    method = strategy("fedrouter", "federation.rounds=3", "training.lr=0.5", "training.lr_min=0.1")
    state = begin(method, toys)
    rates = [method.plan(state, round, [0])[0].lr for round in (1, 2, 3)]
    assert rates == pytest.approx([0.5, 0.3, 0.1])


@pytest.mark.parametrize(
    ("name", "sets", "message"),
    [
        ("ditto", "training.steps=1", "'ditto' trains two adapters a round: set training.steps"),
        ("feddpa", "training.steps=1", "'feddpa' trains two adapters a round: set training.steps"),
        ("feddpa", "federation.rounds=1", "from round 2 on: set federation.rounds to 2 or more"),
        ("fedavg-ft", "federation.rounds=1", "set federation.rounds to 2 or more"),
        ("feddpa-f", "strategies.feddpa-f.finetune_rounds=6", "set federation.rounds to 7 or more"),
        (
            "clustered",
            "strategies.clustered.clustering_round=6",
            "set federation.rounds to 7 or more",
        ),
    ],
)
def test_settings_that_leave_a_method_nothing_to_do_are_refused(
    name: str, sets: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        strategy(name, sets)


def test_which_methods_are_personalized_and_which_are_references() -> None:
    methods = {name: strategy_class(name) for name in strategy_names()}
    assert {name for name, method in methods.items() if method.personalized} == {
        "local",
        "fedavg-ft",
        "ditto",
        "feddpa",
        "feddpa-f",
        "fedsa",
    }
    references = {name for name, method in methods.items() if method.reference}
    assert references == {"oracle", "centralized"}
    assert [name for name, method in methods.items() if method.pooled] == ["centralized"]


def scattered(toy: Toy, tasks: tuple[int, ...] = ()) -> TaskProfile:
    """What a toy answers to an order that asks for its scatter, of unit variance."""
    products = np.array([1, 0, 1], np.float32) * sum(toy.counts)
    return replace(
        toy.profile(False), tasks=tasks, scatter=Scatter(products, 8.0 * sum(toy.counts))
    )


def points(toy: Toy) -> NDArray[np.float64]:
    """The samples of a toy, all where its local tasks are."""
    return np.array(
        [[x, 0.0] for x, n in zip(toy.places, toy.counts, strict=True) for _ in range(n)]
    )


def test_fedrouter_finds_its_tasks_over_all_clients(toys: list[Toy]) -> None:
    method = strategy("fedrouter", "clustering.space=whitened")
    [asked, _] = method.profile([0, 1])
    assert asked.profile == DescribeEmbeddings()
    state = method.init([described(toy.id, points(toy)) for toy in toys], INITIAL, "base")
    assert state.pending == ("cluster", *("lloyd",) * 6, *("assign",) * 4)
    standard = state.geometry.standardization
    np.testing.assert_allclose(standard.mean, [(10 * 10 + 5 * 10 + 5 * 20) / 40, 0])

    [asked, _] = method.auxiliary_requests(state, [0, 1])
    assert asked.profile == ClusterPrompts(standard)
    replies = [ClientReply(toy.id, 0, profile=toy.profile(False)) for toy in toys]
    assert method.apply_auxiliary(state, []).pending == ()
    state = method.apply_auxiliary(state, replies)
    assert sorted(state.starts[0][:, 0].tolist()) == [0, 10, 20]
    assert same(state, TaskState.unpack(*state.pack()))
    # One iteration moves nothing; the others are left out.
    [asked, _] = method.auxiliary_requests(state, [0, 1])
    assert asked.profile.starts is state.starts
    answers = [assigned(toy.id, points(toy), state.starts) for toy in toys]
    replies = [ClientReply(one.client, 0, profile=one) for one in answers]
    state = method.apply_auxiliary(state, replies)
    assert state.starts == ()
    assert sorted(state.geometry.centroids[:, 0].tolist()) == [0, 10, 20]
    assert list(state.adapters) == ["task-00", "task-01", "task-02"]
    assert state.pending == ("assign",) * 4


def test_fedrouter_refines_where_its_tasks_lie(toys: list[Toy]) -> None:
    method = strategy("fedrouter", "clustering.space=whitened")
    state = method.init([described(toy.id, points(toy)) for toy in toys], INITIAL, "base")
    tasks = TaskGeometry(
        ("task-00", "task-01", "task-02"),
        np.array([[0, 0], [10, 0], [20, 0]], np.float32),
        mean=0.0,
        deviation=0.0,
        variance=0.0,
    )
    state = replace(
        state.with_geometry(tasks),
        adapters=dict.fromkeys(tasks.tasks, INITIAL),
        pending=("assign",) * 3,
    )
    # Client 0 says that all of its samples are of the task at 10; client 1 says nothing.
    moved = replace(toys[0], counts=(15,), places=(12.0,), names=())
    after = method.apply_auxiliary(state, [ClientReply(0, 0, profile=scattered(moved, tasks=(1,)))])
    assert after.pending == ("assign",) * 2
    assert method.apply_auxiliary(state, []) == replace(state, pending=())
    assert after.assignment == {0: ("task-01",)}
    assert after.geometry.centroids[:, 0].tolist() == [0, 12, 20]
    np.testing.assert_allclose(after.geometry.space, np.eye(2), atol=1e-5)
    # Its one local task trains the batches of two; client 1 is asked anew, by the places.
    train, ask = method.plan(after, 1, [0, 1])
    assert [order.steps for order in train.train] == [14]
    assert ask.profile.geometry.centroids is after.geometry.centroids
    joined = method.add_client(after, scattered(toys[1], tasks=(1, 2)))
    assert joined.assignment[1] == ("task-01", "task-02")
    assert same(after, TaskState.unpack(*after.pack()))


def test_thousands_of_clients_are_assigned_at_once(
    toys: list[Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, each would copy what is known of all others."""
    for settings in ((), ("clustering.n_global=auto",)):
        method = strategy("fedrouter", "clustering.space=whitened", *settings)
        state = method.init([described(toy.id, points(toy)) for toy in toys], INITIAL, "base")
        state = replace(state, pending=("assign",))
        one = scattered(replace(toys[0], counts=(15,), places=(12.0,), names=()), tasks=(0,))
        replies = [ClientReply(c, 0, profile=replace(one, client=c)) for c in range(3000)]
        monkeypatch.setattr(type(method), "add_client", None)
        after = method.apply_auxiliary(state, replies)
        assert after.assignment == dict.fromkeys(range(3000), ("task-00",))
        assert after.counts == dict.fromkeys(range(3000), (15,))


def test_the_oracle_refines_nothing() -> None:
    method = strategy("oracle", "clustering.space=whitened")
    state = method.init(
        [toy.profile(True) for toy in (Toy(0, (1, 1), 1, ("x", "y"), (0, 10)),)], INITIAL, "b"
    )
    assert state.pending == ()
    assert method.profile([0])[0].profile == GroupByLabel()
