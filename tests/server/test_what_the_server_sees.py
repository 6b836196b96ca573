"""Attacks of a server that keeps all that it receives, with clients that collude with it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare
from sklearn.metrics import roc_auc_score
from support.configs import resolved
from support.masked_clients import MaskedEngine
from support.scripted_clients import ScriptedClient

from fedrouter.client.secure_sums import read_participant
from fedrouter.protocol.messages import ClientReply, ClientRequest
from fedrouter.protocol.profile_orders import AssignToNearest
from fedrouter.protocol.profile_sums import SCATTER, profile_layouts
from fedrouter.routing.types import Standardization, TaskGeometry, TaskProfile
from fedrouter.secure_aggregation.masks import common_mask, mask_secret
from fedrouter.secure_aggregation.messages import KeysOrder, MaskedVectors
from fedrouter.serialization import symmetric_matrix
from fedrouter.server.rounds import replies_to

CLIENTS, TARGET, DIMENSION = 6, 5, 24
COLLUDERS = (0, 1, 2)  # one fewer than the threshold, more than half of six
STANDARD = Standardization(np.zeros(DIMENSION, np.float32), np.ones(DIMENSION, np.float32))
GEOMETRY = TaskGeometry(
    ("task",), np.zeros((1, DIMENSION), np.float32), 0.0, 0.0, 0.0, standardization=STANDARD
)
ORDER = AssignToNearest(GEOMETRY, scatter=True)


class Gaussian(ScriptedClient):
    """A client with samples of a Gaussian; all clients have the same distribution."""

    def __init__(self, id: int, samples: int, seed: int) -> None:
        super().__init__(id, 1)
        draws = np.random.default_rng([seed, id])
        self.points = draws.normal(size=(samples, DIMENSION)).astype(np.float32)


class Listening(MaskedEngine):
    """Clients tell the server their secrets; honest ones do so for this test to choose among."""

    def answer(self, request: ClientRequest) -> ClientReply:
        reply = super().answer(request)
        if isinstance(request.sum_order, KeysOrder):
            participant = read_participant(self.folder / str(request.client), request.client)
            self.secrets = {**getattr(self, "secrets", {}), request.client: participant.secrets}
        return reply


def seen(folder: Path, samples: int, seed: int) -> tuple[Listening, TaskProfile]:
    """All that arrives in one sum, and the profile of all clients together."""
    config = resolved("privacy.secure_aggregation=true", "strategy=fedavg")
    clients = {id: Gaussian(id, samples, seed) for id in range(CLIENTS)}
    engine = Listening(config, clients, folder, DIMENSION)
    requests = [ClientRequest(c, 0, profile=ORDER) for c in range(CLIENTS)]
    *_, together = replies_to(config, engine, requests, engine.expected, {})
    assert together.profile is not None
    return engine, together.profile


def masked_scatter(engine: Listening, client: int) -> np.ndarray:
    """A client's scatter as it arrived."""
    [(order, vectors)] = [
        (request.sum_order, reply.sum_reply.vectors)
        for request, reply in engine.seen
        if request.client == client and isinstance(reply.sum_reply, MaskedVectors)
    ]
    return vectors[[group.name for group in order.groups].index(SCATTER)]


def auc(products: np.ndarray, points: np.ndarray, member: np.ndarray) -> float:
    """How well members are told by the leverage of points in the inverse of a scatter: those of
    which it is lie in its range."""
    matrix = symmetric_matrix(np.asarray(products, np.float64))
    inverse = np.linalg.inv(matrix + 1e-6 * np.abs(np.diag(matrix)).mean() * np.eye(DIMENSION))
    return float(roc_auc_score(member, -np.einsum("nd,de,ne->n", points, inverse, points)))


def test_all_bytes_of_an_honest_clients_vectors_are_uniform(tmp_path: Path) -> None:
    """Colluders tell the server their secrets, and it takes off the masks that they explain."""
    layout = profile_layouts(ORDER, DIMENSION)[SCATTER]
    counts = np.zeros((8, 256))
    for seed in range(6):
        engine, _ = seen(tmp_path, 20, seed)
        session, target = engine.seen[0][0].sum_order.session, engine.secrets[TARGET]
        left = masked_scatter(engine, TARGET)
        for colluder in COLLUDERS:  # of smaller ids: they add what the target subtracts
            secret = mask_secret(engine.secrets[colluder].mask, target.public, session)
            left = left + common_mask(secret, SCATTER, layout)
        for byte in range(8):
            counts[byte] += np.bincount(left.view(np.uint8)[byte::8], minlength=256)
    assert all(chisquare(counts[byte]).pvalue > 1e-5 for byte in range(8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "sessions"),
    [
        (5, 24),
        (20, 16),
        (100, 8),
        (400, 4),
    ],
)
def test_membership_in_a_client_is_at_chance(tmp_path: Path, samples: int, sessions: int) -> None:
    """A client's samples are told from those of other honest clients neither by what it sent nor by
    the sum less what colluders sent. From its plain scatter they are, if they are few."""
    layout = profile_layouts(ORDER, DIMENSION)[SCATTER]
    masked, summed, plain = [], [], []
    for session in range(sessions):
        engine, together = seen(tmp_path, samples, session)
        points = {c: STANDARD(client.points) for c, client in engine.clients.items()}
        own = {c: client.profile(ORDER) for c, client in engine.clients.items()}
        everyone = np.concatenate(list(points.values()))
        for client in points:
            member = np.arange(len(everyone)) // samples == client
            arrived = layout.decode(masked_scatter(engine, client), CLIENTS)[1:-1]
            masked.append(auc(arrived, everyone, member))
            shifted = everyone - own[client].centroids[0]
            plain.append(auc(own[client].scatter.products, shifted, member))
        left = together.scatter.products - sum(own[c].scatter.products for c in COLLUDERS)
        honest = np.concatenate([points[c] for c in points if c not in COLLUDERS])
        for k in range(CLIENTS - len(COLLUDERS)):
            member = np.arange(len(honest)) // samples == k
            summed.append(auc(left, honest - together.centroids[0], member))
    assert 0.45 < np.mean(masked) < 0.55
    assert 0.45 < np.mean(summed) < 0.55
    if samples < DIMENSION:
        assert np.mean(plain) > 0.95
