"""What a chat template leaves out of the prompts is refused or warned of, before any work."""

import logging

import pytest

from dqo.errors import ConfigError
from dqo.task.reading.rendering import Renderer
from dqo.task.reading.row import Row
from dqo.task.reading.settings import Rendering
from dqo.task.reading.template_check import check_template
from tests.task.reading import chat_templates as templates

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "brief"}
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL_ROW = Row(content=(USER,), source="my.jsonl, line 3", tools=({"name": "f"},))


def check(template, *rows: Row, chat: bool = True, kwargs=None) -> None:
    tokenizer = templates.tokenizer(template)
    settings = Rendering(seed=0, max_completion_length=8, chat_template=chat, chat_template_kwargs=kwargs, date=None)
    check_template(Renderer(tokenizer, settings), tokenizer, rows or [Row(content="hi", source="x")])


def warnings(caplog, template, *rows: Row, **keys) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        check(template, *rows, **keys)
    return caplog.text


def test_a_variable_that_no_key_gives_is_named_once(caplog):
    text = warnings(caplog, templates.THINKING)
    assert text.count("\n") == 1
    assert "asks for enable_thinking, which no key gives; type task.chat_template_kwargs.enable_thinking=VALUE" in text
    assert not warnings(caplog, templates.THINKING, kwargs={"enable_thinking": True})


@pytest.mark.parametrize(
    "template",
    [
        templates.EFFORT,
        templates.DATED,
        templates.TOOLS,
        templates.NO_SYSTEM,
        "{{ bos_token }}{{ eos_token }}{{ documents }}{% set x = 1 %}{{ x }}{{ range(3) }}{{ custom_tools }}"
        + templates.TURNS,
        "{% set style = style | default('plain') %}{{ style }}" + templates.TURNS,
        "{% for m in messages %}{% if m.role == 'x' %}{% set y = 1 %}{% endif %}{{ y }}{% endfor %}" + templates.TURNS,
    ],
)
def test_what_transformers_or_the_template_itself_gives_is_not_warned_of(caplog, template):
    assert not warnings(caplog, template)


def test_a_variable_with_a_default_can_be_given():
    check(templates.EFFORT, kwargs={"effort": "high"})


@pytest.mark.parametrize(
    ("template", "name", "there"),
    [
        (templates.THINKING, "enable_thinkng", "it has enable_thinking"),
        (templates.TURNS, "enable_thinking", "it has none that can be set"),
        (templates.THINKING, "tokenize", "it has enable_thinking"),
        (templates.THINKING, "messages", "it has enable_thinking"),
        (templates.DATED, "strftime_now", "it has none that can be set"),
    ],
)
def test_a_variable_that_the_template_has_not_is_refused(template, name, there):
    with pytest.raises(ConfigError) as raised:
        check(template, kwargs={name: False})
    assert str(raised.value).startswith(f"task.chat_template_kwargs.{name}: the model's chat template has no such")
    assert str(raised.value).endswith(there)


def test_tools_and_variables_need_a_template_that_takes_them():
    with pytest.raises(ConfigError, match="line 3: the model's chat template has no place for tools; type"):
        check(templates.TURNS, TOOL_ROW)
    check(templates.TOOLS, TOOL_ROW)
    for template, chat, fix in (
        (None, True, "model.chat_template=FILE"),
        (templates.TOOLS, False, "task.chat_template"),
    ):
        with pytest.raises(ConfigError, match=f"line 3: tools need a chat template; type {fix}"):
            check(template, TOOL_ROW, chat=chat)
        with pytest.raises(ConfigError, match=f"task.chat_template_kwargs.a: no chat template is used; type {fix}"):
            check(template, chat=chat, kwargs={"a": 1})


def test_a_template_that_leaves_a_message_out_is_named(caplog):
    rows = [Row(content=(SYSTEM, USER), source=f"my.jsonl, line {n}") for n in (1, 2)]
    text = warnings(caplog, templates.IGNORES_SYSTEM, *rows)
    assert text.count("leaves out the system's text (message 1)") == 1
    assert "my.jsonl, line 1" in text
    assert not warnings(caplog, templates.TURNS, *rows)


def test_a_template_that_leaves_tool_calls_out_is_named(caplog):
    messages = (USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "a"})
    row = Row(content=messages, source="my.jsonl, line 1")
    assert "leaves out the tool calls (message 2)" in warnings(caplog, templates.TURNS, row)
    assert not warnings(caplog, templates.TOOLS, row)


def test_thoughts_that_a_template_leaves_out_are_not_warned_of(caplog):
    template = templates.TURNS.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    messages = (USER, {"role": "assistant", "content": "<think>secret</think>yes"}, USER)
    assert not warnings(caplog, template, Row(content=messages, source="x"))


def test_a_text_that_has_been_rendered_already_is_named(caplog):
    text = warnings(caplog, templates.TURNS, Row(content="<bos><user>hi<end>", source="my.jsonl, line 1"))
    assert (
        "line 1: the text begins with <bos>, and the chat template is put around it; type task.chat_template=f" in text
    )
    assert not warnings(caplog, templates.TURNS, Row(content="<bos>hi", source="x"), chat=False)


def test_a_broken_template_is_left_to_rendering():
    with pytest.raises(ConfigError, match="chat template refuses this prompt"):
        check("{% for %}", Row(content=(USER,), source="x"))
