"""The Flower engine against a grid of this test's own, whose clients misbehave one by one."""

import time
import tomllib
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr import app as flwr_app
from flwr.supercore.task_identity import TaskIdentity
from support.configs import resolved

from fedrouter.config import ResolvedConfig, dump_config
from fedrouter.config.differences import leaves
from fedrouter.engines.flower.client_app import _reason
from fedrouter.engines.flower.engine import FlowerEngine
from fedrouter.engines.flower.node_config import SET_BY_RUN, client_id, node_config
from fedrouter.engines.flower.records import from_records, to_records
from fedrouter.errors import ConfigError, DataError, MessageError, ModelError, RunError
from fedrouter.protocol import compression
from fedrouter.protocol.codec import pack_reply
from fedrouter.protocol.compression import EncodedWeights, TransportDtype, encode
from fedrouter.protocol.messages import ClientReply, ClientRequest, Failure, TrainOrder, Update
from fedrouter.protocol.open_requests import OpenRequest
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.server.engine import Closing, Late
from fedrouter.types import AdapterWeights

WEIGHTS = {"m.lora_A.weight": np.ones((1, 2), np.float32)}
EXPECTED = ExpectedArrays({name: array.shape for name, array in WEIGHTS.items()}, dimension=2)
CONFIG = resolved(
    "federation.clients=4",
    "federation.wait_s=0.05",
    "federation.timeout_s=0.5",
    "federation.transport=float32",
    "engine.fuse=8",
)


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's messages can be made only in a process that knows which task it is."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


Records = object
Behaviour = Callable[[int], "Records | None"]


class FakeGrid:
    """Nodes 100, 101, ...; node 100 + i is client i and answers tasks as `behave` says."""

    def __init__(self, nodes: int, behave: Behaviour) -> None:
        self.nodes = [100 + i for i in range(nodes)]
        self.names = {node: str(node - 100) for node in self.nodes}
        self.behave = behave
        self.waiting: list[flwr_app.Message] = []
        self.sent = 0
        self.pushed: list[flwr_app.Message] = []
        self.poisoned: set[str] = set()  # messages whose replies Flower cannot read

    def get_node_ids(self) -> list[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[flwr_app.Message]) -> list[str]:
        ids = []
        for message in messages:
            self.sent += 1
            self.pushed.append(message)
            message.metadata.__dict__["_message_id"] = f"message-{self.sent}"
            ids.append(message.metadata.message_id)
            node = message.metadata.dst_node_id
            if message.metadata.message_type == "query":
                content = to_records({"client": self.names[node]}, {})
            else:
                content = self.behave(node - 100)
            if isinstance(content, flwr_app.Error) or content is not None:
                self.waiting.append(flwr_app.Message(content, reply_to=message))
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[flwr_app.Message]:
        wanted = set(ids)
        if wanted & self.poisoned:
            raise TypeError("'a' is not a size")  # as Flower's reader of arrays does
        found = [m for m in self.waiting if m.metadata.reply_to_message_id in wanted]
        self.waiting = [m for m in self.waiting if m not in found]
        return found[::-1]  # in another order than they were asked for


def good(client: int, base: str = "base", transport: str = "float32") -> Records:
    update = Update(0, "global", WEIGHTS, samples=3, loss=1.0, tokens=9)
    header, arrays = pack_reply(ClientReply(client, 1, updates=(update,)), transport)
    return to_records({"reply": header, "base": base}, arrays)


def engine(grid: FakeGrid) -> FlowerEngine:
    return FlowerEngine(grid, CONFIG, expected=EXPECTED, fingerprint="base", initial={})


def answers(behave: Behaviour, clients: int = 2) -> list[ClientReply | Failure]:
    grid = FakeGrid(clients, behave)
    flower = engine(grid)
    orders = (TrainOrder(("global",), 1),)
    tasks = [
        ClientRequest(client, 1, train=orders, adapters={"global": WEIGHTS}, lr=0.1)
        for client in flower.online()
    ]
    assert [task.client for task in tasks] == list(range(clients))
    found = list(flower.run(tasks))
    assert flower.traffic.down == clients * 8
    return found


def test_replies_come_in_the_order_of_the_tasks() -> None:
    replies = answers(good, clients=4)
    assert [reply.client for reply in replies] == [0, 1, 2, 3]
    assert all(isinstance(reply, ClientReply) for reply in replies)


def asked(flower: FlowerEngine, clients: Iterable[int], round: int = 1) -> list[ClientRequest]:
    orders = (TrainOrder(("global",), 1),)
    return [
        ClientRequest(client, round, train=orders, adapters={"global": WEIGHTS}, lr=0.1)
        for client in clients
    ]


def test_the_server_stops_waiting_and_takes_the_late_reply_in_the_next_round() -> None:
    grid = FakeGrid(3, lambda client: None if client == 1 else good(client))
    flower = engine(grid)
    requests = asked(flower, flower.online())
    began = time.monotonic()
    found = list(flower.run_until(requests, Closing(3, 1, 0.05)))
    assert 0.05 <= time.monotonic() - began < 0.5  # federation.timeout_s
    assert [type(answer) for answer in found] == [ClientReply, Late, ClientReply]
    assert set(flower.durations) == {0, 2}
    waiting = [OpenRequest(requests[1], None)]
    assert flower.arrived(waiting) == {}  # it may still come
    late = flower._open[1]
    sent = next(message for message in grid.pushed if message.metadata.message_id == late.id)
    grid.waiting.append(flwr_app.Message(good(1), reply_to=sent))
    answer = flower.arrived(waiting)[1]
    assert isinstance(answer, ClientReply)
    assert answer.client == 1
    assert flower.durations[1] >= 0.05
    assert flower.arrived(waiting) == {1: None}  # as after a restart: nobody will answer


def test_the_server_stops_waiting_when_the_wanted_number_has_replied() -> None:
    flower = engine(FakeGrid(3, lambda client: None if client == 2 else good(client)))
    found = list(flower.run_until(asked(flower, flower.online()), Closing(2, 1)))
    assert [type(answer) for answer in found] == [ClientReply, ClientReply, Late]


def test_the_least_number_is_waited_for_beyond_the_deadline_but_not_beyond_the_timeout() -> None:
    flower = engine(FakeGrid(2, lambda client: None if client == 1 else good(client)))
    found = list(flower.run_until(asked(flower, flower.online()), Closing(2, 2, 0.01)))
    assert isinstance(found[0], ClientReply)
    assert isinstance(found[1], Failure)
    assert "timeout_s = 0.5" in found[1].reason


def test_with_all_clients_busy_the_first_late_reply_is_waited_for() -> None:
    grid = FakeGrid(1, lambda client: None)
    flower = engine(grid)
    requests = asked(flower, flower.online())
    assert isinstance(next(flower.run_until(requests, Closing(1, 0, 0.01))), Late)
    assert list(flower.run_until([], Closing(0, 0, 0.01))) == []
    answer = flower.arrived([OpenRequest(requests[0], None)])[0]
    assert isinstance(answer, Failure)  # after federation.timeout_s
    assert "timeout_s" in answer.reason


def test_an_adapter_is_rounded_once_a_round_and_counted_for_each_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = {name: array.copy() for name, array in WEIGHTS.items()}  # replies hold WEIGHTS
    rounded = []

    def counting(weights: AdapterWeights, transport: TransportDtype) -> EncodedWeights:
        rounded.append(weights)
        return encode(weights, transport)

    monkeypatch.setattr(compression, "encode", counting)
    flower = engine(FakeGrid(3, good))
    requests = [ClientRequest(c, 1, adapters={"global": sent}) for c in flower.online()]
    list(flower.run(requests))
    [array] = sent.values()
    assert sum(array is one for weights in rounded for one in weights.values()) == 1
    assert flower.traffic.down == 3 * 8


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda: None, "no reply within federation.timeout_s = 0.5"),
        (lambda: flwr_app.Error(5, "secret"), "the node is gone"),
        (lambda: flwr_app.Error(8, "secret"), "its process crashed"),
        (lambda: flwr_app.Error(77, "secret"), "Flower error 77"),
        (lambda: to_records({"error": "DataError: no rows"}, {}), "DataError: no rows"),
        (lambda: good(1, base="other"), "another base model"),
        (lambda: to_records({"reply": "{}", "base": "base"}, {}), "Field required"),
        (flwr_app.RecordDict, "expected a record of texts and one of arrays"),
    ],
)
def test_a_bad_answer_costs_its_client_alone(bad: Callable[[], Records], reason: str) -> None:
    kept, failed = answers(lambda client: bad() if client == 1 else good(client))
    assert isinstance(kept, ClientReply)
    assert isinstance(failed, Failure)
    assert (failed.client, failed.round) == (1, 1)
    assert reason in failed.reason
    assert "secret" not in failed.reason


def test_the_first_round_waits_for_all_and_later_ones_for_the_minimum() -> None:
    grid = FakeGrid(1, good)
    flower = engine(grid)
    assert flower.online() == [0]  # after wait_s
    assert flower._wanted == 1
    grid.nodes.append(101)
    grid.names[101] = "1"
    flower.online()  # greets; the answer is heard at once or the next time
    assert flower.online() == [0, 1]
    grid.nodes.remove(100)
    assert flower.online() == [1]


def test_a_client_that_is_back_on_another_node_keeps_its_id() -> None:
    grid = FakeGrid(2, good)
    flower = engine(grid)
    assert flower.online() == [0, 1]
    grid.nodes = [101, 200]
    grid.names[200] = "0"
    while len(flower.online()) < 2:
        pass
    assert flower.online() == [0, 1]


def test_two_nodes_cannot_be_one_client() -> None:
    grid = FakeGrid(2, good)
    grid.names[101] = "0"
    assert engine(grid).online() == [0]


@pytest.mark.parametrize("name", ["", "-1", "x", "2", "1" * 5000])
def test_a_node_without_a_client_id_is_left_out(name: str) -> None:
    grid = FakeGrid(2, good)
    grid.names[101] = name.replace("2", "4")
    assert engine(grid).online() == [0]


def test_arrays_of_another_format_are_refused() -> None:
    records = to_records({}, {"x": np.ones(2, np.float32)})
    assert from_records(records)[1]["x"].tolist() == [1, 1]
    records["arrays"]["y"] = flwr_app.Array(np.ones(2, np.float32))
    with pytest.raises(MessageError, match="format"):
        from_records(records)


@pytest.mark.parametrize(
    ("text", "got"), [(1, "int"), (b"x", "bytes"), (["x"], "list")], ids=["int", "bytes", "list"]
)
def test_texts_that_are_not_texts_are_refused(text: int | bytes | list[str], got: str) -> None:
    records = to_records({"task": "{}"}, {})
    records["texts"]["task"] = text  # type: ignore[index]
    with pytest.raises(MessageError, match=f"expected texts, got {got}"):
        from_records(records)


def test_a_node_must_say_where_its_data_and_state_are() -> None:
    with pytest.raises(ConfigError, match="'data'"):
        node_config(CONFIG, {"state-dir": "x"}, simulated=False)
    with pytest.raises(ConfigError, match="'state-dir'"):
        node_config(CONFIG, {"data": "run"}, simulated=False)
    message = "this node's --node-config: device = 'gpu' should be 'auto', 'cpu', 'mps', 'cuda'"
    with pytest.raises(ConfigError, match=message):
        node_config(CONFIG, {"device": "gpu"}, simulated=True)
    own = {"data": "mine.jsonl", "state-dir": "x", "model": "/my/base"}
    mine = node_config(CONFIG, own, simulated=False)
    assert str(mine.data.train).endswith("/mine.jsonl")
    assert mine.model.name == "/my/base"  # never what the server says


def test_a_run_sets_on_a_node_what_is_listed_and_nothing_else() -> None:
    """Each key of a run's configuration is changed in turn."""
    own = {"data": "mine.jsonl", "state-dir": "x", "model": "/my/base", "device": "cpu"}
    usual = resolved("strategy=fedavg", "mode=auto", "privacy.epsilon=2", "privacy.delta=1e-3")
    before = dict(leaves(tomllib.loads(dump_config(node_config(usual, own, simulated=False)))))
    changes = {
        "strategy": "ditto",
        "seed": 3,
        "mode": "paper",
        "model.name": "/etc",
        "model.dtype": "bfloat16",
        "model.max_length": 64,
        "model.template": "{instruction}!",
        "model.embedding_layer": 0.5,
        "model.embedding_pooling": "mean",
        "adapter.rank": 3,
        "adapter.alpha": 5,
        "adapter.dropout": 0.5,
        "adapter.targets": "x",
        "data.train": "/etc/passwd",
        "data.turns": "all",
        "data.scenario": "single",
        "data.test_fraction": 0.5,
        "data.builtin_train": 3,
        "federation.clients": 3,
        "federation.ranks": [2, 3],
        "federation.mixed_quantization": True,
        "federation.rounds": 3,
        "federation.transport": "int8",
        "federation.error_feedback": True,
        "clustering.n_local": 3,
        "clustering.n_global": 3,
        "clustering.space": "raw",
        "training.lr": 0.1,
        "training.lr_min": 1e-6,
        "training.batch_size": 3,
        "training.max_grad_norm": 3.0,
        "privacy.epsilon": 3.0,
        "privacy.delta": 0.5,
        "privacy.unit": "sample",
        "privacy.max_norm": 3.0,
        "privacy.profile_share": 0.5,
        "privacy.seeded_noise": True,
        "router.fallback": "mix",
        "evaluation.samples": 3,
        "evaluation.max_new_tokens": 3,
        "privacy.secure_aggregation": True,
        "privacy.min_clients": 4,
        "privacy.threshold": 4,
        "privacy.min_samples": 40,
        "engine.fuse": 3,
        "engine.device": "cuda",
    }
    assert {*SET_BY_RUN} <= changes.keys()
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        asked: ResolvedConfig = (
            usual.replace(**{name: value})
            if not section
            else usual.replace(**{section: getattr(usual, section).replace(**{name: value})})
        )
        after = dict(leaves(tomllib.loads(dump_config(node_config(asked, own, simulated=False)))))
        assert (after.get(key) == value) == (key in SET_BY_RUN), key
        if key not in ("mode", "privacy.secure_aggregation"):  # defaults of others depend on them
            assert {k for k in after if after[k] != before.get(k)} == {key} & {*SET_BY_RUN}


def test_of_privacy_the_stricter_of_run_and_node_counts() -> None:
    own = {"data": "mine.jsonl", "state-dir": "x"}
    usual = resolved("strategy=fedavg", "privacy.min_samples=3", "privacy.min_clients=4")
    assert node_config(usual, own, simulated=False).privacy.min_samples == 10
    strict = {**own, "min-samples": 20, "min-clients": 6, "secure-aggregation": True}
    privacy = node_config(usual, strict, simulated=False).privacy
    assert (privacy.min_samples, privacy.min_clients, privacy.secure_aggregation) == (20, 6, True)
    assert node_config(usual, {**own, "min-samples": 1}, simulated=False).privacy.min_samples == 3
    assert node_config(usual, {**own, "min-clients": 2}, simulated=False).privacy.min_clients == 4
    assert node_config(usual, {}, simulated=True).privacy.min_samples == 3
    for key, value in (("min-samples", "many"), ("secure-aggregation", "perhaps")):
        with pytest.raises(ConfigError, match=f"{key} = '{value}' should be"):
            node_config(usual, {**own, key: value}, simulated=False)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            DataError("/home/x.jsonl: no column 'patient'"),
            "has data that it cannot use (DataError)",
        ),
        (ConfigError("/home/x"), "has a configuration that it cannot use (ConfigError)"),
        (ModelError("/home/x"), "has a base model that it cannot use (ModelError)"),
        (RunError("/home/x"), "failed (RunError)"),
        (ValueError("a row of the data"), "failed (ValueError)"),
        (MessageError("tensor 'a': too large"), "MessageError: tensor 'a': too large"),
    ],
)
def test_what_a_server_is_told_of_an_error(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = _reason(error)
    assert told in reason
    for secret in ("/home", "patient", "row"):
        assert secret not in reason
    if not isinstance(error, MessageError):
        assert str(error) in capsys.readouterr().err


def test_in_a_simulation_the_runs_configuration_decides() -> None:
    assert node_config(CONFIG, {}, simulated=True).model == CONFIG.model
    assert node_config(CONFIG, {}, simulated=True).data == CONFIG.data


def test_ids_of_clients() -> None:
    assert client_id({"partition-id": 3}) == 3
    assert client_id({"client-id": 5, "partition-id": 3}) == 5
    assert client_id({}) == -1


def test_a_reply_that_flower_cannot_read_costs_its_client_alone() -> None:
    grid = FakeGrid(3, good)
    grid.poisoned = {"message-2", "message-4"}  # the greeting of node 1; the request to client 0
    flower = engine(grid)
    assert flower.online() == [0, 2]
    orders = (TrainOrder(("global",), 1),)
    requests = [ClientRequest(c, 1, train=orders, adapters={"global": WEIGHTS}) for c in (0, 2)]
    failed, kept = flower.run(requests)
    assert isinstance(failed, Failure)
    assert (failed.client, failed.reason) == (0, "the reply cannot be read (TypeError)")
    assert isinstance(kept, ClientReply)


def test_a_reply_larger_than_any_that_was_asked_for_is_refused_before_it_is_decoded() -> None:
    def large(client: int) -> Records:
        update = Update(0, "global", {"x": np.ones((9, 9), np.float32)}, 3, 1.0, 9)
        header, arrays = pack_reply(ClientReply(client, 1, updates=(update,)), "int8")
        return to_records({"reply": header, "base": "base"}, arrays)

    failed, _ = answers(lambda client: large(client) if client == 0 else good(client))
    assert isinstance(failed, Failure)
    assert "expected at most 20 bytes of arrays as float32, got 360" in failed.reason
