"""How many clients a sum needs; server and clients go by the same rules."""

from dataclasses import dataclass

from fedrouter.errors import MessageError

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

    def noise_least(self, holders: int, clients: int) -> int:
        """The least number of clients over which a vector with noise is opened: the same part of
        its holders as the threshold is of all clients; at least 2.

        It does not depend on `min_clients`, of which a client may have a larger one than others:
        each adds its share of the noise for this number.

        Args:
            holders: the clients that have the vector.
            clients: all that sent keys.
        """
        return max(MIN_CLIENTS, -(-holders * self.threshold_of(clients) // clients))

    def vector_least(self, holders: int, clients: int, noisy: bool) -> int:
        """The least number of clients over which a vector is opened.

        Args:
            holders, clients: as for `noise_least`.
            noisy: whether clients add noise to the sum.
        """
        return max(self.min_clients, self.noise_least(holders, clients) if noisy else 0)


def check_number(number: int, least: int, which: str) -> None:
    """Check that there are enough clients.

    Raises:
        MessageError: there are not.
    """
    if number < least:
        raise MessageError(f"sum: expected {least} clients or more {which}, got {number}")
