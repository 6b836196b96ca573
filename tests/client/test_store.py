from pathlib import Path

import numpy as np
import pytest
from support.clients import ROWS, client_of, profiled

from fedrouter.client.client import Client
from fedrouter.errors import DataError, MessageError
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.codec import pack_request, unpack_request
from fedrouter.protocol.messages import ClientRequest, EvaluateOrder, TrainOrder
from fedrouter.protocol.profile_orders import ClusterPrompts
from fedrouter.protocol.serving_rules import SingleAdapter


def test_rows_that_changed_since_the_profile_are_refused(
    client: Client, tiny_base: BaseModel, tmp_path: Path
) -> None:
    profiled(client, ClusterPrompts())
    changed = client_of(tiny_base, tmp_path, ROWS[:-1])
    with pytest.raises(DataError, match="profiled with 12 samples and now has 11"):
        changed.store.labels()
    stranger = client_of(tiny_base, tmp_path, id=4)
    with pytest.raises(DataError, match="no readable profile of client 4"):
        stranger.store.labels()


def test_labels_hold_from_a_round_on(client: Client) -> None:
    labels = {round: np.full(len(ROWS), round) for round in range(6)}
    for round in (0, 2, 3):
        client.store.write_labels(labels[round], round)
    assert [client.store.labels(round)[0] for round in (0, 1, 2, 3, 9)] == [0, 0, 2, 3, 3]
    assert client.store.labels()[0] == 3
    client.store.write_labels(labels[1], 1)  # the server fell back: rounds 2 and 3 come again
    assert client.store.labels()[0] == 1
    for round in (2, 3, 4):
        client.store.write_labels(labels[round], round)
    assert [client.store.labels(round)[0] for round in (2, 3, 4)] == [2, 3, 4]
    with pytest.raises(DataError, match="no readable profile"):
        client.store.labels(1)  # three versions are retained


@pytest.mark.parametrize("keep", ["../../victim", "/victim", "..", "a/b", "", "a\\b", "x\n"])
def test_a_server_cannot_name_a_folder_outside_the_clients(keep: str) -> None:
    """The only name of a folder that comes over the wire is refused where it is no plain name."""
    for request in (
        ClientRequest(3, 1, train=(TrainOrder((), 1, keep=keep),)),
        ClientRequest(3, 1, evaluate=EvaluateOrder(SingleAdapter(keep=keep), ("local",))),
    ):
        with pytest.raises(MessageError, match="keep"):
            unpack_request(*pack_request(request, "float32"))
