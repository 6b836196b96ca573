import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrouter.config import Columns, DataConfig, Source
from fedrouter.data.loading import load_splits, read_rows
from fedrouter.data.partition import partition
from fedrouter.data.readers import Record
from fedrouter.data.row_format import FileRows, RowFormat
from fedrouter.data.rows import Message, Row
from fedrouter.errors import DataError

SYSTEM, USER, REPLY = "Be brief.", "What is 2 + 2?", "4"
CHAT = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": USER},
    {"role": "assistant", "content": REPLY},
    {"role": "user", "content": "And 3 + 3?"},
    {"role": "assistant", "content": "6"},
]
SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}
SHAREGPT = [{"from": SHAREGPT_ROLES[turn["role"]], "value": turn["content"]} for turn in CHAT]
CONTEXT = (
    Message("system", SYSTEM),
    Message("user", USER),
    Message("assistant", REPLY),
    Message("user", "And 3 + 3?"),
)
LAST = Row(f"{USER}\n\nAnd 3 + 3?", "6", messages=CONTEXT)


def read(*items: dict[str, Any], columns: Columns | None = None, **settings: Any) -> FileRows:
    records = [Record(f"x:{number}", item) for number, item in enumerate(items, start=1)]
    return RowFormat(columns or Columns(), **settings).read("x", records)


def only(item: dict[str, Any], **settings: Any) -> Row:
    [row] = read(item, **settings).rows
    return row


def error(item: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(item, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the formats -------------------------------------------------------------------------------

FORMATS: list[tuple[str, dict[str, Any], Row]] = [
    ("instruction and response", {"instruction": "a", "response": "b"}, Row("a", "b")),
    (
        "Alpaca instruction, input and output",
        {"instruction": "Translate.", "input": "chat", "output": "cat"},
        Row("Translate.\n\nchat", "cat"),
    ),
    (
        "Alpaca instruction, input and output",
        {"instruction": "Sing.", "input": "", "output": "la"},
        Row("Sing.", "la"),
    ),
    ("Alpaca instruction, input and output", {"instruction": "Sing.", "output": "la"},
     Row("Sing.", "la")),
    ("chat messages", {"messages": CHAT}, LAST),
    ("chat messages", {"messages": json.dumps(CHAT)}, LAST),  # as in a CSV file
    ("chat messages", {"messages": CHAT[1:3]}, Row(USER, REPLY)),
    ("chat messages", {"messages": CHAT[:3]}, Row(USER, REPLY, messages=CONTEXT[:2])),
    ("ShareGPT conversations", {"conversations": SHAREGPT}, LAST),
    ("ShareGPT conversations", {"conversations": CHAT}, LAST),
    ("chat messages", {"messages": SHAREGPT}, LAST),
    ("prompt and completion", {"prompt": "a", "completion": " b"}, Row("a", " b")),
    ("prompt and completion", {"prompt": CHAT[:4], "completion": CHAT[4:]}, LAST),
    ("prompt and completion", {"prompt": CHAT[:4], "completion": "6"}, LAST),
    ("prompt and completion", {"prompt": USER, "completion": CHAT[2:3]}, Row(USER, REPLY)),
    ("question and answer", {"question": "a", "answer": True}, Row("a", "true")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "item", "expected"), FORMATS)
def test_formats_are_recognized_by_their_columns(
    name: str, item: dict[str, Any], expected: Row
) -> None:
    found = read({**item, "task": "t", "id": 7})
    assert (found.format, found.unused) == (name, ("not used: 'id'",))
    assert [row.task for row in found.rows] == ["t"]
    assert only(item) == expected


@pytest.mark.parametrize(
    ("item", "columns", "expected"),
    [
        ({"instruction": "a", "response": "b", "q": "c"}, Columns(instruction="q"), Row("c", "b")),
        ({"instruction": "a", "input": "b", "output": "c"}, Columns(response="output"),
         Row("a\n\nb", "c")),
        ({"instruction": "a", "input": "b", "output": "c"},
         Columns(instruction="input", response="output"), Row("b", "c")),
        ({"input": "b", "output": "c"}, Columns(instruction="input"), Row("b", "c")),
        ({"question": "a", "context": "b", "answer": "c"}, Columns(input="context"),
         Row("a\n\nb", "c")),
        ({"messages": CHAT, "prompt": "a", "completion": "b"}, Columns(instruction="prompt"),
         Row("a", "b")),
        ({"messages": CHAT, "instruction": "a", "response": "b"}, Columns(messages="messages"),
         LAST),
        ({"dialog": SHAREGPT, "messages": "x"}, Columns(messages="dialog"), LAST),
        ({"question": USER, "answer": REPLY, "rules": SYSTEM}, Columns(system="rules"),
         Row(USER, REPLY, messages=CONTEXT[:2])),
        ({"question": USER, "answer": REPLY, "rules": None}, Columns(system="rules"),
         Row(USER, REPLY)),
        ({"messages": CHAT[1:3], "system": SYSTEM}, Columns(system="system"),
         Row(USER, REPLY, messages=CONTEXT[:2])),
    ],
)  # fmt: skip
def test_columns_that_are_named_win(item: dict[str, Any], columns: Columns, expected: Row) -> None:
    assert only(item, columns=columns) == expected


def test_the_columns_of_no_known_format_are_said() -> None:
    item = {"q": "a", "more": "b", "reply": "c"}
    columns = Columns(instruction="q", input="more", response="reply")
    assert read(item, columns=columns).format == "columns 'q', 'more' and 'reply'"
    columns = Columns(instruction="q", response="reply")
    assert read(item, columns=columns).format == "columns 'q' and 'reply'"


def test_a_template_may_use_every_column() -> None:
    item = {"instruction": "a", "input": "b", "output": "c"}
    template = "{input} - {instruction}"
    columns = Columns(response="output")
    assert only(item, columns=columns, template=template) == Row("b - a", "c")
    assert only(item, template=template) == Row("b - a", "c")


def test_missing_columns_are_named() -> None:
    assert error({"text": "a", "label": 1}) == (
        "x:1: no column 'instruction'; it has 'text', 'label'; "
        "name the right one with --set data.columns.instruction=NAME"
    )
    fixed = Columns(instruction="text")
    assert error({"text": "a", "label": 1}, columns=fixed) == (
        "x:1: no column 'response'; it has 'text', 'label'; "
        "name the right one with --set data.columns.response=NAME"
    )
    assert only({"text": "a", "label": 1}, columns=Columns(instruction="text", response="label"))
    assert "no column 'rules'" in error({"question": "a", "answer": "b"},
                                        columns=Columns(system="rules"))  # fmt: skip
    assert "no column 'context'" in error({"question": "a", "answer": "b"},
                                          columns=Columns(input="context"))  # fmt: skip
    assert error({"turns": CHAT}, columns=Columns(messages="chat")) == (
        "x:1: no column 'chat'; it has 'turns'; "
        "name the right one with --set data.columns.messages=NAME"
    )


# -- conversations -----------------------------------------------------------------------------


def test_every_answer_can_be_a_sample() -> None:
    found = read({"messages": CHAT}, turns="all").rows
    assert found == [Row(USER, REPLY, messages=CONTEXT[:2]), LAST]
    assert {row.conversation for row in found} == {"x:1"}
    # What stands in the prompt's list of messages is context only.
    assert read({"prompt": CHAT[:4], "completion": CHAT[4:]}, turns="all").rows == [LAST]


def test_the_answers_of_a_conversation_stay_with_one_client() -> None:
    items = [
        {"messages": [{**turn, "content": f"{turn['content']} {n}"} for turn in CHAT]}
        for n in range(6)
    ]
    rows = read(*items, turns="all").rows
    parts = partition(rows, "all", clients=3, seed=0)
    assert sorted(i for part in parts for i in part) == list(range(12))
    for part in parts:
        assert len(part) == 4
        assert len({rows[i].conversation for i in part}) == 2
    with pytest.raises(DataError, match="more than the 6 conversations to train on"):
        partition(rows, "all", clients=7, seed=0)


def test_roles_in_other_words_parts_of_text_and_empty_system_prompts() -> None:
    turns = [
        {"role": "developer", "content": " "},
        {"role": "Human", "content": [{"type": "text", "text": "What is "}, "2 + 2?"]},
        {"role": "model", "content": REPLY, "tool_calls": None, "from": None},
    ]
    assert only({"messages": turns}) == Row(USER, REPLY)


def turns(*pairs: str) -> dict[str, Any]:
    """Messages by the first letter of their role: "u:text"."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "x": "narrator"}
    return {"messages": [{"role": roles[pair[0]], "content": pair[2:]} for pair in pairs]}


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (turns("u:a"), "the conversation ends with the user's message 1; add the assistant's ans"),
        (turns("u:a", "a:b", "u:c"), "the conversation ends with the user's message 3; add"),
        (turns("a:a"), "message 1 is the assistant's, and no user's is before it; remove it"),
        (turns("s:s", "a:a"), "message 2 is the assistant's, and no user's is before it"),
        (turns("u:a", "u:b", "a:c"), "message 2 is the user's like the one before it; join the"),
        (turns("u:a", "a:b", "a:c"), "message 3 is the assistant's like the one before it; join"),
        (turns("u:a", "s:s", "a:b"), "message 2 is a system prompt, not the first message; keep"),
        (turns("s:s"), "no messages of a user and an assistant; remove the row"),
        (turns(), "no messages of a user and an assistant; remove the row"),
        (turns("u: ", "a:b"), "message 1 of 'messages' is empty; fill it in or remove the row"),
        (turns("u:a", "t:b"), "message 2 of 'messages' is of role 'tool'; fedrouter cannot train"),
        (turns("u:a", "x:b"), "message 2 of 'messages' is of the unknown role 'narrator'; use one"),
        ({"messages": "hello"}, "'messages' is a text, not a list of messages such as"),
        ({"messages": "[hello"}, "'messages' is a text that is no JSON list"),
        ({"messages": None}, "'messages' is null, not a list of messages such as"),
        ({"messages": ["a"]}, "message 1 of 'messages' is a text, not an object such as"),
        ({"messages": [{"role": "user"}]}, "message 1 of 'messages' has no 'content' (it has 'ro"),
        ({"messages": [{"content": "a"}]}, "message 1 of 'messages' has no 'role' (it has 'cont"),
        ({"messages": [{}]}, "message 1 of 'messages' has no 'role' (it has nothing); add it"),
        ({"messages": [{"role": "user", "content": 5}]}, "message 1 of 'messages' holds a number"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "message 1 of 'messages' holds a part of type 'image'; only text can be trained on",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]},
            "message 1 of 'messages' calls a tool, which fedrouter cannot train; remove the row",
        ),
        ({"prompt": CHAT[:3], "completion": CHAT[4:]}, "message 4 is the assistant's like the one"),
    ],
)
def test_conversations_that_cannot_be_trained_on(item: dict[str, Any], expected: str) -> None:
    assert error(item).startswith(f"x:1: {expected}")


@given(
    st.booleans(),
    st.lists(st.tuples(st.text("ab ", min_size=1), st.text("cd", min_size=1)), min_size=1),
)
def test_conversations_of_any_length(system: bool, exchanges: list[tuple[str, str]]) -> None:
    exchanges = [(f"u{user}", answer) for user, answer in exchanges]
    chat = [("system", "s")] * system
    for user, answer in exchanges:
        chat += [("user", user), ("assistant", answer)]
    item = {"messages": [{"role": role, "content": content} for role, content in chat]}
    rows = read(item, turns="all").rows
    assert [row.response for row in rows] == [answer for _, answer in exchanges]
    assert rows[-1] == only(item)
    for number, row in enumerate(rows, start=1):
        assert row.instruction == "\n\n".join(user for user, _ in exchanges[:number])
        before = tuple(Message(role, content) for role, content in chat[: system + 2 * number - 1])  # type: ignore[arg-type]
        assert row.messages == (before if len(before) > 1 else ())


# -- columns that are not used -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "settings", "expected"),
    [
        ({"question": "a", "context": "b", "answer": "c"}, {},
         "column 'context' is not used; --set data.columns.input=context puts it after the "
         "instruction"),
        ({"instruction": "a", "system_prompt": "b", "response": "c"}, {},
         "column 'system_prompt' is not used; --set data.columns.system=system_prompt makes it the "
         "system prompt"),
        ({"instruction": "a", "input": "b", "history": [["x", "y"]], "output": "c"}, {},
         "column 'history' is not used; write into the instruction what the model should see of it"
         ),
        ({"instruction": "a", "input": "b", "hint": "x", "output": "c"}, {},
         "column 'hint' is not used; to use it give the file as one of data.sources with the "
         'template "{instruction} {input} {hint}"'),
        ({"messages": CHAT, "tools": [{"name": "f"}]}, {},
         "column 'tools' is not used; write into the messages what the model should see of it"),
        ({"instruction": "a", "response": "b", "messages": CHAT}, {},
         "column 'messages' is not used; --set data.columns.messages=messages reads the rows from "
         "it instead"),
        ({"q": "a", "context": "b", "response": "c"}, {"template": "{q}"},
         "column 'context' is not used; to use it write {context} into the template"),
        ({"instruction": "a", "response": "b", "prompt_id": 3, "url": "x", "Quelle": "y"}, {},
         "not used: 'prompt_id', 'url', 'Quelle'"),
    ],
)  # fmt: skip
def test_unused_columns_are_said(
    item: dict[str, Any], settings: dict[str, Any], expected: str
) -> None:
    assert read(item, **settings).unused == (expected,)


def test_unused_columns_are_looked_for_in_every_row_and_said_once() -> None:
    plain = {"instruction": "a", "response": "b", "input": "", "options": []}
    assert read(plain, plain).unused == ()
    found = read(plain, {**plain, "input": "x"}, {**plain, "input": "y"}).unused
    assert found == (
        "column 'input' is not used; --set data.columns.input=input puts it after the instruction",
    )
    many = {f"c{i}": i for i in range(10)}
    assert read({**plain, **many}).unused == (
        "not used: 'c0', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7' and 2 more columns",
    )


def test_following_the_advice_uses_the_column(tmp_path: Path) -> None:
    item = {"question": "a", "context": "b", "system": "s", "answer": "c"}
    row = only(item, columns=Columns(input="context", system="system"))
    assert row == Row("a\n\nb", "c", messages=(Message("system", "s"), Message("user", "a\n\nb")))
    path = tmp_path / "a.jsonl"
    alpaca = {"instruction": "a", "input": "b", "hint": "h", "output": "c"}
    path.write_text(
        "".join(json.dumps({**alpaca, "instruction": f"a{i}"}) + "\n" for i in range(5))
    )
    source = Source(path=path, template="{instruction} {input} {hint}")
    splits = load_splits(DataConfig(sources=(source,)), seed=0)
    assert Row("a0 b h", "c") in [*splits.train, *splits.test]
    assert splits.notes == (f"{path}: template and 'output', 5 rows",)


# -- what is said of files ---------------------------------------------------------------------


def test_each_format_is_said_in_one_line(tmp_path: Path) -> None:
    def write(name: str, items: list[dict[str, Any]]) -> Path:
        path = tmp_path / "rows" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        return path

    chat = write("a.jsonl", [{"messages": CHAT}] * 2)
    assert read_rows(chat, DataConfig()).notes == (f"{chat}: chat messages, 2 rows",)
    assert read_rows(chat, DataConfig(turns="all")).notes == (f"{chat}: chat messages, 4 rows",)
    more = write("b.jsonl", [{"messages": CHAT, "id": 1}])
    assert read_rows(chat.parent, DataConfig()).notes == (
        f"{chat.parent} (2 files): chat messages, 3 rows",
        f"{more}: not used: 'id'",
    )
    pairs = write("c.jsonl", [{"question": "a", "answer": "b"}])
    every = tmp_path / "rows" / "*.jsonl"
    assert load_splits(DataConfig(train=every, test=pairs), seed=0).notes == (
        f"{chat} and 1 more: chat messages, 3 rows",
        f"{pairs}: question and answer, 1 row",
        f"{pairs}: question and answer, 1 row",
        f"{more}: not used: 'id'",
    )


def test_rows_that_only_an_unused_column_tells_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    items = [{"question": "Sum up.", "context": f"text {i}", "answer": "b"} for i in range(9)]
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    with pytest.raises(DataError) as caught:
        load_splits(DataConfig(train=path, test_fraction=0.9), seed=0)
    assert str(caught.value) == (
        "no row can be split off for testing: all 9 rows have the same instruction, and such rows "
        "stay on one side of the split; add rows with other instructions, or name a data.test "
        f"file; {path}: column 'context' is not used; --set data.columns.input=context puts it "
        "after the instruction"
    )
    columns = Columns(input="context")
    assert len(load_splits(DataConfig(train=path, columns=columns), seed=0).test) == 2
