"""The client's part of step 0: local tasks of samples, one function for each kind of order."""

from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from fedrouter.client.context import RequestContext
from fedrouter.errors import DataError, MessageError
from fedrouter.protocol.profile_orders import (
    AssignToNearest,
    AssignToStarts,
    ClusterPrompts,
    DescribeEmbeddings,
    DetectNewTasks,
    GroupByLabel,
    ProfileOrder,
    ReassignByLoss,
    asks_scatter,
    settles_local_tasks,
)
from fedrouter.routing.clustering import Clusters, cluster, group, squared_distances, without_small
from fedrouter.routing.search import SEARCH
from fedrouter.routing.types import Scatter, TaskProfile
from fedrouter.routing.whitening import projection, scatter
from fedrouter.seeding import derive_seed
from fedrouter.types import FloatArray


@dataclass(frozen=True, eq=False)
class Grouping:
    """Samples in local tasks.

    Attributes:
        points: the samples' embeddings, float32, shape (n, d).
        clusters: their local tasks.
        tasks: the global task of each local task, -1 for a new one; empty if the order has none.
        names: the true task of each local task; empty unless the order groups by label.
    """

    points: FloatArray
    clusters: Clusters
    tasks: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


def profile(order: ProfileOrder, context: RequestContext) -> TaskProfile:
    """Group the samples as the order says, store their labels, and describe the local tasks.

    Raises:
        DataError: the order groups by label, and some rows name no task; or there are too few rows
            for any description of them to leave the client.
    """
    _check_number(context)
    grouping = group_samples(order, context)
    if settles_local_tasks(order):
        context.write_labels(grouping.clusters.labels, _first_round(order, context.request.round))
    clusters = grouping.clusters
    return TaskProfile(
        client=context.request.client,
        centroids=clusters.centroids,
        counts=tuple(clusters.counts.tolist()),
        second_moments=tuple(clusters.second_moments.tolist()),
        fourth_moments=tuple(clusters.fourth_moments.tolist()),
        names=grouping.names,
        tasks=grouping.tasks,
        variances=_variances(order, grouping),
        scatter=_scatter(order, grouping, context),
    )


def _check_number(context: RequestContext) -> None:
    number, least = len(context.data.train), context.min_samples
    if number < least and not context.config.privacy.secure_aggregation:
        raise DataError(
            f"client {context.request.client} has {number} training rows, and privacy.min_samples "
            f"= {least} or more are needed to describe them; add rows"
        )


def _first_round(order: ProfileOrder, round: int) -> int:
    """The first round in which the local tasks of an order hold.

    Samples that are assigned anew after a round belong to their new local tasks from the next one
    on: an exchange after the same round that is repeated, because the server was killed, is about
    the local tasks that it was about the first time.
    """
    return round + isinstance(order, AssignToNearest)


@singledispatch
def group_samples(order: ProfileOrder, context: RequestContext) -> Grouping:
    """Group the client's training samples into local tasks as the order says."""
    raise MessageError(f"unknown profile order {type(order).__name__}")


@group_samples.register
def describe_embeddings(order: DescribeEmbeddings, context: RequestContext) -> Grouping:
    """All samples in one local task."""
    points = context.embed(context.data.train)
    return Grouping(points, group(points, np.zeros(len(points), np.int64)))


@group_samples.register
def cluster_prompts(order: ClusterPrompts, context: RequestContext) -> Grouping:
    """Cluster the embeddings by K-means into n_local local tasks or, if n_local is "auto", into one
    for every 16 samples, at least 3 and at most 8."""
    points = context.embed(context.data.train, order.standardization)
    return Grouping(points, _kmeans(points, context))


@group_samples.register
def assign_to_starts(order: AssignToStarts, context: RequestContext) -> Grouping:
    """The nearest centroid of every start for each sample."""
    points = context.embed(context.data.train, order.standardization)
    nearest, first = [], 0
    for centroids in order.starts:
        distances = squared_distances(points, centroids)
        nearest.append(first + _lowest(distances, context.min_samples))
        first += len(centroids)
    tasks, labels = np.unique(np.concatenate(nearest), return_inverse=True)
    repeated = np.tile(points, (len(order.starts), 1))
    squared = np.square(repeated - np.concatenate(order.starts)[tasks[labels]]).sum(axis=1)
    clusters = group(repeated, labels, squared.astype(np.float64))
    return Grouping(repeated, clusters, tuple(tasks.tolist()))


@group_samples.register
def group_by_label(order: GroupByLabel, context: RequestContext) -> Grouping:
    """One local task for each true task that the rows name, in order of first appearance."""
    if not context.report_task_names:
        raise DataError("this node does not report names of tasks, as strategy 'oracle' needs")
    labels = [row.task for row in context.data.train]
    if None in labels:
        raise DataError(
            f"the rows of client {context.request.client} do not name their task, as strategy "
            "'oracle' needs; set data.columns.task, or choose another strategy"
        )
    names = [str(label) for label in dict.fromkeys(labels)]
    points = context.embed(context.data.train)
    named = np.array([names.index(str(label)) for label in labels])
    kept, dense = np.unique(without_small(points, named, context.min_samples), return_inverse=True)
    return Grouping(points, group(points, dense), names=tuple(names[j] for j in kept))


@group_samples.register
def assign_to_nearest(order: AssignToNearest, context: RequestContext) -> Grouping:
    """The nearest global task for each sample, among those that the client keeps."""
    geometry = order.geometry
    points = context.embed(context.data.train, geometry.standardization)
    distances = squared_distances(points, geometry.centroids, geometry.space)
    counts = np.bincount(distances.argmin(axis=1), minlength=len(geometry.tasks))
    own = kept_tasks(counts, order.min_samples, None if context.finds_n_local else context.n_local)
    nearest = own[_lowest(distances[:, own], context.min_samples)]
    tasks, labels = np.unique(nearest, return_inverse=True)
    squared = distances[np.arange(len(points)), nearest]
    return Grouping(points, group(points, labels, squared), tuple(tasks.tolist()))


@group_samples.register
def detect_new_tasks(order: DetectNewTasks, context: RequestContext) -> Grouping:
    """Cluster the samples; a cluster far from every global task becomes a new task, returned as -1.

    A cluster of at least 8 samples is far if its mean squared distance to the nearest task exceeds
    the in-distribution mean by one standard deviation of single samples (nearly three standard
    deviations of a mean of 8).
    """
    geometry = order.geometry
    points = context.embed(context.data.train, geometry.standardization)
    clusters = _kmeans(points, context)
    distances = squared_distances(points, geometry.centroids, geometry.space)
    means = np.stack(
        [distances[clusters.labels == j].mean(axis=0) for j in range(len(clusters.counts))]
    )
    nearest = means.argmin(axis=1)
    far = means.min(axis=1) > geometry.mean + geometry.deviation
    far &= clusters.counts >= SEARCH.min_new_samples
    number = len(geometry.tasks)
    keys, labels = np.unique(
        np.where(far, number + np.arange(len(nearest)), nearest)[clusters.labels],
        return_inverse=True,
    )
    tasks = np.where(keys < number, keys, -1)
    squared = distances[np.arange(len(points)), nearest[clusters.labels]]
    return Grouping(points, group(points, labels, squared), tuple(tasks.tolist()))


@group_samples.register
def reassign_by_loss(order: ReassignByLoss, context: RequestContext) -> Grouping:
    """Assign up to 128 samples to whichever of their 3 nearest tasks' adapters has the lowest loss.

    The nearest task gets a margin of 25 % of the best adapter's loss reduction over the base model,
    so that samples are not separated by their responses alone, which the router never sees.
    """
    geometry = order.geometry
    offered = [geometry.tasks.index(name) for name in order.adapters]
    rows = context.sample("regroup", SEARCH.reassign_samples)
    points = context.embed(rows, geometry.standardization)
    distances = squared_distances(points, geometry.centroids[offered], geometry.space)
    ranks = distances.argsort(axis=1).argsort(axis=1)
    wanted = np.insert(ranks < SEARCH.reassign_candidates, 0, True, axis=1)
    losses = context.losses(rows, (None, *order.adapters), wanted)
    base, losses = losses[:, :1], losses[:, 1:]
    gain = (base - losses.min(axis=1, keepdims=True)).clip(min=0)
    scores = np.where(ranks == 0, losses - SEARCH.merge_threshold * gain, losses)
    best = _lowest(scores, context.min_samples)
    chosen, labels = np.unique(best, return_inverse=True)
    clusters = group(points, labels, distances[np.arange(len(points)), best])
    return Grouping(points, clusters, tuple(offered[task] for task in chosen))


def kept_tasks(
    counts: NDArray[np.int64], min_samples: int, n_local: int | None
) -> NDArray[np.int64]:
    """Select the global tasks that a client keeps; never none.

    Args:
        counts: shape (T,): the client's samples of each global task.
        min_samples: if `n_local` is None, every task with at least min(min_samples, n / 8) of the
            client's n samples is kept.
        n_local: the number of most frequent tasks to keep; None: see `min_samples`.

    Returns:
        Indices of tasks, in ascending order.
    """
    order = np.argsort(-counts, kind="stable")
    if n_local is None:
        enough = min(min_samples, counts.sum() / SEARCH.max_clusters)
        n_local = max(1, int((counts >= enough).sum()))
    return np.sort(order[:n_local])


def _kmeans(points: FloatArray, context: RequestContext) -> Clusters:
    number = context.n_local
    if context.finds_n_local:
        number = len(points) // SEARCH.samples_per_cluster
        number = max(SEARCH.min_clusters, min(SEARCH.max_clusters, number))
    seed = derive_seed(context.config.seed, "profile", context.request.client)
    clusters = cluster(points, number, seed)
    if clusters.counts.min() >= context.min_samples:
        return clusters
    labels = without_small(points, clusters.labels, context.min_samples)
    return group(points, np.unique(labels, return_inverse=True)[1])


def _lowest(scores: NDArray[np.float64], least: int) -> NDArray[np.int64]:
    """The column of the lowest score in each row, among the columns that are the lowest of at least
    `least` rows (the most frequent one if there is none).

    Args:
        scores: shape (n, k).
        least: number of rows.
    """
    counts = np.bincount(scores.argmin(axis=1), minlength=scores.shape[1])
    kept = np.flatnonzero(counts >= least)
    if not len(kept):
        kept = np.array([counts.argmax()])
    return np.asarray(kept[scores[:, kept].argmin(axis=1)])


def _variances(order: ProfileOrder, grouping: Grouping) -> FloatArray | None:
    if not isinstance(order, DescribeEmbeddings):
        return None
    variances: FloatArray = grouping.points.astype(np.float64).var(axis=0).astype(np.float32)
    return variances


def _scatter(order: ProfileOrder, grouping: Grouping, context: RequestContext) -> Scatter | None:
    if not asks_scatter(order):
        return None
    points = grouping.points
    projected = projection(points.shape[1], context.config.seed)
    return scatter(points, grouping.clusters.labels, projected)
