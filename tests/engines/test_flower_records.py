"""Flower's engine in processes of its own, against the engine in this process."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.flower_processes import Deployment
from support.toys import toy_settings

from fedrouter.config import load_config
from fedrouter.experiment import run


def adapters(run: Path) -> dict[str, np.ndarray]:
    return {
        f"{path.parent.name}/{name}": array
        for path in sorted(run.glob("tasks/*/*.safetensors"))
        for name, array in load_file(path).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ["strategy=fedrouter"],
        ["strategy=feddpa"],
        ["clustering.n_local=auto", "clustering.n_global=auto"],
    ],
    ids=lambda changes: changes[0],
)
def test_a_simulation_ends_as_a_run_in_this_process(
    tiny_folder: Path, toy_data: Path, tmp_path: Path, changes: list[str]
) -> None:
    sets = [*toy_settings(tiny_folder, toy_data), *changes, "federation.clients=8"]
    here = run(load_config(None, sets), tmp_path / "here")
    there = run(load_config(None, [*sets, "engine.name=flower"]), tmp_path / "there")
    assert there["tasks"] == here["tasks"]
    assert there["routing"] == here["routing"]
    assert (there["bytes"], there["tokens"]) == (here["bytes"], here["tokens"])
    for scope in ("local", "global", "base"):
        assert there["metrics"][scope]["loss"] == pytest.approx(
            here["metrics"][scope]["loss"], rel=1e-3
        )
    ours, theirs = adapters(tmp_path / "here"), adapters(tmp_path / "there")
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        # One client's jobs are fused with fewer others there, and float16 rounds what differs.
        np.testing.assert_allclose(theirs[name], array, atol=2e-3, err_msg=name)
    if "strategy=feddpa" not in changes:
        routers = [load_file(tmp_path / run / "router.safetensors") for run in ("here", "there")]
        np.testing.assert_array_equal(routers[0]["centroids"], routers[1]["centroids"])
    lines = (tmp_path / "there/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["failures"] for line in lines] == [[], [], []]


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    started = Deployment(tmp_path / "deployment")
    try:
        yield started
    finally:
        started.stop()


@pytest.mark.slow
def test_a_deployment_ends_as_a_run_in_this_process(
    deployment: Deployment, tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    """One SuperLink, two SuperNodes that each hold a share of the rows."""
    sets = [text for text in toy_settings(tiny_folder, toy_data) if "template" not in text]
    sets += ["model.max_length=400", "federation.clients=2", "federation.rounds=2"]
    here = run(load_config(None, sets), tmp_path / "here")
    deployment.superlink()
    for i in range(2):
        state = deployment.folder / f"state-{i}"
        places = {"data": "run", "state-dir": str(state), "model": str(tiny_folder)}
        places |= {"min-samples": 1, "task-names": "true"}  # as in a run on one machine
        deployment.node(f"node-{i}", {"partition-id": i, "num-partitions": 2, **places})
    output = tmp_path / "there"
    process = deployment.run("; ".join(sets), output)
    deployment.wait_for(lambda: process.poll() is not None, "the run to end", 480)
    assert (output / "summary.json").exists(), deployment.logs()
    there = json.loads((output / "summary.json").read_text())
    assert there["tasks"] == here["tasks"]
    assert there["routing"] == here["routing"]
    assert (there["bytes"], there["tokens"]) == (here["bytes"], here["tokens"])
    ours, theirs = adapters(tmp_path / "here"), adapters(output)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(theirs[name], array, atol=2e-3, err_msg=name)
    assert list(deployment.folder.glob("state-1/*/client-001/labels.safetensors"))
