"""Chat messages and tools as users write them: OpenAI's format, TRL's, and both as JSON text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dqo.errors import ConfigError
from dqo.task.reading.files import kind_of

Message = Mapping[str, Any]
Messages = tuple[Mapping[str, Any], ...]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SYSTEM = ("system", "developer")  # two names of one role
TEXT_PARTS = ("text", "input_text", "output_text")  # content parts of OpenAI's two interfaces
CALLS = ("tool_calls", "function_call")


def checked_messages(messages: Any, where: str) -> Messages:
    """The messages, with content parts joined to text. Raises ConfigError for an unknown role, and for content that is
    neither text nor left out beside tool calls."""
    if not isinstance(messages, list):
        raise ConfigError(f"{where} is {kind_of(messages)}; a list of messages is needed")
    if not messages:
        raise ConfigError(f"{where} has no messages")
    return tuple(_checked(message, f"{where}, message {number}") for number, message in enumerate(messages, 1))


def system_text(content: str | Messages) -> str | None:
    """The system turn of a prompt; None where there is none."""
    first = {} if isinstance(content, str) else content[0]
    return first["content"] if first.get("role") in SYSTEM else None


def ends_with_assistant(content: str | Messages) -> bool:
    """Whether the last words are the assistant's, with which the model goes on (prefill)."""
    return not isinstance(content, str) and content[-1]["role"] == "assistant"


def one_answer(messages: Any, where: str) -> str:
    """The text of a completion that is a list with one message of the assistant. Raises ConfigError for any other."""
    checked = checked_messages(messages, where)
    if len(checked) != 1:
        raise ConfigError(
            f"{where} has {len(checked)} messages; an example answer is one message of the assistant, so put those "
            "before it into the prompt"
        )
    return answer_of(checked[0], where)


def answer_of(message: Message, where: str) -> str:
    """The text of an assistant's message. Raises ConfigError for another role and for a message without text."""
    if message["role"] != "assistant":
        raise ConfigError(f"{where}: a message of the assistant is needed as the example answer, not {message['role']}")
    if not message["content"]:
        raise ConfigError(f"{where}: the assistant's message has no text; an example answer is text")
    return message["content"]


def checked_tools(tools: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    """The tool schemas; none for null and an empty list. Raises ConfigError for what is no list of objects."""
    schemas = json_of(tools)
    if isinstance(schemas, Sequence) and not isinstance(schemas, str | bytes):
        schemas = [json_of(schema) for schema in schemas]
        if all(isinstance(schema, Mapping) for schema in schemas):
            return tuple(schemas)
    if schemas is None:
        return ()
    raise ConfigError(
        f"{where} (task.tools_column) is {kind_of(schemas)}; a list of tool schemas is needed, or its JSON"
    )


def looks_like_tools(value: Any) -> bool:
    """Whether a field holds a list of tool schemas, which only ``task.tools_column`` hands to the chat template."""
    schemas = json_of(value)
    return isinstance(schemas, list) and bool(schemas) and all(isinstance(json_of(each), Mapping) for each in schemas)


def json_of(value: Any) -> Any:
    """What a text of JSON holds, if it is an object, a list or null; any other value as it is."""
    if not isinstance(value, str) or not value.strip().startswith(("{", "[", "null")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def merged(messages: Iterable[Message]) -> Messages:
    """The conversation for templates without a system role, or that want user and assistant in turn: a system text goes
    to the start of the user's message after it, and neighbouring texts of one role become one message."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        turn = {**message, "role": "user"} if message["role"] in SYSTEM else dict(message)
        before = turns[-1] if turns else {}
        if before.get("role") == turn["role"] and _is_plain(before) and _is_plain(turn):
            before["content"] = f"{before['content']}\n\n{turn['content']}"
        else:
            turns.append(turn)
    return tuple(turns)


def _is_plain(message: Message) -> bool:
    return message["role"] in ("user", "assistant") and isinstance(message["content"], str) and not calls_tools(message)


def calls_tools(message: Message) -> bool:
    """Whether the message holds tool calls, in today's form or OpenAI's former one."""
    return any(message.get(name) for name in CALLS)


def _checked(message: Any, where: str) -> Message:
    if not isinstance(message, dict) or "role" not in message or not ("content" in message or calls_tools(message)):
        raise ConfigError(f'{where}: {{"role": …, "content": …}} is needed')
    if message["role"] not in ROLES:
        raise ConfigError(f"{where}: role {message['role']!r} is none of {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_text_of(part, f"{where}, part {number}") for number, part in enumerate(content, 1))
    if not isinstance(content, str) and not (content is None and calls_tools(message)):
        raise ConfigError(f"{where}: the content is {kind_of(content)}; text is needed")
    return {**message, "content": content}


def _text_of(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ConfigError(f'{where}: {kind_of(part)}; {{"type": "text", "text": …}} is needed')
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
        raise ConfigError(f"{where} is of type {kind}; only text can be used, so leave the part out")
    return part["text"]
