"""Text typed without capitals and punctuation -> the same text with them."""

import numpy as np

from fedrouter.data.builtin.words import FIRST_NAMES, WEEKDAYS, pick

PLACES = [
    "the market",
    "the station",
    "the lake",
    "the bakery",
    "the theatre",
    "the office",
    "the beach",
]
THINGS = [
    "bread",
    "two tickets",
    "some flowers",
    "a map",
    "fresh fish",
    "an old book",
    "three letters",
]
ACTIONS = (
    "went to {place} and bought {thing}",
    "carried {thing} to {place}",
    "left {thing} at {place}",
    "looked for {thing} near {place}",
)
ENDINGS = ("It was raining", "Nobody was there", "They came home late", "It took an hour")


def draw_punctuation(rng: np.random.Generator) -> tuple[str, str]:
    """Two sentences in bare lower case, and the same as they should be written."""
    who, friend = (FIRST_NAMES[i] for i in rng.permutation(len(FIRST_NAMES))[:2])
    action = pick(rng, ACTIONS).format(place=pick(rng, PLACES), thing=pick(rng, THINGS))
    first = pick(
        rng,
        (
            f"On {pick(rng, WEEKDAYS)} {who} and {friend} {action}.",
            f"{who} {action} with {friend}.",
            f"Last {pick(rng, WEEKDAYS)} {who} {action}.",
        ),
    )
    text = f"{first} {pick(rng, ENDINGS)}."
    return text.lower().replace(".", ""), text
