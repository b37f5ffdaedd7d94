import json

from dqo.records import Prompt


def test_text_of_a_conversation():
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "A city?"})
    assert Prompt(position=0, tokens=(3,), content=messages, columns={}).text == "system: Be brief.\nuser: A city?"


def test_text_of_a_turn_that_only_calls_a_tool():
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    parts = [{"type": "text", "text": "Hi"}]
    messages = ({"role": "user", "content": parts}, {"role": "assistant", "content": None, "tool_calls": [call]})
    shown = Prompt(position=0, tokens=(3,), content=messages, columns={}).text
    assert shown == f"user: {json.dumps(parts)}\nassistant: {json.dumps([call])}"
