"""Unlabelled text of the built-in tasks' domains, for pretraining the base model.

The documents have the topics of the tasks (tickets, chats, letters, products, dates), so that the
base model learns their vocabulary and forms, and to copy from the context. They contain no
instructions. No person, brand or day of the tasks occurs in them, so they contain no test sample.
"""

from collections.abc import Callable
from datetime import date

import numpy as np

from fedrouter.data.builtin.subject_line import KINDS, TOPICS
from fedrouter.data.builtin.troubles import TEAMS, TROUBLES
from fedrouter.data.builtin.urgency import SIGNS
from fedrouter.data.builtin.words import (
    COLOURS,
    FIRST_DAY,
    ITEMS,
    LAST_DAY,
    MATERIALS,
    WEEKDAYS,
    belongs_to_tasks,
    pick,
    split_words,
    written_day,
)
from fedrouter.seeding import generator

FIRST_NAMES = split_words(
    "Alan Beth Carol Daniel Emma Frank Grace Henry Isabel Jack Kate Linda Mary Nick Olivia Peter "
    "Ruth Sarah Thomas Vera Walter Zoe"
)
LAST_NAMES = split_words(
    "Adams Baker Clark Davis Evans Fisher Green Hill Jones King Lewis Moore Nelson Parker Roberts "
    "Smith Taylor Walker Wilson Wright"
)
BRANDS = split_words(
    "Aspen Brill Corda Dania Esker Fenn Grano Holm Ilva Juno Kestrel Lindo Marn Nesta Optima "
    "Pavo Rilla Stena Tindra Ulme Vesta Zento"
)
PLACES = ["the park", "the museum", "the library", "the harbour", "the school", "the garden"]
THINGS = ["apples", "two chairs", "a cake", "some paper", "a green umbrella", "four candles"]


def domain_documents(count: int, seed: int) -> list[str]:
    """Generate `count` documents, deterministically, with equal numbers of each kind."""
    rng = generator(seed, "domain_text")
    return [KINDS_OF_TEXT[i % len(KINDS_OF_TEXT)](rng) for i in range(count)]


def free_day(rng: np.random.Generator) -> date:
    """A day that does not belong to the tasks."""
    while True:
        day = date.fromordinal(int(rng.integers(FIRST_DAY, LAST_DAY + 1)))
        if not belongs_to_tasks(day):
            return day


def _person(rng: np.random.Generator) -> str:
    return f"{pick(rng, FIRST_NAMES)} {pick(rng, LAST_NAMES)}"


def _clock(rng: np.random.Generator, hours: range = range(6, 24)) -> str:
    return f"{pick(rng, hours):02}:{int(rng.integers(60)):02}"


def _part(clock: str) -> str:
    hour = int(clock[:2])
    return "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"


def _mail(rng: np.random.Generator) -> str:
    """A mailbox of several messages."""
    mails = []
    for _ in range(int(rng.integers(1, 4))):
        person = _person(rng)
        trouble = pick(rng, TROUBLES[pick(rng, TEAMS)])
        address = person.lower().replace(" ", ".") + "@example.com"
        mails.append(
            f"From: {person} <{address}>\nSubject: {trouble.capitalize()}\n\n"
            f"Hi, {trouble}. Best wishes, {person}"
        )
    return "\n\n".join(mails)


def _desk(rng: np.random.Generator) -> str:
    """What a team of the help desk deals with."""
    team = pick(rng, TEAMS)
    troubles = [TROUBLES[team][i] for i in rng.permutation(len(TROUBLES[team]))[:3]]
    return pick(
        rng,
        (
            "{person} works in {team}. People call to say that {0}, that {1} or that {2}.",
            "Notes of the {team} team: {0}; {1}; {2}. Signed by {person}.",
            "If {0} or {1}, ask {team}, says {person}.",
            "{person} of {team} heard today that {0}.",
        ),
    ).format(*troubles, person=_person(rng), team=team)


def _chat(rng: np.random.Generator) -> str:
    """A few lines of chat."""
    lines = []
    for _ in range(int(rng.integers(2, 5))):
        trouble = pick(rng, TROUBLES[pick(rng, TEAMS)]).lower()
        sign = pick(rng, SIGNS[pick(rng, tuple(SIGNS))])
        text = pick(rng, (trouble, sign, f"thanks, {trouble}", f"sorry, {sign}"))
        lines.append(f"[{_clock(rng)}] @{pick(rng, FIRST_NAMES).lower()} >> #room >> {text}")
    return "\n".join(lines)


def _rota(rng: np.random.Generator) -> str:
    """How hurried people sound."""
    level = pick(rng, tuple(SIGNS))
    first, second = (SIGNS[level][i] for i in rng.permutation(len(SIGNS[level]))[:2])
    return f"{_person(rng)} marked it {level}: {first}, {second}."


def _letter(rng: np.random.Generator) -> str:
    """A letter about a meeting and the note that somebody made of it."""
    topic, kind, day = pick(rng, TOPICS), pick(rng, KINDS), pick(rng, WEEKDAYS)
    said, noted = pick(
        rng,
        (
            (f"is moved to {day}", f"moved to {day}"),
            (f"is cancelled on {day}", "cancelled"),
            (f"was cancelled, {day} is free", "cancelled"),
            (f"was postponed and moved to {day}", f"moved to {day}"),
        ),
    )
    reader = _person(rng)
    return (
        f"Dear {reader},\n\nThe {topic} {kind} {said}. Please be on time.\n\n"
        f"With kind regards,\n{_person(rng)}\n\n"
        f"{reader} noted in the diary: {topic} {kind} {noted}."
    )


def _typed(rng: np.random.Generator) -> str:
    """A story, as it was typed in a hurry and as it was printed."""
    text = (
        f"{pick(rng, ('On', 'Last'))} {pick(rng, WEEKDAYS)} {pick(rng, FIRST_NAMES)} and "
        f"{pick(rng, FIRST_NAMES)} {pick(rng, ('saw', 'took', 'found', 'sold', 'brought'))} "
        f"{pick(rng, THINGS)} {pick(rng, ('at', 'near', 'behind'))} {pick(rng, PLACES)}. "
        f"{pick(rng, ('The sun was out', 'It was very cold', 'They laughed a lot'))}."
    )
    hurried = text.lower().replace(".", "")
    return pick(rng, (f"{hurried}\nPrinted as: {text}", f"{text}\ntyped as {hurried}", hurried))


def _catalogue(rng: np.random.Generator) -> str:
    """A shop's catalogue: some records, and words about one of them."""
    brand, item, material = pick(rng, BRANDS), pick(rng, ITEMS), pick(rng, MATERIALS)
    euros = 5 * int(rng.integers(2, 40))
    fields = [
        f"brand: {brand}",
        f"item: {item}",
        f"material: {material}",
        f"price: {euros} euros",
        f"colour: {pick(rng, COLOURS)}",
    ]
    record = "{" + "; ".join(fields[i] for i in rng.permutation(5)) + "}"
    words = pick(
        rng,
        (
            f"We sell this {item} by {brand}: it is {material}, for {euros} euros.",
            f"This {brand} {item} costs {euros} euros.",
            f"Our {item} from {brand} is made of {material}.",
            "",
        ),
    )
    return f"{record} {words}".strip()


def _search(rng: np.random.Generator) -> str:
    """What a shop's search wrote to its log."""
    brand, item, euros = pick(rng, BRANDS), pick(rng, ITEMS), 5 * int(rng.integers(2, 40))
    sign, words = pick(rng, (("<", "less than"), (">", "more than")))
    return pick(
        rng,
        (
            f"log: price{sign}{euros} item={item} brand={brand} hits={int(rng.integers(9))}",
            f"{pick(rng, FIRST_NAMES)} wants a {item} by {brand}, {words} {euros} euros. "
            f"log: price{sign}{euros} item={item} brand={brand}",
            f"A {brand} {item} of {words} {euros} euros: price{sign}{euros}.",
        ),
    )


def _chronicle(rng: np.random.Generator) -> str:
    """A chronicle that writes its days in two ways."""
    lines = []
    for _ in range(int(rng.integers(1, 4))):
        day = free_day(rng)
        event = pick(rng, ("moved house", "signed a paper", "wrote a letter", "sold the boat"))
        written = written_day(rng, day)
        lines.append(
            pick(
                rng,
                (
                    f"{day.isoformat()}: {_person(rng)} {event} on {written}.",
                    f"{_person(rng)} {event} on {written} (entered as {day.isoformat()}).",
                ),
            )
        )
    return "\n".join(lines)


def _diary(rng: np.random.Generator) -> str:
    """A diary with times of day."""
    clock = _clock(rng)
    return pick(
        rng,
        (
            f"* {written_day(rng, free_day(rng))} | {clock} | {pick(rng, LAST_NAMES)} |",
            f"At {clock}, in the {_part(clock)}, {_person(rng)} came.",
            f"{_person(rng)} called in the {_part(clock)}, at {clock}.",
            f"{clock} is in the {_part(clock)}.",
        ),
    )


def _echo(rng: np.random.Generator) -> str:
    """A list of words that is read aloud and said again."""
    pools = (FIRST_NAMES, LAST_NAMES, BRANDS, ITEMS, MATERIALS, COLOURS, THINGS, PLACES)
    words = [pick(rng, pick(rng, pools)) for _ in range(int(rng.integers(3, 8)))]
    words.append(str(int(rng.integers(10, 10_000))))
    said = ", ".join(words[i] for i in rng.permutation(len(words)))
    return f"{pick(rng, FIRST_NAMES)} said: {said}. {pick(rng, FIRST_NAMES)} repeated: {said}."


KINDS_OF_TEXT: tuple[Callable[[np.random.Generator], str], ...] = (
    _mail,
    _desk,
    _chat,
    _rota,
    _letter,
    _typed,
    _catalogue,
    _search,
    _chronicle,
    _diary,
    _echo,
)
