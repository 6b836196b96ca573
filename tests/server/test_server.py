"""What a run does beyond its rounds."""

from pathlib import Path

import pytest
from support.toys import toy_settings

from fedrouter.config import load_config
from fedrouter.errors import TrainingError
from fedrouter.experiment import resume, run


def test_a_run_in_which_every_update_diverged_fails_and_says_so(
    tiny_folder: Path, toy_data: Path, tmp_path: Path
) -> None:
    sets = [*toy_settings(tiny_folder, toy_data), "federation.transport=float32"]
    config = load_config(None, [*sets, "training.lr=1e30", "training.lr_min=1e30"])
    with pytest.raises(TrainingError, match=r"nothing was trained.*lower training\.lr"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "tasks").exists()
    with pytest.raises(TrainingError, match="none of the 3 rounds"):
        resume(tmp_path / "run")
