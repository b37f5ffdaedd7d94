import io
import sys

import pytest

from dqo.errors import ConfigError
from dqo.run.sampling.prompts import given_prompts, prompt_of
from tests.helpers.composing import composed_sample
from tests.helpers.toy_stages import CountingTask, TextTask


def asked(monkeypatch, *overrides: str, stdin: bytes = b"") -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    prompts = given_prompts(composed_sample(*overrides), TextTask())
    return [prompt.columns.get("text", f"held out {prompt.position}") for prompt in prompts]


def test_a_typed_prompt_and_one_of_the_task(monkeypatch):
    assert asked(monkeypatch, "prompt='Where to?'", stdin=b"not read") == ["Where to?"]
    assert asked(monkeypatch, "index=1") == ["held out 1"]


def test_each_line_of_stdin_is_a_prompt(monkeypatch):
    lines = "\ufeffWhère to?\r\n\n  \nWhy?".encode()
    assert asked(monkeypatch, stdin=lines) == ["Whère to?", "Why?"]


def test_lines_are_answered_as_they_come(monkeypatch):
    """A program that waits for the answer before it writes the next prompt."""
    read = []

    class Pipe:
        buffer = (read.append(line) or line for line in (b"a\n", b"b\n"))

    monkeypatch.setattr(sys, "stdin", Pipe)
    prompts = given_prompts(composed_sample(), TextTask())
    next(prompts)
    assert read == [b"a\n"]


@pytest.mark.parametrize(
    ("overrides", "stdin", "message"),
    [
        (["index=2"], b"", "index=2: the task holds out 2 prompts; type 0 to 1"),
        ([], b"", "stdin has no prompt, 0 lines; type prompt="),
        ([], b"\n \n", "stdin has no prompt, 2 lines; type prompt="),
        ([], b"a\n\xff\n", "line 2 of stdin is not UTF-8"),
        ([], b"a\nempty\n", "line 2 of stdin: the prompt is empty"),
    ],
)
def test_what_cannot_be_asked_is_refused(monkeypatch, overrides, stdin, message):
    with pytest.raises(ConfigError, match=message):
        asked(monkeypatch, *overrides, stdin=stdin)


def test_a_closed_stdin_has_no_prompt(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="stdin has no prompt"):
        list(given_prompts(composed_sample(), TextTask()))


def test_a_task_of_ones_own_that_takes_no_text_says_so():
    with pytest.raises(ConfigError, match=r"prompt=: CountingTask has no prompt_of .*; type index=0"):
        prompt_of(CountingTask(), "Where?", source="prompt=")
