"""How many clients a sum needs; server and clients go by the same rules."""

from dataclasses import dataclass

MIN_CLIENTS = 2  # a sum over one client is that client's value


@dataclass(frozen=True)
class SumRules:
    """How many clients a sum needs.

    Attributes:
        min_clients: the least number of clients that have a vector, for its sum to be opened.
        threshold: the number of clients that have to work together to open a sum or, against the
            protocol, a client's own vectors; None: more than half of those that take part.
    """

    min_clients: int
    threshold: int | None = None

    def threshold_of(self, clients: int) -> int:
        """The threshold with a number of clients that sent keys; at least 2."""
        return max(MIN_CLIENTS, self.threshold or clients // 2 + 1)

    def least(self, clients: int) -> int:
        """The least number of clients to begin, and to open, a sum."""
        return max(self.threshold_of(clients), self.min_clients)
