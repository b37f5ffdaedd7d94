"""Unusual input that has to work."""

import json

import pytest

from dqo.models.folders import save_policy
from tests.bad_input.data import JSONL
from tests.bad_input.harness import Case, in_process, tree
from tests.bad_input.models import edit, template
from tests.factories import tiny_llama, word_tokenizer

LINES = '{"prompt": "dog ball", "answer": "x"}\n{"prompt": "cat ball", "answer": null}\n'
MESSAGES = "{% for m in messages %}{{ m.content }} {% endfor %}"
ODD = "my data/ü=1, (2)'s #3"  # spaces, unicode, an equals sign, a comma, brackets, a quote, a hash


@pytest.mark.parametrize(
    ("content", "typed"),
    [
        (LINES.encode("utf-8-sig"), ()),
        (LINES.replace("\n", "\r\n\r\n").encode(), ()),
        (LINES.rstrip().encode(), ()),  # no newline at the end
        (b'{"meta": {"text": "dog"}}\n{"meta": {"text": "cat"}}', ("task.template={{ meta.text }} ball",)),
        (b'{"prompt": "dog", "score": NaN, "more": [1, {"a": null}]}\n{"prompt": "cat"}', ()),
    ],
    ids=["byte order mark", "CRLF and blank lines", "no newline at the end", "nested fields", "NaN, nested, missing"],
)
def test_files_of_lines(content, typed, here, monkeypatch, capsys):
    (here / ODD).parent.mkdir()
    (here / ODD).write_bytes(content)
    reward = ("reward=python", "reward.function=user_classes.score", "task.answer_column=null", "dry_run=true")
    (here / "user_classes.py").write_text("def score(completions, **columns):\n    return [1.0] * len(completions)\n")
    before = tree(here)
    assert in_process(Case(typed=JSONL, more=(f"task.path={ODD}", *reward, *typed), says=()), monkeypatch) == 0
    assert "the first prompt" in capsys.readouterr().out
    assert tree(here) == before


def test_unusual_names_of_a_model_and_a_run(here, monkeypatch, capsys):
    save_policy(tiny_llama(), word_tokenizer(), here / ODD)
    edit(here / ODD / "tokenizer_config.json", pad_token=None)
    more = (f"model.path={ODD}", f"run_dir=läufe/{ODD}", "eval.n=1")
    assert in_process(Case(typed="model=hf k=1 alpha=0", more=more, says=()), monkeypatch) == 0, capsys.readouterr().err
    assert json.loads((here / "läufe" / ODD / "summary.json").read_text())["steps"] == 1
    assert {path.name for path in here.iterdir()} == {"läufe", "my data"}


def test_tools_and_variables_of_the_chat_template(here, monkeypatch, capsys):
    save_policy(tiny_llama(), word_tokenizer(), here / "model")
    template("{% for t in tools or [] %}{{ t.name }} {% endfor %}{% if think %}w9 {% endif %}" + MESSAGES)(
        here / "model"
    )
    tools = '"answer": "x", "tools": [{"name": "w1"}]'
    (here / "my.jsonl").write_text(f'{{"prompt": "w2", {tools}}}\n{{"prompt": "w3", {tools}}}\n')
    typed = ("task.path=my.jsonl", "task.tools_column=tools", "task.chat_template_kwargs.think=true", "dry_run=true")
    more = (*typed, "model.path=model", "task.chat_template=true")
    assert in_process(Case(typed=JSONL, more=("model=hf", *more), says=()), monkeypatch) == 0
    assert "w1 w9 w" in capsys.readouterr().out


def test_a_chat_template_with_namespace_and_filter(here, monkeypatch, capsys):
    save_policy(tiny_llama(), word_tokenizer(), here / "model")
    template("{% set ns = namespace(n=0) %}{% for m in messages %}<{{ m.role | upper }}> {{ m.content }} {% endfor %}")(
        here / "model"
    )
    assert in_process(Case(typed="model=hf model.path=model task=cities dry_run=true", says=()), monkeypatch) == 0
    assert "<unk>" in capsys.readouterr().out
