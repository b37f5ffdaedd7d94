"""Chat messages and tools as users write them."""

import pytest

from dqo.errors import ConfigError
from dqo.task.reading.messages import (
    checked_messages,
    checked_tools,
    json_of,
    looks_like_tools,
    merged,
    one_answer,
    system_text,
)

USER = {"role": "user", "content": "hi"}
CALLS = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb"),
        ({"role": "user", "content": [{"type": "input_text", "text": "a"}]}, "a"),
        ({"role": "user", "content": ["a", "b"]}, "a\nb"),
        ({"role": "assistant", "content": None, "tool_calls": CALLS}, None),
        ({"role": "assistant", "tool_calls": CALLS}, None),
        ({"role": "assistant", "content": None, "function_call": CALLS[0]["function"]}, None),
        ({"role": "function", "name": "f", "content": "12"}, "12"),
        ({"role": "developer", "content": "be brief", "extra": 3}, "be brief"),
    ],
)
def test_messages_as_openai_writes_them(message, content):
    (made,) = checked_messages([message], "x")
    assert made == {**message, "content": content}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "user", "content": None}, "x, message 1: the content is null; text is needed"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "x, message 1: the content is null"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
            "part 1 is of type image_url",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "part 1 is of type text; only text"),
        ({"role": "user", "content": [3]}, "part 1: a number"),
        ({"role": "user", "content": {"text": "a"}}, "the content is an object; text is needed"),
        ({"role": "bot", "content": "a"}, "role 'bot' is none of system, developer, user, assistant, tool, function"),
        ({"content": "a"}, '{"role": …, "content": …} is needed'),
    ],
)
def test_messages_that_are_none(message, error):
    with pytest.raises(ConfigError) as raised:
        checked_messages([message], "x")
    assert error in str(raised.value)


def test_an_answer_is_one_message_of_the_assistant():
    answer = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
    assert one_answer([answer], "x") == "yes"
    for wrong, error in (
        ([USER], "a message of the assistant is needed"),
        ([USER, answer], "has 2 messages; an example answer is one message of the assistant"),
        ([{"role": "assistant", "content": None, "tool_calls": CALLS}], "has no text"),
        ([], "has no messages"),
    ):
        with pytest.raises(ConfigError, match=error):
            one_answer(wrong, "x")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ([TOOL], (TOOL,)),
        ('[{"type": "function", "function": {"name": "f", "parameters": {}}}]', (TOOL,)),
        (['{"type": "function", "function": {"name": "f", "parameters": {}}}'], (TOOL,)),
        (None, ()),
        ("null", ()),
        ([], ()),
        ("[]", ()),
    ],
)
def test_tools_are_a_list_or_its_json(given, read):
    assert checked_tools(given, "x") == read


@pytest.mark.parametrize("given", [TOOL, "get_weather", "[{", 3, ["f"], [TOOL, None]])
def test_what_is_no_list_of_tools(given):
    with pytest.raises(ConfigError, match=r"^x \(task.tools_column\) is .*; a list of tool schemas is needed"):
        checked_tools(given, "x")


def test_a_field_of_tool_names_is_no_list_of_schemas():
    assert looks_like_tools([TOOL]) and looks_like_tools('[{"name": "f"}]')
    assert not any(looks_like_tools(value) for value in (None, [], ["hammer"], "a hammer", '["hammer"]', 3))


def test_text_of_json():
    assert json_of(' {"a": 1}') == {"a": 1}
    assert [json_of(text) for text in ("{a", "12", "x", 3)] == ["{a", "12", "x", 3]


def test_a_system_text_and_neighbours_are_merged():
    system, answer = {"role": "system", "content": "be brief"}, {"role": "assistant", "content": "yes"}
    assert merged([system, USER]) == ({"role": "user", "content": "be brief\n\nhi"},)
    assert merged([USER, USER, answer, answer, USER]) == (
        {"role": "user", "content": "hi\n\nhi"},
        {"role": "assistant", "content": "yes\n\nyes"},
        USER,
    )
    calls = {"role": "assistant", "content": None, "tool_calls": CALLS}
    results = ({"role": "tool", "content": "1"}, {"role": "tool", "content": "2"})
    assert merged([USER, calls, *results]) == (USER, calls, *results)


@pytest.mark.parametrize(
    ("content", "system"),
    [
        ("hi", None),
        ((USER,), None),
        (({"role": "system", "content": "Be brief."}, USER), "Be brief."),
        (({"role": "developer", "content": "Be brief."}, USER), "Be brief."),
    ],
)
def test_the_system_turn_of_a_prompt(content, system):
    assert system_text(content) == system
