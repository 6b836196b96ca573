"""Fixtures that several packages' tests share."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported; no test asks the hub

import pytest
import torch
from hypothesis import HealthCheck, settings
from support.clients import SPEC, client_of
from support.toys import save_tiny_base, toy_settings, write_toy

from fedrouter.adapters.lora import initial_weights
from fedrouter.client.client import Client
from fedrouter.config import ModelConfig, load_config
from fedrouter.experiment import run
from fedrouter.model.base_model import BaseModel
from fedrouter.types import AdapterWeights

torch.set_num_threads(1)  # on matrices this small, threads cost more than they give
# Tests time nothing: on a busy machine any example may take long.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("tiny-base"), seed=0)


@pytest.fixture(scope="session")
def tiny_base(tiny_folder: Path) -> BaseModel:
    return BaseModel.load(
        ModelConfig(name=str(tiny_folder), max_length=96, template="{instruction}\n")
    )


@pytest.fixture
def client(tiny_base: BaseModel, tmp_path: Path) -> Client:
    """A client on the toy tasks."""
    return client_of(tiny_base, tmp_path)


@pytest.fixture(scope="session")
def adapter(tiny_base: BaseModel) -> AdapterWeights:
    """An adapter for it."""
    return initial_weights(tiny_base.model, SPEC, torch.Generator().manual_seed(1))


@pytest.fixture
def toy_data(tmp_path: Path) -> Path:
    return write_toy(tmp_path)


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """One finished run on the toy tasks, for tests that only read it."""
    data = write_toy(tmp_path_factory.mktemp("data"))
    folder = tmp_path_factory.mktemp("runs") / "run"
    sets = [*toy_settings(tiny_folder, data), "evaluation.every=2"]
    run(load_config(None, sets), folder)
    return folder
