"""Callbacks by which long operations report their progress."""


class Progress:
    """Receives progress callbacks.

    This base class ignores them; the command line and the Flower server subclass it.
    """

    def phase(self, name: str, total: int) -> None:
        """A phase of `total` steps begins; the previous one has ended."""

    def advance(self, steps: int) -> None:
        """`steps` further steps of the phase are done."""

    def message(self, text: str) -> None:
        """Show a line of text."""
