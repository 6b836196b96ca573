"""FedAvg followed by fine-tuning on each client: `fedavg-ft` (Wang et al., "Federated Evaluation of
On-device Personalization", 2019), and the two phases that FedDPA-F shares with it."""

from pydantic import Field

from fedrouter.config import ResolvedConfig, Section, register_strategy
from fedrouter.config.sections.base import Count
from fedrouter.errors import ConfigError
from fedrouter.protocol.messages import TrainOrder
from fedrouter.protocol.serving_rules import Serving, SingleAdapter
from fedrouter.strategies.base import PERSONAL, SHARED
from fedrouter.strategies.fedavg import FedAvg
from fedrouter.strategies.state import ServerState


class FinetuneSettings(Section):
    """The section of a strategy that ends with rounds of local fine-tuning."""

    finetune_rounds: Count | None = Field(
        default=None,
        description="number of rounds at the end of the run in which every client trains its own "
        "adapter and sends nothing; unset: a fifth of federation.rounds, at least 1",
    )


class TwoPhases(FedAvg):
    """FedAvg up to the last F rounds, in which clients train what they keep and send nothing.

    F is `finetune_rounds`, by default a fifth of the rounds and at least 1; they are part of the
    run's rounds, so that the budget is that of the other methods. Each phase is a training
    of its own, over which the rate falls anew from `training.lr` to `training.lr_min`.

    Attributes:
        shared_rounds: number of rounds of the first phase.

    Raises:
        ConfigError: no round is left for the first phase.
    """

    personalized = True
    settings: FinetuneSettings

    def __init__(self, config: ResolvedConfig) -> None:
        super().__init__(config)
        rounds = config.federation.rounds
        last = self.settings.finetune_rounds or max(1, rounds // 5)
        if last >= rounds:
            raise ConfigError(
                f"strategy {config.strategy!r} fine-tunes in the last {last} rounds, after FedAvg: "
                f"set federation.rounds to {last + 1} or more, or strategies.{config.strategy}."
                "finetune_rounds lower"
            )
        self.shared_rounds = rounds - last

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """FedAvg's order in the first phase, `own_order` in the second."""
        if round <= self.shared_rounds:
            return super().orders(state, round, client)
        return (self.own_order(),)

    def own_order(self) -> TrainOrder:
        """The order to train a client's personal adapter."""
        raise NotImplementedError

    def learning_rate(self, round: int) -> float:
        """A cosine from `lr` to `lr_min` over each phase."""
        if round <= self.shared_rounds:
            return self._cosine(round, self.shared_rounds)
        last = self.config.federation.rounds - self.shared_rounds
        return self._cosine(round - self.shared_rounds, last)


@register_strategy("fedavg-ft", settings=FinetuneSettings)
class FedAvgFT(TwoPhases):
    """FedAvg with fine-tuning (Wang et al., 2019): after FedAvg, every client trains a copy of the
    averaged adapter further and keeps it."""

    def own_order(self) -> TrainOrder:
        """Train the client's copy, which starts as the averaged adapter."""
        return TrainOrder((SHARED,), self.config.training.steps, keep=PERSONAL, send="")

    def serve(self, state: ServerState, client: int) -> Serving:
        """The client's copy or, if it has none yet, the averaged adapter."""
        return SingleAdapter(SHARED, keep=PERSONAL)
