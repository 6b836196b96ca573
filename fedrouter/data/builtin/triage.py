"""A forwarded e-mail to the help desk -> the team that handles it."""

import numpy as np

from fedrouter.data.builtin.troubles import TEAMS, TROUBLES
from fedrouter.data.builtin.words import name, pick

SUBJECTS = ("Help needed", "Request", "Question", "A problem", "Please help", "Support")
OPENINGS = ("Hello, {}.", "Good day, {}.", "Dear team, {}.", "Dear help desk, since today {}.")
CLOSINGS = ("Thank you.", "Many thanks.", "Please let me know.", "I look forward to your answer.")


def draw_triage(rng: np.random.Generator) -> tuple[str, str]:
    """The ticket as text with a header, and one of `TEAMS`."""
    team = pick(rng, TEAMS)
    sender = name(rng)
    address = sender.lower().replace(" ", ".") + "@example.com"
    body = pick(rng, OPENINGS).format(pick(rng, TROUBLES[team]))
    return (
        f"From: {sender} <{address}>\nSubject: {pick(rng, SUBJECTS)}\n\n"
        f"{body} {pick(rng, CLOSINGS)}\n{sender}",
        team,
    )
