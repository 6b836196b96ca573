"""Eight tasks of an assistant's day, made up on the spot: the data to start with.

Every task is a function that draws one (instruction, response) pair. Instructions are bare inputs,
without a question and without the task's name: what to do shows only in their form. Two pairs of
tasks see the same content in two forms and must answer differently, so that one model for all
of them interferes with itself: `triage` and `urgency` (the same troubles), `dates` and `daypart`
(the same days).
"""

from collections.abc import Callable

import numpy as np

from fedrouter.data.builtin.dates import draw_date
from fedrouter.data.builtin.daypart import draw_daypart
from fedrouter.data.builtin.facts import draw_facts
from fedrouter.data.builtin.punctuation import draw_punctuation
from fedrouter.data.builtin.query import draw_query
from fedrouter.data.builtin.subject_line import draw_subject_line
from fedrouter.data.builtin.triage import draw_triage
from fedrouter.data.builtin.urgency import draw_urgency
from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.seeding import generator

Draw = Callable[[np.random.Generator], tuple[str, str]]

TASKS: dict[str, Draw] = {
    "triage": draw_triage,
    "urgency": draw_urgency,
    "subject_line": draw_subject_line,
    "punctuation": draw_punctuation,
    "facts": draw_facts,
    "query": draw_query,
    "dates": draw_date,
    "daypart": draw_daypart,
}
TASK_NAMES: tuple[str, ...] = tuple(TASKS)
DRAWS_PER_ROW = 20  # draws before a task is said to have too few distinct instructions


def builtin_rows(
    per_task_train: int = 400, per_task_test: int = 100, seed: int = 0
) -> tuple[list[Row], list[Row]]:
    """Training and test rows of all tasks, the same for the same arguments on any machine.

    No instruction occurs twice, neither within nor across the two lists.

    Args:
        per_task_train: training rows of each task.
        per_task_test: test rows of each task.
        seed: decides the rows.

    Returns:
        The training rows and the test rows, each task by task in the order of `TASK_NAMES`.

    Raises:
        DataError: a task does not have that many distinct instructions.
    """
    train: list[Row] = []
    test: list[Row] = []
    for task in TASK_NAMES:
        rows = _distinct_rows(task, per_task_train + per_task_test, seed)
        train += rows[:per_task_train]
        test += rows[per_task_train:]
    return train, test


def _distinct_rows(task: str, count: int, seed: int) -> list[Row]:
    rng = generator(seed, "builtin_tasks", task)
    rows: dict[str, Row] = {}
    for _ in range(count * DRAWS_PER_ROW):
        if len(rows) == count:
            break
        instruction, response = TASKS[task](rng)
        rows.setdefault(instruction, Row(instruction, response, task))
    if len(rows) < count:
        raise DataError(
            f"the built-in task {task} has no {count} distinct rows; "
            "ask for fewer in data.builtin_train and data.builtin_test"
        )
    return list(rows.values())
