"""Runs to export."""

from pathlib import Path

import pytest

from fedrouter import load_config, run
from fedrouter.export.source import ExportSource, read_source


@pytest.fixture(scope="session")
def nano_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the built-in base model, which was not evaluated."""
    folder = tmp_path_factory.mktemp("nano") / "run"
    sets = ["mode=paper", "clustering.n_local=1", "clustering.n_global=2", "federation.clients=2"]
    sets += ["federation.rounds=1", "training.steps=2", "training.lr=0.01", "data.builtin_train=8"]
    run(load_config(None, [*sets, "data.builtin_test=2", "evaluation.enabled=false"]), folder)
    return folder


@pytest.fixture
def toy_source(toy_run: Path) -> ExportSource:
    """The run on the toy tasks, whose base model is a folder of this machine."""
    return read_source(toy_run, "someone/tiny")
