from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedrouter.config import Columns
from fedrouter.data.readers import Record
from fedrouter.data.row_format import RowFormat
from fedrouter.data.row_format.values import plain_text
from fedrouter.errors import DataError


def text(value: Any) -> str:
    """The text of a value that has one."""
    found = plain_text(value)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-7, "-7"),
        (2.5, "2.5"),
        (1e22, "1e+22"),
        (np.float32(1 / 3), "0.33333334"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (np.float32(16777216), "16777216.0"),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-7"), "0.0000001"),
        (date(2024, 2, 29), "2024-02-29"),
        (datetime(2024, 2, 29, 13, 5), "2024-02-29T13:05:00"),
        (time(13, 5), "13:05:00"),
    ],
)
def test_texts_of_values(value: Any, expected: str) -> None:
    assert text(value) == expected
    [row] = RowFormat(Columns()).rows([Record("x:1", {"instruction": "a", "response": value})])
    assert row.response == expected


@pytest.mark.parametrize(
    "value",
    [None, [], {}, b"a", float("nan"), np.float32("inf"), Decimal("NaN"), Decimal("Infinity")],
)
def test_values_without_a_text(value: Any) -> None:
    assert plain_text(value) is None
    with pytest.raises(DataError, match="x:1: 'response' is"):
        RowFormat(Columns()).rows([Record("x:1", {"instruction": "a", "response": value})])


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_float32_comes_back_and_no_text_of_fewer_digits_gives_it(value: float) -> None:
    narrow = np.float32(value)
    assert np.float32(text(narrow)) == narrow
    mantissa = text(narrow).split("e")[0].lstrip("-").replace(".", "").strip("0")
    assume(len(mantissa) > 1)
    assert np.float32(f"{value:.{len(mantissa) - 2}e}") != narrow


@given(st.floats(allow_nan=False, allow_infinity=False, width=16))
def test_float16_comes_back(value: float) -> None:
    assert np.float16(text(np.float16(value))) == np.float16(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back(value: float) -> None:
    assert float(text(value)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_decimals_come_back_without_an_exponent(value: Decimal) -> None:
    assert Decimal(text(value)) == value
    assert "E" not in text(value).upper()


@given(st.dates(), st.datetimes(), st.times(), st.integers())
def test_dates_times_and_integers_come_back(
    day: date, moment: datetime, hour: time, number: int
) -> None:
    assert date.fromisoformat(text(day)) == day
    assert datetime.fromisoformat(text(moment)) == moment
    assert time.fromisoformat(text(hour)) == hour
    assert int(text(number)) == number


def test_booleans_are_named_by_labels() -> None:
    layout = RowFormat(Columns(), labels={"true": "Yes", "false": "No"})
    records = [
        Record("x:1", {"instruction": "a", "response": value}) for value in (True, False, "true")
    ]
    assert [row.response for row in layout.rows(records)] == ["Yes", "No", "Yes"]
