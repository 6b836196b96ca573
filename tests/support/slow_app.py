"""A Flower app whose client 1 is slow to train; copied into the app by a test of real processes."""

import time
from typing import Any

from fedrouter.client.client import Client
from fedrouter.engines.flower.client_app import make_client_app
from fedrouter.engines.flower.server_app import make_server_app
from fedrouter.protocol.messages import ClientReply

SLOW, SECONDS = 1, 25.0  # the client, and how much longer it takes

finish = Client.finish


def slowly(client: Client, prepared: Any, results: Any) -> ClientReply:
    """What a client does last, after a pause."""
    if client.id == SLOW and prepared.jobs:
        time.sleep(SECONDS)
    return finish(client, prepared, results)


Client.finish = slowly  # type: ignore[method-assign]
client = make_client_app()
server = make_server_app()
