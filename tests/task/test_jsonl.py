"""A user's file: the forms it may have, and a clear error for each fault."""

import json
from pathlib import Path

import pytest

from dqo.errors import ConfigError
from dqo.task.jsonl import Jsonl
from dqo.task.reading.fields import Fields
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
LINES = [{"prompt": f"question {n}", "answer": n, "topic": "sums"} for n in range(10)]


def write(folder: Path, lines, name: str = "my.jsonl") -> str:
    (folder / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return str(folder / name)


def task(path: str | None, *, context: int = 64, template_of_model: str | None = TEMPLATE, **keys) -> Jsonl:
    tokenizer = word_tokenizer(["question"])
    tokenizer.chat_template = template_of_model
    columns = {
        "prompt_column": "prompt", "template": None, "system_prompt": None, "columns": None, "answer_column": None,
        "completion_column": None,
    }  # fmt: skip
    fields = Fields(**{name: keys.pop(name, value) for name, value in columns.items()})
    given = {"path": path, "eval_path": None, "held_out": 2, "skip_long": False, **keys}
    return Jsonl(tokenizer, context, fields=fields, **with_rendering(given, max_completion_length=8))


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


def test_long_rows(tmp_path):
    path = write(tmp_path, [*LINES, {"prompt": "long " * 60}])
    with pytest.raises(ConfigError, match=r"my.jsonl, line 11: the prompt has 61 tokens.*task.skip_long=true"):
        task(path)
    assert "long " * 60 not in contents(task(path, skip_long=True))


def test_path_is_needed():
    with pytest.raises(ConfigError, match=r"type task.path=my.jsonl"):
        task(None)


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
        ({"prompt": [USER, {"role": "bot", "content": "x"}]}, {}, "message 2: role 'bot' is none of system, user"),
        ({"prompt": [{"role": "user", "content": None}]}, {}, "message 1: the content is null; text is needed"),
        ({"prompt": [USER, {"role": "assistant", "content": "x"}]}, {}, "ends with a message of the assistant"),
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
