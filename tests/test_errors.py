from hypothesis import given
from hypothesis import strategies as st

from fedrouter.errors import printable


def test_what_does_not_print_becomes_a_question_mark() -> None:
    assert printable("Größe: 3\n\x1b[2J\t", 100) == "Größe: 3??[2J?"
    assert printable("abcdef", 3) == "abc"


@given(text=st.text())
def test_the_result_is_one_printable_line_of_at_most_the_limit(text: str) -> None:
    line = printable(text, 10)
    assert line.isprintable()
    assert len(line) == min(len(text), 10)
