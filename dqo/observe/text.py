"""A prompt as text."""

from dqo.records import Prompt


def prompt_text(prompt: Prompt) -> str:
    """The prompt as a reader sees it; of a conversation, ``role: content`` a message."""
    if isinstance(prompt.content, str):
        return prompt.content
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt.content)
