import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrouter.errors import MessageError
from fedrouter.protocol.codec import (
    array_bytes,
    array_of,
    pack_reply,
    pack_request,
    unpack_reply,
    unpack_request,
)
from fedrouter.protocol.compression import TransportDtype, WeightsEncoder
from fedrouter.protocol.messages import (
    ClientReply,
    ClientRequest,
    ComparedLosses,
    Comparison,
    EvaluateOrder,
    EvaluationReport,
    FrozenCompanion,
    LabelScores,
    Proximal,
    TrainOrder,
    Update,
)
from fedrouter.protocol.profile_orders import AssignToNearest, GroupByLabel, ReassignByLoss
from fedrouter.protocol.serving_rules import (
    InstanceMixture,
    LowestLoss,
    RouteByTask,
    Serving,
    SingleAdapter,
    TrueTask,
)
from fedrouter.routing.types import Scatter, TaskGeometry, TaskProfile

A, B = "m.0.lora_A.weight", "m.0.lora_B.weight"
WEIGHTS = {A: np.array([[1, -2]], np.float32), B: np.array([[0.5], [4]], np.float32)}
CENTROIDS = np.array([[0.1, 0.2], [3, 4]], np.float32)
PLACES = TaskGeometry(("task-00", "task-01"), CENTROIDS, 1.5, 0.5, 0.25)
MAPPED = replace(PLACES, space=np.arange(CENTROIDS.shape[1] * 2, dtype=np.float32).reshape(-1, 2))
FOLDED = replace(PLACES, space=np.array([[1, -2], [-2, 3]], np.float32))
RULES: list[Serving] = [
    SingleAdapter("global", "personal"),
    SingleAdapter(),
    RouteByTask(PLACES, ("task-01",)),
    RouteByTask(MAPPED, ("task-01",)),
    RouteByTask(FOLDED, ("task-01",)),
    TrueTask({"a name with spaces": "task-00"}),
    InstanceMixture("global", "personal", 0.5, 5),
    LowestLoss(("cluster-00", "cluster-01")),
]
ORDERS = (
    TrainOrder(("global",), 3, proximal=Proximal(0.1, "global")),
    TrainOrder((), 2, keep="personal", send="", companion=FrozenCompanion("global", 0.5)),
    TrainOrder(("a", "b"), 1, local_task=4, keep_parts="B", train_parts="A", send="A"),
)
REPLY = ClientReply(
    3,
    7,
    TaskProfile(
        3,
        CENTROIDS,
        (5, 6),
        (0.5, 0.25),
        (0.5, 1.5),
        ("x", "y"),
        (1, 0),
        Scatter(CENTROIDS[0], 2.5),
    ),
    (ComparedLosses(0, 32, 3.5, {"task-00": 1.5, "task-01": 2.5}),),
    EvaluationReport(
        {"local": {"x": LabelScores(2, {"loss": 1.5})}}, {"task-00": {"x": 2}}, ({"x": 9},)
    ),
    (Update(0, "global", WEIGHTS, 5, 1.25, 100), Update(1, None, {}, 6, 0.5, 50)),
)


def same(one: Any, other: Any) -> bool:
    """Whether two messages are equal; arrays by their content."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and same(vars(one), vars(other))
    return bool(one == other)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_a_task_comes_back_whole(rule: Serving) -> None:
    adapters = {"global": WEIGHTS, "task-00": {A: WEIGHTS[A]}}
    order = EvaluateOrder(rule, ("local", "base"))
    task = ClientRequest(3, 7, GroupByLabel(), (), order, ORDERS, adapters, lr=5e-4)
    assert same(unpack_request(*pack_request(task, "float32")), task)


def test_an_order_to_compare_comes_back_with_adapters_as_int8() -> None:
    compare = (Comparison(1, ("global", "task-00")),)
    exact = {A: WEIGHTS[A] * 0 + 127}
    task = ClientRequest(3, 7, compare=compare, adapters={"global": exact, "task-00": exact})
    header, arrays = pack_request(task, "float32")
    adapter = json.loads(header)["adapters"]["global"]
    assert [arrays[key].dtype for key in adapter[A]] == [np.int8, np.float32]
    assert same(unpack_request(header, arrays), task)


def test_what_the_client_has_does_not_travel() -> None:
    moved = {name: array + np.float32(7) for name, array in WEIGHTS.items()}
    task = ClientRequest(3, 7, train=ORDERS, adapters={"a": WEIGHTS, "b": moved})
    header, arrays = pack_request(task, "int4", WeightsEncoder(WEIGHTS))
    adapters = json.loads(header)["adapters"]
    assert adapters["a"] == {A: [], B: []}
    assert [one[2:] for one in adapters["b"].values()] == [[1, 2], [2, 1]]  # shapes
    assert {array.dtype.name for array in arrays.values()} == {"uint8", "float32"}
    assert same(unpack_request(header, arrays, WEIGHTS), task)
    with pytest.raises(MessageError, match="adapter: expected all of its tensors"):
        unpack_request(header, arrays)


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "a",
        {},
        ["x"],
        [1],
        ["PACKED", "SCALES", 1],
        ["PACKED", "SCALES", 1, "2"],
        ["PACKED", "SCALES", True, 2],
        ["PACKED", "SCALES", 1, 2, 3],
        ["PACKED", "SCALES", 2, 2],
        ["PACKED", "SCALES"],
        ["PACKED"],
        [],
    ],
)
def test_references_to_tensors_that_cannot_be_right_are_refused(reference: Any) -> None:
    update = Update(0, "global", {A: WEIGHTS[A]}, 5, 1.25, 100)
    header, arrays = pack_reply(ClientReply(3, 7, updates=(update,)), "int4")
    assert unpack_reply(header, arrays).updates[0].weights[A].shape == (1, 2)
    document = json.loads(header)
    packed, scales = document["updates"][0]["weights"][A][:2]
    if isinstance(reference, list):
        names = {"PACKED": packed, "SCALES": scales}
        reference = [names.get(one, one) for one in reference]
    document["updates"][0]["weights"][A] = reference
    with pytest.raises(MessageError, match=r"updates\.0\.weights"):
        unpack_reply(json.dumps(document), arrays)


def test_packed_integers_count_as_two_numbers_each() -> None:
    update = Update(0, "global", {A: np.ones((4, 64), np.float32)}, 5, 1.25, 100)
    packed = pack_reply(ClientReply(3, 7, updates=(update,)), "int4")
    with pytest.raises(MessageError, match=r"at most 1000 bytes of arrays as float32, got 1040"):
        unpack_reply(*packed, max_bytes=1000)


@pytest.mark.parametrize("geometry", [PLACES, MAPPED, FOLDED])
def test_an_order_to_profile_comes_back_whole(geometry: TaskGeometry | None) -> None:
    task = ClientRequest(3, 0, ReassignByLoss(geometry, ("task-01",), scatter=True))
    assert same(unpack_request(*pack_request(task, "float16")), task)


@pytest.mark.parametrize(
    ("geometry", "name", "shape", "reason"),
    [
        (MAPPED, "centroids", (7, 7), "expected 2 centroids"),
        (MAPPED, "centroids", (2,), "expected 2 centroids"),
        (MAPPED, "space", (7, 7), "expected a transform of 2 dimensions"),
        (FOLDED, "space", (4,), "upper triangle"),
        (FOLDED, "space", (2, 2, 1), "expected a transform"),
    ],
)
def test_places_that_do_not_fit_are_refused(
    geometry: TaskGeometry, name: str, shape: tuple[int, ...], reason: str
) -> None:
    header, arrays = pack_request(ClientRequest(3, 0, AssignToNearest(geometry)), "float16")
    key = json.loads(header)["profile"]["geometry"][name]
    bad = {**arrays, key: np.ones(shape, np.float32)}
    with pytest.raises(MessageError, match=reason):
        unpack_request(header, bad)


def test_half_of_a_symmetric_space_travels() -> None:
    header, arrays = pack_request(ClientRequest(3, 0, AssignToNearest(FOLDED)), "float16")
    key = json.loads(header)["profile"]["geometry"]["space"]
    assert arrays[key].tolist() == [1, -2, 3]


@pytest.mark.parametrize("transport", ["float32", "float16", "int8", "int4"])
def test_a_reply_comes_back_whole(transport: TransportDtype) -> None:
    back = unpack_reply(*pack_reply(REPLY, transport))
    if transport in ("float32", "float16"):  # which hold these numbers exactly
        assert same(back, REPLY)
    for name, array in WEIGHTS.items():
        step = {"int8": 4 / 127, "int4": 4 / 7}.get(transport, 0)
        np.testing.assert_allclose(back.updates[0].weights[name], array, atol=step / 2)


def test_arrays_travel_as_bytes() -> None:
    for dtype in (np.float32, np.float16, np.int8):
        array = np.arange(6).reshape(2, 3).astype(dtype)
        assert same(array_of(*array_bytes(array)), array)


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("object", [1], b"12345678"),
        ("float32", [2], b"1234"),
        ("float32", [-1, -1], b"1234"),
        ("float32", [10**12], b""),
        ("float32", [1, 1, 1, 1, 1], b"1234"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(dtype: str, shape: list[int], data: bytes) -> None:
    with pytest.raises(MessageError):
        array_of(dtype, shape, data)


def changed(**fields: Any) -> str:
    header, _ = pack_reply(REPLY, "float16")
    return json.dumps({**json.loads(header), **fields})


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "__import__('os')",
        changed(client="3"),
        changed(client=-1),
        changed(round=10**20),
        changed(transport="pickle"),
        changed(extra=1),
        changed(updates=[]),
        changed(profile=None),
        changed(evaluation={"scores": []}),
        changed(updates=[{**json.loads(changed())["updates"][0], "slot": True}]),
    ],
)
def test_malformed_headers_are_refused(header: str) -> None:
    _, arrays = pack_reply(REPLY, "float16")
    with pytest.raises(MessageError):
        unpack_reply(header, arrays)


HEADER = json.loads(changed())
TENSOR, CENTROID = HEADER["updates"][0]["weights"][A][0], HEADER["profile"]["centroids"]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"something": np.ones((1, 1), np.float32)}, "no field refers to"),
        ({TENSOR: np.array([[np.nan, 1]], np.float16)}, "finite"),
        ({TENSOR: np.ones((1, 2), np.int8)}, "without scales"),
        ({TENSOR: np.array([["a", "b"]])}, "got <U1"),
        ({CENTROID: np.ones((2, 2))}, "profile.centroids: .*got float64"),
        ({CENTROID: np.full((2, 2), np.inf, np.float32)}, "profile.centroids: .*finite"),
    ],
)
def test_unexpected_arrays_are_refused(arrays: dict[str, Any], reason: str) -> None:
    header, good = pack_reply(REPLY, "float16")
    with pytest.raises(MessageError, match=reason):
        unpack_reply(header, {**good, **arrays})


def test_missing_arrays_are_refused() -> None:
    header, good = pack_reply(REPLY, "float16")
    del good[CENTROID]
    with pytest.raises(MessageError, match="refer to an array of its own"):
        unpack_reply(header, good)


def test_an_array_cannot_be_referred_to_twice() -> None:
    twice = {**HEADER["profile"], "scatter": {"products": CENTROID, "fourth": 1.0}}
    _, arrays = pack_reply(REPLY, "float16")
    with pytest.raises(MessageError, match="refer to an array of its own"):
        unpack_reply(changed(profile=twice), arrays)


def test_the_names_of_unknown_fields_cannot_forge_lines_of_a_log() -> None:
    _, arrays = pack_reply(REPLY, "float16")
    with pytest.raises(MessageError, match=r"a\?\?\[2J") as caught:
        unpack_reply(changed(**{"a\n\x1b[2J": 1}), arrays)
    assert str(caught.value).isprintable()


def test_the_kinds_of_unknown_orders_cannot_forge_lines_of_a_log() -> None:
    order = ClientRequest(0, 1, profile=GroupByLabel())
    header, arrays = pack_request(order, "float16")
    sent = json.loads(header)
    sent["profile"]["kind"] = "a\n\x1b[2J"
    with pytest.raises(MessageError, match=r"a\?\?\[2J") as caught:
        unpack_request(json.dumps(sent), arrays)
    assert str(caught.value).isprintable()


def test_weights_that_no_message_can_carry_are_a_message_error() -> None:
    update = Update(0, None, {A: np.array([[np.nan]], np.float32)}, 5, 1.25, 100)
    with pytest.raises(MessageError, match=r"lower training\.lr"):
        pack_reply(ClientReply(3, 7, updates=(update,)), "float16")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(field=st.sampled_from(["client", "round", "profile", "evaluation", "updates"]), value=JSON)
def test_whatever_a_header_holds_is_understood_or_refused(field: str, value: Any) -> None:
    _, arrays = pack_reply(REPLY, "float16")
    try:
        reply = unpack_reply(changed(**{field: value}), arrays)
    except MessageError:
        return
    assert isinstance(reply, ClientReply)
