"""Callbacks by which long operations report their progress."""


class Progress:
    """Receives progress callbacks.

    This base class ignores them; the command line and the Flower server subclass it.
    """

    def phase(self, name: str, total: int) -> None:
        """A phase of `total` steps begins, or goes on with `total` steps left if others of its
        steps were done before; the previous phase has ended."""

    def advance(self, steps: float) -> None:
        """`steps` further steps of the phase are done; a part of one is a fraction."""

    def round(self, number: int, of: int) -> None:
        """Round `number` of `of` begins."""

    def loss(self, value: float) -> None:
        """The training loss that was last measured, in nats per token."""

    def message(self, text: str) -> None:
        """Show a line of text."""
