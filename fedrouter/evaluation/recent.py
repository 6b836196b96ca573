"""A mapping that forgets the entries that were not used for longest."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class RecentEntries(Generic[Key, Value]):
    """At most `most` entries, so that a process that works on many runs does not grow.

    >>> from fedrouter.evaluation.recent import RecentEntries
    >>> entries = RecentEntries(2)
    >>> for name in ("a", "b", "a", "c"):
    ...     entries.put(name, name.upper())
    >>> entries.get("a"), entries.get("b"), entries.get("c")
    ('A', None, 'C')

    Args:
        most: number of entries.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value of a key, which counts as used; None if there is none."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: Key, value: Value) -> None:
        """Set the value of a key, which counts as used."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
