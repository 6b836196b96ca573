"""A letter about a meeting -> its subject line."""

import numpy as np

from fedrouter.data.builtin.words import WEEKDAYS, name, pick, split_words

TOPICS = split_words(
    "budget security marketing training safety sales design travel hiring quality energy harvest "
    "museum garden school library football music kitchen traffic"
)
KINDS = split_words("meeting workshop lecture interview review dinner visit rehearsal")
NEWS = {
    "will now take place on {day}": "moved to {day}",
    "has been postponed until {day}": "moved to {day}",
    "will not take place, so {day} is free": "cancelled",
    "has to be called off on {day}": "cancelled",
}
OPENINGS = (
    "I am writing to let you know that the {} {} {}.",
    "I am sorry to say that the {} {} {}.",
    "This is to inform you that the {} {} {}.",
)
CLOSINGS = (
    "Please tell everyone in your group.",
    "Do not hesitate to call me with any questions.",
    "I hope that this suits you and your colleagues.",
)


def draw_subject_line(rng: np.random.Generator) -> tuple[str, str]:
    """The letter from salutation to signature, and a line such as "Budget dinner cancelled"."""
    topic, kind, day = pick(rng, TOPICS), pick(rng, KINDS), pick(rng, WEEKDAYS)
    news = pick(rng, tuple(NEWS))
    opening = pick(rng, OPENINGS).format(topic, kind, news.format(day=day))
    return (
        f"Dear {name(rng)},\n\n{opening} {pick(rng, CLOSINGS)}\n\nWith kind regards,\n{name(rng)}",
        f"{topic.capitalize()} {kind} {NEWS[news].format(day=day)}",
    )
