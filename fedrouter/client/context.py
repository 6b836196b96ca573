"""The context of one request: data, store, base model and adapters."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.store import ClientStore
from fedrouter.config import AUTO, ResolvedConfig
from fedrouter.data.client_data import ClientData
from fedrouter.data.rows import Row
from fedrouter.errors import DataError
from fedrouter.evaluation.multi_adapter import MultiAdapterModel
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.model.embedding import EmbeddingSpec
from fedrouter.protocol.messages import ClientRequest
from fedrouter.protocol.ranks import pad, truncate
from fedrouter.routing.types import AdapterMixture, Standardization
from fedrouter.seeding import generator
from fedrouter.types import AdapterWeights, FloatArray

UNLABELLED_LOCAL_TASKS = 2  # local tasks if neither the configuration nor the rows give a number
LOSS_ROWS = 64  # training rows on which adapters are compared by their loss


class RequestContext:
    """A client's data, its store and the adapters of one request, on the shared base model.

    Args:
        request: what the server asked, with the adapters that it sent.
        data: the client's rows.
        store: what the client keeps between requests.
        shared_model: the base model, shared with other clients of this process.
        spec: the adapters' shape.
        config: the run's configuration.
        rank: the rank of the client's adapters; None: that of `spec`. All adapters of the context
            have the rank of `spec`, with zeros for the components that the client lacks.
        keep_predictions: whether the answers of the last evaluation are stored as texts.
        report_task_names: whether names of true tasks may leave the client.
    """

    def __init__(
        self,
        request: ClientRequest,
        *,
        data: ClientData,
        store: ClientStore,
        shared_model: SharedModel,
        spec: LoraSpec,
        config: ResolvedConfig,
        rank: int | None = None,
        keep_predictions: bool = False,
        report_task_names: bool = True,
    ) -> None:
        self.data = data
        self.store = store
        self.shared_model = shared_model
        self.spec = spec
        self.rank = spec.rank if rank is None else min(rank, spec.rank)
        adapters = {name: self._limited(one) for name, one in request.adapters.items()}
        self.request = replace(request, adapters=adapters)
        self.config = config
        self._keep_predictions = keep_predictions
        self.report_task_names = report_task_names
        self._labels: NDArray[np.int64] | None = None
        self._lowest: dict[tuple[str, ...], str] = {}

    @property
    def base(self) -> BaseModel:
        """The base model."""
        return self.shared_model.base

    @property
    def keeps_predictions(self) -> bool:
        """Whether the answers of this request's evaluation are stored: it is the last one of the
        run, which alone measures the base model. (A budget may end a run before its last round.)"""
        order = self.request.evaluate
        return self._keep_predictions and order is not None and "base" in order.scopes

    def reported_name(self, row: Row) -> str:
        """The true task of a row as the server is told; "" if the row or the client names none."""
        return row.task if row.task is not None and self.report_task_names else ""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The local task of every training row in this round, read once.

        Raises:
            DataError: as `ClientStore.labels`.
        """
        if self._labels is None:
            self._labels = self.store.labels(self.request.round)
        return self._labels

    @property
    def valid_labels(self) -> NDArray[np.int64] | None:
        """As `labels`; None if the client has no local tasks, or if its rows changed since."""
        if not self.store.profiled:
            return None
        try:
            return self.labels
        except DataError:
            return None

    def write_labels(self, labels: NDArray[np.int64], round: int) -> None:
        """Store the local task of every training row from a round on."""
        self.store.write_labels(labels, round)
        self._labels = labels

    @property
    def n_local(self) -> int:
        """The number of local tasks: `clustering.n_local` or, if it is not a number, the number of
        true tasks among the rows."""
        configured = self.config.clustering.n_local
        if isinstance(configured, int):
            return configured
        names = {row.task for row in self.data.train}
        return UNLABELLED_LOCAL_TASKS if None in names else len(names)

    @property
    def finds_n_local(self) -> bool:
        """Whether the number of local tasks is to be found (`clustering.n_local = "auto"`)."""
        return self.config.clustering.n_local == AUTO

    @property
    def min_samples(self) -> int:
        """The least number of samples of a local task that is described."""
        return self.config.privacy.min_samples or 1

    def embed(
        self, rows: Sequence[Row], standardization: Standardization | None = None
    ) -> FloatArray:
        """The embeddings of the rows' instructions, standardized if so asked, shape (n, d)."""
        spec = EmbeddingSpec.from_config(self.config.model)
        points = self.base.embed([row.instruction for row in rows], spec)
        return points if standardization is None else standardization(points)

    def sample(self, purpose: str, number: int) -> Sequence[Row]:
        """Random training rows, the same in every round."""
        draws = generator(self.config.seed, purpose, self.request.client)
        rows = self.data.train
        return [rows[i] for i in draws.permutation(len(rows))[:number]]

    def assemble(self, adapter: str | None, keep: str | None = None) -> AdapterWeights:
        """The run's initial adapter, overlaid with a received one and with what the client kept,
        tensor by tensor."""
        received = {} if adapter is None else self.request.adapters[adapter]
        kept = self.store.kept(keep, self.request.round)
        initial = self._limited(self.shared_model.initial(self.spec, self.config.seed))
        return {**initial, **received, **kept}

    def _limited(self, weights: AdapterWeights) -> AdapterWeights:
        """An adapter with zeros for the components that the client lacks."""
        return pad(truncate(weights, self.rank), self.spec.rank)

    def lowest_loss(self, adapters: tuple[str, ...]) -> str | None:
        """The received adapter with the lowest loss on (at most 64 of) the training rows; None if
        there is none to choose from."""
        if len(adapters) < 2:
            return next(iter(adapters), None)
        if adapters not in self._lowest:
            rows = self.sample("lowest loss", LOSS_ROWS)
            losses = self.losses(rows, adapters, np.ones((len(rows), len(adapters)), bool))
            self._lowest[adapters] = adapters[int(losses.sum(axis=0).argmin())]
        return self._lowest[adapters]

    def losses(
        self, rows: Sequence[Row], adapters: Sequence[str | None], wanted: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The loss of each row with each received adapter.

        Args:
            rows: n rows.
            adapters: m names of received adapters; None: the base model alone.
            wanted: shape (n, m): which losses to compute.

        Returns:
            Shape (n, m); infinity where it is not `wanted`.
        """
        loaded = {name: self.assemble(name) for name in adapters if name is not None}
        mixtures: list[AdapterMixture] = [
            () if name is None else ((name, 1.0),) for name in adapters
        ]
        losses = np.full(wanted.shape, np.inf)
        pairs = np.argwhere(wanted)
        with MultiAdapterModel(self.base, self.spec, loaded) as multi_adapter:
            losses[wanted] = multi_adapter.losses(
                [rows[i] for i, _ in pairs], [mixtures[a] for _, a in pairs]
            )
        return losses
