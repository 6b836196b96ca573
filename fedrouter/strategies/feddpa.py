"""FedDPA (Yang et al., "Dual-Personalizing Adapter for Federated Foundation Models", 2024).

Every client has a local adapter beside the shared global one. It is trained with both at work,
h(x) = W0 x + a s B_l A_l x + (1 - a) s B_g A_g x, a = `local_weight`, the global one held
constant, and prompts are answered by a mix of both: the *local* adapter counts
w(x) = `mixture_scale` * mean over `similarity_samples` random local samples of cos(e(x), e(x_s)),
the global one 1 - w(x), where e is the last token of the last layer. So says the paper's text: a
prompt unlike the client's own is left to the global adapter. The released code gives w(x) to the
global adapter instead, which looks inverted.
"""

from pydantic import Field

from fedrouter.config import ResolvedConfig, Section, register_strategy
from fedrouter.config.sections.base import Count
from fedrouter.errors import ConfigError
from fedrouter.protocol.messages import FrozenCompanion, TrainOrder
from fedrouter.protocol.serving_rules import InstanceMixture, Serving, SingleAdapter
from fedrouter.strategies.base import PERSONAL, SHARED, split_steps
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.finetune import FinetuneSettings, TwoPhases
from fedrouter.strategies.state import ServerState


class FedDPASettings(Section):
    """The section `[strategies.feddpa]`."""

    local_weight: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="alpha in the paper: weight of the local adapter's output in training; the "
        "global adapter's output has the weight 1 - alpha",
    )
    mixture_scale: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="inference weight of the local adapter = mixture_scale times the mean cosine "
        "similarity of the prompt to local samples",
    )
    similarity_samples: Count = Field(
        default=5,
        description="S in the paper: number of local samples that a prompt is compared with",
    )


class FedDPAFSettings(FedDPASettings, FinetuneSettings):
    """The section `[strategies.feddpa-f]`."""


@register_strategy("feddpa", settings=FedDPASettings)
class FedDPA(FedAvg):
    """FedDPA-T (Yang et al., 2024): a local adapter beside the shared global one, mixed per prompt;
    from round 2 on both are trained in every round, whose steps are split between them.

    Raises:
        ConfigError: training.steps or federation.rounds is 1.
    """

    personalized = True
    settings: FedDPASettings

    def __init__(self, config: ResolvedConfig) -> None:
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
            local_order(self.settings, self._own_steps),
        )

    def serve(self, state: ServerState, client: int) -> Serving:
        """The mixture of both adapters; the global one alone before local ones exist."""
        return instance_mix(self.settings) if state.round > 1 else SingleAdapter(SHARED)


@register_strategy("feddpa-f", settings=FedDPAFSettings)
class FedDPAF(TwoPhases):
    """FedDPA-F (Yang et al., 2024): FedDPA whose local adapters are trained after the global one is
    finished."""

    settings: FedDPAFSettings

    def own_order(self) -> TrainOrder:
        """The local adapter beside the finished global one."""
        return local_order(self.settings, self.config.training.steps)

    def serve(self, state: ServerState, client: int) -> Serving:
        """The mix of both, once there are local adapters."""
        return (
            instance_mix(self.settings)
            if state.round > self.shared_rounds
            else SingleAdapter(SHARED)
        )


def local_order(settings: FedDPASettings, steps: int) -> TrainOrder:
    """Train and keep the local adapter, with the constant global adapter in the forward pass."""
    companion = FrozenCompanion(SHARED, weight=settings.local_weight)
    return TrainOrder((), steps, keep=PERSONAL, send="", companion=companion)


def instance_mix(settings: FedDPASettings) -> InstanceMixture:
    """The mixture in which the local adapter's weight grows with the prompt's similarity to the
    client's samples."""
    return InstanceMixture(
        SHARED, PERSONAL, scale=settings.mixture_scale, samples=settings.similarity_samples
    )
