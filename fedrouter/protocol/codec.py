"""Messages as a JSON header and named arrays, and back.

What arrives is checked against the message's type first and then array by array: each is referred
to exactly once, is of a known dtype, and is finite. Nothing is executed or unpickled, and the size
of what is built is checked before anything is decoded.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.compression import (
    DTYPES,
    EncodedWeights,
    TransportDtype,
    WeightsEncoder,
    compression_for,
    received,
)
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.serialization import ArrayTable, deserialize, serialize
from fedrouter.types import AdapterWeights

MAX_HEADER = 4_000_000  # characters
MAX_BYTES = 4 * 2**30  # of all arrays of a message, as float32
MAX_ARRAYS = 100_000
MAX_DIMENSIONS = 4
FLOAT_BYTES = 4
INTEGERS: Mapping[str, type[np.generic]] = {  # of keys, shares and masked vectors
    "uint8": np.uint8,
    "uint32": np.uint32,
    "uint64": np.uint64,
}

Arrays = Mapping[str, NDArray[Any]]
Message = TypeVar("Message", ClientRequest, ClientReply)


class WireArrays(ArrayTable):
    """The arrays of a message; adapters are compressed for the wire.

    Args:
        arrays: what arrived; None: to be sent.
        encoder: compresses the adapters that are to be sent.
        transport: in which dtype.
        start: the adapter to which the adapters that arrived are differences; None: to none.
    """

    def __init__(
        self,
        arrays: Arrays | None = None,
        encoder: WeightsEncoder | None = None,
        transport: TransportDtype = "float32",
        start: AdapterWeights | None = None,
    ) -> None:
        super().__init__(arrays)
        self._encoder = encoder or WeightsEncoder()
        self._transport = transport
        self._start = start or {}

    def put_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
        """Add the compressed tensors; each is referred to by its key, that of its scales, and, if
        it is packed, its shape; by nothing if it does not travel."""
        encoded = self._encoder.encode(weights, self._transport)
        references: dict[str, Any] = {name: [] for name in encoded.unchanged}
        for name, array in encoded.arrays.items():
            references[name] = [self.put(array)]
            if name in encoded.scales:
                references[name].append(self.put(encoded.scales[name]))
            references[name] += encoded.shapes.get(name, ())
        return references

    def take_weights(self, references: Any) -> dict[str, NDArray[np.float32]]:
        """Remove the compressed tensors and return them as float32.

        Raises:
            ValueError: the references are not what `put_weights` returns.
        """
        if not isinstance(references, dict):
            raise ValueError("expected a table of tensors")
        arrays: dict[str, NDArray[Any]] = {}
        scales: dict[str, NDArray[Any]] = {}
        shapes: dict[str, tuple[int, int]] = {}
        for name, reference in references.items():
            match reference:
                case []:
                    continue
                case [key]:
                    arrays[name] = self.take(key)
                case [key, scale]:
                    arrays[name], scales[name] = self.take(key), self.take(scale)
                case [key, scale, rows, columns]:
                    arrays[name], scales[name] = self.take(key), self.take(scale)
                    shapes[name] = _shape(rows, columns)
                case _:
                    raise ValueError("expected a tensor, or a tensor and its scales")
        unchanged = tuple(name for name, reference in references.items() if not reference)
        try:
            return received(EncodedWeights(arrays, scales, shapes, unchanged), self._start)
        except MessageError as error:
            raise ValueError(str(error)) from None


def _shape(rows: Any, columns: Any) -> tuple[int, int]:
    if type(rows) is not int or type(columns) is not int:
        raise ValueError("expected the shape of a packed tensor")
    return rows, columns


def pack_request(
    request: ClientRequest, transport: TransportDtype, encoder: WeightsEncoder | None = None
) -> tuple[str, dict[str, NDArray[Any]]]:
    """A request as header and arrays.

    Args:
        request: the request.
        transport: the dtype of adapters, where `compression_for` says no other.
        encoder: remembers adapters that other requests of the round send too; None: a new one, of
            the adapters themselves.

    Raises:
        MessageError: an adapter cannot be encoded; see `compression.encode`.
    """
    adapters = request.adapters.values()
    return _pack(request, adapters, compression_for(request, transport), encoder)


def unpack_request(
    header: str, arrays: Arrays, start: AdapterWeights | None = None
) -> ClientRequest:
    """The request that `pack_request` made these of.

    Args:
        header: the JSON.
        arrays: the arrays.
        start: that of the encoder.

    Raises:
        MessageError: they are nothing that it could have made.
    """
    return _unpack(ClientRequest, header, arrays, start=start)


def pack_reply(
    reply: ClientReply, transport: TransportDtype
) -> tuple[str, dict[str, NDArray[Any]]]:
    """A reply as header and arrays; adapters are encoded as `transport`.

    Raises:
        MessageError: an adapter cannot be encoded; see `compression.encode`.
    """
    return _pack(reply, [update.weights for update in reply.updates], transport)


def unpack_reply(header: str, arrays: Arrays, max_bytes: int = MAX_BYTES) -> ClientReply:
    """The reply that `pack_reply` made these of; its content is for `validation.check_reply`.

    Args:
        header: the JSON.
        arrays: the arrays.
        max_bytes: of all arrays as float32.

    Raises:
        MessageError: they are nothing that it could have made.
    """
    return _unpack(ClientReply, header, arrays, max_bytes)


def _pack(
    message: ClientRequest | ClientReply,
    adapters: Iterable[AdapterWeights],
    transport: TransportDtype,
    encoder: WeightsEncoder | None = None,
) -> tuple[str, dict[str, NDArray[Any]]]:
    encoder = encoder or WeightsEncoder()
    for weights in adapters:  # here, since pydantic would wrap the errors
        encoder.encode(weights, transport)
    table = WireArrays(encoder=encoder, transport=transport)
    return serialize(message, table), table.arrays


def _unpack(
    kind: type[Message],
    header: str,
    arrays: Arrays,
    max_bytes: int = MAX_BYTES,
    start: AdapterWeights | None = None,
) -> Message:
    size = FLOAT_BYTES * sum(map(_numbers, arrays.values()))
    for what, number, limit in (
        ("characters in the header", len(header), MAX_HEADER),
        ("arrays", len(arrays), MAX_ARRAYS),
        ("bytes of arrays as float32", size, max_bytes),
    ):
        if number > limit:
            raise MessageError(f"message: expected at most {limit} {what}, got {number}")
    try:
        return deserialize(kind, header, WireArrays(arrays, start=start))
    except ValueError as error:
        raise MessageError(f"message: {error}") from None


def _numbers(array: NDArray[Any]) -> int:
    """The most numbers that an array stands for; a vector of bytes may hold integers of 4 bits."""
    return 2 * array.size if array.dtype == np.uint8 and array.ndim == 1 else array.size


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

    Args:
        dtype: a name in `DTYPES` or `INTEGERS`.
        shape: at most four dimensions.
        data: the numbers.

    Raises:
        MessageError: the three do not fit each other.
    """
    known = {**DTYPES, **INTEGERS}
    if not isinstance(dtype, str) or dtype not in known:
        raise MessageError(f"array: expected one of {', '.join(known)}, got {str(dtype)[:20]!r}")
    sane = len(shape) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
    if not sane or math.prod(max(1, n) for n in shape) > MAX_BYTES:
        raise MessageError(f"array: expected a shape of at most {MAX_DIMENSIONS} sizes")
    kind = np.dtype(known[dtype]).newbyteorder("<")
    expected = math.prod(shape) * kind.itemsize
    if expected != len(data):
        raise MessageError(f"array of shape {shape}: expected {expected} bytes, got {len(data)}")
    return np.frombuffer(data, kind).reshape(shape).astype(known[dtype])
