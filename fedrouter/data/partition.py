"""Which client holds which rows: the scenarios of a simulated federation."""

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import cycle, islice
from typing import Literal

import numpy as np

from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.seeding import generator

Scenario = Literal["single", "dual", "all", "dirichlet", "column"]
Shares = list[list[int]]


def partition(
    rows: Sequence[Row], scenario: Scenario, clients: int, seed: int, alpha: float = 0.3
) -> Shares:
    """Deal `rows` to clients: disjoint, and at least one row each. The rows of a conversation stay
    together and count as one.

    * ``single``: every client holds one task, ``dual``: two different ones. A task's rows are
      split evenly among its holders. Tasks that nobody holds, because there are fewer places than
      tasks, leave their rows unused. In ``dual`` clients hold the same two tasks only when there
      are no other pairs left.
    * ``all``: an even random split.
    * ``dirichlet``: each task's rows are split in proportions drawn from Dirichlet(`alpha`).
    * ``column``: rows of the same `Row.group` stay together; one group each where there are as
      many groups as clients, otherwise the largest group left goes to the client with the fewest
      rows.

    Args:
        rows: what to deal.
        scenario: one of the above.
        clients: number of clients.
        seed: decides every draw.
        alpha: above 0; the smaller, the fewer tasks a client holds. Read by ``dirichlet`` only.

    Returns:
        For each client the indices of its rows, in ascending order.

    Raises:
        DataError: the rows do not suffice for the scenario or the number of clients.
    """
    if clients < 1:
        raise DataError(f"federation.clients = {clients}; at least 1 is needed")
    units = _units(rows)
    if clients > len(units):
        what = "training rows" if len(units) == len(rows) else "conversations to train on"
        raise DataError(
            f"federation.clients = {clients} is more than the {len(units)} {what}; "
            "set fewer clients or give more rows"
        )
    rows = [rows[unit[0]] for unit in units]
    match scenario:
        case "single":
            parts = _by_task(rows, clients, 1, seed)
        case "dual":
            parts = _by_task(rows, clients, 2, seed)
        case "all":
            parts = _evenly(range(len(rows)), clients, generator(seed, "partition", "all"))
        case "dirichlet":
            parts = _dirichlet(rows, clients, seed, alpha)
        case "column":
            parts = _by_column(rows, clients)
    return [sorted(i for unit in part for i in units[unit]) for part in parts]


def _units(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of the rows that are dealt together: those of each conversation, or one."""
    units: dict[str | int, list[int]] = {}
    for i, row in enumerate(rows):
        units.setdefault(i if row.conversation is None else row.conversation, []).append(i)
    return list(units.values())


def _by_task(rows: Sequence[Row], clients: int, per_client: int, seed: int) -> Shares:
    """Deal tasks to clients and split each task's rows evenly among its holders."""
    members = _members([row.task for row in rows], "a task name", "data.columns")
    names = generator(seed, "partition", "tasks").permutation(sorted(members)).tolist()
    deck = _pairs(len(names)) if min(per_client, len(names)) == 2 else _singles(len(names))
    held = [[names[t] for t in hand] for hand in islice(deck, clients)]
    parts: Shares = [[] for _ in range(clients)]
    for name, indices in members.items():
        holders = [client for client in range(clients) if name in held[client]]
        if holders:
            shares = _evenly(indices, len(holders), generator(seed, "partition", "rows", name))
            for client, share in zip(holders, shares, strict=True):
                parts[client].extend(share)
    for client, part in enumerate(parts):
        if not part:
            raise DataError(
                f"too few rows of task {held[client][0]!r} for the {clients} clients in this "
                "scenario: one would get none; set fewer federation.clients or give more rows"
            )
    return parts


def _singles(tasks: int) -> Iterator[tuple[int, ...]]:
    """Every task in turn, for ever."""
    return ((t,) for t in cycle(range(tasks)))


def _pairs(tasks: int) -> Iterator[tuple[int, ...]]:
    """Every pair of tasks, for ever, in the rounds of a tournament (the circle method).

    In a round every task is in one pair, but for the one that sits out where their number is odd,
    which then is in the first pair of the next round. So the first `tasks` places hold every task
    once, each task is held about equally often, and a pair returns only when all have been dealt.
    """
    circle = tasks - 1 + tasks % 2
    schedule = []
    for middle in range(circle):
        if tasks % 2 == 0:
            schedule.append((circle, middle))
        for step in range(1, (circle + 1) // 2):
            schedule.append(((middle + step) % circle, (middle - step) % circle))
    return cycle(schedule)


def _dirichlet(rows: Sequence[Row], clients: int, seed: int, alpha: float) -> Shares:
    """Split each task's rows in random proportions; a client left without a row takes one."""
    members = _members([row.task for row in rows], "a task name", "data.columns")
    parts: Shares = [[] for _ in range(clients)]
    for name, indices in members.items():
        draws = generator(seed, "partition", "dirichlet", name)
        shares = draws.dirichlet(np.full(clients, alpha))
        cuts = np.rint(shares.cumsum()[:-1] * len(indices)).astype(np.int64)
        for part, share in zip(parts, np.split(draws.permutation(indices), cuts), strict=True):
            part.extend(share.tolist())
    largest = [(-len(part), client) for client, part in enumerate(parts)]
    heapify(largest)
    for part in parts:
        if not part:
            size, client = heappop(largest)
            part.append(parts[client].pop())
            heappush(largest, (size + 1, client))
    return parts


def _by_column(rows: Sequence[Row], clients: int) -> Shares:
    """Deal whole groups, the largest first, each to the client that has the fewest rows."""
    members = _members(
        [row.group for row in rows], "a value of its split column", "data.split_column"
    )
    if len(members) < clients:
        raise DataError(
            f"federation.clients = {clients} is more than the {len(members)} distinct values of "
            f"data.split_column; set {len(members)} clients or fewer, or another column"
        )
    hands: list[list[str]] = [[] for _ in range(clients)]
    fewest = [(0, client) for client in range(clients)]  # a heap of rows and clients
    for value in sorted(members, key=lambda value: -len(members[value])):
        size, client = fewest[0]
        hands[client].append(value)
        heapreplace(fewest, (size + len(members[value]), client))
    return [[i for value in hand for i in members[value]] for hand in sorted(hands, key=min)]


def _evenly(indices: Sequence[int], parts: int, draws: np.random.Generator) -> Shares:
    """A random split into parts whose sizes differ by one at most."""
    shuffled = draws.permutation(np.asarray(indices))
    return [part.tolist() for part in np.array_split(shuffled, parts)]


def _members(labels: Sequence[str | None], what: str, key: str) -> dict[str, list[int]]:
    """Label -> the indices of its rows, in order of the labels.

    Raises:
        DataError: a row has no label.
    """
    members: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        if label is None:
            raise DataError(
                f"this data.scenario needs {what} in every training row, and row {i + 1} has none; "
                f"set {key}, or data.scenario = 'all'"
            )
        members.setdefault(label, []).append(i)
    return dict(sorted(members.items()))
