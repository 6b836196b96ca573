from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.clients import ROWS, client_of, profiled, train
from support.toys import toy_rows

from fedrouter.client.client import Client
from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import ClientRequest, TrainOrder
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    ClusterPrompts,
    DetectNewTasks,
    GroupByLabel,
    ReassignByLoss,
)
from fedrouter.routing.types import TaskGeometry
from fedrouter.types import AdapterWeights


def test_the_profile_is_the_means_of_the_true_tasks(client: Client, tiny_base: BaseModel) -> None:
    profile = profiled(client, ClusterPrompts())  # counts the task names: 2
    assert profile.client == 3
    assert profile.counts == (6, 6)
    for number, task in enumerate(("colour", "strip")):
        points = tiny_base.embed([row.instruction for row in ROWS if row.task == task])
        np.testing.assert_allclose(profile.centroids[number], points.mean(axis=0), atol=1e-5)
        spread = np.square(points - points.mean(axis=0)).sum(axis=1).mean()
        assert profile.second_moments[number] == pytest.approx(spread, rel=1e-4)
    assert client.store.labels().tolist() == [0, 1] * 6


def test_rows_without_names_make_two_local_tasks(tiny_base: BaseModel, tmp_path: Path) -> None:
    rows = [Row(row.instruction, row.response) for row in ROWS]
    assert len(profiled(client_of(tiny_base, tmp_path, rows), ClusterPrompts()).counts) == 2
    three = client_of(tiny_base, tmp_path, rows, 0, "clustering.n_local=3")
    assert len(profiled(three, ClusterPrompts()).counts) == 3
    with pytest.raises(DataError, match="do not name their task"):
        profiled(three, GroupByLabel())


def test_the_oracles_profile_groups_by_name(client: Client) -> None:
    profile = profiled(client, GroupByLabel())
    assert profile.names == ("colour", "strip")
    assert profile.counts == (6, 6)
    assert client.store.labels().tolist() == [0, 1] * 6


def found_client(tiny_base: BaseModel, folder: Path) -> Client:
    """A client that finds its number of tasks, with 24 rows of each of the two tasks."""
    rows = [row for row in toy_rows(24) if row.task in {"colour", "strip"}]
    return client_of(tiny_base, folder, rows, 3, "clustering.n_local=auto")


def test_a_late_client_names_the_task_that_it_knows_and_the_one_that_is_new(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    client = found_client(tiny_base, tmp_path)
    points = tiny_base.embed([row.instruction for row in client.data.train])
    names = np.array([row.task for row in client.data.train])
    colour, strip = (points[names == name].mean(axis=0) for name in ("colour", "strip"))
    mean = float(np.square(points[names == "colour"] - colour).sum(axis=1).mean())
    geometry = TaskGeometry(
        ("task-00", "task-01"), np.stack([colour + 100, colour]), mean, mean / 2, 1.0
    )
    profile = profiled(client, DetectNewTasks(geometry))
    assert set(profile.tasks) == {1, -1}
    known = profile.counts[profile.tasks.index(1)]
    assert 20 <= known <= 24
    assert sum(profile.counts) == 48
    assert client.store.labels().max() == len(profile.tasks) - 1
    both = replace(geometry, centroids=np.stack([strip, colour]), mean=10 * mean)
    assert profiled(client, DetectNewTasks(both)).tasks == (0, 1)


@pytest.mark.parametrize(("steps", "goes"), [(0, 0), (25, 1)])
def test_a_sample_leaves_its_nearest_task_for_an_adapter_that_serves_it_clearly_better(
    tiny_base: BaseModel, tmp_path: Path, adapter: AdapterWeights, steps: int, goes: int
) -> None:
    client = found_client(tiny_base, tmp_path)
    points = tiny_base.embed([row.instruction for row in client.data.train])
    middle = points.mean(axis=0)
    profiled(client, ClusterPrompts())
    on = client.store.labels() == 0

    def trained(steps: int) -> AdapterWeights:
        order = TrainOrder(("a",), steps=steps, local_task=0)
        return train(client, tiny_base, 1, order, a=adapter)[0].weights if steps else adapter

    task = ClientRequest(
        3,
        1,
        ReassignByLoss(
            TaskGeometry(("a", "b", "c"), np.stack([middle + 9, middle, middle]), 1.0, 1.0, 1.0),
            adapters=("a", "b"),
        ),
        adapters={"a": trained(30), "b": trained(steps)},
    )
    before = client.store.labels()
    profile = client.prepare(task).reply.profile
    assert profile is not None
    assert set(profile.tasks) <= {0, 1}  # the adapter of "c" was not offered
    assert profile.counts[profile.tasks.index(goes)] > 0.9 * on.sum()
    np.testing.assert_array_equal(client.store.labels(), before)


@pytest.mark.parametrize(("rows", "groups"), [(12, 3), (64, 4), (200, 8)])
def test_local_tasks_to_begin_with_where_their_number_is_to_be_found(
    tiny_base: BaseModel, tmp_path: Path, rows: int, groups: int
) -> None:
    held = toy_rows(rows)[:rows]
    client = client_of(tiny_base, tmp_path, held, 3, "clustering.n_local=auto")
    assert len(profiled(client, ClusterPrompts()).counts) == groups


@pytest.mark.parametrize(("least", "held"), [(1, (0, 1)), (4, (0,)), (99, (0,))])
def test_a_client_holds_the_tasks_of_which_it_has_enough_samples(
    tiny_base: BaseModel, tmp_path: Path, least: int, held: tuple[int, ...]
) -> None:
    rows = [row for row in toy_rows(24) if row.task == "colour"]
    rows += [row for row in toy_rows(3) if row.task == "strip"]  # not an eighth of 27
    client = client_of(tiny_base, tmp_path, rows, 3, "clustering.n_local=auto")
    points = tiny_base.embed([row.instruction for row in rows])
    centroids = np.stack([points[:24].mean(axis=0), points[24:].mean(axis=0)])
    geometry = TaskGeometry(("a", "b"), centroids, 1.0, 1.0, 1.0)
    profile = profiled(client, AssignToNearest(geometry, least))
    assert profile.tasks == held
    assert sum(profile.counts) == 27


def test_samples_go_to_the_nearest_of_the_most_frequent_tasks(
    client: Client, tiny_base: BaseModel
) -> None:
    points = tiny_base.embed([row.instruction for row in ROWS])
    colour, strip = (points[k::2].mean(axis=0) for k in (0, 1))
    # Task 2 is nearest to a single sample; the client holds two tasks, so that it gives it up.
    centroids = np.stack([strip, np.zeros_like(strip) + 1e3, points[0], colour])
    geometry = TaskGeometry(tuple("abcd"), centroids, 1.0, 1.0, 1.0)
    profile = profiled(client, AssignToNearest(geometry, scatter=True))
    assert profile.tasks == (0, 3)
    assert profile.counts == (6, 6)
    assert client.store.labels().tolist() == [1, 0] * 6
    np.testing.assert_allclose(profile.centroids, [strip, colour], atol=1e-5)
    assert profile.scatter is not None
    diagonal = np.triu_indices(points.shape[1])
    spread = profile.scatter.products[diagonal[0] == diagonal[1]].sum() / len(ROWS)
    assert spread == pytest.approx(np.mean(profile.second_moments), rel=1e-4)


def uneven(tiny_base: BaseModel, folder: Path, least: int) -> Client:
    """A client with 12 samples of one task and 3 of another."""
    rows = [row for row in toy_rows(12) if row.task == "colour"]
    rows += [row for row in toy_rows(3) if row.task == "strip"]
    sets = "clustering.n_local=2", f"privacy.min_samples={least}"
    return client_of(tiny_base, folder, rows, 3, *sets)


@pytest.mark.parametrize(("least", "counts"), [(1, (3, 12)), (3, (3, 12)), (4, (15,)), (15, (15,))])
def test_a_local_task_of_few_samples_is_never_described(
    tiny_base: BaseModel, tmp_path: Path, least: int, counts: tuple[int, ...]
) -> None:
    client = uneven(tiny_base, tmp_path, least)
    points = tiny_base.embed([row.instruction for row in client.data.train])
    centroids = np.stack([points[:12].mean(axis=0), points[12:].mean(axis=0)])
    geometry = TaskGeometry(("a", "b"), centroids, 1.0, 1.0, 1.0)
    orders = (
        ClusterPrompts(),
        GroupByLabel(),
        AssignToNearest(geometry),
        AssignToStarts((centroids,)),
    )
    for order in orders:
        profile = profiled(client, order)
        assert tuple(sorted(profile.counts)) == counts, order
        if len(counts) == 1:
            np.testing.assert_allclose(profile.centroids[0], points.mean(axis=0), atol=1e-5)
    assert client.store.labels().max() == len(counts) - 1


def test_a_client_with_fewer_samples_describes_nothing(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"has 15 training rows, and privacy.min_samples = 16"):
        profiled(uneven(tiny_base, tmp_path, 16), ClusterPrompts())
