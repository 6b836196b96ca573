"""4 bits with error feedback: through Flower's messages and ClientApp as in one process."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.toys import toy_settings

from fedrouter.config import dump_config, load_config
from fedrouter.experiment import Experiment, run
from fedrouter.server.expected import expected_arrays
from fedrouter.storage.run_folder import RunFolder

flwr_app = pytest.importorskip("flwr.app")


class Nodes:
    """A grid of nodes 0, 1, ... in this process, each of which is the client of its number."""

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self.replies: dict[str, flwr_app.Message] = {}

    def get_node_ids(self) -> list[int]:
        return [100 + client for client in range(self.clients)]

    def push_messages(self, messages: Iterable[flwr_app.Message]) -> list[str]:
        from fedrouter.engines.flower.client_app import _answer, _introduction
        from fedrouter.engines.flower.records import to_records

        ids = []
        for message in messages:
            node = {"partition-id": message.metadata.dst_node_id - 100, "device": "cpu"}
            if message.metadata.message_type == "query":
                content = to_records(_introduction(message, node), {})
            else:
                content = _answer(message, node, simulated=True)
            ids.append(f"message-{len(self.replies)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self.replies[ids[-1]] = flwr_app.Message(content, reply_to=message)
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[flwr_app.Message]:
        return [self.replies[id] for id in ids]


@pytest.mark.parametrize("strategy", ["fedavg", "fedsa"])
def test_flower_ends_as_one_process_does(
    tiny_folder: Path,
    toy_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
) -> None:
    from flwr.supercore.task_identity import TaskIdentity

    from fedrouter.engines.flower.engine import FlowerEngine

    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    sets = [*toy_settings(tiny_folder, toy_data), f"strategy={strategy}", "evaluation.samples=1"]
    sets += ["federation.transport=int4", "federation.error_feedback=true"]
    sets += ["federation.rounds=2", "federation.ranks=[2, 1]"]
    sets += ["aggregation.ranks=zero_padding"]  # errors belong to components in their places
    sets += ["engine.fuse=1", "engine.device=cpu"]  # fused sums differ in the last bit
    one = run(load_config(None, sets), tmp_path / "one")
    experiment = Experiment(load_config(None, sets))
    folder = RunFolder.create(tmp_path / "flower", dump_config(experiment.config))
    model, spec = experiment._shared_model, experiment._spec
    engine = FlowerEngine(
        Nodes(3),
        experiment.config,
        expected=expected_arrays(model, spec, experiment.config),
        fingerprint=model.base.fingerprint,
        initial=model.initial(spec, experiment.config.seed),
        folder=str(folder.path / "clients"),
    )
    flower = experiment._serve(folder, engine)
    assert flower["bytes"] == one["bytes"]
    assert flower["metrics"] == one["metrics"]
    files = [*(tmp_path / "one").rglob("*.safetensors")]
    assert any("errors" in path.parts for path in files)
    for path in files:
        theirs = load_file(tmp_path / "flower" / path.relative_to(tmp_path / "one"))
        for name, array in load_file(path).items():
            np.testing.assert_array_equal(array, theirs[name])
