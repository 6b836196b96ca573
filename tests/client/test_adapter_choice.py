import numpy as np
import pytest
from support.clients import KEEP, ROWS, train

from fedrouter.client.adapter_choice import choose
from fedrouter.client.client import Client
from fedrouter.model.base_model import BaseModel
from fedrouter.model.embedding import LAST_TOKEN
from fedrouter.protocol.messages import ClientRequest, TrainOrder
from fedrouter.protocol.serving_rules import InstanceMixture
from fedrouter.types import AdapterWeights


def test_the_kept_adapters_weight_is_the_mean_cosine_to_local_samples(
    client: Client, tiny_base: BaseModel, adapter: AdapterWeights
) -> None:
    train(client, tiny_base, 1, TrainOrder((), steps=1, keep=KEEP, send=""))
    context = client.context(ClientRequest(3, 2, adapters={"a": adapter}))
    rule = InstanceMixture("a", KEEP, scale=0.5, samples=12)
    chosen = choose(rule, context, ROWS[:1], "local")
    points = tiny_base.embed([row.instruction for row in ROWS], LAST_TOKEN)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    expected = 0.5 * float(np.mean(unit @ unit[0]))
    [[(kept, weight), (received, rest)]] = chosen.mixtures
    assert (kept, received) == ("kept", "received")
    assert (weight, rest) == pytest.approx((expected, 1 - expected), abs=1e-5)
