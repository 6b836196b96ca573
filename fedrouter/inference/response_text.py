"""A response's text while its tokens arrive, cut at the first stop text."""

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what decoders give for bytes that are not a whole character yet


class ResponseText:
    """Turns tokens that arrive one by one into text that can be sent as it grows.

    Text that may still change is held back: an incomplete character, and what may be the beginning
    of a stop text.

    Args:
        decode: the text of the first n generated tokens.
        stop: texts that end the response; they are not part of it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = stop
        self._tokens: list[int] = []
        self._text = ""
        self._sent = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """The whole text so far."""
        return self._text

    def add(self, token: int) -> None:
        """Take the next token; `stopped` says whether it completed a stop text."""
        self._tokens.append(token)
        self._text = self._decode(self._tokens)
        places = [place for stop in self._stop if (place := self._text.find(stop)) >= 0]
        if places:
            self._text = self._text[: min(places)]
            self.stopped = True

    def take(self, *, last: bool = False) -> str:
        """The text that has become certain since the last call; all of it with the `last` token."""
        end = len(self._text) if last or self.stopped else self._certain()
        new = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        return new

    def _certain(self) -> int:
        text = self._text.rstrip(REPLACEMENT)
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        return len(text) - held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that is a beginning of `stop`."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)
