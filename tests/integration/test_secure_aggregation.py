"""Runs that sum securely, on real clients and a tiny base model."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.toys import toy_settings

from fedrouter.config import load_config
from fedrouter.experiment import resume, run
from fedrouter.progress import Progress

SECURE = ("privacy.secure_aggregation=true", "privacy.min_clients=2", "federation.rounds=2")


class Interrupted(Progress):
    """Ends the run in round 2."""

    def round(self, number: int, of: int) -> None:
        if number == 2:
            raise KeyboardInterrupt


def adapters(folder: Path) -> dict[str, np.ndarray]:
    files = sorted((folder / "tasks").glob("*/adapter_model.safetensors"))
    return {f"{f.parent.name} {k}": v for f in files for k, v in load_file(f).items()}


@pytest.mark.parametrize("strategy", ["fedavg", "fedrouter"])
def test_a_resumed_run_ends_as_an_undisturbed_one(
    tiny_folder: Path, toy_data: Path, tmp_path: Path, strategy: str
) -> None:
    sets = [*toy_settings(tiny_folder, toy_data), *SECURE, f"strategy={strategy}"]
    config = load_config(None, [*sets, "evaluation.every=1"])
    whole = run(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "again", Interrupted())
    resumed = resume(tmp_path / "again")
    assert resumed["metrics"] == whole["metrics"]
    assert whole["metrics"]["global"]["loss"] > 0
    ours, theirs = adapters(tmp_path / "again"), adapters(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert not list((tmp_path / "whole" / "clients").rglob("sum.safetensors"))


def test_fedavg_trains_the_same_adapter(tiny_folder: Path, toy_data: Path, tmp_path: Path) -> None:
    sets = [*toy_settings(tiny_folder, toy_data), *SECURE, "strategy=fedavg"]
    sets += ["federation.transport=float32", "mode=paper"]
    masked = run(load_config(None, sets), tmp_path / "masked")
    plain = run(load_config(None, [*sets, "privacy.secure_aggregation=false"]), tmp_path / "plain")
    ours, theirs = adapters(tmp_path / "masked"), adapters(tmp_path / "plain")
    norm = np.sqrt(sum(np.square(array).sum() for array in theirs.values()))
    error = np.sqrt(sum(np.square(ours[name] - theirs[name]).sum() for name in theirs))
    assert error <= 1e-4 * norm
    for scope in ("local", "global"):
        for score, value in plain["metrics"][scope].items():
            assert masked["metrics"][scope][score] == pytest.approx(value, abs=1e-3)
    assert masked["tokens"] == plain["tokens"]


@pytest.mark.slow
def test_flowers_simulation_ends_as_one_process_does(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("flwr")
    sets = [*toy_settings(tiny_folder, toy_data), *SECURE, "strategy=fedrouter"]
    sets += ["evaluation.enabled=false"]
    run(load_config(None, sets), tmp_path / "one")
    run(load_config(None, [*sets, "engine.name=flower"]), tmp_path / "flower")
    ours, theirs = adapters(tmp_path / "flower"), adapters(tmp_path / "one")
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_allclose(array, theirs[name], atol=1e-4)
