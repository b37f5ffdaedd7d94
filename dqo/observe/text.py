"""Prompts as text, for display and for files."""

from dqo.records import Prompt


def prompt_text(prompt: Prompt) -> str:
    """The prompt's text; for a conversation, a line ``role: content`` for each message."""
    if isinstance(prompt.content, str):
        return prompt.content
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt.content)
