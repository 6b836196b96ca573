import pytest

from fedrouter.config import load_config

server_app = pytest.importorskip("fedrouter.engines.flower.server_app")


def test_the_built_in_tasks_are_not_those_of_the_nodes(toy_data) -> None:
    assert server_app._rows(load_config(None, []).data, 0) == []
    named = load_config(None, [f"data.train={toy_data / 'train.jsonl'}"]).data
    assert {row.task for row in server_app._rows(named, 0)} == {"colour", "count", "strip"}


def test_the_log_has_the_loss_of_every_round(capsys: pytest.CaptureFixture[str]) -> None:
    progress = server_app.PrintedProgress()
    progress.round(3, 25)
    progress.phase("train", 8)
    progress.loss(1.23456)
    assert capsys.readouterr().out.splitlines() == [
        "fedrouter: train, 8 client tasks",
        "fedrouter: round 3/25: loss 1.2346",
    ]
