"""FedDPA (Yang et al., "Dual-Personalizing Adapter for Federated Foundation Models", 2024).

Every client has a local adapter beside the shared global one. It is trained with both at work,
h(x) = W0 x + a s B_l A_l x + (1 - a) s B_g A_g x, a = `baselines.dpa_weight`, the global one held
constant, and prompts are answered by a mix of both: the *local* adapter counts
w(x) = `dpa_scale` * mean over `dpa_samples` random local samples of cos(e(x), e(x_s)),
the global one 1 - w(x), where e is the last token of the last layer. So says the paper's text: a
prompt unlike the client's own is left to the global adapter. The released code gives w(x) to the
global adapter instead, which looks inverted.
"""

from fedrouter.config import Config
from fedrouter.errors import ConfigError
from fedrouter.protocol.messages import (
    FrozenCompanion,
    InstanceMixture,
    Serving,
    SingleAdapter,
    TrainOrder,
)
from fedrouter.strategies.base import PERSONAL, SHARED, ServerState, split_steps
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.finetune import TwoPhases


class FedDPA(FedAvg):
    """Variant T: from round 2 on both adapters are trained in every round; its steps are split.

    Raises:
        ConfigError: training.steps or federation.rounds is 1.
    """

    personalised = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._shared_steps, self._own_steps = split_steps(config)
        if config.federation.rounds < 2:
            raise ConfigError(
                f"strategy {config.strategy!r} trains its local adapters from round 2 on: set "
                "federation.rounds to 2 or more"
            )

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """The global adapter, which is sent; then the local one beside what was received."""
        if round == 1:
            return super().orders(state, round, client)
        return (
            TrainOrder((SHARED,), self._shared_steps),
            local_order(self.config, self._own_steps),
        )

    def serve(self, state: ServerState, client: int) -> Serving:
        """The mix of both, once there are local adapters."""
        return instance_mix(self.config) if state.round > 1 else SingleAdapter(SHARED)


class FedDPAF(TwoPhases):
    """Variant F: the local adapters are trained after the global one is finished."""

    def own_order(self) -> TrainOrder:
        """The local adapter beside the finished global one."""
        return local_order(self.config, self.config.training.steps)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The mix of both, once there are local adapters."""
        return (
            instance_mix(self.config) if state.round > self.shared_rounds else SingleAdapter(SHARED)
        )


def local_order(config: Config, steps: int) -> TrainOrder:
    """Train the local adapter, from the initial one, beside the global adapter; it is kept."""
    companion = FrozenCompanion(SHARED, weight=config.baselines.dpa_weight)
    return TrainOrder((), steps, keep=PERSONAL, send="", companion=companion)


def instance_mix(config: Config) -> InstanceMixture:
    """The local adapter counts the more, the more a prompt resembles the client's own."""
    settings = config.baselines
    return InstanceMixture(SHARED, PERSONAL, scale=settings.dpa_scale, samples=settings.dpa_samples)
