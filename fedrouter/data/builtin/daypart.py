"""A line of a calendar -> the part of the day."""

import numpy as np

from fedrouter.data.builtin.words import LAST_NAMES, MONTHS, draw_day, pick

STARTS = {"morning": range(6, 12), "afternoon": range(12, 18), "evening": range(18, 24)}
PARTS = tuple(STARTS)
ENTRIES = ["call", "visit", "interview", "contract", "lesson", "review", "handover", "medical"]


def draw_daypart(rng: np.random.Generator) -> tuple[str, str]:
    """The entry as a line with date, time, what and who, and one of `PARTS`."""
    part = pick(rng, PARTS)
    day = draw_day(rng)
    clock = f"{pick(rng, STARTS[part]):02}:{pick(rng, (0, 15, 30, 45)):02}"
    written = f"{day.day} {MONTHS[day.month - 1]} {day.year}"
    return f"* {written} | {clock} | {pick(rng, ENTRIES)} | {pick(rng, LAST_NAMES)} |", part
