"""From a row to tokens: what the chat template gets, and what becomes of its text."""

import logging
from datetime import date
from typing import Any

import pytest
from tokenizers import normalizers, processors

from dqo.errors import ConfigError
from dqo.task.reading.rendering import UNKNOWN, Renderer
from dqo.task.reading.row import Row
from dqo.task.reading.settings import MessageRendering, Rendering
from tests.task.builders import NOTHING
from tests.task.reading import chat_templates as templates
from tests.task.reading.chat_templates import tokenizer

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "brief"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLS = ({"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "12"})


def renderer(template: Any = templates.TURNS, *, chat: bool = True, **keys) -> Renderer:
    settings = {"seed": 0, "max_completion_length": 8, "chat_template": chat, **NOTHING} | keys
    return Renderer(
        template if not isinstance(template, str | dict) else tokenizer(template), MessageRendering(**settings)
    )


def row(*messages, text: str | None = None, **fields) -> Row:
    return Row(content=messages if text is None else text, source="my.jsonl, line 1", **fields)


def test_the_tools_of_a_row_reach_the_template():
    made = renderer(templates.TOOLS).text(row(USER, tools=(TOOL,)))
    assert made.startswith('<tools>[{"type": "function", "function": {"name": "f"')
    assert renderer(templates.TOOLS).text(row(USER)) == "<user>hi<end><assistant>"


def test_a_model_with_a_template_for_tools_uses_it_for_rows_with_tools():
    both = renderer({"default": templates.TURNS, "tool_use": templates.TOOLS})
    assert both.text(row(USER, tools=(TOOL,))).startswith("<tools>")
    assert both.text(row(text="hi")) == "<user>hi<end><assistant>"


def test_variables_of_the_template():
    assert renderer(templates.THINKING).text(row(text="hi")) == "<user>hi<end><assistant>"
    off = renderer(templates.THINKING, chat_template_kwargs={"enable_thinking": False})
    assert off.text(row(text="hi")) == "<user>hi<end><assistant><nothink>"


def test_the_date_that_a_template_prints_is_the_day_of_the_start():
    assert renderer(templates.DATED, date="2024-02-29").text(row(text="hi")).startswith("29 Feb 2024 <user>")
    assert renderer(templates.DATED).text(row(text="hi")).startswith(date.today().strftime("%d %b %Y"))
    with pytest.raises(ConfigError, match=r"^task.date=friday: no date .*; type task.date=2026-07-31$"):
        renderer(date="friday")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (templates.TOOLS, '<user>hi<end><assistant>[f {"a": 1}]<end><tool>12<end><assistant>'),
        (templates.JSON_CALLS, '<user>hi<end><assistant>[f {"a": 1}]<end><tool>12<end><assistant>'),
        (templates.NULL_CALLS, '<user>hi<end><assistant>[f {"a": 1}]<end><tool>12<end><assistant>'),
        (templates.TURNS, "<user>hi<end><assistant><end><tool>12<end><assistant>"),
    ],
)
def test_content_null_beside_tool_calls(template, text):
    assert renderer(template).text(row(USER, *CALLS)) == text


def test_the_last_words_of_the_assistant_are_gone_on_with():
    prefill = {"role": "assistant", "content": "<think>\n"}
    assert renderer().text(row(USER, prefill)) == "<user>hi<end><assistant><think>\n"
    assert renderer().text(row(SYSTEM, USER, prefill)) == "<system>brief<end><user>hi<end><assistant><think>\n"
    with pytest.raises(ConfigError, match="line 1: the last message is the assistant's and has no text to go on with"):
        renderer(templates.TOOLS).text(row(USER, CALLS[0]))


@pytest.mark.parametrize("template", [templates.NO_SYSTEM, templates.ALTERNATING])
def test_a_template_that_refuses_a_system_turn(template):
    for prompt in (row(SYSTEM, USER), row({**SYSTEM, "role": "developer"}, USER)):
        with pytest.raises(ConfigError) as raised:
            renderer(template).text(prompt)
        assert "type task.merge_messages=true" in str(raised.value)
        assert "task.chat_template=false" not in str(raised.value)
        assert renderer(template, merge_messages=True).text(prompt) == "<user>brief\n\nhi<end><assistant>"


def test_a_template_that_wants_turns_and_one_that_merging_does_not_help():
    prompt = row(USER, USER)
    with pytest.raises(ConfigError, match=r"\(must alternate\); type task.merge_messages=true"):
        renderer(templates.ALTERNATING).text(prompt)
    assert renderer(templates.ALTERNATING, merge_messages=True).text(prompt) == "<user>hi\n\nhi<end><assistant>"
    with pytest.raises(
        ConfigError, match=r"type model.chat_template=FILE of another template, or change the messages$"
    ):
        renderer(templates.ALTERNATING).text(row({"role": "assistant", "content": "x"}, USER))


def test_named_templates_without_a_default():
    with pytest.raises(ConfigError, match=r"none is the default; type model.chat_template=rag \| tool_use$"):
        renderer({"rag": "{{ 1 }}", "tool_use": templates.TOOLS}).text(row(text="hi"))
    assert renderer({"rag": "{{ 1 }}"}, chat=False).text(row(text="hi")) == "hi"


def adding_bos(template=templates.TURNS, **names):
    made = tokenizer(template, **names)
    single = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 256)])
    made.backend_tokenizer.post_processor = single
    return made


@pytest.mark.parametrize("names", [{}, {"bos_token": None}])
def test_a_text_that_has_bos_already_gets_no_second_one(names, caplog):
    subject = renderer(adding_bos(**names), chat=False)
    with caplog.at_level(logging.WARNING):
        lists = [subject.tokens(row(text=text)) for text in ("<bos>a", "a", "<bos><bos>a")]
    assert lists[0] == lists[1] == lists[2]
    assert lists[0].count(256) == 1
    assert caplog.text.count("begins with <bos> twice; one is kept") == 1


def test_a_template_that_writes_bos_before_a_text_that_has_it(caplog):
    subject = renderer(adding_bos("{{ bos_token }}{{ messages[0].content }}"))
    assert subject.tokens(row(text="<bos>a")) == subject.tokens(row(text="a"))
    assert "my.jsonl, line 1: the prompt begins with <bos> twice" in caplog.text


def test_a_text_that_begins_with_the_same_letter_twice_is_kept():
    assert len(renderer(chat=False).tokens(row(text="aardvark"))) == 8


def test_end_of_turn_is_what_the_template_writes_after_an_answer():
    assert renderer().end_of_turn == "<end>"
    assert renderer(templates.TURNS.replace("<end>", "<end>\n<eos>")).end_of_turn == "<end>"
    assert renderer(templates.TURNS.replace("<end>", "\n")).end_of_turn == ""
    assert renderer(templates.TURNS.replace("<end>", " ###\n")).end_of_turn == " ###"
    assert renderer(chat=False).end_of_turn == ""
    assert renderer("{{ messages[1] + 1 }}").end_of_turn == ""


@pytest.mark.parametrize(
    "prompt",
    [
        row(USER, {"role": "assistant", "content": None, "tool_calls": [{**CALL, "more": "x" * 300}]}, CALLS[1]),
        row(USER, tools=({**TOOL, "description": "é" * 300},)),
        row({"role": "user", "content": "hi", "name": "y" * 300}),
        row(text="漢🎈" * 50),
        row(text="\ufdfa" * 50),  # 3 bytes, of which NFKC makes 33
    ],
)
def test_the_bound_counts_text_wherever_it_comes_from(prompt):
    template = "{{ long }}{{ tools | tojson }}{% for m in messages %}{{ m | tojson }}{% endfor %}" + templates.TURNS
    made = tokenizer(template)
    made.backend_tokenizer.normalizer = normalizers.NFKC()
    subject = Renderer(
        made,
        Rendering(
            seed=0, max_completion_length=8, chat_template=True, chat_template_kwargs={"long": "z" * 200}, date=None
        ),
    )
    assert 500 <= len(subject.tokens(prompt)) <= subject.most_tokens(prompt) < 5000


def test_the_bound_of_an_empty_text_is_unknown():
    assert renderer(chat=False).most_tokens(row(text=" ")) == UNKNOWN
