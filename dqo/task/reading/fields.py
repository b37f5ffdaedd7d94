"""Turns the lines of a user's file into rows: what each field means, and errors that name the faulty line."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from dqo.errors import ConfigError
from dqo.models.templates import TEMPLATE_ERRORS
from dqo.task.reading.files import kind_of
from dqo.task.reading.messages import (
    SYSTEM,
    answer_of,
    checked_messages,
    checked_tools,
    json_of,
    looks_like_tools,
    one_answer,
)
from dqo.task.reading.row import Content, Row

log = logging.getLogger(__name__)

MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:""")  # written as text: json.dumps(list), a csv cell
TAKEN = {"prompts", "completions", "completion_ids", "trainer_state"}  # arguments of TRL's reward functions

Line = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Which field of a line is the prompt, the answer …; the keys of ``conf/task/jsonl.yaml``."""

    prompt_column: str
    template: str | None
    system_prompt: str | None
    columns: Mapping[str, str] | None
    answer_column: str | None
    completion_column: str | None
    tools_column: str | None

    def read(self, lines: Sequence[tuple[str, Line]]) -> list[Row]:
        """The rows of lines that were read with where they stand. Raises ConfigError, which names the line."""
        names = list(dict.fromkeys(name for _, line in lines for name in line))
        self.check(lines, names)
        return [self.row(source, line, names) for source, line in lines]

    def check(self, lines: Sequence[tuple[str, Line]], names: Sequence[str]) -> None:
        """Warns of fields of ``lines`` that are not read. Raises ConfigError where
        ``tools_column`` is none of the ``names`` of all lines."""
        self._warn_of_fields(lines)
        if self.tools_column is not None and self.tools_column not in names:
            self._field(dict.fromkeys(names), self.tools_column, "tools_column", lines[0][0])

    def row(self, source: str, line: Line, names: Sequence[str]) -> Row:
        """The row of one line. ``names``: the fields of all lines, which are its columns unless ``columns`` chooses.
        Raises ConfigError. Thread-safe."""
        content, answer = self._content(line, source), self._answer(line, source)
        if self._answers_in_prompt:
            content, answer = _without_answer(content, f'{source}: "{self.prompt_column}"')
        return Row(
            content=content,
            source=source,
            columns=self._columns(line, names, source),
            demonstrations=() if answer is None else (answer,),
            tools=checked_tools(line.get(self.tools_column or ""), f'{source}: "{self.tools_column}"'),
        )

    @property
    def _answers_in_prompt(self) -> bool:
        """Whether the last message of each conversation is the example answer."""
        return self.completion_column == self.prompt_column and self.template is None

    def _warn_of_fields(self, lines: Sequence[tuple[str, Line]]) -> None:
        """Warn of fields that other toolkits hand to the chat template, but that stay out of it here."""
        tools = (source for source, line in lines if looks_like_tools(line.get("tools")))
        if self.tools_column is None and (source := next(tools, None)):
            log.warning(
                '%s: the field "tools" is left out of the prompt; type task.tools_column=tools to have it there', source
            )
        if source := next((source for source, line in lines if line.get("chat_template_kwargs")), None):
            log.warning(
                '%s: the field "chat_template_kwargs" is not read; type task.chat_template_kwargs.NAME=VALUE for all',
                source,
            )

    @cached_property
    def _jinja_template(self) -> Template | None:
        environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=_printed)
        try:
            return None if self.template is None else environment.from_string(self.template)
        except TemplateError as error:
            raise ConfigError(
                f"task.template: {error}; a Jinja template is needed, type task.template='{{{{ question }}}}'"
            ) from error

    def _content(self, line: Line, source: str) -> Content:
        if self._jinja_template is None:
            content = self._field(line, self.prompt_column, "prompt_column", source)
        else:
            content = _prompt_text(self._jinja_template, line, source)
        if isinstance(content, str) and MESSAGES.match(content):
            content = json_of(content)
        if isinstance(content, list):
            content = checked_messages(content, f'{source}: "{self.prompt_column}"')
        elif not isinstance(content, str):
            raise ConfigError(
                f'{source}: "{self.prompt_column}" is {kind_of(content)}; text or a list of messages is needed'
            )
        elif not content.strip():
            raise ConfigError(f"{source}: the prompt is empty")
        elif MESSAGES.match(content):
            raise ConfigError(
                f"{source}: the prompt is text with a list of messages in it; give the list itself, in JSON lines, one "
                "JSON array or parquet, or its JSON"
            )
        return self.with_system_prompt(content, source)

    def with_system_prompt(self, content: Content, source: str) -> Content:
        """The content after the system prompt, if there is one."""
        if self.system_prompt is None:
            return content
        messages = content if isinstance(content, tuple) else ({"role": "user", "content": content},)
        if messages[0]["role"] in SYSTEM:
            raise ConfigError(f"{source}: the messages have a system prompt already; type task.system_prompt=null")
        return ({"role": "system", "content": self.system_prompt}, *messages)

    def _answer(self, line: Line, source: str) -> str | None:
        """The example answer: text, or one message of the assistant."""
        if self.completion_column is None or self._answers_in_prompt:
            return None
        value = self._field(line, self.completion_column, "completion_column", source)
        if isinstance(value, str) and MESSAGES.match(value):
            value = json_of(value)
        if isinstance(value, list):
            return one_answer(value, f'{source}: "{self.completion_column}"')
        return self._text(line, self.completion_column, "completion_column", source)

    def _columns(self, line: Line, names: Sequence[str], source: str) -> dict[str, Any]:
        """The prompt's columns: the chosen fields, or all fields but the prompt (None for a field the line lacks)."""
        if self.columns:
            wanted = self.columns.items()
            columns = {name: self._field(line, field, f"columns.{name}", source) for name, field in wanted}
        else:
            prompt = self.prompt_column if self.template is None else None
            columns = {name: line.get(name) for name in names if name != prompt}
        if clash := TAKEN & set(columns):
            raise ConfigError(
                f'{source}: "{min(clash)}" is an argument that reward functions have already; type '
                "task.columns={NAME: FIELD} to choose the fields they see and their names"
            )
        answer = self._text(line, self.answer_column, "answer_column", source)
        return columns if self.answer_column is None else {**columns, self.answer_column: answer}

    def _text(self, line: Line, field: str | None, key: str, source: str) -> str | None:
        """A field's text or number, as text. Raises ConfigError for any other kind of value."""
        if field is None:
            return None
        value = self._field(line, field, key, source)
        if isinstance(value, float) and math.isnan(value):
            value = None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f'{source}: "{field}" (task.{key}) is {kind_of(value)}; text or a number is needed')
        return str(value)

    def _field(self, line: Line, field: str, key: str, source: str) -> Any:
        if field not in line:
            there = ", ".join(line) or "nothing"
            raise ConfigError(
                f'{source}: there is no field "{field}", only {there}; type task.{key}=NAME of one of these fields'
            )
        return line[field]


def _printed(value: Any) -> Any:
    """A value as a template prints it. Raises TemplateError for null, which would become the word None."""
    if value is None:
        raise TemplateError('it prints a field that is null; type {{ FIELD or "" }} where a field may be empty')
    return value


def _prompt_text(template: Template, line: Line, source: str) -> str:
    try:
        return template.render(line)
    except TEMPLATE_ERRORS as error:
        raise ConfigError(
            f"{source}: task.template fails: {error}; the line has {', '.join(line) or 'nothing'}"
        ) from error


def _without_answer(content: Content, where: str) -> tuple[Content, str]:
    """The conversation before its last message, and that message's text. Raises ConfigError for any other content."""
    if isinstance(content, str) or len(content) < 2:
        raise ConfigError(
            f"{where} is the prompt and the example answer: a user's and an assistant's message are needed"
        )
    return content[:-1], answer_of(content[-1], f"{where}, message {len(content)}")
