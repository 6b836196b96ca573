"""Tasks that come and change while a federation runs, with the built-in base model and tasks."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from support.configs import resolved

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client
from fedrouter.config import ResolvedConfig
from fedrouter.data.client_data import ClientData
from fedrouter.data.loading import load_splits
from fedrouter.data.rows import Row
from fedrouter.engines.in_process import InProcessEngine
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.protocol.messages import ClientReply
from fedrouter.protocol.validation import ExpectedArrays
from fedrouter.server.rounds import rounds
from fedrouter.strategies import TaskState, make_strategy

SETS = [
    "seed=1",
    r'model.template="{instruction}\n"',
    "data.builtin_train=48",
    "data.builtin_test=1",
    "federation.rounds=8",
    "clustering.n_local=auto",
    "clustering.n_global=auto",
    "clustering.space=whitened",
    "training.steps=6",
    "training.batch_size=4",
    "training.lr=0.005",
    "training.lr_min=0.005",
    "evaluation.enabled=false",
]


class Growing(InProcessEngine):
    """An engine whose clients come when they come, and whose rows may change."""

    def __init__(self, config: ResolvedConfig, shared_model: SharedModel, folder: Path) -> None:
        self.spec = LoraSpec(rank=4, alpha=8, dropout=0.0).resolved(shared_model.base.model)
        self._parts = (config, shared_model, folder)
        self.held: dict[int, Client] = {}
        super().__init__(shared_model.base, self.spec, self.held, transport="float32", fuse=8)

    def hold(self, id: int, rows: Sequence[Row]) -> None:
        config, shared_model, folder = self._parts
        self.held[id] = Client(
            id,
            ClientData(rows),
            shared_model=shared_model,
            spec=self.spec,
            config=config,
            folder=folder,
        )


def names_of(state: TaskState, engine: Growing) -> dict[str, set[str | None]]:
    """The true tasks among the training rows of each global task that someone holds."""
    found: dict[str, set[str | None]] = {}
    for id, own in state.assignment.items():
        client = engine.clients[id]
        for label, row in zip(client.store.labels(), client.data.train, strict=True):
            found.setdefault(own[label], set()).add(row.task)
    return found


@pytest.fixture(scope="module")
def shared_model() -> SharedModel:
    return SharedModel.load(resolved(*SETS).model)


@pytest.mark.slow
def test_a_new_task_is_born_and_a_client_that_drifts_is_profiled_anew(
    shared_model: SharedModel, tmp_path: Path
) -> None:
    config = resolved(*SETS)
    rows = load_splits(config.data, config.seed).train
    of = {name: [row for row in rows if row.task == name] for name in ("dates", "query", "triage")}
    engine = Growing(config, shared_model, tmp_path)
    engine.hold(0, [*of["dates"][:24], *of["query"][:24]])
    engine.hold(1, [*of["dates"][24:], *of["query"][24:]])
    strategy = make_strategy(config)
    initial = shared_model.initial(engine.spec, config.seed)
    shapes = {name: array.shape for name, array in initial.items()}
    expected = ExpectedArrays(shapes, shared_model.base.model.config.hidden_size)
    replies = engine.run(strategy.profile(engine.online()))
    profiles = [reply.profile for reply in replies if isinstance(reply, ClientReply)]
    state = strategy.init(filter(None, profiles), initial, shared_model.base.fingerprint)
    seen: list[TaskState] = []
    for done in rounds(strategy, engine, state, config, expected):
        seen.append(done.state)
        if done.state.round == 4:
            before = names_of(done.state, engine)
            engine.hold(2, [*of["triage"], *of["dates"][:24]])  # comes in round 5
        if done.state.round == 7:
            after = names_of(done.state, engine)
            engine.hold(1, of["triage"])  # drifts: noticed in round 8
    # Every task is of one kind of prompts, and a kind's prompts are few tasks.
    assert all(len(names) == 1 for names in before.values())
    assert 2 <= len(before) <= 4
    create_task = [event for event in seen[-1].history if event.kind == "created"]
    assert create_task
    assert {event.round for event in create_task} == {5}
    new = after.keys() - before.keys()
    assert new
    assert new <= {event.task for event in create_task}
    assert all(after[task] == {"triage"} for task in new)
    kept = before.keys() & after.keys()
    assert all(after[task] == before[task] for task in kept)
    assert {*seen[-1].assignment} == {0, 2}  # client 1 is asked for a profile next
    assert seen[-1].adapters.keys() >= kept
