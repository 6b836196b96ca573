"""Ditto (Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", 2021)."""

from fedrouter.config import Config
from fedrouter.protocol.messages import Proximal, Serving, SingleAdapter, TrainOrder
from fedrouter.strategies.base import PERSONAL, SHARED, ServerState, Strategy, split_steps


class Ditto(Strategy[ServerState]):
    """FedAvg's adapter w, and beside it for each client k a v_k that minimises
    F_k(v) + lambda / 2 * ||v - w||^2, lambda = `baselines.ditto_lambda`, and lives on with k.

    A round's steps are split between the two.

    Raises:
        ConfigError: training.steps is 1.
    """

    personalised = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._shared_steps, self._own_steps = split_steps(config)

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """w, which is sent; then v_k, near the received w, where a new client's v_k starts."""
        near = Proximal(self.config.baselines.ditto_lambda, toward=SHARED)
        return (
            TrainOrder((SHARED,), self._shared_steps),
            TrainOrder((SHARED,), self._own_steps, keep=PERSONAL, send="", proximal=near),
        )

    def serve(self, state: ServerState, client: int) -> Serving:
        """v_k; w where the client has none yet."""
        return SingleAdapter(SHARED, keep=PERSONAL)
