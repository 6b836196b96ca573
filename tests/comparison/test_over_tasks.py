from collections.abc import Mapping
from typing import Any

import pytest

from fedrouter.comparison import markdown, tables
from fedrouter.comparison.grid import Cell
from fedrouter.comparison.over_tasks import over_tasks
from fedrouter.comparison.results import combine


def scores(value: float) -> dict[str, float]:
    return {
        **dict.fromkeys(("rouge1", "rouge2", "rougeL", "exact_match"), value),
        "loss": 2 * value,
    }


def summary(by_task: Mapping[str, float] | None, own: tuple[str, ...]) -> dict[str, Any]:
    """A run with ROUGE-1 of each task, of which clients have those in `own`."""
    tasks = None
    if by_task is not None:
        tasks = {
            task: {"local": scores(value) if task in own else None, "global": scores(value)}
            for task, value in by_task.items()
        }
    return {
        "rounds": 1,
        "metrics": {"local": scores(0.5), "global": scores(0.5), "by_task": tasks},
        "bytes": {"up": 1, "down": 1},
        "tokens": 1,
        "seconds": {"load": 1.0, "total": 2.0},
    }


def results(
    values: Mapping[tuple[str, int], Mapping[str, float] | None],
    own: tuple[str, ...] = ("a", "b", "c"),
) -> dict[str, Any]:
    """Results in `dual`: (strategy, seed) -> ROUGE-1 of each task; the loss is twice as much."""
    return combine(
        "", {Cell(name, "dual", seed): summary(v, own) for (name, seed), v in values.items()}, {}
    )


def test_one_seed_has_an_interval_over_tasks() -> None:
    # Differences 0.1, 0.2, 0.3: mean 0.2, sd 0.1; half = 4.302653 * 0.1 / sqrt(3) = 0.248414
    found = results(
        {
            ("fedrouter", 1): {"a": 0.1, "b": 0.2, "c": 0.3},
            ("fedavg", 1): {"a": 0.2, "b": 0.4, "c": 0.6},
        }
    )
    [table] = found["over_tasks"]
    [row] = table["strategies"]
    assert (table["scenario"], row["strategy"], row["seeds"]) == ("dual", "fedavg", 1)
    rouge = row["local"]["rouge1"]
    assert rouge["n"] == 3
    assert rouge["mean"] == pytest.approx(0.2)
    assert rouge["low"] == pytest.approx(0.2 - 0.248414, abs=1e-6)
    assert row["global"]["loss"]["high"] == pytest.approx(0.4 + 2 * 0.248414, abs=1e-6)


def test_a_task_counts_with_its_mean_over_the_seeds_that_both_have() -> None:
    found = results(
        {
            ("fedrouter", 1): {"a": 0.1, "b": 0.1},
            ("fedrouter", 2): {"a": 0.3, "b": 0.1},
            ("fedrouter", 3): {"a": 0.9, "b": 0.9},
            ("fedavg", 1): {"a": 0.2, "b": 0.2},
            ("fedavg", 2): {"a": 0.4, "b": 0.4},
        }
    )
    [row] = found["over_tasks"][0]["strategies"]
    assert row["seeds"] == 2
    assert row["global"]["rouge1"]["mean"] == pytest.approx((0.1 + 0.2) / 2)
    assert row["global"]["rouge1"]["n"] == 2


def test_tasks_that_were_not_evaluated_are_left_out() -> None:
    found = results(
        {
            ("fedrouter", 1): {"a": 0.1, "b": 0.2, "c": 0.3},
            ("fedavg", 1): {"a": 0.2, "b": 0.4, "d": 0.5},
        },
        own=("a",),
    )
    [row] = found["over_tasks"][0]["strategies"]
    assert (row["local"]["rouge1"]["n"], row["global"]["rouge1"]["n"]) == (1, 2)
    assert row["local"]["rouge1"]["low"] is None


def test_without_fedrouter_or_tasks_there_is_no_table() -> None:
    assert results({("fedavg", 1): {"a": 0.1}})["over_tasks"] == []
    assert results({("fedrouter", 1): None, ("fedavg", 1): None})["over_tasks"] == []
    assert results({("fedrouter", 1): {"a": 0.1}, ("fedavg", 2): {"a": 0.1}})["over_tasks"] == []
    assert over_tasks([]) == []


def test_the_table_lists_references_apart() -> None:
    found = results(
        {
            (name, 1): {"a": value, "b": value}
            for name, value in (("fedrouter", 0.3), ("fedavg", 0.2), ("oracle", 0.4))
        }
    )
    [table] = [one for one in tables(found) if "over tasks" in one.title]
    assert table.title == "dual: differences to FedRouter over tasks"
    gap, loss = "-0.100 [-0.100, -0.100]", "-0.200 [-0.200, -0.200]"
    assert table.rows == (("fedavg", gap, loss, gap, loss, "2", "1"),)
    assert [row[0] for row in table.below] == ["oracle"]
    assert table.title in markdown(found)


def test_results_of_an_older_version_have_no_table() -> None:
    found = results({("fedrouter", 1): {"a": 0.1}, ("fedavg", 1): {"a": 0.1}})
    del found["over_tasks"]
    assert not any("over tasks" in one.title for one in tables(found))
