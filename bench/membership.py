"""Membership of a prompt in a client's data, from what leaves the client or the run.

The attacker has candidates, members and prompts of the same tasks that are not, and scores each:

- centroid: by the distance to the nearest centroid;
- scatter: by the Mahalanobis norm around it, with a covariance from the scatter that has hardly any
  variance outside of the scatter's range;
- update: by how much the loss on the row falls from the adapter that the client received to the
  one that it sent after one round.

The attacker sees each client's own statistics; or those without local tasks of fewer than 10
samples; or sums over all clients, as with secure aggregation; or noisy sums, as with differential
privacy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fedrouter.adapters.bank import AdapterBank
from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import ResolvedConfig, load_config
from fedrouter.config.resolve import resolve
from fedrouter.data.builtin import TASK_NAMES, builtin_rows
from fedrouter.data.rows import Row
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.model.losses import Batch, row_losses
from fedrouter.privacy.accountant import noise_multipliers
from fedrouter.privacy.budget import PrivacyPlan
from fedrouter.privacy.mechanism import noisy_sum
from fedrouter.protocol.messages import ClientReply, Update
from fedrouter.routing.clustering import cluster, squared_distances
from fedrouter.routing.federated_kmeans import standardization
from fedrouter.routing.types import Standardization
from fedrouter.seeding import derive_seed
from fedrouter.server.privacy import public_profile
from fedrouter.strategies.aggregation import private_means
from fedrouter.training.trainer import TrainJob, train
from fedrouter.types import AdapterWeights

Points = NDArray[np.float64]
ATTACKED = 6  # clients whose members are looked for
OTHERS = 25  # rows of each task that are nobody's
TRIED = 20  # members whose loss is looked at
LEAST = 10  # samples of a local task that is described
STEPS, BATCH, RATE = 6, 4, 8e-3  # of the update
RIDGE = 1e-6  # of the largest variance, for directions outside of the scatter's range
PROFILE_RELEASES = 4  # of PrivateFedRouter
ROUNDS = 3


@dataclass(frozen=True)
class Federation:
    """Clients of two tasks each, and rows that are nobody's.

    Attributes:
        clients: the rows of each client.
        others: rows of all tasks, by task.
    """

    clients: Sequence[Sequence[Row]]
    others: Mapping[str, Sequence[Row]]

    def candidates(self, client: int) -> tuple[Sequence[Row], Sequence[Row]]:
        """A client's rows, and others of the same tasks."""
        own = self.clients[client]
        names = dict.fromkeys(row.task for row in own)
        return own, [row for name in names for row in self.others[str(name)]]


def deal(clients: int, samples: int, seed: int) -> Federation:
    """A federation in which each client has `samples` rows, half of each of two tasks."""
    each = ceil(samples / 2)
    per_task = ceil(2 * clients / len(TASK_NAMES)) * each
    train_rows, test_rows = builtin_rows(per_task, OTHERS, seed)
    left = {name: [row for row in train_rows if row.task == name] for name in TASK_NAMES}
    dealt = []
    for client in range(clients):
        pair = [TASK_NAMES[(2 * client + client // 4 + i) % len(TASK_NAMES)] for i in (0, 1)]
        own = []
        for name in pair:
            own += [left[name].pop() for _ in range(each) if left[name]]
        dealt.append(own[:samples])
    others = {name: [row for row in test_rows if row.task == name] for name in TASK_NAMES}
    return Federation(dealt, others)


def plan(epsilon: float, clients: int) -> PrivacyPlan:
    """The noise of a run with the numbers of tasks given."""
    config = privacy_config(epsilon, clients)
    found = PrivacyPlan.of(config, PROFILE_RELEASES)
    assert found is not None
    return found


def privacy_config(epsilon: float, clients: int) -> ResolvedConfig:
    """A configuration with a budget; delta is 1 / (10 clients)."""
    sets = [f"privacy.epsilon={epsilon}", f"privacy.delta={0.1 / clients}"]
    return resolve(load_config(None, [*sets, f"federation.rounds={ROUNDS}"]), ())


class Embedder:
    """Unit vectors of prompts, standardized by public statistics."""

    def __init__(self, shared_model: SharedModel) -> None:
        config = resolve(load_config(None, []), ())
        self._base = shared_model.base
        self._spec = EmbeddingSpec.from_config(config.model)
        public = public_profile(self._base, config.model)
        self._standard: Standardization = standardization([public])

    def __call__(self, rows: Sequence[Row]) -> Points:
        """Shape (rows, d)."""
        points = self._base.embed([row.instruction for row in rows], self._spec)
        return self._standard(points).astype(np.float64)


@dataclass(frozen=True)
class Statistics:
    """Sums of vectors by local task, and their scatter.

    Attributes:
        sums: shape (k, d).
        counts: shape (k,).
        scatter: around the centroids, shape (d, d).
    """

    sums: Points
    counts: NDArray[np.float64]
    scatter: Points

    @property
    def centroids(self) -> Points:
        """Shape (k, d)."""
        return self.sums / self.counts[:, None]


def described(points: Points, least: int, seed: int) -> Statistics | None:
    """What a client says of its vectors; None if all local tasks are smaller than `least`."""
    found = cluster(points, 2, seed)
    if found.counts.min() < least:
        if len(points) < least:
            return None
        found = cluster(points, 1, seed)
    exact = np.stack([points[found.labels == j].sum(axis=0) for j in range(len(found.counts))])
    rest = points - (exact / found.counts[:, None])[found.labels]
    return Statistics(exact, found.counts.astype(float), rest.T @ rest)


def by_centroid(points: Points, found: Statistics) -> NDArray[np.float64]:
    """The negative distance to the nearest centroid."""
    return -squared_distances(points, found.centroids).min(axis=1)


def by_scatter(points: Points, found: Statistics) -> NDArray[np.float64]:
    """The negative Mahalanobis norm around the nearest centroid."""
    nearest = squared_distances(points, found.centroids).argmin(axis=1)
    rest = points - found.centroids[nearest]
    values, vectors = np.linalg.eigh(found.scatter)
    along = rest @ vectors
    return -(np.square(along) / (values.clip(min=0) + RIDGE * values[-1])).sum(axis=1)


SCORES = {"centroid": by_centroid, "scatter": by_scatter}


def auc(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """The area under the ROC curve of scores."""
    labels = np.r_[np.ones(len(members)), np.zeros(len(others))]
    return float(roc_auc_score(labels, np.r_[members, others]))


def profile_attacks(
    federation: Federation, embed: Embedder, seed: int
) -> dict[tuple[str, str], float]:
    """(attack, protection) -> AUC, the mean over the attacked clients."""
    points = [embed(rows) for rows in federation.clients]
    attacked = range(min(ATTACKED, len(points)))
    cases = [tuple(map(embed, federation.candidates(client))) for client in attacked]
    found: dict[tuple[str, str], list[float]] = {}

    def note(attack: str, protection: str, value: float) -> None:
        found.setdefault((attack, protection), []).append(value)

    for client, (members, others) in zip(attacked, cases, strict=True):
        for protection, least in (("nothing", 1), ("least counts", LEAST)):
            said = described(points[client], least, seed)
            for attack, score in SCORES.items():
                value = 0.5 if said is None else auc(score(members, said), score(others, said))
                note(attack, protection, value)
    whole = described_tasks(np.concatenate(points), seed)
    for members, others in cases:
        for attack, score in SCORES.items():
            note(attack, "sums", auc(score(members, whole), score(others, whole)))
    for epsilon in (8.0, 2.0):
        noisy = noisy_centroids(points, epsilon, seed)
        for members, others in cases:
            value = auc((members @ noisy.T).max(axis=1), (others @ noisy.T).max(axis=1))
            note("centroid", f"epsilon {epsilon:g}", value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def described_tasks(points: Points, seed: int) -> Statistics:
    """The statistics of eight tasks over all clients."""
    found = cluster(points, len(TASK_NAMES), seed)
    sums = np.stack([points[found.labels == j].sum(axis=0) for j in range(len(found.counts))])
    rest = points - (sums / found.counts[:, None])[found.labels]
    return Statistics(sums, found.counts.astype(float), rest.T @ rest)


def noisy_centroids(points: Sequence[Points], epsilon: float, seed: int) -> Points:
    """One release of sums by task: each client's means, with noise, before they are scaled."""
    whole = described_tasks(np.concatenate(points), seed)
    total = np.zeros(whole.sums.shape)
    for own in points:
        labels = squared_distances(own, whole.centroids).argmin(axis=1)
        np.add.at(total, labels, own / len(own))
    multiplier = plan(epsilon, len(points)).profile
    assert multiplier is not None
    return noisy_sum(total, 1.0, multiplier, f"bench {seed}", "centroids")


def trained(
    federation: Federation, shared_model: SharedModel, spec: LoraSpec, seed: int, by_task: bool
) -> list[ClientReply]:
    """What clients send after one round: one adapter, or one for each of their tasks."""
    start = shared_model.initial(spec, seed)
    names, jobs = [], []
    for client, rows in enumerate(federation.clients):
        for name in sorted({str(row.task) for row in rows}) if by_task else ("global",):
            own = [row for row in rows if row.task == name or not by_task]
            job = TrainJob(
                start,
                shared_model.examples(own),
                steps=STEPS // 2 if by_task else STEPS,
                batch_size=BATCH,
                lr=RATE,
                max_grad_norm=1.0,
                seed=derive_seed(seed, "attacked", client, name),
            )
            names.append((client, name))
            jobs.append(job)
    found: dict[int, list[Update]] = {}
    results = train(shared_model.base, spec, jobs, fuse=8)
    for (client, name), job, result in zip(names, jobs, results, strict=True):
        updates = found.setdefault(client, [])
        size = len(job.examples)
        updates.append(Update(len(updates), name, result.weights, size, result.loss, result.tokens))
    return [ClientReply(client, 1, updates=tuple(updates)) for client, updates in found.items()]


def one_round(
    federation: Federation,
    replies: Sequence[ClientReply],
    shared_model: SharedModel,
    spec: LoraSpec,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Protection -> the AUC of attacks by updates, and the mean loss of rows that are nobody's.

    The loss is that of each row with the adapter of its true task, if there is one for each.
    """
    start, number = shared_model.initial(spec, seed), len(replies)
    names = dict.fromkeys(str(update.adapter) for reply in replies for update in reply.updates)
    adapters = dict.fromkeys(names, start)
    holders = number if len(names) == 1 else number * 2 / len(names)
    bound = float(np.median([_norm(reply, start) for reply in replies]))
    measured = partial(_measured, federation, shared_model, spec, start)
    table = {"base": measured([adapters] * number)}
    own = [{str(u.adapter): u.weights for u in reply.updates} for reply in replies[:ATTACKED]]
    mean = partial(private_means, adapters, replies, clients=holders, round=1, secret=str(seed))
    sums = mean(bound=1e9, multiplier=1e-18)
    table["nothing"] = {"auc": measured(own)["auc"], "loss": measured([sums])["loss"]}
    table["sums"] = measured([sums] * number)
    for epsilon in (8.0, 2.0):
        [multiplier] = noise_multipliers(epsilon, 0.1 / number, ((1, 1.0),))
        noisy = mean(bound=bound, multiplier=multiplier)
        table[f"epsilon {epsilon:g}"] = measured([noisy] * number)
    return table


def _norm(reply: ClientReply, start: AdapterWeights) -> float:
    squares = [
        float(np.square(update.weights[k] - start[k]).sum())
        for update in reply.updates
        for k in start
    ]
    return sum(squares) ** 0.5


def _measured(
    federation: Federation,
    shared_model: SharedModel,
    spec: LoraSpec,
    start: AdapterWeights,
    seen: Sequence[Mapping[str, AdapterWeights]],
) -> dict[str, float]:
    """The AUC over the attacked clients, whose adapters the attacker sees; the loss with the first
    client's adapters."""

    def fall(adapters: Mapping[str, AdapterWeights], rows: Sequence[Row]) -> NDArray[np.float64]:
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault("global" if "global" in adapters else str(row.task), []).append(row)
        return np.concatenate(
            [
                losses(shared_model, spec, start, own)
                - losses(shared_model, spec, adapters[name], own)
                for name, own in groups.items()
            ]
        )

    values = []
    for client, adapters in zip(range(min(ATTACKED, len(seen))), seen, strict=False):
        members, others = federation.candidates(client)
        values.append(auc(fall(adapters, members[:TRIED]), fall(adapters, others)))
    rows = [row for own in federation.others.values() for row in own[:12]]
    known = [row for row in rows if str(row.task) in seen[0] or "global" in seen[0]]
    base = float(losses(shared_model, spec, start, known).mean())
    return {"auc": float(np.mean(values)), "loss": base - float(fall(seen[0], known).mean())}


@torch.no_grad()
def losses(
    shared_model: SharedModel, spec: LoraSpec, weights: AdapterWeights, rows: Sequence[Row]
) -> NDArray[np.float64]:
    """Each row's loss with an adapter."""
    base, examples = shared_model.base, shared_model.examples(rows)
    parts = []
    with AdapterBank(base.model, spec, 1) as bank:
        bank.load(0, weights)
        for first in range(0, len(examples), 16):
            batch = Batch.of(base, examples[first : first + 16])
            with bank.active(torch.zeros(len(batch.tokens), dtype=torch.int64)):
                parts.append(row_losses(base, batch).double().numpy())
    return np.concatenate(parts)
