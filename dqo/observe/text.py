"""Prompts as text, for display and for files."""

import json
from collections.abc import Mapping
from typing import Any

from dqo.records import Prompt


def prompt_text(prompt: Prompt) -> str:
    """The prompt's text; for a conversation, a line ``role: content`` for each message, with its tool calls as JSON."""
    if isinstance(prompt.content, str):
        return prompt.content
    return "\n".join(f"{message['role']}: {_said(message)}" for message in prompt.content)


def _said(message: Mapping[str, Any]) -> str:
    content, calls = message.get("content"), message.get("tool_calls")
    said = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) if content else ""
    return " ".join(filter(None, [said, json.dumps(calls, ensure_ascii=False) if calls else ""]))
