"""Clustered federated learning (Sattler et al., "Clustered Federated Learning", 2021) with one
hierarchical clustering of the clients' updates (Briggs et al., "Federated Learning with
Hierarchical Clustering of Local Updates", 2020).

FedAvg runs until round t0. With delta_k = B_k - B_global of the last LoRA layer, the rows of the
matrix S_ij = cos(delta_i, delta_j) are then clustered by Ward linkage into K clusters. From then on
every cluster has an adapter, which starts as FedAvg's and is averaged within the cluster.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from pydantic import Field

from fedrouter.config import ResolvedConfig, Section, register_strategy
from fedrouter.config.sections.base import Count
from fedrouter.errors import ConfigError
from fedrouter.protocol.messages import ClientReply, TrainOrder
from fedrouter.protocol.ranks import pad, rank_of
from fedrouter.protocol.serving_rules import Serving, SingleAdapter
from fedrouter.strategies.base import SHARED, Strategy, cluster_names, noting
from fedrouter.strategies.state import ServerState
from fedrouter.types import AdapterWeights, FloatArray, select_matrices


class ClusteredSettings(Section):
    """The section `[strategies.clustered]`."""

    clusters: Count = Field(
        default=4, description="K: number of clusters of clients, each with its own adapter"
    )
    clustering_round: Count | None = Field(
        default=None,
        description="t0: the round after which clients are clustered by their updates; unset: a "
        "quarter of federation.rounds, at least 1",
    )


@dataclass(frozen=True, kw_only=True)
class ClusteredState(ServerState):
    """The clusters or, before round t0, the updates that they will be computed from.

    Attributes:
        deltas: before clustering: client -> delta_k of the last round in which it replied.
        clusters: after clustering: client -> the adapter of its cluster.
    """

    deltas: Mapping[int, FloatArray] = field(default_factory=dict)
    clusters: Mapping[int, str] = field(default_factory=dict)


@register_strategy("clustered", settings=ClusteredSettings)
class Clustered(Strategy[ClusteredState]):
    """Clustered federated learning (Sattler et al., 2021; Briggs et al., 2020): clients whose
    updates have similar directions are clustered once, and every cluster shares one adapter.

    K is `clusters`; t0 is `clustering_round`, by default a quarter of the rounds and at least 1.

    A client that missed round t0 is clustered by its last update before; one without any update
    is assigned to the largest cluster. If no client replied up to t0, clustering is postponed.

    Raises:
        ConfigError: no round is left to train the clusters in.
    """

    state_type = ClusteredState
    from_sums = False
    settings: ClusteredSettings

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config)
        rounds = config.federation.rounds
        self.clustering_round = self.settings.clustering_round or max(1, rounds // 4)
        if self.clustering_round >= rounds:
            raise ConfigError(
                f"strategy {config.strategy!r} forms its clusters in round {self.clustering_round} "
                f"and trains them afterwards: set federation.rounds to {self.clustering_round + 1} "
                "or more, or strategies.clustered.clustering_round lower"
            )

    def orders(self, state: ClusteredState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Train the adapter of the client's cluster on all of its samples."""
        return (TrainOrder((adapter_of(state, client),), self.config.training.steps),)

    def serve(self, state: ClusteredState, client: int) -> Serving:
        """The adapter of the client's cluster."""
        return SingleAdapter(adapter_of(state, client))

    def aggregate(
        self, state: ClusteredState, round: int, replies: Iterable[ClientReply]
    ) -> ClusteredState:
        """The weighted means; updates are stored up to round t0, and clustered in round t0."""
        if SHARED not in state.adapters:
            return super().aggregate(state, round, replies)
        shared = state.adapters[SHARED]
        before = last_layer(shared)
        deltas = dict(state.deltas)

        def note(reply: ClientReply) -> None:
            for update in reply.updates:
                deltas[reply.client] = last_layer(pad(update.weights, rank_of(shared))) - before

        state = super().aggregate(state, round, noting(replies, note))
        if round < self.clustering_round or not deltas:
            return replace(state, deltas=deltas)
        labels = ward(deltas, self.settings.clusters)
        names = cluster_names(max(labels.values()) + 1)
        return replace(
            state,
            adapters=dict.fromkeys(names, state.adapters[SHARED]),
            clusters={client: names[label] for client, label in labels.items()},
            deltas={},
        )


def adapter_of(state: ClusteredState, client: int) -> str:
    """The adapter that a client trains: the shared one, its cluster's, or the largest cluster's."""
    if SHARED in state.adapters:
        return SHARED
    sizes = Counter(state.clusters.values())
    largest = max(sorted(sizes), key=lambda cluster: sizes[cluster])
    return state.clusters.get(client, largest)


def last_layer(weights: AdapterWeights) -> FloatArray:
    """All matrices B of the last layer that has an adapter, as one vector."""
    found = select_matrices(weights, "B")
    last = max(map(_layer, found))
    return np.concatenate([found[name].ravel() for name in sorted(found) if _layer(name) == last])


def _layer(name: str) -> int:
    """The layer in a tensor's name: 3 in "model.layers.3.q_proj.lora_B.weight"; -1 if none."""
    return next((int(part) for part in name.split(".") if part.isdigit()), -1)


def ward(deltas: Mapping[int, FloatArray], number: int) -> dict[int, int]:
    """The cluster of each client, numbered from 0 by first appearance in order of id.

    Args:
        deltas: client -> update; at least one, all of the same length.
        number: number of clusters; with at most this many clients, each is its own cluster.
    """
    from sklearn.cluster import AgglomerativeClustering

    clients = sorted(deltas)
    if len(clients) <= number:
        return {client: i for i, client in enumerate(clients)}
    vectors = np.stack([deltas[client] for client in clients]).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
    linkage = AgglomerativeClustering(number, linkage="ward")
    found = linkage.fit_predict(unit @ unit.T).tolist()
    order = {label: i for i, label in enumerate(dict.fromkeys(found))}
    return {client: order[label] for client, label in zip(clients, found, strict=True)}
