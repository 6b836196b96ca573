"""A sentence with a date in words -> the date in ISO 8601."""

import numpy as np

from fedrouter.data.builtin.words import LAST_NAMES, draw_day, pick, written_day

EVENTS = (
    "The contract with Mr {name} was signed on {day}.",
    "Mrs {name} was born on {day}.",
    "The house of the {name} family was sold on {day}.",
    "The letter from Mr {name} arrived on {day}.",
)


def draw_date(rng: np.random.Generator) -> tuple[str, str]:
    """The sentence, and the day as year-month-day in digits."""
    day = draw_day(rng)
    sentence = pick(rng, EVENTS).format(name=pick(rng, LAST_NAMES), day=written_day(rng, day))
    return sentence, day.isoformat()
