"""Bars and log lines that move within a round."""

import io

import pytest
from rich.console import Console

from fedrouter.cli import progress as display
from fedrouter.cli.progress import BarProgress, LogProgress
from fedrouter.progress import Progress


def two_rounds(progress: Progress) -> None:
    """Two rounds of two requests in steps of a third, each after an exchange of one request."""
    for number in (1, 2):
        progress.phase("refine", 1)
        progress.advance(1)
        progress.round(number, 2)
        progress.phase("train", 4 if number == 1 else 2)
        for step in range(6):
            progress.advance(1 / 3)
            progress.loss(2.0 / number - step / 10)
    progress.phase("evaluate", 2)
    progress.advance(2)


def test_bars_fit_in_80_columns_and_are_one_for_each_phase() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=40)
    with BarProgress(console=console) as progress:
        two_rounds(progress)
    last = console.file.getvalue().rpartition("refine ")[2]  # type: ignore[attr-defined]
    assert "1/1" in last.splitlines()[0]
    assert "4/4 round 2/2, loss 0.500" in last.splitlines()[1]
    assert "2/2" in last.splitlines()[2]
    assert [line.split()[0] for line in last.splitlines()[1:3]] == ["train", "evaluate"]


def test_the_bar_moves_within_a_round() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=40)
    progress = BarProgress(console=console)
    progress.phase("train", 2)
    progress.advance(0.25)
    [task] = progress._bars.tasks
    assert task.completed / task.total == 0.125


@pytest.mark.parametrize("keep", [True, False])
def test_a_phase_that_has_ended_begins_anew(keep: bool) -> None:
    progress = BarProgress(keep, Console(file=io.StringIO()))
    for _ in range(2):
        progress.phase("train", 3)
        progress.advance(3)
        progress.phase("evaluate", 1)
        progress.advance(1)
    train, evaluate = progress._bars.tasks
    assert (train.completed, train.total, train.visible) == (3, 3, keep)
    assert (evaluate.completed, evaluate.total, evaluate.visible) == (1, 1, True)


def test_log_lines_within_a_round(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 4.0  # seconds between two looks at the clock
        return now[0]

    monkeypatch.setattr(display.time, "monotonic", clock)
    two_rounds(LogProgress())
    lines = capsys.readouterr().err.splitlines()
    assert lines.count("train: 4 to do") == 1  # the second round goes on with it
    within = [line for line in lines if line.startswith("train: ")]
    assert any("round 1/2, loss 1.9" in line and "s left" in line for line in within)
    assert within[-1].startswith("train: 4/4, round 2/2, loss 0.6")
    assert within[-1].endswith(", 0 s left")
    assert lines[-1] == "evaluate: 2/2, 0 s left"
