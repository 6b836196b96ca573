"""Words that several tasks draw from.

People, brands, and the days of `draw_day` belong to the tasks alone: the text that the built-in
base model is trained on uses none of them, so that it cannot have seen an instance of a task.
"""

from collections.abc import Sequence
from datetime import date
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def split_words(text: str) -> tuple[str, ...]:
    """The words of a text, so that a list of words can be written as one."""
    return tuple(text.split())


FIRST_NAMES = split_words(
    "Anna Bruno Carla David Elena Felix Greta Hugo Irene Jonas Karen Laura Martin Nadia Oscar "
    "Paula Quentin Rachel Simon Teresa Ursula Victor Wanda Yannick"
)
LAST_NAMES = split_words(
    "Abbott Barnes Cooper Dixon Elliott Foster Gibson Harvey Ingram Jenkins Keller Lawson "
    "Mercer Norton Osborne Palmer Quinn Reeves Sawyer Turner Vaughn Webster Yates Ziegler"
)
BRANDS = split_words(
    "Alto Borel Cando Delmar Elmo Fonda Gala Hanko Indra Jolie Kanto Lenora Mondo Nova "
    "Orbita Palma Rondo Sola Tavo Verano"
)
ITEMS = split_words(
    "lamp chair table desk sofa shelf mirror carpet clock kettle toaster radio camera bicycle "
    "jacket backpack wallet tent blanket vase"
)
MATERIALS = split_words("oak pine steel glass leather cotton wool plastic bamboo copper")
COLOURS = split_words("red blue green black white yellow grey brown orange purple")
MONTHS = split_words(
    "January February March April May June July August September October November December"
)
WEEKDAYS = split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
FIRST_DAY = date(2000, 1, 1).toordinal()
LAST_DAY = date(2029, 12, 31).toordinal()


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of `items`."""
    return items[int(rng.integers(len(items)))]


def name(rng: np.random.Generator) -> str:
    """A person's first and last name."""
    return f"{pick(rng, FIRST_NAMES)} {pick(rng, LAST_NAMES)}"


def price(rng: np.random.Generator) -> int:
    """A price in euros: 10 to 195 in steps of 5."""
    return 5 * int(rng.integers(2, 40))


def draw_day(rng: np.random.Generator) -> date:
    """A day from 2000 to 2029 that belongs to the tasks."""
    while True:
        day = date.fromordinal(int(rng.integers(FIRST_DAY, LAST_DAY + 1)))
        if belongs_to_tasks(day):
            return day


def belongs_to_tasks(day: date) -> bool:
    """Whether tasks use this day; the base model's text has only the others, every third one."""
    return day.toordinal() % 3 != 0


def written_day(rng: np.random.Generator, day: date) -> str:
    """The day in words, in one of three styles: "the 3rd of March 2021"."""
    month = MONTHS[day.month - 1]
    styles = (
        f"{month} {day.day}, {day.year}",
        f"{day.day} {month} {day.year}",
        f"the {ordinal(day.day)} of {month} {day.year}",
    )
    return pick(rng, styles)


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th ... 11th, 12th, 13th ... 21st ...; for numbers below 100."""
    ending = "th" if 10 < number < 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
