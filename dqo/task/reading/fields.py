"""Turns the lines of a user's file into rows: what each field means, and errors that name the faulty line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from dqo.errors import ConfigError
from dqo.models.templates import TEMPLATE_ERRORS
from dqo.task.reading.files import kind_of, read_jsonl
from dqo.task.reading.rows import Content, Row

ROLES = ("system", "user", "assistant", "tool")
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

    def read(self, path: str, *, key: str) -> list[Row]:
        """The rows of a file. Raises ConfigError, with the file and the line; ``key`` is the key that set the path."""
        template = self._jinja_template()
        lines = read_jsonl(Path(path), key=key)
        names = list(dict.fromkeys(name for _, line in lines for name in line))
        rows = []
        for number, line in lines:
            source = f"{path}, line {number}"
            demonstration = self._text(line, self.completion_column, "completion_column", source)
            rows.append(
                Row(
                    content=self._content(line, template, source),
                    source=source,
                    columns=self._columns(line, names, source),
                    demonstrations=() if demonstration is None else (demonstration,),
                )
            )
        return rows

    def _jinja_template(self) -> Template | None:
        environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        try:
            return None if self.template is None else environment.from_string(self.template)
        except TemplateError as error:
            raise ConfigError(
                f"task.template: {error}; a Jinja template is needed, type task.template='{{{{ question }}}}'"
            ) from error

    def _content(self, line: Line, template: Template | None, source: str) -> Content:
        if template is None:
            content = self._field(line, self.prompt_column, "prompt_column", source)
        else:
            content = _prompt_text(template, line, source)
        if isinstance(content, list):
            content = _checked_messages(content, f'{source}: "{self.prompt_column}"')
        elif not isinstance(content, str):
            raise ConfigError(
                f'{source}: "{self.prompt_column}" is {kind_of(content)}; text or a list of messages is needed'
            )
        elif not content.strip():
            raise ConfigError(f"{source}: the prompt is empty")
        if self.system_prompt is None:
            return content
        messages = content if isinstance(content, tuple) else ({"role": "user", "content": content},)
        if messages[0]["role"] == "system":
            raise ConfigError(f"{source}: the messages have a system prompt already; type task.system_prompt=null")
        return ({"role": "system", "content": self.system_prompt}, *messages)

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


def _prompt_text(template: Template, line: Line, source: str) -> str:
    try:
        return template.render(line)
    except TEMPLATE_ERRORS as error:
        raise ConfigError(
            f"{source}: task.template fails: {error}; the line has {', '.join(line) or 'nothing'}"
        ) from error


def _checked_messages(messages: list[Any], where: str) -> tuple[Mapping[str, Any], ...]:
    """The chat messages. Raises ConfigError for an unknown role, content that is no text, or an assistant's message at
    the end."""
    if not messages:
        raise ConfigError(f"{where} has no messages")
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise ConfigError(f'{where}, message {number}: {{"role": …, "content": …}} is needed')
        if message["role"] not in ROLES:
            raise ConfigError(f"{where}, message {number}: role {message['role']!r} is none of {', '.join(ROLES)}")
        if not isinstance(message["content"], str):
            raise ConfigError(
                f"{where}, message {number}: the content is {kind_of(message['content'])}; text is needed"
            )
    if messages[-1]["role"] == "assistant":
        raise ConfigError(
            f"{where} ends with a message of the assistant; the model has to answer, so end with a message of the user"
        )
    return tuple(messages)
