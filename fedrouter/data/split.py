"""The only split of a run's rows into training and test rows."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.seeding import generator


def split_rows(
    rows: Sequence[Row], fraction: float, seed: int, *, test_file: bool = True
) -> tuple[list[Row], list[Row]]:
    """Training and test rows, both in the order of `rows`.

    Of each task's n rows at most round(fraction n) are split off for testing, and never all n.
    Rows with the same instruction stay on one side, and so do the rows of a conversation, so that
    a task may get a few test rows less.

    Args:
        rows: all rows; those without a task count as one task.
        fraction: share of test rows, between 0 and 1.
        seed: the run's seed.
        test_file: whether the user can name a test file instead, for the error's advice.

    Raises:
        DataError: no row is left to test on.
    """
    groups = kept_together(rows)
    sizes = Counter(row.task for row in rows)
    room = {task: min(round(fraction * n), n - 1) for task, n in sizes.items()}
    chosen: set[int] = set()
    for i in generator(seed, "split").permutation(len(groups)).tolist():
        if not any(room.values()):
            break
        tasks = _sizes(rows, groups[i])
        if all(n <= room[task] for task, n in tasks.items()):
            chosen.update(groups[i])
            for task, n in tasks.items():
                room[task] -= n
    if not chosen:
        raise _none_to_test_on(rows, groups, fraction, test_file)
    train = [row for i, row in enumerate(rows) if i not in chosen]
    return train, [row for i, row in enumerate(rows) if i in chosen]


def kept_together(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows that share an instruction or a conversation, directly or through others.

    Groups are in the order of their first rows, and so are the rows of a group.
    """
    root = list(range(len(rows)))  # of a union-find structure

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    def join(i: int, j: int) -> None:
        if i != j:
            one, other = find(i), find(j)
            root[max(one, other)] = min(one, other)

    instructions: dict[str, int] = {}
    conversations: dict[str, int] = {}
    for i, row in enumerate(rows):
        join(instructions.setdefault(row.instruction, i), i)
        if row.conversation is not None:
            join(conversations.setdefault(row.conversation, i), i)
    groups: dict[int, list[int]] = {}
    for i in range(len(rows)):
        groups.setdefault(find(i), []).append(i)
    return list(groups.values())


def _sizes(rows: Sequence[Row], group: Sequence[int]) -> Mapping[str | None, int]:
    """The number of each task's rows in a group."""
    if len(group) == 1:  # nearly always; a Counter takes ten times as long
        return {rows[group[0]].task: 1}
    return Counter(rows[i].task for i in group)


def _none_to_test_on(
    rows: Sequence[Row], groups: Iterable[Sequence[int]], fraction: float, test_file: bool
) -> DataError:
    """What to say where no group of rows fits into the test set."""
    sizes = Counter(row.task for row in rows)
    needed = []
    for group in groups:
        tasks = _sizes(rows, group)
        if all(n < sizes[task] for task, n in tasks.items()):
            needed.append(max(n / sizes[task] for task, n in tasks.items()))
    or_file = ", or name a data.test file" if test_file else ""
    if needed:
        return DataError(
            f"data.test_fraction = {fraction} of {len(rows)} rows leaves none to test on; "
            f"set it to {_rounded_up(min(needed))} or more, or give more rows{or_file}"
        )
    if len(rows) < 2:
        return DataError(f"1 row cannot be split for testing; give more rows{or_file}")
    what = f"all {len(rows)} rows" if len(sizes) == 1 else "all rows of each task"
    chat = any(row.conversation is not None for row in rows)
    belong = "belong to conversations that share a prompt" if chat else "have the same instruction"
    return DataError(
        f"no row can be split off for testing: {what} {belong}, and such rows stay on one side of "
        f"the split; add rows with other instructions{or_file}"
    )


def _rounded_up(share: float) -> float:
    """The share with two digits behind the point, or as many as keep it below 1."""
    digits = 2
    rounded = 1.0
    while rounded >= 1:
        rounded = math.ceil(share * 10**digits) / float(10**digits)
        digits += 1
    return rounded
