"""One client, which answers the server's requests.

Work on a request is split in `prepare` (request -> train jobs) and `finish` (their results -> the
reply), so that an engine can train the jobs of many clients in one pass in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.context import RequestContext
from fedrouter.client.error_feedback import with_feedback
from fedrouter.client.evaluation import compare_adapters, evaluate
from fedrouter.client.profiling import profile
from fedrouter.client.releases import ClientReleases
from fedrouter.client.secure_sums import SecureSums, sum_rules
from fedrouter.client.store import ClientStore
from fedrouter.config import ResolvedConfig
from fedrouter.data.client_data import ClientData
from fedrouter.errors import MessageError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.protocol.messages import ClientReply, ClientRequest, TrainOrder, Update, is_work
from fedrouter.protocol.movement import movements
from fedrouter.protocol.ranks import truncate
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.routing.whitening import projection
from fedrouter.secure_aggregation.signatures import SigningKeys
from fedrouter.seeding import derive_seed
from fedrouter.strategies import make_strategy
from fedrouter.training.private_gradients import GradientNoise, largest_uses
from fedrouter.training.trainer import TrainJob, TrainResult
from fedrouter.types import AdapterWeights, select_matrices


@dataclass(frozen=True)
class PreparedRequest:
    """A request whose adapters are still to be trained.

    Attributes:
        request: what the server asked.
        reply: the answer so far: profile, losses and evaluation.
        adapters: for each train order, the received adapter that was chosen.
        jobs: for each train order, its job.
    """

    request: ClientRequest
    reply: ClientReply
    adapters: tuple[str | None, ...] = ()
    jobs: tuple[TrainJob, ...] = field(default=(), repr=False)


class Client:
    """One client with its rows, its local tasks and its own adapters.

    Args:
        id: the client's id, from 0.
        data: its rows.
        shared_model: the base model, shared with other clients of this process.
        spec: the adapters' shape.
        config: the run's configuration.
        folder: the folder of all clients, for what must outlive the process.
        rank: the rank of its adapters, at most the run's; None: the run's. It works with the first
            components of adapters (`protocol.ranks`).
        keep_predictions: whether the answers of the last evaluation are stored there as texts.
        report_task_names: whether scores and counts are reported by the names of true tasks.
        signing_keys: for secure aggregation; None: keys are neither signed nor verified.
        run: of the run's configuration, which is signed.
    """

    def __init__(
        self,
        id: int,
        data: ClientData,
        *,
        shared_model: SharedModel,
        spec: LoraSpec,
        config: ResolvedConfig,
        folder: Path,
        rank: int | None = None,
        keep_predictions: bool = False,
        report_task_names: bool = True,
        signing_keys: SigningKeys | None = None,
        run: str = "",
    ) -> None:
        self.id = id
        self.data = data
        self.rank = rank
        self.store = ClientStore(folder, id, data.train)
        self._shared_model = shared_model
        self._spec = spec
        self._config = config
        self._keep_predictions = keep_predictions
        self._report_task_names = report_task_names
        self._signing_keys = signing_keys
        self._run = run

    def context(self, request: ClientRequest) -> RequestContext:
        """What the client works with while it answers a request."""
        return RequestContext(
            request,
            data=self.data,
            store=self.store,
            shared_model=self._shared_model,
            spec=self._spec,
            config=self._config,
            rank=self.rank,
            keep_predictions=self._keep_predictions,
            report_task_names=self._report_task_names,
        )

    def prepare(self, request: ClientRequest) -> PreparedRequest:
        """Profile, compare and evaluate as requested, and make the train jobs.

        If the client's data changed since its local tasks were computed, and the request is about
        these, the reply has `changed=True` and no other content.

        Raises:
            DataError: the request is about local tasks, and the client has never been profiled.
            MessageError: the run sums securely, and the reply would not be masked.
        """
        if not is_work(request):
            return PreparedRequest(request, self._sums.answer(request))
        if request.sum_order is None and self._config.privacy.secure_aggregation:
            raise MessageError("sum: expected a request whose reply is masked")
        if request.sum_order is not None and self.rank is not None:
            raise MessageError("sum: the clients of a sum need the run's adapter.rank")
        context = self.context(request)
        request = context.request
        if _needs_local_tasks(request) and self.store.profiled and context.valid_labels is None:
            return PreparedRequest(request, ClientReply(self.id, request.round, changed=True))
        reply = ClientReply(
            self.id,
            request.round,
            profile=None if request.profile is None else profile(request.profile, context),
            losses=tuple(compare_adapters(order, context) for order in request.compare),
            evaluation=None if request.evaluate is None else evaluate(request.evaluate, context),
        )
        adapters = tuple(context.lowest_loss(order.adapters) for order in request.train)
        jobs = tuple(
            self._train_job(order, adapter, context)
            for order, adapter in zip(request.train, adapters, strict=True)
        )
        return PreparedRequest(request, reply, adapters, jobs)

    def finish(self, prepared: PreparedRequest, results: Sequence[TrainResult]) -> ClientReply:
        """The reply to a request, from the results of its jobs; stores what the client keeps.

        Updates are movements (see `protocol.movement`).

        Args:
            prepared: what `prepare` returned.
            results: one for each of its jobs.

        Raises:
            MessageError: an update that no message can carry.
        """
        if prepared.reply.changed or prepared.reply.sum_reply is not None:
            return prepared.reply
        request, updates = prepared.request, []
        for slot, (order, adapter, job, result) in enumerate(
            zip(request.train, prepared.adapters, prepared.jobs, results, strict=True)
        ):
            if order.keep is not None:
                kept = select_matrices(result.weights, order.keep_parts)
                self.store.keep(order.keep, request.round, kept)
            updates.append(
                Update(
                    slot=slot,
                    adapter=adapter,
                    weights=self._sent(result.weights, order),
                    samples=len(job.examples),
                    loss=result.loss,
                    tokens=result.tokens,
                )
            )
        reply = replace(prepared.reply, updates=tuple(updates))
        if request.sum_order is not None:
            return self._begin_sum(request, reply)
        federation = self._config.federation
        reply = movements(reply, request.adapters)
        if not federation.error_feedback:
            return reply
        return with_feedback(reply, request.train, self.store, federation.transport)

    @property
    def _sums(self) -> SecureSums:
        return SecureSums(
            self.id,
            self.store.sum_file(),
            sum_rules(self._config.privacy),
            keys=self._signing_keys,
            run=self._run,
            releases=self._releases,
        )

    @property
    def _releases(self) -> ClientReleases | None:
        """The client's own account; None if it adds no noise to sums."""
        if self._config.privacy.epsilon is None:
            return None
        plan = make_strategy(self._config).privacy
        assert plan is not None, "of a configuration with a privacy budget"
        return ClientReleases(self.store.releases_file(), plan, self._secret)

    @property
    def _secret(self) -> str:
        """What the client's noise is derived from."""
        seeded = self._config.privacy.seeded_noise
        return f"seed {self._config.seed}" if seeded else self.store.secret()

    def _begin_sum(self, request: ClientRequest, reply: ClientReply) -> ClientReply:
        initial = self._shared_model.initial(self._spec, self._config.seed)
        shapes = {name: array.shape for name, array in initial.items()}
        dimension = self.context(request).embed([]).shape[1]
        projected = projection(dimension, self._config.seed)
        private = make_strategy(self._config).private_sums
        expected = ExpectedArrays(shapes, dimension, private_sums=private)
        return self._sums.begin(request, reply, expected, projected)

    def _sent(self, weights: AdapterWeights, order: TrainOrder) -> AdapterWeights:
        """The part of a trained adapter that is sent: matrices and components."""
        matrices = select_matrices(weights, order.send)
        return matrices if self.rank is None else truncate(matrices, self.rank)

    def _train_job(
        self, order: TrainOrder, adapter: str | None, context: RequestContext
    ) -> TrainJob:
        settings, request = self._config.training, context.request
        which = "all" if order.local_task is None else order.local_task
        steps = order.steps * (context.n_local if order.local_task is None else 1)
        keep = () if order.keep is None else (order.keep,)
        proximal, companion = order.proximal, order.companion
        received = request.adapters
        rows = [self.data.train[i] for i in _samples(order, context)]
        path = "train", request.round, self.id, which, *keep
        return TrainJob(
            weights=context.assemble(adapter, order.keep),
            examples=self._shared_model.examples(rows),
            steps=steps,
            batch_size=settings.batch_size,
            lr=request.lr,
            max_grad_norm=settings.max_grad_norm,
            seed=derive_seed(self._config.seed, *path),
            parts=order.train_parts,
            anchor=None if proximal is None else received[proximal.toward],
            mu=0.0 if proximal is None else proximal.mu,
            companion=None if companion is None else received[companion.adapter],
            share=1.0 if companion is None else companion.weight,
            noise=self._noise(steps, len(rows), path),
        )

    def _noise(self, steps: int, samples: int, path: tuple[str | int, ...]) -> GradientNoise | None:
        """The noise of a train job; None unless samples are the unit of privacy.

        A client's jobs of a round have different samples, so that each has the round's budget.
        """
        settings = self._config.privacy
        if settings.epsilon is None or settings.unit != "sample":
            return None
        plan = make_strategy(self._config).privacy
        assert plan is not None, "of a configuration with a privacy budget"
        uses = largest_uses(steps, self._config.training.batch_size, samples)
        return GradientNoise(settings.max_norm, plan.round * uses**0.5, self._secret, path)


def _needs_local_tasks(request: ClientRequest) -> bool:
    """Whether a request refers to the client's local tasks."""
    return bool(request.compare) or any(order.local_task is not None for order in request.train)


def _samples(order: TrainOrder, context: RequestContext) -> NDArray[np.int64]:
    """Indices of the rows that an order trains on."""
    if order.local_task is None:
        return np.arange(len(context.data.train))
    return np.flatnonzero(context.labels == order.local_task)
