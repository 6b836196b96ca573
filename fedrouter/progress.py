"""How long work tells whoever started it how far it is."""


class Progress:
    """Hears of phases and steps; this one says nothing. Faces override what they show."""

    def phase(self, name: str, total: int) -> None:
        """A phase of `total` steps begins, and the one before it has ended."""

    def advance(self, steps: int) -> None:
        """`steps` more of the phase's steps are done."""

    def message(self, text: str) -> None:
        """Something worth a line."""
