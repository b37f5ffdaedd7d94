"""Which form of OpenAI's messages a template takes, and how messages are given that form."""

import pytest

from dqo.task.reading.template_form import TemplateForm
from tests.task.reading import chat_templates as templates

CALL = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def probed(template: str) -> TemplateForm:
    tokenizer = templates.tokenizer(template)
    return TemplateForm.probed(template, lambda messages: str(tokenizer.apply_chat_template(messages, tokenize=False)))


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (templates.TURNS, TemplateForm()),
        (templates.PARTS, TemplateForm(wants_parts=True)),
        (templates.DEVELOPER, TemplateForm(knows_developer=True)),
        (templates.TOOLS, TemplateForm(keeps_null=False, shows_calls=True)),
        (templates.JSON_CALLS, TemplateForm(wants_json=True, shows_calls=True)),
        (templates.NULL_CALLS, TemplateForm(keeps_null=True, shows_calls=True)),
        ("a developer wrote this " + templates.IGNORES_SYSTEM.replace("'system'", "'developer'"), TemplateForm()),
        ("{{ raise_exception('always') }}", TemplateForm()),
    ],
)
def test_what_a_template_takes_is_found_out(template, form):
    assert probed(template) == form


def test_roles_that_a_template_does_not_know():
    messages = [{"role": "developer", "content": "a"}, {"role": "function", "name": "f", "content": "b"}]
    assert [message["role"] for message in TemplateForm().of(messages)] == ["system", "tool"]
    assert [message["role"] for message in TemplateForm(knows_developer=True).of(messages)] == ["developer", "tool"]


def test_fields_that_are_null_are_left_out_and_others_kept():
    (made,) = TemplateForm().of(
        [{"role": "assistant", "content": "a", "tool_calls": [], "function_call": None, "refusal": None, "name": "me"}]
    )
    assert made == {"role": "assistant", "content": "a", "name": "me"}


@pytest.mark.parametrize(
    ("given", "as_object", "as_json"),
    [
        ('{"a": 1}', {"a": 1}, '{"a": 1}'),
        ({"a": "é"}, {"a": "é"}, '{"a": "é"}'),
        ("", {}, ""),
        ("not json", "not json", "not json"),
        ("[1]", "[1]", "[1]"),
    ],
)
def test_arguments_of_a_tool_call_become_an_object_or_json(given, as_object, as_json):
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": given}}]}
    for wants_json, expected in ((False, as_object), (True, as_json)):
        (made,) = TemplateForm(wants_json=wants_json).of([message])
        assert made["tool_calls"] == [{"function": {"name": "f", "arguments": expected}}]


def test_a_function_call_of_the_former_interface_is_a_tool_call():
    (made,) = TemplateForm().of([{"role": "assistant", "content": None, "function_call": CALL["function"]}])
    assert made["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
    assert "function_call" not in made


def test_content_as_parts():
    (made,) = TemplateForm(wants_parts=True).of([{"role": "user", "content": "hi"}])
    assert made["content"] == [{"type": "text", "text": "hi"}]
