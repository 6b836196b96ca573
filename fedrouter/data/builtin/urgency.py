"""A chat message to the help desk -> how urgent it is."""

import numpy as np

from fedrouter.data.builtin.troubles import TEAMS, TROUBLES
from fedrouter.data.builtin.words import FIRST_NAMES, pick

SIGNS: dict[str, tuple[str, ...]] = {
    "critical": (
        "nobody in the office can work",
        "the whole site is down",
        "everything has stopped here",
        "we lose money every minute",
    ),
    "high": (
        "i need this before noon today",
        "a customer is waiting",
        "please hurry, the deadline is today",
        "it has to be fixed within the hour",
    ),
    "normal": (
        "some time this week is fine",
        "could you look at it tomorrow",
        "by friday would be good",
        "next week would be ok too",
    ),
    "low": (
        "no rush at all",
        "whenever you have a spare moment",
        "it can wait, just so you know",
        "not important, only a small thing",
    ),
}
LEVELS = tuple(SIGNS)
FORMS = ("{trouble} ... {sign}", "{sign} ... {trouble}", "{trouble} again!! {sign}")


def draw_urgency(rng: np.random.Generator) -> tuple[str, str]:
    """The message as a chat line with time and sender, and one of `LEVELS`."""
    level = pick(rng, LEVELS)
    trouble = pick(rng, TROUBLES[pick(rng, TEAMS)]).lower()
    text = pick(rng, FORMS).format(trouble=trouble, sign=pick(rng, SIGNS[level]))
    clock = f"{int(rng.integers(8, 18)):02}:{int(rng.integers(60)):02}"
    return f"[{clock}] @{pick(rng, FIRST_NAMES).lower()} >> #help >> {text}", level
