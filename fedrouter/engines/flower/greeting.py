"""What a node answers when it is asked which client it is."""

from flwr.app import Message

from fedrouter.engines.flower.records import UNREADABLE, from_records

REFUSED = -1  # in place of a client's id


def read_greeting(message: Message) -> tuple[int, int | None]:
    """The client's id and the rank of its adapters in its answer to a greeting; REFUSED and None
    where there are none."""
    if message.has_error():
        return REFUSED, None
    try:
        texts, _ = from_records(message.content)
        client, rank = _number(texts.get("client")), _number(texts.get("rank"))
        return REFUSED if client is None else client, rank or None
    except UNREADABLE:
        return REFUSED, None


def _number(text: str | None) -> int | None:
    """A decimal number of up to ten digits; None if the text is none."""
    return int(text) if text is not None and text.isdecimal() and len(text) <= 10 else None
