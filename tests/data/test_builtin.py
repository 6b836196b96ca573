from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrouter.data.builtin import TASK_NAMES, TASKS, builtin_rows
from fedrouter.data.builtin.daypart import PARTS
from fedrouter.data.builtin.troubles import TEAMS
from fedrouter.data.builtin.urgency import LEVELS
from fedrouter.data.builtin.words import belongs_to_tasks, draw_day, ordinal
from fedrouter.errors import DataError

LABELS = {"triage": TEAMS, "urgency": LEVELS, "daypart": PARTS}


@pytest.fixture(scope="module")
def many():
    return builtin_rows(2000, 500)


def test_every_task_has_thousands_of_distinct_instances(many):
    train, test = many
    for task in TASK_NAMES:
        instructions = {row.instruction for row in train + test if row.task == task}
        assert len(instructions) == 2500


def test_train_and_test_share_no_instruction(many):
    train, test = many
    assert not {row.instruction for row in train} & {row.instruction for row in test}


def test_numbers_and_order_of_rows():
    train, test = builtin_rows(3, 2)
    assert [row.task for row in train] == [task for task in TASK_NAMES for _ in range(3)]
    assert [row.task for row in test] == [task for task in TASK_NAMES for _ in range(2)]


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_same_seed_same_rows(seed):
    assert builtin_rows(4, 2, seed) == builtin_rows(4, 2, seed)


def test_another_seed_gives_other_rows():
    assert builtin_rows(4, 2, seed=0) != builtin_rows(4, 2, seed=1)


def test_too_few_distinct_rows_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(TASKS, "query", lambda rng: (str(rng.integers(5)), "answer"))
    with pytest.raises(DataError, match="query has no 6 distinct rows") as caught:
        builtin_rows(4, 2)
    assert "\n" not in str(caught.value)


def test_no_prompt_names_its_task(many):
    for row in many[0]:
        assert row.task.replace("_", " ") not in row.instruction.lower().replace("_", " ")


def test_prompts_and_responses_are_plain_text_without_stray_space(many):
    for row in many[0]:
        assert row.instruction == row.instruction.strip()
        assert row.response == row.response.strip()
        assert "{}" not in row.instruction and row.response


@pytest.mark.parametrize("task", LABELS)
def test_labels_are_all_used_about_equally(many, task):
    answers = [row.response for row in many[0] if row.task == task]
    assert set(answers) == set(LABELS[task])
    smallest = min(answers.count(label) for label in LABELS[task])
    assert smallest > 0.7 * len(answers) / len(LABELS[task])


def test_related_tasks_share_content_and_answer_differently(many):
    trouble = "my card was charged twice"
    for task in ("triage", "urgency"):
        assert any(trouble in row.instruction for row in many[0] if row.task == task)
    for pair in (("triage", "urgency"), ("dates", "daypart")):
        first, second = ({row.response for row in many[0] if row.task == task} for task in pair)
        assert not first & second


def test_dates_are_written_as_iso_dates_of_the_year_in_the_text(many):
    for row in many[0]:
        if row.task == "dates":
            day = date.fromisoformat(row.response)
            assert str(day.year) in row.instruction and str(day.day) in row.instruction
            assert belongs_to_tasks(day)


def test_ordinals():
    assert [ordinal(n) for n in (1, 2, 3, 4)] == ["1st", "2nd", "3rd", "4th"]
    assert [ordinal(n) for n in (11, 12, 13, 20)] == ["11th", "12th", "13th", "20th"]
    assert [ordinal(n) for n in (21, 22, 23, 30, 31)] == ["21st", "22nd", "23rd", "30th", "31st"]


def test_daypart_follows_the_clock(many):
    for row in many[0]:
        if row.task == "daypart":
            hour = int(row.instruction.split(" | ")[1][:2])
            assert row.response == ["morning", "afternoon", "evening"][hour // 6 - 1]


def test_the_punctuated_text_is_the_bare_text_with_capitals_and_stops(many):
    for row in many[0]:
        if row.task == "punctuation":
            assert row.response.lower().replace(".", "") == row.instruction


def test_draw_day_gives_days_of_the_tasks():
    rng = np.random.default_rng(0)
    assert all(belongs_to_tasks(draw_day(rng)) for _ in range(100))
