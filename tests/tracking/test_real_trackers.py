"""Each tracker with its real package, read back by that package; skipped where it is missing."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fedrouter.storage.inspection import check_folder
from fedrouter.tracking import TrackedRun
from fedrouter.tracking.registry import TRACKERS

CONFIG: Mapping[str, Any] = {"seed": 3, "data.train": "/rows.jsonl", "tracking": ["x"]}
NAME = "test/global/rouge1/ä task (of 'data')"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the loopback can be reached, which W&B's own process listens on."""
    import socket

    connect = socket.socket.connect

    def guarded(one: socket.socket, address: Any) -> None:
        if one.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"asks the network for {address}")
        connect(one, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def track(name: str, folder: Path) -> None:
    """Rounds 1 and 2, of which the second is lost in a kill; then a resumed run to the end."""
    folder.mkdir()
    first = TRACKERS[name].open(TrackedRun("mine", folder, CONFIG, 0))  # type: ignore[index]
    first.log({"train/loss": 2.0}, 1)
    first.log({"train/loss": 99.0}, 2)
    first.close(finished=False)
    second = TRACKERS[name].open(TrackedRun("mine", folder, CONFIG, 1))  # type: ignore[index]
    second.log({"train/loss": 1.5}, 2)
    second.log({NAME: 0.5}, 2)
    second.close(finished=True)
    check_folder(folder)  # a run folder with links that lead out of it is refused


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track("tensorboard", tmp_path / "t")
    events = EventAccumulator(str(tmp_path / "t"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.5)]
    [tag] = [tag for tag in events.Tags()["scalars"] if tag.startswith("test/")]
    assert [(e.step, e.value) for e in events.Scalars(tag)] == [(2, 0.5)]
    [config] = events.Tensors("config/text_summary")
    assert b"data.train = '/rows.jsonl'" in config.tensor_proto.string_val[0]


@pytest.mark.slow
def test_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    track("mlflow", tmp_path / "t")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 't/mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'fedrouter'")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert run.data.params == {"seed": "3", "data.train": "/rows.jsonl", "tracking": "['x']"}
    steps = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert sorted(steps) == [(1, 2.0), (2, 1.5), (2, 99.0)]
    assert run.data.metrics["train/loss"] == 1.5
    assert run.data.metrics["test/global/rouge1/ä task _of _data__"] == 0.5


def logged(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: a header of 7 bytes, then a log in LevelDB's format."""
    position, record, block = 7, b"", 32768
    while position < len(data):
        if (left := block - position % block) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {1, 4}:  # whole, or the last part
            yield record
            record = b""


def test_wandb(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    track("wandb", tmp_path / "t")
    id = (tmp_path / "t/id").read_text()
    history, ids = [], set()
    for file in sorted(tmp_path.rglob("*.wandb")):
        assert "offline-run" in file.parent.name
        for data in logged(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                items = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
                history.append({key: json.loads(value) for key, value in items.items()})
    assert ids == {id}
    losses = [(one["_step"], one["train/loss"]) for one in history if "train/loss" in one]
    assert losses == [(1, 2.0), (2, 99.0), (2, 1.5)]
    assert [one[NAME] for one in history if NAME in one] == [0.5]
