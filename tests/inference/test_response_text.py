from hypothesis import given
from hypothesis import strategies as st

from fedrouter.inference.response_text import ResponseText


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


def sent(text: str, *stop: str) -> tuple[list[str], ResponseText]:
    response = ResponseText(decode, stop)
    parts = []
    for byte in text.encode():
        response.add(byte)
        parts.append(response.take())
        if response.stopped:
            break
    parts.append(response.take(last=True))
    return parts, response


def test_a_character_is_sent_when_its_last_byte_is_there() -> None:
    assert sent("aé€")[0] == ["a", "", "é", "", "", "€", ""]


def test_what_may_begin_a_stop_text_is_held_back() -> None:
    parts, response = sent("one END too ENOUGH", "ENOUGH", "END.")
    assert parts[:9] == ["o", "n", "e", " ", "", "", "", "END ", "t"]
    assert (response.text, response.stopped) == ("one END too ", True)
    assert "".join(parts) == "one END too "


def test_the_earliest_stop_text_counts() -> None:
    assert sent("a,b;c", ";", ",")[1].text == "a"


def test_a_held_back_text_is_sent_at_the_end() -> None:
    assert "".join(sent("almost END", "END!")[0]) == "almost END"


@given(text=st.text("abé ", max_size=12), stop=st.lists(st.text("ab ", min_size=1), max_size=2))
def test_the_parts_are_the_text_up_to_the_first_stop_text(text: str, stop: list[str]) -> None:
    parts, response = sent(text, *stop)
    found = [place for one in stop if (place := text.find(one)) >= 0]
    if not found:
        assert "".join(parts) == response.text == text
    else:
        assert "".join(parts) == response.text
        assert not any(one in response.text for one in stop)
        assert text.startswith(response.text)
