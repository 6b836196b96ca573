"""A run in which one client sends what no honest one does: every field, every kind of reply."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.configs import resolved
from support.scripted_clients import (
    HOSTILE,
    Change,
    ScriptedEngine,
    Wire,
    leaves,
    replaced,
    server,
)

from fedrouter.config import ResolvedConfig, dump_config
from fedrouter.errors import MessageError
from fedrouter.protocol.codec import unpack_reply
from fedrouter.protocol.messages import ClientRequest
from fedrouter.protocol.validation import check_reply
from fedrouter.storage.run_folder import RunFolder

DEEP = 100_000
# What a field is replaced by: texts, since not all of them are JSON.
VALUES = [
    "NaN",
    "Infinity",
    "-1",
    "0",
    "0.5",
    "1",
    "999",
    "1000000000",
    "1e308",
    "1e-320",
    "1" + "0" * 400,
    "true",
    "null",
    "[]",
    "{}",
    "[[1]]",
    '{"": 1}',
    '"0"',
    '"\\u001b[2J\\n[/x]"',
    '"../../x"',
    '"\\ud800"',
    '"' + "x" * 100_000 + '"',
    "[" * DEEP + "]" * DEEP,
    "[" + ",".join(["0"] * 20_000) + "]",
]
# What the numbers of an array are replaced by.
ARRAYS = {
    "nan": lambda array: array * np.nan,
    "infinite": lambda array: array + np.inf,
    "large": lambda array: np.full_like(array, 1e6),
    "huge": lambda array: np.full_like(array, 3e38),
    "tiny": lambda array: np.full_like(array, 1e-42),
    "zero": np.zeros_like,
    "negative": lambda array: -array,
    "float64": lambda array: array.astype(np.float64),
    "float16": lambda array: np.ones_like(array, np.float16),
    "int8": lambda array: np.ones_like(array, np.int8),
    "flat": np.ravel,
    "deeper": lambda array: array[None],
    "empty": lambda array: array[:0],
    "longer": lambda array: np.concatenate([array, array]),
}
METHODS = {
    "discovery": ["strategy=fedrouter", "mode=auto"],
    "whitened": ["strategy=fedrouter", "clustering.space=whitened", "clustering.n_global=4"],
    "paper": ["strategy=fedrouter", "clustering.n_global=4"],
    "oracle": ["strategy=oracle", "clustering.n_global=4"],
    "fedavg": ["strategy=fedavg"],
    "clustered": ["strategy=clustered"],
}


def config(method: str) -> ResolvedConfig:
    sets = ["clustering.n_local=2", "federation.clients=4", "federation.rounds=3"]
    if method == "discovery":
        sets[0] = "clustering.n_local=auto"
    return resolved(*sets, "evaluation.every=1", *METHODS[method])


def kinds_of(request: ClientRequest) -> set[str]:
    """The names of the parts that a request asks for."""
    parts = {"train": request.train, "compare": request.compare, "evaluate": request.evaluate}
    profile = set() if request.profile is None else {request.profile.kind}
    return {name for name, part in parts.items() if part} | profile


def go(folder: Path, settings: ResolvedConfig, change: Change) -> dict[str, Any]:
    """A run to its end, and its summary, after it was read back and resumed at its last state."""
    run, engine = RunFolder.create(folder, dump_config(settings)), ScriptedEngine(settings, change)
    summary = server(settings, engine).execute(run)
    assert run.read_summary() == json.loads(json.dumps(summary))
    (folder / "summary.json").unlink()
    again = server(settings, engine).execute(RunFolder.open(folder))
    assert [task["id"] for task in again["tasks"]] == [task["id"] for task in summary["tasks"]]
    for record in run.read_metrics():
        for failure in record["failures"]:
            assert failure["client"] == HOSTILE
            assert len(failure["reason"]) <= 300
            assert failure["reason"].isprintable()
    return summary


def others_took_part(folder: Path, settings: ResolvedConfig, summary: dict[str, Any]) -> None:
    """The state is finite, and every round has the tokens of clients 1 to 3."""
    run = RunFolder.open(folder)
    checkpoint, _ = run.latest_checkpoint()
    assert checkpoint is not None
    assert all(np.isfinite(array).all() for array in checkpoint.arrays.values())
    records = run.read_metrics()
    assert [record["round"] for record in records] == [1, 2, 3]
    assert all(record["tokens"] >= 3 * 7 for record in records)
    assert math.isfinite(summary["metrics"]["local"]["rouge1"])


@pytest.mark.parametrize("method", METHODS)
def test_an_honest_run_has_no_failures(method: str, tmp_path: Path) -> None:
    asked: set[str] = set()

    def note(request: ClientRequest, wire: Wire) -> Wire:
        asked.update(kinds_of(request))
        return wire

    settings = config(method)
    summary = go(tmp_path / "run", settings, note)
    others_took_part(tmp_path / "run", settings, summary)
    records = RunFolder(tmp_path / "run").read_metrics()
    assert [record["failures"] for record in records] == [[], [], []]
    expected = {"train", "evaluate"}
    if method == "discovery":
        expected |= {"describe_embeddings", "cluster_prompts", "assign_to_starts"}
        expected |= {"assign_to_nearest", "compare", "reassign_by_loss"}
    assert expected <= asked


def changes(draw: Any, wire: Wire) -> Wire:
    """A header or an array of a reply, changed."""
    header, arrays = wire
    if arrays and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(arrays)))
        how = draw(st.sampled_from(sorted(ARRAYS)))
        return header, {**arrays, name: ARRAYS[how](arrays[name])}
    path = draw(st.sampled_from(list(leaves(json.loads(header)))))
    return replaced(header, path, draw(st.sampled_from(VALUES))), arrays


def check_hostile(folder: Path, method: str, draw: Any) -> None:
    """Draw which replies are changed, and how; the run ends well."""
    settings = config(method)
    which = draw(st.sampled_from(["profile", "train", "all"]))

    def change(request: ClientRequest, wire: Wire) -> Wire:
        fits = which == "all" or (which == "train") == bool(request.train)
        return changes(draw, wire) if fits else wire

    summary = go(folder, settings, change)
    others_took_part(folder, settings, summary)


numbers = itertools.count()  # of run folders
PROPERTY = settings(
    deadline=None,
    max_examples=5,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("method", METHODS)
@PROPERTY
@given(data=st.data())
def test_no_reply_ends_a_run(method: str, data: st.DataObject, tmp_path: Path) -> None:
    check_hostile(tmp_path / str(next(numbers)), method, data.draw)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@settings(PROPERTY, max_examples=60)
@given(data=st.data())
def test_no_reply_ends_a_run_at_length(method: str, data: st.DataObject, tmp_path: Path) -> None:
    check_hostile(tmp_path / str(next(numbers)), method, data.draw)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_field_by_every_value_is_refused_or_sane(method: str, tmp_path: Path) -> None:
    """All fields of the first reply to each kind of request, one after the other."""
    settings = config(method)
    seen: dict[frozenset[str], tuple[ClientRequest, Wire]] = {}

    def note(request: ClientRequest, wire: Wire) -> Wire:
        seen.setdefault(frozenset(kinds_of(request)), (request, wire))
        return wire

    go(tmp_path / "run", settings, note)
    expected = ScriptedEngine(settings, note).expected
    refused = total = 0
    for request, (header, arrays) in seen.values():
        for path, value in itertools.product(leaves(json.loads(header)), VALUES):
            total += 1
            try:
                changed = replaced(header, path, value)
                reply = unpack_reply(changed, arrays, expected.largest_reply(request))
                check_reply(request, reply, expected)
            except MessageError:
                refused += 1
    assert refused > total * 0.8
