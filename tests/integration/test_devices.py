"""Whole runs with slow and absent devices, and settings that do not go together."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.configs import resolved
from support.toys import toy_settings

from fedrouter.config import load_config
from fedrouter.engines.flower.server_app import serve
from fedrouter.errors import ConfigError
from fedrouter.experiment import Experiment, run
from fedrouter.report.run_report import run_report
from fedrouter.storage.run_folder import RunFolder
from fedrouter.strategies import make_strategy

DEVICES = "federation.devices=[{share=0.67, speed=500.0}, {share=0.33, speed=200.0, absent=0.1}]"


def records(folder: Path) -> list[Mapping[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_times_and_lateness_do_not_depend_on_fusion(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    given = [*toy_settings(tiny_folder, toy_data), DEVICES, "federation.deadline_s=1"]
    for fuse in (1, 8):
        run(load_config(None, [*given, f"engine.fuse={fuse}"]), tmp_path / f"fuse-{fuse}")
    one, other = records(tmp_path / "fuse-1"), records(tmp_path / "fuse-8")
    exact = ("clients", "late", "late_replies", "simulated_s", "failures", "tokens", "bytes_up")
    assert any(record["late_replies"] for record in one), one
    for left, right in zip(one, other, strict=True):
        assert {key: left[key] for key in exact} == {key: right[key] for key in exact}
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
    page = run_report(RunFolder.open(tmp_path / "fuse-1"))
    assert "Training loss over simulated time" in page
    assert "Clients that were late" in page
    summary = json.loads((tmp_path / "fuse-1/summary.json").read_text())
    assert summary["simulated_s"] == one[-1]["simulated_s"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["federation.deadline_s=0"], "federation.deadline_s"),
        (["federation.over_selection=0.9"], "federation.over_selection"),
        (["federation.late=later"], "federation.late"),
        (["federation.devices=[{share=0.5}]"], "should add up to 1, got 0.5"),
        (["federation.devices=[{absent=1.0}]"], "absent"),
        (["federation.devices=[{speed=0.0}]"], "speed"),
        (["federation.devices=[{power=1.0}]"], "power"),
        (["federation.budget_s=5"], "federation.budget_s needs federation.devices"),
    ],
)
def test_settings_out_of_range_are_refused_in_a_line(sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, sets)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ["privacy.secure_aggregation=true", "federation.deadline_s=9"],
            "federation.deadline_s would close a sum",
        ),
        (
            ["privacy.secure_aggregation=true", "federation.devices=[{speed=9.0}]"],
            "federation.devices would close a sum",
        ),
        (
            ["privacy.epsilon=8", "privacy.delta=1e-3", "federation.over_selection=2"],
            'federation.late should be "drop"',
        ),
        (
            ["privacy.epsilon=8", "privacy.delta=1e-3", "federation.equal_time=true"],
            "federation.equal_time should be false",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_a_line(
    sets: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_strategy(resolved("strategy=fedavg", *sets))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_private_rounds_may_have_a_deadline_if_late_replies_are_dropped() -> None:
    private = ("privacy.epsilon=8", "privacy.delta=1e-3", "mode=auto")
    make_strategy(
        resolved("strategy=fedavg", *private, "federation.deadline_s=9", "federation.late=drop")
    )


def test_clients_in_one_process_have_no_deadline() -> None:
    with pytest.raises(ConfigError, match=r"federation\.deadline_s: clients in one process"):
        Experiment(load_config(None, ["federation.deadline_s=9", "data.builtin_train=8"]))


def test_a_deployment_simulates_no_devices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"federation\.devices simulates devices on one machine"):
        serve(
            None,  # type: ignore[arg-type]
            config="",
            settings="federation.devices=[{speed=9.0}]",
            output=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_simulation_in_flower_has_the_same_times(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    given = [*toy_settings(tiny_folder, toy_data), DEVICES, "federation.deadline_s=1"]
    for engine in ("inprocess", "flower"):
        run(load_config(None, [*given, f"engine.name={engine}"]), tmp_path / engine)
    one, other = records(tmp_path / "inprocess"), records(tmp_path / "flower")
    exact = ("clients", "late", "late_replies", "simulated_s", "failures", "tokens")
    for left, right in zip(one, other, strict=True):
        assert {key: left[key] for key in exact} == {key: right[key] for key in exact}
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
