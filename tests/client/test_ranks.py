"""Clients whose adapters have a lower rank than the run's."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.clients import ROWS, SPEC, engine, train
from support.configs import resolved
from support.toys import toy_settings

from fedrouter.adapters.lora import LoraSpec, initial_weights
from fedrouter.client.client import Client
from fedrouter.config import load_config
from fedrouter.data.client_data import ClientData
from fedrouter.engines.flower.node_config import client_rank
from fedrouter.errors import ConfigError
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.experiment import run
from fedrouter.model.base_model import BaseModel
from fedrouter.protocol.messages import ClientRequest, TrainOrder
from fedrouter.protocol.ranks import pad, truncate
from fedrouter.server.replies import limit_ranks
from fedrouter.training.trainer import TrainJob
from fedrouter.training.trainer import train as train_jobs

HIGH = LoraSpec(rank=4, alpha=8, dropout=0.1)
LOW = LoraSpec(rank=2, alpha=4, dropout=0.1)  # the same factor alpha / rank


def test_training_with_zeros_is_training_at_the_lower_rank(tiny_base: BaseModel) -> None:
    draws = torch.Generator().manual_seed(0)
    low = truncate(initial_weights(tiny_base.model, HIGH, draws), 2)
    job = TrainJob(
        low, tiny_base.prompts.examples(ROWS), 4, batch_size=4, lr=1e-2, max_grad_norm=1.0, seed=1
    )
    [expected] = train_jobs(tiny_base, LOW, [job], fuse=1)
    [found] = train_jobs(tiny_base, HIGH, [replace(job, weights=pad(low, 4))], fuse=1)
    assert found.loss == pytest.approx(expected.loss, abs=1e-6)
    for name, array in pad(expected.weights, 4).items():
        np.testing.assert_allclose(found.weights[name], array, atol=5e-5)
        np.testing.assert_array_equal(found.weights[name] == 0, array == 0)


def test_a_client_receives_trains_and_sends_its_first_components(
    tiny_base: BaseModel, tmp_path: Path
) -> None:
    client = Client(
        3,
        ClientData(ROWS, ROWS[:2], ROWS[:4]),
        shared_model=SharedModel(tiny_base),
        spec=SPEC,
        config=resolved("training.batch_size=2"),
        folder=tmp_path,
        rank=1,
    )
    whole = initial_weights(tiny_base.model, SPEC, torch.Generator().manual_seed(0))
    order = TrainOrder(("a",), 1, keep="personal")
    update, sent_whole = train(client, tiny_base, 1, order, a=whole)
    sent_first, traffic = train(client, tiny_base, 1, order, a=truncate(whole, 1))
    for name, array in update.weights.items():
        assert 1 in array.shape
        np.testing.assert_array_equal(array, sent_first.weights[name])
    assert traffic.up == sent_whole.up
    assert traffic.down * 2 == sent_whole.down
    assert engine(tiny_base, client, "float32").rank(3) == 1


def test_a_request_has_the_components_of_each_clients_rank() -> None:
    weights = {
        "m.lora_A.weight": np.ones((4, 3), np.float32),
        "m.lora_B.weight": np.ones((5, 4), np.float32),
    }
    tasks = [ClientRequest(id, 1, adapters={"a": weights}) for id in range(4)]
    ranks = {0: 2, 1: None, 2: 2, 3: 9}
    found = [task.adapters["a"] for task in limit_ranks(tasks, ranks)]
    assert [one["m.lora_A.weight"].shape for one in found] == [(2, 3), (4, 3), (2, 3), (4, 3)]
    assert found[0]["m.lora_B.weight"].shape == (5, 2)
    assert found[0] is found[2]  # encoded once


@pytest.mark.parametrize("ranks", ["partition", "zero_padding", "svd"])
@pytest.mark.parametrize("strategy", ["fedrouter", "fedavg", "fedsa", "ffa", "clustered"])
def test_a_run_with_several_ranks(
    tiny_folder: Path, toy_data: Path, tmp_path: Path, strategy: str, ranks: str
) -> None:
    sets = [
        *toy_settings(tiny_folder, toy_data),
        f"strategy={strategy}",
        "adapter.rank=4",
        "federation.ranks=[1, 2, 4]",
        "federation.rounds=2",
        "evaluation.samples=1",
        f"aggregation.ranks={ranks}",
    ]
    summary = run(load_config(None, sets), tmp_path / "run")
    assert summary["tokens"] > 0
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"failures": []' in metrics
    assert "NaN" not in metrics


def test_a_node_may_have_a_rank_of_its_own() -> None:
    config = resolved("adapter.rank=8", "federation.ranks=[2, 4]")
    assert client_rank(config, {"client-id": 3}) == 4
    assert client_rank(config, {"client-id": 3, "rank": 6}) == 6
    assert client_rank(resolved(), {"client-id": 3}) is None
    for rank in (0, 9, "two"):
        with pytest.raises(ConfigError, match=r"rank = \w+ should be a number from 1 to .* = 8"):
            client_rank(config, {"client-id": 3, "rank": rank})


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("federation.ranks=[4, 16]", "federation.ranks = [4, 16] should be at most adapter.rank"),
        ("federation.ranks=[0]", "federation.ranks"),
        ("federation.ranks=[]", "federation.ranks"),
    ],
)
def test_ranks_that_are_not_possible_are_refused(setting: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, [setting])
    assert fault in str(error.value)
    assert "\n" not in str(error.value)


def test_products_and_robust_rules_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="set it to 'none'"):
        load_config(None, ["aggregation.ranks=svd", "aggregation.robust=median"])
    assert resolved("aggregation.ranks=svd").aggregation.robust == "none"


@pytest.mark.parametrize("moves", ["federation.ranks=[2, 4]", "aggregation.ranks=svd"])
@pytest.mark.parametrize("keeps", ["federation.error_feedback=true", "federation.deadline_s=5"])
def test_nothing_refers_to_components_that_change_their_places(moves: str, keeps: str) -> None:
    sets = [moves, "federation.transport=int4", keeps]
    with pytest.raises(ConfigError, match="puts them in another order") as error:
        load_config(None, sets)
    assert "\n" not in str(error.value)
    load_config(None, [*sets, "federation.error_feedback=false", "federation.late=drop"])
