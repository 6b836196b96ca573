from pathlib import Path

import pytest
from support.toys import toy_settings

from fedrouter.config import load_config
from fedrouter.errors import ConfigError
from fedrouter.experiment import run
from fedrouter.progress import Progress
from fedrouter.protocol.compression import TransportDtype, encode
from fedrouter.protocol.sizes import adapter_bytes
from fedrouter.types import AdapterWeights


class Messages(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def settings(tiny_folder: Path, toy_data: Path, *more: str) -> list[str]:
    base = toy_settings(tiny_folder, toy_data)
    return [*base, "federation.rounds=4", "evaluation.enabled=false", *more]


@pytest.mark.parametrize("transport", ["float32", "float16", "int8", "int4"])
def test_the_size_of_an_adapter_is_known_before_it_is_encoded(
    adapter: AdapterWeights, transport: TransportDtype
) -> None:
    shapes = {name: array.shape for name, array in adapter.items()}
    assert adapter_bytes(shapes, transport) == encode(adapter, transport).nbytes


@pytest.mark.parametrize("strategy", ["fedavg", "fedrouter"])
def test_a_run_ends_before_the_budget_is_exceeded(
    tiny_folder: Path, toy_data: Path, tmp_path: Path, strategy: str
) -> None:
    given = settings(tiny_folder, toy_data, f"strategy={strategy}")
    whole = run(load_config(None, given), tmp_path / "whole")
    total = sum(whole["bytes"].values())
    progress = Messages()
    limited = load_config(None, [*given, f"federation.budget_mb={0.8 * total / 1e6}"])
    summary = run(limited, tmp_path / "limited", progress)
    assert 1 <= summary["rounds"] < 4
    assert sum(summary["bytes"].values()) <= 0.8 * total
    assert any(f"ends before round {summary['rounds'] + 1}" in text for text in progress.texts)


def test_a_budget_that_suffices_changes_nothing(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    given = settings(tiny_folder, toy_data, "strategy=fedavg")
    whole = run(load_config(None, given), tmp_path / "whole")
    exact = sum(whole["bytes"].values()) / 1e6
    again = run(load_config(None, [*given, f"federation.budget_mb={exact}"]), tmp_path / "again")
    assert again["rounds"] == 4
    assert again["bytes"] == whole["bytes"]


def test_a_budget_for_no_round_is_refused(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    given = settings(tiny_folder, toy_data, "strategy=fedavg", "federation.budget_mb=0.001")
    with pytest.raises(ConfigError, match=r"no round fits: 0\.00 of .* = 0\.001"):
        run(load_config(None, given), tmp_path / "run")
