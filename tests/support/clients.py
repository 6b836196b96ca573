"""Clients on the toy tasks, and what they answer."""

from collections.abc import Sequence
from pathlib import Path

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client
from fedrouter.data.client_data import ClientData
from fedrouter.data.rows import Row
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.compression import TransportDtype
from fedrouter.protocol.messages import ClientRequest, EvaluateOrder, EvaluationReport, TrainOrder
from fedrouter.protocol.profile_orders import ProfileOrder
from fedrouter.protocol.serving_rules import Serving
from fedrouter.routing.types import TaskProfile
from fedrouter.types import AdapterWeights
from support.configs import resolved
from support.toys import toy_rows

SPEC = LoraSpec(rank=2, alpha=4, dropout=0.0)

ROWS = [row for row in toy_rows(6) if row.task != "count"]

KEEP = "personal"


def client_of(
    base: BaseModel, folder: Path, rows: Sequence[Row] = ROWS, id: int = 3, *sets: str
) -> Client:
    return Client(
        id,
        ClientData(rows, rows[:2], rows[:4]),
        shared_model=SharedModel(base),
        spec=SPEC,
        config=resolved("training.batch_size=2", "evaluation.max_new_tokens=2", *sets),
        folder=folder,
    )


def profiled(client: Client, order: ProfileOrder) -> TaskProfile:
    """What the client answers to an order to profile its data."""
    profile = client.prepare(ClientRequest(client.id, 0, order)).reply.profile
    assert profile is not None
    return profile


def engine(base: BaseModel, client: Client, transport: TransportDtype) -> InProcessEngine:
    return InProcessEngine(base, SPEC, {3: client}, transport=transport, fuse=4)


def train(
    client: Client, base: BaseModel, round: int, order: TrainOrder, **adapters: AdapterWeights
):
    run = engine(base, client, "float32")
    [reply] = run.run([ClientRequest(3, round, train=(order,), adapters=adapters, lr=0.1)])
    return reply.updates[0], run.traffic


def serve(
    client: Client, rule: Serving, round: int = 9, **adapters: AdapterWeights
) -> EvaluationReport:
    order = EvaluateOrder(rule, ("local", "global", "base"))
    work = client.prepare(ClientRequest(3, round, evaluate=order, adapters=adapters))
    evaluation = client.finish(work, []).evaluation
    assert evaluation is not None
    return evaluation
