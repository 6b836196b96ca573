"""Ditto (Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", 2021)."""

from pydantic import Field

from fedrouter.config import ResolvedConfig, Section, register_strategy
from fedrouter.protocol.messages import Proximal, TrainOrder
from fedrouter.protocol.serving_rules import Serving, SingleAdapter
from fedrouter.strategies.base import PERSONAL, SHARED, Strategy, split_steps
from fedrouter.strategies.state import ServerState


class DittoSettings(Section):
    """The section `[strategies.ditto]`."""

    proximal_weight: float = Field(
        default=0.1,
        ge=0,
        description="lambda in the paper: the personal adapter's loss gets the additional term "
        "lambda / 2 times the squared L2 distance to the received shared adapter",
    )


@register_strategy("ditto", settings=DittoSettings)
class Ditto(Strategy[ServerState]):
    """Ditto (Li et al., 2021): FedAvg's adapter w and, for each client k, a personal adapter v_k
    that minimizes F_k(v) + lambda / 2 * ||v - w||^2 and stays with the client.

    A round's steps are split between the two.

    Raises:
        ConfigError: training.steps is 1.
    """

    personalized = True
    settings: DittoSettings

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config)
        self._shared_steps, self._own_steps = split_steps(config)

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Train and send w; then train and keep v_k, near the received w. A new v_k starts at w."""
        near = Proximal(self.settings.proximal_weight, toward=SHARED)
        return (
            TrainOrder((SHARED,), self._shared_steps),
            TrainOrder((SHARED,), self._own_steps, keep=PERSONAL, send="", proximal=near),
        )

    def serve(self, state: ServerState, client: int) -> Serving:
        """v_k; w where the client has none yet."""
        return SingleAdapter(SHARED, keep=PERSONAL)
