from pathlib import Path

import pytest
from support.toys import toy_rows

from fedrouter.config import load_config
from fedrouter.config.resolve import resolve
from fedrouter.data.client_data import data_fingerprint, deal, sample_test
from fedrouter.data.loading import Splits
from fedrouter.data.rows import Row
from fedrouter.errors import DataError

NAMED = toy_rows(4)
UNNAMED = [Row(row.instruction, row.response) for row in NAMED]


def tasks(rows: list[Row]) -> set[str | None]:
    return {row.task for row in rows}


def test_what_is_read_off_named_rows() -> None:
    config = resolve(load_config(None, ["mode=paper"]), tasks(NAMED))
    assert config.data.scenario == "dual"
    assert config.clustering.n_global == 3
    assert config.clustering.n_local == 2
    assert config.engine.fuse == 8


def test_what_is_assumed_of_rows_without_names() -> None:
    config = resolve(load_config(None, ["mode=paper"]), tasks(UNNAMED))
    assert config.data.scenario == "all"
    assert config.clustering.n_global == 4
    assert config.clustering.n_local is None


@pytest.mark.parametrize("rows", [NAMED, UNNAMED])
def test_the_numbers_are_found_outside_mode_paper(rows: list[Row]) -> None:
    config = resolve(load_config(), tasks(rows))
    assert (config.clustering.n_local, config.clustering.n_global) == ("auto", "auto")
    assert (config.clustering.space, config.router.fallback) == ("whitened", "base")


def test_explicit_choices_win() -> None:
    sets = ["data.scenario=single", "clustering.n_global=9", "engine.fuse=3"]
    config = resolve(load_config(None, sets), tasks(NAMED))
    assert config.data.scenario == "single"
    assert config.clustering.n_global == 9
    assert config.engine.fuse == 3


def test_clients_with_the_same_tasks_share_their_test_rows() -> None:
    config = resolve(load_config(None, ["federation.clients=6"]), tasks(NAMED))
    own = [client.test for client in deal(config, Splits(NAMED, NAMED))]
    assert all(tasks(list(rows)) <= tasks(NAMED) and len(rows) == 8 for rows in own)
    assert len({id(rows) for rows in own}) == 3  # pairs of three tasks


def test_files_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sets = ["data.train=a.jsonl", "data.test=b.jsonl"]
    assert resolve(load_config(None, sets), tasks(NAMED)).data.train == tmp_path / "a.jsonl"
    sources = resolve(
        load_config(None, ['data.sources=[{path="c.jsonl"}]']), tasks(NAMED)
    ).data.sources
    assert sources[0].path == tmp_path / "c.jsonl"


def test_clients_test_on_their_own_tasks() -> None:
    config = resolve(
        load_config(None, ["federation.clients=3", "data.scenario=single"]), tasks(NAMED)
    )
    for rows in deal(config, Splits(NAMED, toy_rows(2, start=50))):
        assert len({row.task for row in rows.train}) == 1
        assert len(rows.test) == 2
        assert {row.task for row in rows.test} == {row.task for row in rows.train}


def test_rows_without_names_share_the_test_rows_evenly() -> None:
    config = resolve(load_config(None, ["federation.clients=2"]), tasks(UNNAMED))
    dealt = deal(config, Splits(UNNAMED, UNNAMED[:5]))
    assert [len(rows.test) for rows in dealt] == [3, 2]
    assert sum(len(rows.train) for rows in dealt) == len(UNNAMED)


def test_groups_stay_together() -> None:
    rows = [Row(f"q{i}", "a", None, group) for i, group in enumerate("xxyyzz")]
    sets = ["data.train=f.jsonl", "data.scenario=column", "data.split_column=g"]
    config = resolve(load_config(None, [*sets, "federation.clients=3"]), tasks(rows))
    for part in deal(config, Splits(rows, rows)):
        assert len({row.group for row in part.train}) == 1
        assert part.test == part.train


def test_more_clients_than_samples() -> None:
    config = resolve(load_config(None, ["federation.clients=50"]), tasks(NAMED))
    with pytest.raises(DataError, match=r"federation\.clients = 50"):
        deal(config, Splits(NAMED, NAMED))


def test_sampling_keeps_the_same_few_rows_of_each_task() -> None:
    kept = sample_test(NAMED, 2, seed=1)
    assert [row for row in NAMED if row in kept] == kept
    assert sorted(row.task or "" for row in kept) == sorted(["count", "colour", "strip"] * 2)
    assert sample_test(NAMED, 2, seed=1) == kept
    assert sample_test(NAMED, None, seed=1) == NAMED
    assert len(sample_test(UNNAMED, 5, seed=1)) == 5


def test_changed_data_has_another_fingerprint() -> None:
    one, other = Splits(NAMED, []), Splits([*NAMED[:-1], Row("x", "y", "z")], [])
    assert data_fingerprint(one) == data_fingerprint(Splits(list(NAMED), []))
    assert data_fingerprint(one) != data_fingerprint(other)


@pytest.mark.parametrize(
    ("scenario", "expected"), [("single", 1), ("dual", 2), ("all", 3), ("dirichlet", None)]
)
def test_the_scenario_says_how_many_tasks_a_client_holds(
    scenario: str, expected: int | None
) -> None:
    config = resolve(load_config(None, ["mode=paper", f"data.scenario={scenario}"]), tasks(NAMED))
    assert config.clustering.n_local == expected


def test_pooled_rows_go_to_client_0_beside_the_others_own() -> None:
    config = resolve(
        load_config(None, ["federation.clients=3", "data.scenario=single"]), tasks(NAMED)
    )
    apart = deal(config, Splits(NAMED, NAMED))
    pooled = deal(config, Splits(NAMED, NAMED), pooled=True)
    assert pooled[0].train == NAMED
    assert [one.train for one in pooled[1:]] == [one.train for one in apart[1:]]
    assert [one.test for one in pooled] == [one.test for one in apart]
