"""A client on the toy tasks, and an adapter for it."""

from pathlib import Path

import pytest
import torch
from support.clients import SPEC, client_of

from fedrouter.adapters.lora import initial_weights
from fedrouter.client.client import Client
from fedrouter.model.base_model import BaseModel
from fedrouter.types import AdapterWeights


@pytest.fixture
def client(tiny_base: BaseModel, tmp_path: Path) -> Client:
    return client_of(tiny_base, tmp_path)


@pytest.fixture(scope="module")
def adapter(tiny_base: BaseModel) -> AdapterWeights:
    return initial_weights(tiny_base.model, SPEC, torch.Generator().manual_seed(1))
