"""What a process keeps of the rows, adapters and results of its clients and runs."""

import pytest
from support.clients import ROWS, SPEC

from fedrouter.evaluation import shared_model
from fedrouter.evaluation.scoring import EvalItem
from fedrouter.evaluation.shared_model import SharedModel
from fedrouter.model.base_model import BaseModel


def test_what_is_kept_does_not_grow_with_the_runs(
    tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run of a comparison has adapters of its own, whose results no other run asks for."""
    monkeypatch.setattr(shared_model, "RESULTS", 5)
    monkeypatch.setattr(shared_model, "EXAMPLES", 3)
    shared = SharedModel(tiny_base)
    for seed in range(6):
        adapter = shared.initial(SPEC, seed)
        items = [EvalItem(row, mixture) for row in ROWS[:4] for mixture in ((), (("a", 1.0),))]
        again = shared.answers(SPEC, {"a": adapter}, items, 1)
        assert len(again) == 8  # more than are kept
        assert shared.answers(SPEC, {"a": adapter}, items[-2:], 1) == again[-2:]
        examples = shared.examples(ROWS)
        assert examples == tiny_base.prompts.examples(ROWS)
    assert len(shared._results) == 5
    assert len(shared._examples) == 3
    assert len(shared._initial) == shared_model.INITIAL


def test_results_are_computed_once(tiny_base: BaseModel) -> None:
    shared, done = SharedModel(tiny_base), []
    items = [EvalItem(row, ()) for row in (*ROWS[:2], ROWS[0])]
    first, _, same = shared.answers(SPEC, {}, items, 1)
    assert first is same
    [again] = shared.answers(SPEC, {}, items[:1], 1, done.append)
    assert again is first
    assert done == [1]  # at once


def test_token_ids_are_shared_objects(tiny_base: BaseModel) -> None:
    """An integer of its own for each token would take most of the memory of many rows. (Python
    itself shares those below 257; the tiny model has no larger ones.)"""
    prompts = tiny_base.prompts
    one, other = (prompts._join((), [10**6 + 1 - 1], [int("999999") + 1]) for _ in range(2))
    assert len({id(token) for example in (one, other) for token in example.input_ids}) == 1
