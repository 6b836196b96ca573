from pathlib import Path

import pytest
from support.clients import ROWS, client_of, profiled

from fedrouter.client.client import Client
from fedrouter.errors import DataError
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import (
    ClusterPrompts,
)


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
