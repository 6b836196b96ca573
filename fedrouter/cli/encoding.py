"""Output streams that replace characters their encoding lacks."""

import contextlib
import io
import sys


def replace_unprintable() -> None:
    """Let standard output and error replace characters that their encoding lacks.

    Without this, one such character in a prompt ends a command with a UnicodeEncodeError. The
    tables then use ASCII for their lines, because rich looks at the encoding too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):  # the stream is closed
                stream.reconfigure(errors="replace")
