"""FedAvg first, then every client for itself: FedAvg with fine-tuning, and what FedDPA-F shares
with it."""

from fedrouter.config import Config
from fedrouter.errors import ConfigError
from fedrouter.protocol.messages import Serving, SingleAdapter, TrainOrder
from fedrouter.strategies.base import PERSONAL, SHARED, ServerState
from fedrouter.strategies.fedavg import FedAvg


class TwoPhases(FedAvg):
    """FedAvg up to the last F rounds, in which clients train what they keep and send nothing.

    F is `baselines.finetune_rounds`, by default a fifth of the rounds and at least 1; they are part
    of the run's rounds, so that the budget is that of the other methods. Each phase is a training
    of its own, over which the rate falls anew from `training.lr` to `training.lr_min`.

    Attributes:
        shared_rounds: number of rounds of the first phase.

    Raises:
        ConfigError: no round is left for the first phase.
    """

    personalised = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        rounds = config.federation.rounds
        last = config.baselines.finetune_rounds or max(1, rounds // 5)
        if last >= rounds:
            raise ConfigError(
                f"strategy {config.strategy!r} fine-tunes in the last {last} rounds, after FedAvg: "
                f"set federation.rounds to {last + 1} or more, or baselines.finetune_rounds lower"
            )
        self.shared_rounds = rounds - last

    def orders(self, state: ServerState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """FedAvg's order in the first phase, `own_order` in the second."""
        if round <= self.shared_rounds:
            return super().orders(state, round, client)
        return (self.own_order(),)

    def own_order(self) -> TrainOrder:
        """What a client trains for itself."""
        raise NotImplementedError

    def learning_rate(self, round: int) -> float:
        """A cosine from `lr` to `lr_min` over each phase."""
        if round <= self.shared_rounds:
            return self._cosine(round, self.shared_rounds)
        last = self.config.federation.rounds - self.shared_rounds
        return self._cosine(round - self.shared_rounds, last)


class FedAvgFT(TwoPhases):
    """FedAvg, after which every client trains a copy of the averaged adapter further."""

    def own_order(self) -> TrainOrder:
        """The client's copy; the averaged adapter where it has none yet."""
        return TrainOrder((SHARED,), self.config.training.steps, keep=PERSONAL, send="")

    def serve(self, state: ServerState, client: int) -> Serving:
        """The client's copy; the averaged adapter where it has none yet."""
        return SingleAdapter(SHARED, keep=PERSONAL)
