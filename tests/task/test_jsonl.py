"""A user's file: the forms it may have, and a clear error for each fault."""

import json
import logging
from typing import Any, cast

import pytest

from dqo.errors import ConfigError
from dqo.task.jsonl import Jsonl
from tests.task.own_files import LINES, TEMPLATE, raw, task, write


def contents(subject: Jsonl) -> set:
    return {p.content for p in subject.draw(0, len(subject._training))[0]}


def test_split_does_not_depend_on_the_seed(tmp_path):
    path = write(tmp_path, LINES)
    first, second = task(path), task(path, seed=1)
    held_out = [p.content for p in first.held_out()]
    assert len(held_out) == 2
    assert [p.content for p in second.held_out()] == held_out
    assert contents(first) == {line["prompt"] for line in LINES} - set(held_out)
    assert [p.content for p in first.draw(0, 8)[0]] != [p.content for p in second.draw(0, 8)[0]]


def test_lines_with_the_same_prompt_stay_together(tmp_path):
    subject = task(write(tmp_path, [*LINES, *LINES[:5]]), held_out=9)
    (left,) = contents(subject)
    assert left not in [p.content for p in subject.held_out()]


@pytest.mark.parametrize(("different", "held_out"), [(2, 1), (9, 1), (35, 3), (640, 64), (2000, 64)])
def test_a_tenth_is_held_out_where_no_number_is_typed(tmp_path, caplog, different, held_out):
    lines = [{"prompt": f"question {n}"} for n in range(different)]
    with caplog.at_level(logging.INFO):
        subject = task(write(tmp_path, [*lines, *lines]), held_out=None)
    assert len(subject.held_out()) == held_out
    assert f"{held_out} of {different} different prompts are held out for evaluation (task.held_out)" in caplog.text


def test_one_prompt_cannot_be_held_out(tmp_path):
    with pytest.raises(ConfigError, match=r"has 1 different prompts .* add lines, or task.eval_path=FILE"):
        task(write(tmp_path, LINES[:1] * 9), held_out=None)


def test_a_csv_file_with_an_eval_file_of_another_format(tmp_path):
    (tmp_path / "my.csv").write_text("question;answer\nWhat is 1+1?;2\nAnd 2+2?;4\n", "utf-8")
    other = write(tmp_path, [{"question": "And 3+3?", "answer": 6}], "eval.jsonl")
    path = str(tmp_path / "my.csv")
    subject = task(path, eval_path=other, held_out=None, prompt_column="question", answer_column="answer")
    assert contents(subject) == {"What is 1+1?", "And 2+2?"}
    assert subject.held_out()[0].columns == {"answer": "6"}
    assert {prompt.columns["answer"] for prompt in subject.draw(0, 2)[0]} == {"2", "4"}


def test_messages_written_as_text_are_not_taken_for_a_prompt(tmp_path):
    with pytest.raises(ConfigError, match="line 11: the prompt is text with a list of messages in it; give the list"):
        task(write(tmp_path, [*LINES, {"prompt": "[{'content': 'hi', 'role': 'user'}]"}]))


def test_messages_that_a_csv_cell_holds_as_json(tmp_path):
    subject = task(write(tmp_path, [*LINES, {"prompt": '[{"role": "user", "content": "hi"}]'}]))
    prompts = [*subject.draw(0, 9)[0], *subject.held_out()]
    assert ({"role": "user", "content": "hi"},) in [prompt.content for prompt in prompts]


def test_an_answer_that_is_nan_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r'line 11: "answer" \(task.answer_column\) is null; text or a number'):
        task(write(tmp_path, [*LINES, {"prompt": "new", "answer": float("nan")}]), answer_column="answer")


def test_eval_path(tmp_path):
    path, other = write(tmp_path, LINES), write(tmp_path, [{"prompt": f"other {n}"} for n in range(3)], "eval.jsonl")
    assert [p.content for p in task(path, eval_path=other).held_out()] == ["other 0", "other 1"]
    assert len(task(path, eval_path=other, held_out=64).held_out()) == 3
    assert len(contents(task(path, eval_path=other))) == 10
    write(tmp_path, [{"prompt": "new"}, {"prompt": "question 4"}], "eval.jsonl")
    with pytest.raises(ConfigError, match=r"eval.jsonl, line 2: .* trained on too \(.*my.jsonl, line 5\)"):
        task(path, eval_path=other)


def test_columns(tmp_path):
    path = write(tmp_path, [*LINES, {"prompt": "question 10", "extra": [1]}])
    columns = {p.content: p.columns for p in [*task(path).draw(0, 9)[0], *task(path).held_out()]}
    assert columns["question 3"] == {"answer": 3, "topic": "sums", "extra": None}
    assert columns["question 10"] == {"answer": None, "topic": None, "extra": [1]}
    chosen = task(write(tmp_path, LINES), columns={"subject": "topic"}).held_out()[0]
    assert chosen.columns == {"subject": "sums"}


def test_template_over_fields(tmp_path):
    lines = [{"text": f"t{n}", "language": "French"} for n in range(4)]
    subject = task(write(tmp_path, lines), template="Translate into {{ language }}: {{ text }}")
    assert contents(subject) < {f"Translate into French: t{n}" for n in range(4)}
    assert subject.held_out()[0].columns["language"] == "French"


def test_messages_and_system_prompt(tmp_path):
    lines = [{"prompt": [{"role": "user", "content": f"question {n}"}]} for n in range(4)]
    subject = task(write(tmp_path, lines), system_prompt="Be brief.")
    expected = [({"role": "system", "content": "Be brief."}, line["prompt"][0]) for line in lines]
    assert all(prompt.content in expected for prompt in subject.held_out())
    plain = task(write(tmp_path, LINES), system_prompt="Be brief.").draw(0, 8)[0]
    expected = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "question 7"})
    assert expected in [prompt.content for prompt in plain]


def test_check_by_answer_column(tmp_path):
    subject = task(write(tmp_path, LINES), answer_column="answer", columns={"subject": "topic"})
    prompt = next(p for p in subject.draw(0, 8)[0] if p.content == "question 7")
    assert prompt.columns == {"subject": "sums", "answer": "7"}
    assert subject.check(prompt, " 7. ", True).reward == 1.0
    assert not subject.check(prompt, "7", False).correct
    assert not subject.check(prompt, "70", True).correct


def test_check_without_answers_says_what_to_type(tmp_path):
    subject = task(write(tmp_path, LINES))
    with pytest.raises(ConfigError, match=r"reward=python reward.function=my_module.score, or task.answer_column=NAME"):
        subject.check(subject.held_out()[0], "7", True)


def test_demonstrations(tmp_path):
    path = write(tmp_path, [{**line, "solution": f"It is {line['answer']}."} for line in LINES])
    pairs = task(path, completion_column="solution").demonstrations(20, 0)
    assert all(text == f"It is {str(prompt.content).split()[1]}." for prompt, text in pairs)


def test_message_completions_of_trl(tmp_path):
    lines = [
        {"prompt": [{"role": "user", "content": f"q{n}"}], "completion": [{"role": "assistant", "content": f"a{n}"}]}
        for n in range(4)
    ]
    for written in (lines, [{**line, "completion": json.dumps(line["completion"])} for line in lines]):
        pairs = task(write(tmp_path, written), completion_column="completion").demonstrations(9, 0)
        assert {(cast(Any, p.content)[0]["content"], text) for p, text in pairs} <= {
            (f"q{n}", f"a{n}") for n in range(4)
        }


def test_an_answer_that_is_a_list_in_text_is_text(tmp_path):
    path = write(tmp_path, [{**line, "solution": "[1, 2]"} for line in LINES])
    assert {text for _, text in task(path, completion_column="solution").demonstrations(5, 0)} == {"[1, 2]"}


def test_the_last_message_of_a_conversation_is_the_answer(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    lines = [{"messages": [*turns, {"role": "assistant", "content": f"d{n}"}], "n": n} for n in range(3)]
    lines += [{"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}], "n": 3}]
    path = write(tmp_path, lines)
    subject = task(path, prompt_column="messages", completion_column="messages", held_out=1)
    assert all(
        cast(Any, prompt.content)[-1]["role"] == "user" for prompt in [*subject.draw(0, 3)[0], *subject.held_out()]
    )
    assert {text for _, text in subject.demonstrations(20, 0)} <= {"d0", "d1", "d2", "f"}
    gone_on_with = task(path, prompt_column="messages", held_out=1)
    assert {prompt.prefill for prompt in gone_on_with.draw(0, 3)[0]} <= {"d0", "d1", "d2", "f"}


def test_a_tools_column_that_no_line_has(tmp_path):
    with pytest.raises(ConfigError, match=r'no field "tool", only prompt, answer, topic; type task.tools_column=NAME'):
        task(write(tmp_path, LINES), tools_column="tool")


TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


@pytest.mark.parametrize("written", [TOOLS, json.dumps(TOOLS)])
def test_a_tools_column_reaches_the_prompt_and_without_its_key_there_is_a_warning(tmp_path, written, caplog):
    path = write(tmp_path, [*LINES[:4], {"prompt": "weather?", "tools": written}, {"prompt": "none", "tools": None}])
    template = "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + TEMPLATE
    keys = {"template_of_model": template, "held_out": 1}
    with_tools = task(path, tools_column="tools", **keys)
    lengths = {prompt.content: len(prompt.tokens) for prompt in [*with_tools.draw(0, 5)[0], *with_tools.held_out()]}
    assert (lengths["weather?"], lengths["none"]) == (3, 2)
    assert not caplog.text
    without = task(path, **keys)
    assert {len(prompt.tokens) for prompt in [*without.draw(0, 5)[0], *without.held_out()]} == {2, 3}
    assert 'line 5: the field "tools" is left out of the prompt; type task.tools_column=tools' in caplog.text


def test_variables_of_each_row_are_not_read_and_named(tmp_path, caplog):
    task(write(tmp_path, [{**line, "chat_template_kwargs": {"enable_thinking": False}} for line in LINES]))
    assert '"chat_template_kwargs" is not read; type task.chat_template_kwargs.NAME=VALUE' in caplog.text


def test_long_rows(tmp_path):
    path = write(tmp_path, [*LINES, {"prompt": "long " * 60}])
    with pytest.raises(ConfigError, match=r"my.jsonl, line 11: the prompt has 61 tokens.*task.skip_long=true"):
        task(path)
    assert "long " * 60 not in contents(task(path, skip_long=True))


def test_several_files_have_one_split_and_one_set_of_columns(tmp_path):
    write(tmp_path, LINES[:5], "a.jsonl")
    raw(tmp_path, "prompt;level\nquestion 5;2\nquestion 6;3\n", "b.csv")
    subject = task([str(tmp_path / "b.csv"), str(tmp_path / "*.jsonl")], held_out=2)
    assert len(contents(subject) | {prompt.content for prompt in subject.held_out()}) == 7
    assert all(set(prompt.columns) == {"answer", "topic", "level"} for prompt in subject.draw(0, 5)[0])
    with pytest.raises(ConfigError, match=r"a.jsonl and 1 more has 7 different prompts"):
        task([str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv")], held_out=7)


def test_a_format_that_is_typed_is_the_one_that_is_read(tmp_path):
    path = raw(tmp_path, "prompt,answer\na,1\nb,2\nc,3\n", "my.txt")
    assert len(contents(task(path, held_out=1, format="csv"))) == 2
    with pytest.raises(ConfigError, match=r"line 1: not JSON .*does the file hold csv"):
        task(path, held_out=1)
    with pytest.raises(ConfigError, match=r"my.txt: cannot be read as Parquet"):
        task(path, held_out=1, format="parquet")
    with pytest.raises(ConfigError, match=r"gone.csv: No such file or directory; type task.path=FILE"):
        task(str(tmp_path / "gone.csv"), format="csv")


def test_path_is_needed():
    with pytest.raises(ConfigError, match=r"type task.path=my.jsonl"):
        task(None)
    with pytest.raises(ConfigError, match=r"type task.path=my.jsonl"):
        task([])


USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("line", "keys", "message"),
    [
        ({"question": "q"}, {}, r'line 11: there is no field "prompt", only question; type task.prompt_column=NAME'),
        ({}, {}, r'line 11: there is no field "prompt", only nothing'),
        ({"prompt": 3}, {}, r'line 11: "prompt" is a number; text or a list of messages is needed'),
        ({"prompt": None}, {}, r'line 11: "prompt" is null'),
        ({"prompt": {"role": "user"}}, {}, r'line 11: "prompt" is an object'),
        ({"prompt": "  "}, {}, "line 11: the prompt is empty"),
        ({"prompt": []}, {}, 'line 11: "prompt" has no messages'),
        ({"prompt": ["hi"]}, {}, r'line 11: "prompt", message 1: \{"role": …, "content": …\} is needed'),
        ({"prompt": [{"role": "user"}]}, {}, "line 11: .*message 1"),
        (
            {"prompt": [USER, {"role": "bot", "content": "x"}]},
            {},
            "message 2: role 'bot' is none of system, developer, user",
        ),
        ({"prompt": [{"role": "user", "content": None}]}, {}, "message 1: the content is null; text is needed"),
        (
            {"prompt": [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
            {},
            "line 11: the last message is the assistant's and has no text to go on with",
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image_url"}]}]},
            {},
            'line 11: "prompt", message 1, part 1 is of type image_url; only text can be used',
        ),
        (
            {"prompt": [{"role": "developer", "content": "x"}, USER]},
            {"system_prompt": "y"},
            "line 11: the messages have a system prompt already",
        ),
        (
            {"prompt": "new", "tools": "hammer"},
            {"tools_column": "tools"},
            r'"tools" \(task.tools_column\) is text; a list',
        ),
        (
            {"prompt": "new", "answer": [USER]},
            {"completion_column": "answer"},
            'line 11: "answer": a message of the assistant is needed as the example answer, not user',
        ),
        (
            {"prompt": [USER]},
            {"completion_column": "prompt"},
            r'line 1: "prompt" is the prompt and the example answer',
        ),
        (
            {"prompt": [USER]},
            {"chat_template": False},
            "line 11: messages need .*; type task.chat_template=true",
        ),
        ({"prompt": [USER]}, {"template_of_model": None}, "line 11: messages need .*; type model.path="),
        (
            {"prompt": [{"role": "system", "content": "x"}, USER]},
            {"system_prompt": "y"},
            "line 11: the messages have a system prompt already; type task.system_prompt=null",
        ),
        (
            {"prompt": "new"},
            {"answer_column": "answer"},
            r'there is no field "answer", only prompt; type task.answer_column=',
        ),
        ({"prompt": "new", "answer": [1]}, {"answer_column": "answer"}, r'"answer" \(task.answer_column\) is an array'),
        (
            {"prompt": "new", "answer": True},
            {"answer_column": "answer"},
            "is a boolean; text or a number",
        ),
        ({"prompt": "new"}, {"completion_column": "answer"}, r"line 11: .* type task.completion_column="),
        (
            {"prompt": "new"},
            {"columns": {"a": "answer"}},
            r'there is no field "answer", only prompt; type task.columns.a=',
        ),
        (
            {"prompt": "new"},
            {"template": "{{ topic }}"},
            "line 11: task.template fails: 'topic' is undefined; .* has prompt",
        ),
        (
            {"prompt": "new", "topic": None},
            {"template": "About {{ topic }}"},
            "line 11: task.template fails: it prints a field that is null; type .* has prompt, topic",
        ),
        ({"prompt": "new", "topic": 3}, {"template": "{{ topic + 'x' }}"}, "line 1[01]?: task.template fails"),
        ({"prompt": "new", "completions": 1}, {}, r'line 1: "completions" is an argument .* type task.columns='),
    ],
)
def test_wrong_line(tmp_path, line, keys, message):
    path = write(tmp_path, [*LINES, line])
    with pytest.raises(ConfigError, match=message) as raised:
        task(path, **keys)
    assert "my.jsonl, line" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_template_with_a_syntax_error(tmp_path):
    with pytest.raises(ConfigError, match=r"task.template: unexpected .*type task.template='\{\{ question \}\}'"):
        task(write(tmp_path, LINES), template="{{ question")


def test_a_template_says_what_it_prints_for_a_field_that_may_be_null(tmp_path):
    lines = [{"prompt": "question 0", "topic": None}, {"prompt": "question 1", "topic": "sums"}]
    template = '{{ prompt }}{% if topic %}!{% endif %}{{ topic or "" }}'
    subject = task(write(tmp_path, lines), held_out=1, template=template)
    texts = contents(subject) | {p.content for p in subject.held_out()}
    assert texts == {"question 0", "question 1!sums"}


def test_template_is_sandboxed(tmp_path):
    with pytest.raises(ConfigError, match=r"line 1: task.template fails: access to attribute '__class__'"):
        task(write(tmp_path, LINES), template="{{ prompt.__class__.__mro__ }}")


@pytest.mark.parametrize(
    ("lines", "held_out", "message"),
    [
        (
            10,
            10,
            r"task.held_out=10: .* has 10 different prompts .*type task.held_out=1, or task.eval_path=",
        ),
        (10, 64, r"task.held_out=64"),
        (1, 1, r"has 1 different prompts .* add lines, or task.eval_path=FILE"),
    ],
)
def test_held_out_that_leaves_nothing(tmp_path, lines, held_out, message):
    with pytest.raises(ConfigError, match=message):
        task(write(tmp_path, LINES[:lines]), held_out=held_out)


def test_a_typed_text_gets_the_system_prompt(tmp_path):
    subject = task(write(tmp_path, LINES), system_prompt="be brief")
    system = {"role": "system", "content": "be brief"}
    typed = subject.prompt_of("Where?", position=0, source="prompt=")
    assert typed.content == (system, {"role": "user", "content": "Where?"}) and typed.columns == {}
    known = subject.prompt_of("question 3", position=0, source="prompt=")
    assert known.columns == {"answer": 3, "topic": "sums"}
