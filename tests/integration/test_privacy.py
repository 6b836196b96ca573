"""Runs with differential privacy: what is charged, what is said, what a resume repeats."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.toys import toy_settings

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from fedrouter.config import Config, load_config
from fedrouter.experiment import resume, run
from fedrouter.export.model_card import model_card
from fedrouter.export.source import read_source
from fedrouter.progress import Progress
from fedrouter.report import write_report
from fedrouter.server.summary import privacy_line
from fedrouter.storage.run_folder import RunFolder

BUDGET = ("privacy.epsilon=4", "privacy.delta=0.01", "evaluation.samples=2")
SHARES = ("privacy.secure_aggregation=true", "privacy.min_clients=2")
TOLD = ("clustering.space=standardized",)


class Killed(BaseException):
    """Stands for a process that ends without any clean-up of ours."""


class Messages(Progress):
    """Notes the messages of a run; kills it at the beginning of a round."""

    def __init__(self, kill_in: int = 0) -> None:
        self.texts: list[str] = []
        self.kill_in = kill_in

    def message(self, text: str) -> None:
        self.texts.append(text)

    def round(self, number: int, total: int) -> None:
        if number == self.kill_in:
            raise Killed


@pytest.fixture
def settings(tiny_folder: Path, toy_data: Path) -> list[str]:
    return [*toy_settings(tiny_folder, toy_data), *BUDGET]


def config(settings: list[str], *sets: str) -> Config:
    return load_config(None, [*settings, *sets])


def adapters(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("tasks/*/adapter_model.safetensors"))
    return {f"{file.parent.name} {k}": a for file in files for k, a in load_file(file).items()}


@pytest.mark.parametrize(
    "sets",
    [
        pytest.param(("strategy=ffa",), id="ffa, clients", marks=pytest.mark.slow),
        pytest.param(TOLD, id="fedrouter, clients"),
        pytest.param(
            (*TOLD, "privacy.unit=sample"), id="fedrouter, samples", marks=pytest.mark.slow
        ),
        pytest.param((*TOLD, *SHARES), id="fedrouter, shares", marks=pytest.mark.slow),
        pytest.param(
            (*TOLD, *SHARES, "privacy.unit=sample"),
            id="fedrouter, shares, samples",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_spends_its_budget_and_a_resume_nothing_more(
    settings: list[str], sets: tuple[str, ...], tmp_path: Path
) -> None:
    """A secret is drawn by each run, but is the same after a resume; with `seeded_noise` the
    resumed run is the undisturbed one."""
    seeded = config(settings, *sets, "privacy.seeded_noise=true")
    messages = Messages()
    summary = run(seeded, tmp_path / "whole", messages)
    with pytest.raises(Killed):
        run(seeded, tmp_path / "killed", Messages(kill_in=3))
    resumed = resume(tmp_path / "killed")
    privacy = summary["privacy"]
    assert resumed["privacy"] == privacy
    for name, array in adapters(tmp_path / "whole").items():
        np.testing.assert_array_equal(array, adapters(tmp_path / "killed")[name])
    assert 3.99 < privacy["spent"] <= 4.0001
    assert privacy["releases"] == (3 if "strategy=ffa" in sets else 7)  # 3 rounds, 4 sums
    checkpoint, _ = RunFolder.open(tmp_path / "whole").latest_checkpoint()
    assert checkpoint is not None
    assert len(checkpoint.meta["state"]["privacy"]["multipliers"]) == privacy["releases"]
    if "privacy.unit=sample" not in sets:  # noise far above what three clients move
        assert privacy["only_noise"] == sorted(privacy["movement"])
        assert any("moved no farther than noise" in text for text in messages.texts)


def test_noise_is_secret_unless_it_is_asked_for(settings: list[str], tmp_path: Path) -> None:
    one = config(settings, "strategy=fedavg", "federation.rounds=1", "evaluation.enabled=false")
    for name in ("first", "second"):
        run(one, tmp_path / name)
    found = [adapters(tmp_path / name) for name in ("first", "second")]
    assert max(np.abs(found[0][name] - found[1][name]).max() for name in found[0]) > 0.1


def test_summary_and_report_say_what_is_spent(settings: list[str], tmp_path: Path) -> None:
    sets = "strategy=fedavg", "federation.rounds=1", "privacy.max_norm=1e-6"
    summary = run(config(settings, *sets), tmp_path / "run")
    line = privacy_line(json.loads((tmp_path / "run" / "summary.json").read_text())["privacy"])
    assert line.startswith("differential privacy: epsilon 4 of 4 spent at delta 0.01 in 1 releases")
    assert "Privacy" in write_report(tmp_path / "run").read_text()
    assert privacy_line(None) == ""
    assert summary["privacy"]["unit"] == "client"


def test_an_export_has_no_exact_counts(settings: list[str], tmp_path: Path) -> None:
    run(
        config(settings, *TOLD, "federation.rounds=1", "evaluation.enabled=false"), tmp_path / "run"
    )
    source = read_source(tmp_path / "run", None)
    card = model_card(source, "task-00", "peft")
    assert "differential privacy: epsilon 4 of 4 spent" in card
    assert "of clients" not in card
    assert "training samples" not in card
