"""A configuration that was edited under a run is noticed when the run is resumed."""

from pathlib import Path

import pytest
from support.configs import resolved
from support.scripted_clients import ScriptedEngine, server

from fedrouter.config import ResolvedConfig, dump_config
from fedrouter.errors import CheckpointError, ConfigError, ModelError, RunError
from fedrouter.progress import Progress
from fedrouter.storage.run_folder import RunFolder

SETS = ("strategy=fedavg", "federation.clients=2", "federation.rounds=2")


class Told(Progress):
    """Collects messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def execute(run: RunFolder, config: ResolvedConfig) -> list[str]:
    one = server(config, ScriptedEngine(config, lambda request, wire: wire))
    one._progress = told = Told()
    one.execute(run)
    return told.messages


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    config = resolved(*SETS)
    run = RunFolder.create(tmp_path / "run", dump_config(config))
    execute(run, config)
    (run.path / "summary.json").unlink()
    return run


def test_keys_on_which_no_result_depends_may_be_edited(run: RunFolder) -> None:
    assert execute(run, resolved(*SETS)) == []
    (run.path / "summary.json").unlink()
    told = execute(run, resolved(*SETS, "engine.device=cpu", "federation.wait_s=7"))
    assert told == [
        "changed since the run began: federation.wait_s = 300.0, not = 7.0",
        "changed since the run began: engine.device = 'auto', not = 'cpu'",
    ]


def test_any_other_key_is_named_and_refused(run: RunFolder) -> None:
    edited = resolved(*SETS, "training.lr=0.5", "seed=3", "evaluation.samples=1", "engine.fuse=2")
    with pytest.raises(ConfigError) as caught:
        execute(run, edited)
    assert str(caught.value) == (
        f"{run.path} was run with seed = 0, not = 3; training.lr = 0.0005, not = 0.5; "
        "evaluation.samples unset, not = 1; set it back in config.toml, or start a new run"
    )


def test_a_run_in_use_is_left_alone(run: RunFolder) -> None:
    with run.locked(), pytest.raises(RunError, match="is in use by process"):
        execute(run, resolved(*SETS))
    execute(run, resolved(*SETS))


def test_a_checkpoint_of_odd_types_is_refused_in_a_line(run: RunFolder) -> None:
    checkpoint, _ = run.latest_checkpoint()
    assert checkpoint is not None
    for change in ({"costs": "x"}, {"traffic": {"up": []}}, {"state": []}, {"state": {}}):
        run.save_checkpoint(3, checkpoint.arrays, {**checkpoint.meta, **change})
        with pytest.raises((CheckpointError, ModelError)) as caught:
            execute(run, resolved(*SETS))
        assert "\n" not in str(caught.value)


def test_lost_records_are_reported(run: RunFolder) -> None:
    metrics = run.path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-3])  # the record of round 2 is cut short
    told = execute(run, resolved(*SETS))
    assert told == ["metrics.jsonl lacks the records of 1 finished rounds"]
