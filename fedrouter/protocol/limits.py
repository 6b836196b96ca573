"""Bounds on the numbers and names in a reply, whatever it answers.

Within these bounds no sum or square that the server computes overflows, so that a state that was
computed from accepted replies can always be written and read again.
"""

from collections.abc import Iterable

from fedrouter.errors import MessageError

MAX_COUNT = 10**9  # samples, tokens or rows: more than any client has
MAX_LOSS = 1e6  # nats per token
MAX_MOMENT = 1e15  # of squared distances
MAX_LABEL = 200  # characters of a true task's name
MAX_TABLE = 1_000  # true tasks, or local tasks, of a client


def check_loss(where: str, loss: float) -> None:
    """Check that a loss is one; `where` names the part of the reply."""
    if not 0 <= loss <= MAX_LOSS:
        raise MessageError(
            f"{where}: expected a loss from 0 to {MAX_LOSS:g}, got {loss:g}; lower training.lr if "
            "training diverged"
        )


def check_count(where: str, what: str, count: int, most: int = MAX_COUNT) -> None:
    """Check that a number of things is from 1 to `most`."""
    if not 1 <= count <= most:
        raise MessageError(f"{where}: expected 1 to {most} {what}, got {count}")


def check_labels(where: str, labels: Iterable[str]) -> None:
    """Check the number and the lengths of true tasks' names."""
    known = list(labels)
    if len(known) > MAX_TABLE or any(len(label) > MAX_LABEL for label in known):
        raise MessageError(
            f"{where}: expected at most {MAX_TABLE} task names of at most {MAX_LABEL} characters"
        )
