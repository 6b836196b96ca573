"""The server's state between two rounds, which a checkpoint holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from numpy.typing import NDArray

from fedrouter.privacy.budget import PrivacyLedger
from fedrouter.protocol.open_requests import OpenRequest
from fedrouter.serialization import ArrayTable, deserialize, serialize
from fedrouter.types import AdapterWeights


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """The server's state after a round. A method that needs more fields has a subclass.

    Attributes:
        round: the last finished round; 0 before the first.
        base: the base model's fingerprint.
        adapters: name -> shared adapter (or its shared matrices).
        pending: auxiliary exchanges to run before the next round, under names that the method
            defines (see `Strategy.auxiliary_requests`).
        excluded: the clients whose updates are left out, since they point against those of the
            others.
        privacy: what the run has released; None: without differential privacy.
        open_requests: the requests whose replies are late.
        speeds: client -> the optimizer steps per second that were last measured.

    >>> import numpy as np
    >>> from fedrouter import ServerState
    >>> weights = {"layer.lora_A.weight": np.zeros((8, 4), np.float32)}
    >>> state = ServerState(round=3, base="fingerprint", adapters={"global": weights})
    >>> restored = ServerState.unpack(*state.pack())
    >>> restored.round, list(restored.adapters)
    (3, ['global'])
    """

    round: int
    base: str
    adapters: Mapping[str, AdapterWeights]
    pending: tuple[str, ...] = ()
    excluded: tuple[int, ...] = ()
    privacy: PrivacyLedger | None = None
    open_requests: tuple[OpenRequest, ...] = ()
    speeds: Mapping[int, float] = field(default_factory=dict)

    def pack(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Convert the state to named arrays and JSON, for a checkpoint."""
        table = ArrayTable()
        meta = json.loads(serialize(self, table))
        return table.arrays, meta

    @classmethod
    def unpack(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Self:
        """Restore a state from what `pack` returned.

        Raises:
            ValueError: the arrays or the JSON do not describe a state of this class.
        """
        return deserialize(cls, json.dumps(meta), ArrayTable(arrays))
