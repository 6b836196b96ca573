import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configs import resolved

from fedrouter.server.engine import Closing
from fedrouter.server.participation import (
    asked_number,
    participants,
    round_closing,
)


def test_over_selection_asks_more_than_a_round_waits_for() -> None:
    config = resolved("federation.fraction=0.5", "federation.over_selection=1.3")
    assert asked_number(config.federation, 8) == 6  # 1.3 * 4, rounded up
    assert asked_number(config.federation, 20) == 13  # not 14 by rounding errors
    assert len(participants(config, 1, range(8))) == 6
    assert round_closing(config.federation, asked=6, online=8) == Closing(4, 1)


def test_a_deadline_needs_the_minimum_of_clients() -> None:
    settings = resolved("federation.deadline_s=5", "federation.min_clients=3").federation
    closing = round_closing(settings, asked=8, online=8)
    assert closing == Closing(wanted=8, least=3, deadline_s=5.0)
    assert not closing.is_due(7, 4.9)
    assert closing.is_due(8, 0.1)
    assert closing.is_due(3, 5.0)
    assert not closing.is_due(2, 99.0)


def test_without_such_settings_all_are_waited_for() -> None:
    settings = resolved().federation
    assert round_closing(settings, asked=8, online=8) is None


def test_a_factor_of_one_draws_the_same_clients_as_before() -> None:
    config = resolved("federation.fraction=0.5")
    assert participants(config, 3, range(8)) == participants(config, 3, range(8), busy=())


@pytest.mark.parametrize("factor", [1.0, 1.7])
@given(busy=st.sets(st.integers(0, 7)), round=st.integers(1, 50))
def test_a_busy_client_is_never_asked(factor: float, busy: set[int], round: int) -> None:
    config = resolved("federation.fraction=0.6", f"federation.over_selection={factor}")
    chosen = participants(config, round, range(8), busy)
    assert not busy.intersection(chosen)
    assert len(chosen) == min(asked_number(config.federation, 8), 8 - len(busy))
    assert chosen == sorted(set(chosen))
