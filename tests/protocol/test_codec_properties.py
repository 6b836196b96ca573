"""Properties of the codec, of messages that hypothesis makes up and then damages."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.codec import pack_reply, pack_request, unpack_reply, unpack_request
from fedrouter.protocol.messages import (
    ClientReply,
    ClientRequest,
    ComparedLosses,
    Comparison,
    EvaluateOrder,
    EvaluationReport,
    LabelScores,
    Proximal,
    TrainOrder,
    Update,
)
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    ClusterPrompts,
    DescribeEmbeddings,
    DetectNewTasks,
    GroupByLabel,
    ReassignByLoss,
)
from fedrouter.protocol.serving_rules import (
    InstanceMixture,
    LowestLoss,
    RouteByTask,
    SingleAdapter,
    TrueTask,
)
from fedrouter.routing.types import (
    RoutingPolicy,
    Scatter,
    Standardization,
    TaskGeometry,
    TaskProfile,
)

Message = TypeVar("Message", ClientRequest, ClientReply)
Packed = tuple[str, dict[str, NDArray[Any]]]

IDS = st.integers(0, 2**31 - 1)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)
LABELS = st.text(max_size=8)
NUMBERS = st.floats(0, 1e6)
COUNTS = st.integers(1, 10**6)
ELEMENTS = st.floats(-1000, 1000, width=16)  # exact in float16


def matrices(rows: int, columns: int) -> st.SearchStrategy[NDArray[np.float32]]:
    return arrays(np.float32, (rows, columns), elements=ELEMENTS)


def tuples(one: st.SearchStrategy[Any], **sizes: int) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(one, **{"max_size": 3, **sizes}).map(tuple)


WEIGHTS = st.dictionaries(
    st.sampled_from(["m.0.lora_A.weight", "m.0.lora_B.weight", "m.1.lora_A.weight"]),
    st.tuples(st.integers(1, 3), st.integers(1, 3)).flatmap(lambda shape: matrices(*shape)),
)


STANDARDIZATIONS = st.builds(
    Standardization,
    st.builds(lambda row: row[0], matrices(1, 3)),
    st.builds(lambda row: np.abs(row[0]) + np.float32(1), matrices(1, 3)),
)


@st.composite
def geometries(draw: st.DrawFn) -> TaskGeometry:
    tasks = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    space = draw(st.none() | st.integers(1, 3).flatmap(lambda columns: matrices(3, columns)))
    if space is not None:
        if space.shape == (3, 3) and draw(st.booleans()):
            space = space + space.T
        space = space + 0  # of a symmetric one half travels, without the signs of its zeros
    centroids = draw(matrices(len(tasks), 3))
    standardization = draw(st.none() | STANDARDIZATIONS)
    numbers = draw(st.tuples(*[NUMBERS] * 3))
    return TaskGeometry(tuple(tasks), centroids, *numbers, standardization, space)


POLICIES = st.builds(
    RoutingPolicy,
    st.integers(1, 5),
    st.sampled_from(["nearest", "base", "average", "mix"]),
    NUMBERS,
)
RULES = st.one_of(
    st.builds(SingleAdapter, st.none() | NAMES, st.none() | NAMES),
    st.builds(RouteByTask, geometries(), tuples(NAMES), POLICIES),
    st.builds(TrueTask, st.dictionaries(LABELS, NAMES, max_size=3)),
    st.builds(InstanceMixture, NAMES, NAMES, st.floats(0, 1), COUNTS),
    st.builds(LowestLoss, tuples(NAMES)),
)
MATRICES_OF = st.sampled_from(["AB", "A", "B", ""])
PROFILES = st.one_of(
    st.builds(DescribeEmbeddings),
    st.builds(ClusterPrompts, st.none() | STANDARDIZATIONS),
    st.builds(AssignToStarts, tuples(matrices(2, 3)), st.none() | STANDARDIZATIONS),
    st.builds(GroupByLabel),
    st.builds(AssignToNearest, geometries(), COUNTS, st.booleans()),
    st.builds(DetectNewTasks, geometries()),
    st.builds(ReassignByLoss, geometries(), tuples(NAMES), st.booleans()),
)
ORDERS = st.builds(
    TrainOrder,
    tuples(NAMES),
    COUNTS,
    local_task=st.none() | st.integers(0, 9),
    keep=st.none() | NAMES,
    keep_parts=MATRICES_OF,
    train_parts=MATRICES_OF,
    send=MATRICES_OF,
    proximal=st.none() | st.builds(Proximal, NUMBERS, NAMES),
)
REQUESTS = st.builds(
    ClientRequest,
    IDS,
    IDS,
    st.none() | PROFILES,
    compare=tuples(st.builds(Comparison, st.integers(0, 9), tuples(NAMES))),
    evaluate=st.none()
    | st.builds(
        EvaluateOrder, RULES, tuples(st.sampled_from(["local", "global", "base"]), max_size=3)
    ),
    train=tuples(ORDERS),
    adapters=st.dictionaries(NAMES, WEIGHTS, max_size=3),
    lr=NUMBERS,
)
TABLES = st.dictionaries(LABELS, COUNTS, max_size=3)
REPORTS = st.builds(
    EvaluationReport,
    st.dictionaries(
        st.sampled_from(["local", "global", "base"]),
        st.dictionaries(
            LABELS,
            st.builds(LabelScores, COUNTS, st.dictionaries(LABELS, NUMBERS, max_size=2)),
            max_size=2,
        ),
    ),
    st.dictionaries(NAMES, TABLES, max_size=2),
    tuples(TABLES),
)


@st.composite
def replies(draw: st.DrawFn) -> ClientReply:
    client, tasks = draw(IDS), draw(st.integers(1, 3))
    scatter = st.builds(Scatter, arrays(np.float32, 6, elements=ELEMENTS), NUMBERS)
    profile = TaskProfile(
        client,
        draw(matrices(tasks, 3)),
        draw(tuples(COUNTS)),
        draw(tuples(NUMBERS)),
        draw(tuples(NUMBERS)),
        draw(tuples(LABELS)),
        draw(tuples(st.integers(-1, 9))),
        draw(st.none() | scatter),
    )
    updates = draw(st.lists(st.tuples(st.none() | NAMES, WEIGHTS, COUNTS, NUMBERS), max_size=2))
    losses = st.dictionaries(NAMES, NUMBERS, max_size=2)
    return ClientReply(
        client,
        draw(IDS),
        draw(st.none() | st.just(profile)),
        draw(tuples(st.builds(ComparedLosses, st.integers(0, 9), COUNTS, NUMBERS, losses))),
        draw(st.none() | REPORTS),
        tuple(Update(slot, *one, tokens=slot + 1) for slot, one in enumerate(updates)),
        draw(st.booleans()),
    )


def same(one: Packed, other: Packed) -> bool:
    """Whether two packed messages are equal, bit by bit."""
    return one[0] == other[0] and bits(one) == bits(other)


def bits(packed: Packed) -> dict[str, tuple[Any, ...]]:
    return {key: (array.dtype, array.shape, array.tobytes()) for key, array in packed[1].items()}


@given(request=REQUESTS)
def test_a_request_that_was_unpacked_packs_into_the_same(request: ClientRequest) -> None:
    # float32 and float16 hold these numbers; a request for comparison only is int8.
    for transport in ("float32", "float16"):
        packed = pack_request(request, transport)
        again = pack_request(unpack_request(*packed), transport)
        if not request.compare and not isinstance(request.profile, ReassignByLoss):
            assert same(again, packed)
        assert json.loads(again[0]) == json.loads(packed[0])


@given(reply=replies())
def test_a_reply_that_was_unpacked_packs_into_the_same(reply: ClientReply) -> None:
    for transport in ("float32", "float16"):
        packed = pack_reply(reply, transport)
        assert same(pack_reply(unpack_reply(*packed), transport), packed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def damaged(draw: st.DrawFn, value: Any) -> Any:
    """JSON with something, anywhere in it, replaced, removed or added."""
    inside = isinstance(value, dict | list) and value and draw(st.integers(0, 4)) > 0
    if not inside:
        return draw(JSON)
    keys = sorted(value) if isinstance(value, dict) else range(len(value))
    key, changed = draw(st.sampled_from(list(keys))), value.copy()
    how = draw(st.sampled_from(["inside", "inside", "inside", "remove", "add"]))
    if how == "inside":
        changed[key] = damaged(draw, value[key])
    elif how == "remove":
        del changed[key]
    elif isinstance(changed, dict):
        changed[draw(st.text(max_size=5))] = draw(JSON)
    else:
        changed.append(draw(JSON))
    return changed


CHANGES: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
    lambda array: array.astype(np.float64),
    lambda array: array.astype(np.int8),
    lambda array: array.reshape(-1),
    lambda array: array[:0],
    lambda array: array[..., None],
    lambda array: np.full(array.shape, np.nan, np.float32),
    lambda array: np.full(array.shape, np.inf, np.float16),
]


@st.composite
def damaged_messages(draw: st.DrawFn, messages: st.SearchStrategy[Packed]) -> Packed:
    header, content = draw(messages)
    if draw(st.booleans()):
        header = json.dumps(damaged(draw, json.loads(header)))
    if content and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(content)))
        array = content.pop(key)
        if draw(st.booleans()):
            content[key] = draw(st.sampled_from(CHANGES))(array)
    return header, content


@given(message=damaged_messages(REQUESTS.map(lambda one: pack_request(one, "float16"))))
def test_a_damaged_request_is_refused_or_still_a_request(message: Packed) -> None:
    check_damaged(unpack_request, message)


@given(
    message=damaged_messages(
        st.builds(pack_reply, replies(), st.sampled_from(["float16", "int8", "int4"]))
    )
)
def test_a_damaged_reply_is_refused_or_still_a_reply(message: Packed) -> None:
    check_damaged(unpack_reply, message)


def check_damaged(unpack: Callable[..., Message], message: Packed) -> None:
    try:
        unpacked = unpack(*message)
    except MessageError as error:
        assert str(error).isprintable()
        return
    assert isinstance(unpacked, ClientRequest | ClientReply)
