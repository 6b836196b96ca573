"""The bytes of messages before they are sent."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from fedrouter.protocol.compression import DTYPES, TransportDtype, compression_for
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.quantization import int4_bytes, int8_bytes
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.serialization import ArrayTable, serialize
from fedrouter.types import select_matrices


def array_bytes(message: ClientRequest | ClientReply) -> int:
    """The bytes of a message's arrays as they are."""
    table = ArrayTable()
    serialize(message, table)
    return sum(array.nbytes for array in table.arrays.values())


def adapter_bytes(shapes: Mapping[str, Sequence[int]], transport: TransportDtype) -> int:
    """The bytes of matrices on the wire."""
    integers = {"int8": int8_bytes, "int4": int4_bytes}
    if transport in integers:
        return sum(integers[transport](shape) for shape in shapes.values())
    return sum(prod(shape) for shape in shapes.values()) * DTYPES[transport]().itemsize


def exchange_bytes(
    requests: Sequence[ClientRequest], expected: ExpectedArrays, transport: TransportDtype
) -> int:
    """The bytes of requests and of their replies; those of profiles at most. Adapters count even if
    they are still the initial one, which does not travel.

    Args:
        requests: the requests to some clients.
        expected: what the arrays of the run look like.
        transport: the configured dtype of adapters.
    """
    return sum(
        _request_bytes(request, transport) + _reply_bytes(request, expected, transport)
        for request in requests
    )


def _request_bytes(request: ClientRequest, configured: TransportDtype) -> int:
    transport = compression_for(request, configured)
    adapters = sum(
        adapter_bytes({name: array.shape for name, array in weights.items()}, transport)
        for weights in request.adapters.values()
    )
    return adapters + array_bytes(replace(request, adapters={}))


def _reply_bytes(
    request: ClientRequest, expected: ExpectedArrays, transport: TransportDtype
) -> int:
    updates = sum(
        adapter_bytes(select_matrices(expected.shapes, order.send), transport)
        for order in request.train
    )
    return updates + expected.largest_reply(replace(request, train=()))
