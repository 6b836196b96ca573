from dataclasses import replace
from pathlib import Path

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
from fedrouter.protocol.messages import ClientRequest, EvaluateOrder, SingleAdapter

client_app = pytest.importorskip("fedrouter.engines.flower.client_app")


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
        return [path.name for path in tmp_path.rglob("predictions.jsonl")]

    assert files(last, simulated=False) == []
    between = EvaluateOrder(SingleAdapter("global"), ("local", "global"))
    assert files(replace(last, evaluate=between), simulated=True) == []  # not the last one
    assert files(last, simulated=True) == ["predictions.jsonl"]


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
