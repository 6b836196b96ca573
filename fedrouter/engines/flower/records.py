"""Our messages in Flower's records: the header as one text, the arrays as plain bytes.

Flower's own array format is not used: its reader parses a header that the sender wrote.
"""

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from fedrouter.errors import MessageError
from fedrouter.protocol.codec import array_bytes, array_of

RAW = "fedrouter.raw"


def to_records(texts: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> RecordDict:
    """Texts and arrays by name, as the content of a Flower message."""
    packed = {}
    for name, array in arrays.items():
        dtype, shape, data = array_bytes(array)
        packed[name] = Array(dtype=dtype, shape=tuple(shape), stype=RAW, data=data)
    records = {"arrays": ArrayRecord(packed), "texts": ConfigRecord(dict(texts))}
    return RecordDict(records)  # type: ignore[arg-type]


def from_records(records: RecordDict) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """What `to_records` packed.

    Raises:
        MessageError: something else was.
    """
    texts, packed = records.get("texts"), records.get("arrays")
    if not isinstance(texts, ConfigRecord) or not isinstance(packed, ArrayRecord):
        raise MessageError("a message without texts and arrays")
    if any(not isinstance(text, str) for text in texts.values()):
        raise MessageError("a message's texts are not texts")
    arrays = {
        name: array_of(array.dtype, list(array.shape), array.data)
        for name, array in packed.items()
        if array.stype == RAW
    }
    if len(arrays) != len(packed):
        raise MessageError("a message has an array in a format that is not read")
    return {name: str(text) for name, text in texts.items()}, arrays
