"""Flower's engine in processes of its own, against the engine in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_settings
from safetensors.numpy import load_file

from fedrouter.config import load_config
from fedrouter.experiment import run


def adapters(run: Path) -> dict[str, np.ndarray]:
    return {
        f"{path.parent.name}/{name}": array
        for path in sorted(run.glob("tasks/*/*.safetensors"))
        for name, array in load_file(path).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedrouter", "feddpa"])
def test_a_simulation_ends_as_a_run_in_this_process(
    tiny_folder: Path, toy_data: Path, tmp_path: Path, strategy: str
) -> None:
    sets = [*toy_settings(tiny_folder, toy_data), f"strategy={strategy}", "federation.clients=8"]
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
        # One client's jobs are fused with fewer others there, and fp16 rounds what differs.
        np.testing.assert_allclose(theirs[name], array, atol=2e-3, err_msg=name)
    if strategy == "fedrouter":
        routers = [load_file(tmp_path / run / "router.safetensors") for run in ("here", "there")]
        np.testing.assert_array_equal(routers[0]["centroids"], routers[1]["centroids"])
    lines = (tmp_path / "there/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["failures"] for line in lines] == [[], [], []]
