"""fedrouter's messages in Flower's records: texts in one, arrays as plain bytes in another.

Flower's own array format is not used: its reader parses a header that the sender wrote.
"""

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.codec import array_bytes, array_of

RAW = "fedrouter.raw"
# What Flower's reader of a message raises, which believes what the sender wrote. Errors of the
# connection are others.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    DecodeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def to_records(texts: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> RecordDict:
    """The content of a Flower message that holds these texts and arrays, by name."""
    packed = {}
    for name, array in arrays.items():
        dtype, shape, data = array_bytes(array)
        packed[name] = Array(dtype=dtype, shape=tuple(shape), stype=RAW, data=data)
    records = {"arrays": ArrayRecord(packed), "texts": ConfigRecord(dict(texts))}
    return RecordDict(records)  # type: ignore[arg-type]


def from_records(records: RecordDict) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """The texts and arrays that `to_records` packed.

    Raises:
        MessageError: the records are nothing that it could have packed.
    """
    texts, packed = records.get("texts"), records.get("arrays")
    if not isinstance(texts, ConfigRecord) or not isinstance(packed, ArrayRecord):
        raise MessageError(
            "message: expected a record of texts and one of arrays; install the same version of "
            "fedrouter on server and clients"
        )
    for text in texts.values():
        if not isinstance(text, str):
            raise MessageError(f"message: expected texts, got {type(text).__name__}")
    arrays = {}
    for name, array in packed.items():
        if array.stype != RAW:
            raise MessageError(f"array: expected format {RAW!r}, got another")
        arrays[name] = array_of(array.dtype, list(array.shape), array.data)
    return {name: str(text) for name, text in texts.items()}, arrays
