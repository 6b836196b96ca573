"""A strategy of one's own in one file, beside FedAvg.

    python examples/own_strategy.py runs/own [KEY=VALUE ...]

FedAvgM keeps a velocity on the server, so the state has a field of its own; checkpoints and resumed
runs contain it without further code. docs/strategies.md says how an installed package registers a
strategy for the command line.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import Field

from fedrouter import (
    Section,
    ServerState,
    SingleAdapter,
    Strategy,
    TrainOrder,
    load_config,
    register_strategy,
    run,
)
from fedrouter.protocol.messages import ClientReply
from fedrouter.strategies.base import SHARED
from fedrouter.types import AdapterWeights


class FedAvgMSettings(Section):
    """The section `[strategies.fedavgm]`."""

    momentum: float = Field(default=0.5, ge=0, lt=1, description="share of the last velocity kept")


@dataclass(frozen=True, kw_only=True)
class FedAvgMState(ServerState):
    """The state of `FedAvgM`.

    Attributes:
        velocity: tensor name -> velocity of the shared adapter; empty before the first round.
    """

    velocity: AdapterWeights = field(default_factory=dict)


@register_strategy("fedavgm", settings=FedAvgMSettings)
class FedAvgM(Strategy[FedAvgMState]):
    """FedAvg with momentum on the server (Hsu et al., "Measuring the Effects of Non-Identical Data
    Distribution for Federated Visual Classification", 2019)."""

    settings: FedAvgMSettings
    state_type = FedAvgMState

    def orders(self, state: FedAvgMState, round: int, client: int) -> tuple[TrainOrder, ...]:
        """Train the shared adapter on all of the client's samples."""
        return (TrainOrder((SHARED,), self.config.training.steps),)

    def aggregate(
        self, state: FedAvgMState, round: int, replies: Iterable[ClientReply]
    ) -> FedAvgMState:
        """Move the adapter by the velocity, to which the clients' mean movement is added."""
        averaged = super().aggregate(state, round, replies)
        before, mean = state.adapters[SHARED], averaged.adapters[SHARED]
        velocity = {
            name: mean[name] - array + self.settings.momentum * state.velocity.get(name, 0)
            for name, array in before.items()
        }
        moved = {name: array + velocity[name] for name, array in before.items()}
        return replace(averaged, adapters={SHARED: moved}, velocity=velocity)

    def serve(self, state: FedAvgMState, client: int) -> SingleAdapter:
        """The shared adapter."""
        return SingleAdapter(SHARED)


def main(folder: Path, settings: list[str]) -> None:
    """Run both strategies and print the training loss of every round."""
    for strategy in ("fedavg", "fedavgm"):
        run(load_config(None, [f"strategy={strategy}", *settings]), folder / strategy)
        lines = (folder / strategy / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        print(strategy, *(f"{loss:.3f}" for loss in losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
