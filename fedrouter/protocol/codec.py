"""Messages as a JSON header and plain arrays, and back.

What comes in is checked against the header's schema first and then array by array: names, dtypes
and shapes must be exactly those that the header announces. Nothing is executed or unpickled, and
the sizes of what is built never exceed what was received.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedrouter.errors import MessageError
from fedrouter.protocol.compression import Encoded, TransportDtype, compression_for, decode, encode
from fedrouter.protocol.messages import (
    AssignToNearest,
    ClientReply,
    ClientRequest,
    ClusterPrompts,
    ComparedLosses,
    Comparison,
    DetectNewTasks,
    EvaluateOrder,
    EvaluationReport,
    GroupByLabel,
    InstanceMixture,
    LowestLoss,
    ReassignByLoss,
    RouteByTask,
    Scope,
    Serving,
    SingleAdapter,
    TrainOrder,
    TrueTask,
    Update,
)
from fedrouter.routing.types import RoutingPolicy, Scatter, TaskGeometry, TaskProfile
from fedrouter.routing.whitening import symmetric_matrix, upper_triangle
from fedrouter.types import AdapterWeights, FloatArray

LARGEST_HEADER = 4_000_000  # characters
LARGEST_BYTES = 4 * 2**30  # of all arrays of a message
LARGEST_ARRAYS = 100_000
DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}

Arrays = Mapping[str, NDArray[Any]]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
Id = Annotated[int, Field(ge=0, lt=2**31)]


class _Header(BaseModel):
    """Base of all headers: no unknown fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _PlacesHeader(_Header):
    """`TaskGeometry` without its arrays."""

    tasks: tuple[Name, ...]
    mean: float
    deviation: float
    variance: float
    space: Literal["symmetric", "full"] | None


class _RoutedHeader(_Header):
    """`RouteByTask` without its arrays."""

    geometry: _PlacesHeader
    own: tuple[Name, ...]
    policy: RoutingPolicy


class _ServingHeader(_Header):
    """Exactly one of the serving rules."""

    one_adapter: SingleAdapter | None = None
    routed: _RoutedHeader | None = None
    by_name: TrueTask | None = None
    instance_mix: InstanceMixture | None = None
    lowest_loss: LowestLoss | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(rule is not None for _, rule in self) != 1:
            raise ValueError("there must be one serving rule")
        return self


class _ProfileOrderHeader(_Header):
    """`ProfileOrder` without its arrays."""

    kind: Literal[
        "ClusterPrompts", "GroupByLabel", "AssignToNearest", "DetectNewTasks", "ReassignByLoss"
    ]
    fields: dict[str, Any]
    geometry: _PlacesHeader | None


class _EvaluateHeader(_Header):
    serving: _ServingHeader
    scopes: tuple[Scope, ...]


class _TaskHeader(_Header):
    client: Id
    round: Id
    transport: TransportDtype
    adapters: tuple[Name, ...]
    profile: _ProfileOrderHeader | None
    compare: tuple[Comparison, ...]
    evaluate: _EvaluateHeader | None
    train: tuple[TrainOrder, ...]
    lr: float


class _ProfileHeader(_Header):
    """`TaskProfile` without its arrays."""

    counts: tuple[int, ...]
    second_moments: tuple[float, ...]
    fourth_moments: tuple[float, ...]
    names: tuple[str, ...]
    tasks: tuple[int, ...]
    fourth: float | None


class _UpdateHeader(_Header):
    """`Update` without its weights; its slot is its place."""

    adapter: Name | None
    samples: int
    loss: float
    tokens: int


class _ReplyHeader(_Header):
    client: Id
    round: Id
    transport: TransportDtype
    changed: bool
    profile: _ProfileHeader | None
    losses: tuple[ComparedLosses, ...]
    evaluation: EvaluationReport | None
    updates: tuple[_UpdateHeader, ...]


def pack_request(
    task: ClientRequest, transport: TransportDtype
) -> tuple[str, dict[str, NDArray[Any]]]:
    """A task as header and arrays; adapters are rounded by `transport`, in int8 on trial."""
    transport = compression_for(task, transport)
    arrays = _weights_out({f"adapter/{name}": w for name, w in task.adapters.items()}, transport)
    evaluate = None
    if task.evaluate is not None:
        rule = task.evaluate.serving
        if isinstance(rule, RouteByTask):
            arrays |= places_out("serving", rule.geometry)
        evaluate = _EvaluateHeader(serving=_serving_out(rule), scopes=task.evaluate.scopes)
    order, profile = task.profile, None
    if order is not None:
        geometry = getattr(order, "geometry", None)
        arrays |= {} if geometry is None else places_out("profile", geometry)
        profile = _ProfileOrderHeader(
            kind=type(order).__name__,  # type: ignore[arg-type]
            fields={name: value for name, value in vars(order).items() if name != "geometry"},
            geometry=None if geometry is None else _placed(geometry),
        )
    header = _TaskHeader(
        client=task.client,
        round=task.round,
        transport=transport,
        adapters=tuple(task.adapters),
        profile=profile,
        compare=task.compare,
        evaluate=evaluate,
        train=task.train,
        lr=task.lr,
    )
    return header.model_dump_json(), arrays


def unpack_request(header: str, arrays: Arrays) -> ClientRequest:
    """The task that `pack_request` made these of.

    Raises:
        MessageError: they are nothing that it could have made.
    """
    found = _checked(_TaskHeader, header, arrays)
    left = dict(arrays)
    adapters = {
        name: _weights_in(f"adapter/{name}", left, found.transport) for name in found.adapters
    }
    evaluate = None
    if found.evaluate is not None:
        rule = _serving_in(found.evaluate.serving, left)
        evaluate = EvaluateOrder(rule, found.evaluate.scopes)
    profile = None
    if found.profile is not None:
        told = found.profile
        geometry = None if told.geometry is None else _places_in("profile", left, told.geometry)
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in told.fields.items()}
        if geometry is not None:
            fields["geometry"] = geometry
        try:
            profile = _ORDERS[told.kind](**fields)
        except TypeError:
            raise MessageError("a message's header is malformed: profile") from None
    _nothing_left(left)
    return ClientRequest(
        client=found.client,
        round=found.round,
        profile=profile,
        compare=found.compare,
        evaluate=evaluate,
        train=found.train,
        adapters=adapters,
        lr=found.lr,
    )


def pack_reply(
    reply: ClientReply, transport: TransportDtype
) -> tuple[str, dict[str, NDArray[Any]]]:
    """A reply as header and arrays; adapters are rounded by `transport`."""
    weights = {f"update/{update.slot}": update.weights for update in reply.updates}
    arrays = _weights_out(weights, transport)
    profile = None
    if reply.profile is not None:
        arrays["centroids"] = reply.profile.centroids
        scatter = reply.profile.scatter
        if scatter is not None:
            arrays["scatter"] = scatter.products
        profile = _ProfileHeader(
            counts=reply.profile.counts,
            second_moments=reply.profile.second_moments,
            fourth_moments=reply.profile.fourth_moments,
            names=reply.profile.names,
            tasks=reply.profile.tasks,
            fourth=None if scatter is None else scatter.fourth,
        )
    header = _ReplyHeader(
        client=reply.client,
        round=reply.round,
        transport=transport,
        changed=reply.changed,
        profile=profile,
        losses=reply.losses,
        evaluation=reply.evaluation,
        updates=tuple(
            _UpdateHeader(adapter=u.adapter, samples=u.samples, loss=u.loss, tokens=u.tokens)
            for u in reply.updates
        ),
    )
    return header.model_dump_json(), arrays


def unpack_reply(header: str, arrays: Arrays) -> ClientReply:
    """The reply that `pack_reply` made these of; its content is for `replies.check_reply`.

    Raises:
        MessageError: they are nothing that it could have made.
    """
    found = _checked(_ReplyHeader, header, arrays)
    left = dict(arrays)
    profile = None
    if found.profile is not None:
        told = found.profile
        centroids = _floats(left, "centroids", 2)
        scatter = None
        if told.fourth is not None:
            scatter = Scatter(_floats(left, "scatter", 1), told.fourth)
        profile = TaskProfile(
            client=found.client,
            centroids=centroids,
            counts=told.counts,
            second_moments=told.second_moments,
            fourth_moments=told.fourth_moments,
            names=told.names,
            tasks=told.tasks,
            scatter=scatter,
        )
    updates = tuple(
        Update(
            slot=slot,
            adapter=update.adapter,
            weights=_weights_in(f"update/{slot}", left, found.transport),
            samples=update.samples,
            loss=update.loss,
            tokens=update.tokens,
        )
        for slot, update in enumerate(found.updates)
    )
    _nothing_left(left)
    return ClientReply(
        client=found.client,
        round=found.round,
        profile=profile,
        losses=found.losses,
        evaluation=found.evaluation,
        updates=updates,
        changed=found.changed,
    )


def array_bytes(array: NDArray[Any]) -> tuple[str, list[int], bytes]:
    """An array as the name of its dtype, its shape and its numbers, little-endian, row by row."""
    plain = np.ascontiguousarray(array)
    return (
        plain.dtype.name,
        list(array.shape),
        plain.astype(plain.dtype.newbyteorder("<")).tobytes(),
    )


def array_of(dtype: str, shape: list[int], data: bytes) -> NDArray[Any]:
    """The array that `array_bytes` took apart.

    Raises:
        MessageError: the three do not fit each other.
    """
    if dtype not in DTYPES:
        raise MessageError(f"an array of dtype {dtype[:20]!r} is not one that is sent")
    if any(size < 0 for size in shape) or len(shape) > 4:
        raise MessageError("an array has an impossible shape")
    kind = np.dtype(DTYPES[dtype]).newbyteorder("<")
    if math.prod(shape) * kind.itemsize != len(data):
        raise MessageError(f"an array of shape {shape} does not fit its {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape).astype(DTYPES[dtype])


def _checked(kind: Any, header: str, arrays: Arrays) -> Any:
    """The header, validated, and the arrays' number and size."""
    if len(header) > LARGEST_HEADER or len(arrays) > LARGEST_ARRAYS:
        raise MessageError("a message is too large")
    if sum(array.nbytes for array in arrays.values()) > LARGEST_BYTES:
        raise MessageError("the arrays of a message are too large")
    try:
        return kind.model_validate_json(header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:100]
        fault = f"{where}: {first['msg']}" if where else first["msg"]
        raise MessageError(f"a message's header is malformed: {fault}") from None


def _weights_out(
    adapters: Mapping[str, AdapterWeights], transport: TransportDtype
) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    for prefix, weights in adapters.items():
        encoded = encode(weights, transport)
        arrays |= {f"{prefix}/{name}": array for name, array in encoded.arrays.items()}
        arrays |= {f"scale/{prefix}/{name}": array for name, array in encoded.scales.items()}
    return arrays


def _weights_in(
    prefix: str, arrays: dict[str, NDArray[Any]], transport: TransportDtype
) -> AdapterWeights:
    """Take the tensors under a prefix out of `arrays`, as float32."""

    def taken(prefix: str) -> dict[str, NDArray[Any]]:
        names = [name for name in arrays if name.startswith(f"{prefix}/")]
        return {name[len(prefix) + 1 :]: arrays.pop(name) for name in names}

    tensors, scales = taken(prefix), taken(f"scale/{prefix}")
    return decode(Encoded(transport, tensors, scales))


_ORDERS: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (ClusterPrompts, GroupByLabel, AssignToNearest, DetectNewTasks, ReassignByLoss)
}
_FIELDS: Mapping[type, Any] = {
    SingleAdapter: "one_adapter",
    TrueTask: "by_name",
    InstanceMixture: "instance_mix",
    LowestLoss: "lowest_loss",
}


def _serving_out(rule: Serving) -> _ServingHeader:
    if isinstance(rule, RouteByTask):
        header = _RoutedHeader(geometry=_placed(rule.geometry), own=rule.own, policy=rule.policy)
        return _ServingHeader(routed=header)
    fields: dict[str, Any] = {_FIELDS[type(rule)]: rule}
    return _ServingHeader(**fields)


def _serving_in(header: _ServingHeader, arrays: dict[str, NDArray[Any]]) -> Serving:
    if header.routed is None:
        rules = (header.one_adapter, header.by_name, header.instance_mix, header.lowest_loss)
        return next(rule for rule in rules if rule is not None)
    told = header.routed
    return RouteByTask(_places_in("serving", arrays, told.geometry), told.own, told.policy)


def _placed(geometry: TaskGeometry) -> _PlacesHeader:
    return _PlacesHeader(
        tasks=geometry.tasks,
        mean=geometry.mean,
        deviation=geometry.deviation,
        variance=geometry.variance,
        space=None if geometry.space is None else _form(geometry.space),
    )


def places_out(prefix: str, geometry: TaskGeometry) -> dict[str, NDArray[Any]]:
    """The arrays of `geometry`; half of its space, where the other half is the same."""
    arrays, space = {f"{prefix}/centroids": geometry.centroids}, geometry.space
    if space is not None:
        arrays[f"{prefix}/space"] = upper_triangle(space) if _form(space) == "symmetric" else space
    return arrays


def _form(space: FloatArray) -> Literal["symmetric", "full"]:
    square = len(space) == space.shape[1]
    return "symmetric" if square and np.array_equal(space, space.T) else "full"


def _places_in(prefix: str, arrays: dict[str, NDArray[Any]], header: _PlacesHeader) -> TaskGeometry:
    centroids = _floats(arrays, f"{prefix}/centroids", 2)
    if len(centroids) != len(header.tasks):
        raise MessageError("a message has not one centroid for each task")
    space = None
    if header.space is not None:
        size = centroids.shape[1]
        half = header.space == "symmetric"
        space = _floats(arrays, f"{prefix}/space", 1 if half else 2)
        if len(space) != (size * (size + 1) // 2 if half else size):
            raise MessageError("a message's space does not fit its centroids")
        space = symmetric_matrix(space, size) if half else space
    numbers = (header.mean, header.deviation, header.variance)
    return TaskGeometry(header.tasks, centroids, *numbers, space)


def _floats(arrays: dict[str, NDArray[Any]], name: str, dimensions: int) -> FloatArray:
    """Take a float32 array of finite numbers, with so many dimensions, out of `arrays`."""
    array = arrays.pop(name, None)
    if array is None or array.dtype != np.float32 or array.ndim != dimensions:
        raise MessageError(
            f"a message's {name} is missing, or no float32 array of {dimensions} dimensions"
        )
    if not np.isfinite(array).all():
        raise MessageError(f"a message's {name} is not finite")
    return array


def _nothing_left(arrays: Arrays) -> None:
    if arrays:
        raise MessageError("a message has an array that its header does not announce")
