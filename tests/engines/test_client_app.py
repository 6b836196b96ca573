from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.toys import toy_settings

from fedrouter.adapters.lora import LoraSpec
from fedrouter.client.client import Client
from fedrouter.config import dump_config, load_config
from fedrouter.config.resolve import resolve
from fedrouter.deploy import init_deployment
from fedrouter.errors import ConfigError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.codec import pack_request
from fedrouter.protocol.compression import WeightsEncoder
from fedrouter.protocol.messages import ClientRequest, EvaluateOrder
from fedrouter.protocol.serving_rules import SingleAdapter

client_app = pytest.importorskip("fedrouter.engines.flower.client_app")
records = pytest.importorskip("fedrouter.engines.flower.records")


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


@pytest.mark.parametrize("mixed", [False, True])
def test_a_quantized_node_passes_as_the_servers_base_where_the_run_allows_it(
    tiny_folder: Path, toy_data: Path, tmp_path: Path, mixed: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    sets = [*toy_settings(tiny_folder, toy_data), "strategy=fedavg", "evaluation.samples=1"]
    sets.append(f"federation.mixed_quantization={str(mixed).lower()}")
    config = resolve(load_config(None, sets), {"count", "colour", "strip"})
    server = SharedModel.load(config.model, "cpu")
    spec = LoraSpec.from_config(config.adapter).resolved(server.base.model)
    request = ClientRequest(
        0,
        config.federation.rounds + 1,
        evaluate=EvaluateOrder(SingleAdapter("global"), ("global",)),
        adapters={"global": server.initial(spec, 0)},
    )
    header, arrays = pack_request(request, "float32", WeightsEncoder())
    content = records.to_records(
        {"config": dump_config(config), "folder": "", "task": header}, arrays
    )
    node = {
        "client-id": 0,
        "data": str(toy_data),
        "state-dir": str(tmp_path / "state"),
        "model": str(tiny_folder),
        "device": "cpu",
        "quantization": "nf4",
    }
    answer = client_app._answer(SimpleNamespace(content=content), node, simulated=False)
    said = records.from_records(answer)[0]["base"]
    wanted = server.base.compared_fingerprint(mixed_quantization=mixed)
    assert (said == wanted) is mixed


def test_a_node_says_once_that_it_signs_nothing(
    tiny_base: BaseModel,
    tiny_folder: Path,
    toy_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sets = [*toy_settings(tiny_folder, toy_data), "strategy=fedavg"]
    config = resolve(load_config(None, [*sets, "privacy.secure_aggregation=true"]), {"count"})
    spec = LoraSpec.from_config(config.adapter).resolved(tiny_base.model)
    texts = {"config": dump_config(config), "folder": ""}
    init_deployment(tmp_path / "federation", nodes=1, host="localhost")
    monkeypatch.chdir(tmp_path / "federation/node-1")
    node = {"client-id": 0, "data": str(toy_data), "state-dir": "state"}

    def client(node: dict[str, object]) -> Client:
        return client_app._client(
            config, texts, node, SharedModel(tiny_base), spec, simulated=False
        )

    client(node).store.sum_file()  # creates the client's folder
    client(node)
    assert capsys.readouterr().out.count("keys of secure sums are not signed") == 1
    signing = {**node, "node-key": "node.key", "trusted-keys": "trusted_keys", "state-dir": "new"}
    assert client(signing)._sums._keys is not None
    assert "not signed" not in capsys.readouterr().out
    with pytest.raises(ConfigError, match="node-key and trusted-keys need each other"):
        client({**node, "node-key": "node.key"})
