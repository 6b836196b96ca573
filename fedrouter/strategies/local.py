"""Local training: every client for itself."""

from collections.abc import Iterable

from fedrouter.protocol.messages import Serving, SingleAdapter, TrainOrder
from fedrouter.routing.types import TaskProfile
from fedrouter.strategies.base import PERSONAL, ServerState, Strategy
from fedrouter.types import AdapterWeights


class Local(Strategy[ServerState]):
    """A client trains an adapter of its own and sends nothing."""

    personalised = True

    def init(
        self, profiles: Iterable[TaskProfile], initial: AdapterWeights, base_fingerprint: str
    ) -> ServerState:
        """Nothing is shared; clients derive the initial adapter themselves."""
        return ServerState(round=0, base=base_fingerprint, adapters={})

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """The client's own adapter, on all of its samples."""
        return (TrainOrder((), self.config.training.steps, keep=PERSONAL, send=""),)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The client's own adapter."""
        return SingleAdapter(keep=PERSONAL)
