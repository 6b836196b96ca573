from dataclasses import replace
from pathlib import Path

import pytest
from support.toys import toy_settings

from fedrouter.adapters.lora import LoraSpec
from fedrouter.config import dump_config, load_config
from fedrouter.config.resolve import resolve
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import ClientRequest, EvaluateOrder, SingleAdapter

client_app = pytest.importorskip("fedrouter.engines.flower.client_app")


def test_the_clients_of_a_process_read_the_rows_once(
    tiny_base: BaseModel,
    tiny_folder: Path,
    toy_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a simulation thousands of clients share an actor."""
    sets = [*toy_settings(tiny_folder, toy_data), "federation.clients=5"]
    config = resolve(load_config(None, sets), {"count", "colour", "strip"})
    spec = LoraSpec.from_config(config.adapter).resolved(tiny_base.model)
    loaded, load = [], client_app.load_splits
    monkeypatch.setattr(client_app, "load_splits", lambda *args: loaded.append(1) or load(*args))
    texts, shared_model = {"config": "", "folder": str(tmp_path)}, SharedModel(tiny_base)
    clients = [
        client_app._client(config, texts, {"partition-id": id}, shared_model, spec, simulated=True)
        for id in range(5)
    ]
    assert len({id(client.data) for client in clients}) == 5
    assert len(loaded) == 1


def test_only_in_a_simulation_answers_are_stored_as_texts(
    tiny_base: BaseModel, tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    """Even where a node's owner lets runs name the files to read."""
    sets = [*toy_settings(tiny_folder, toy_data), "strategy=fedavg", "evaluation.samples=1"]
    config = resolve(load_config(None, sets), {"count", "colour", "strip"})
    shared_model = SharedModel(tiny_base)
    spec = LoraSpec.from_config(config.adapter).resolved(tiny_base.model)
    node = {"partition-id": 0, "data": "run", "state-dir": str(tmp_path / "state")}
    last = ClientRequest(
        0,
        config.federation.rounds + 1,
        evaluate=EvaluateOrder(SingleAdapter("global"), ("global", "base")),
        adapters={"global": shared_model.initial(spec, 0)},
    )

    def files(request: ClientRequest, *, simulated: bool) -> list[str]:
        texts = {"config": dump_config(config), "folder": ""}
        client = client_app._client(config, texts, node, shared_model, spec, simulated=simulated)
        assert client.prepare(request).reply.evaluation is not None
        return [path.parent.name for path in tmp_path.rglob("answers/*.jsonl")]

    assert files(last, simulated=False) == []
    between = EvaluateOrder(SingleAdapter("global"), ("local", "global"))
    assert files(replace(last, evaluate=between), simulated=True) == []  # not the last one
    assert files(last, simulated=True) == ["answers"]
