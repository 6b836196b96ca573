"""SIGTERM as an exception, so that a terminated command ends as an interrupted one does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """The process was asked to end."""


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's arguments
    raise Terminated


@contextmanager
def raised_as_exception() -> Iterator[None]:
    """Raise `Terminated` in the block when the process is sent SIGTERM.

    Only the main thread may set handlers; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
