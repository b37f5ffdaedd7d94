"""Model output is untrusted: how it is shown in a terminal, a picture or a model card."""

import unicodedata

from dqo.records import Prompt

_SHOWN = {"\n": "↵", "\t": "⇥"}


def visible(text: str) -> str:
    """One line without control characters, direction marks, zero-width signs and the like: those are spelled out.

    Example: ``visible("Paris\\x1b[2J\\n")`` gives ``"Paris\\\\x1b[2J↵"``.
    """
    return "".join(_SHOWN.get(sign) or (_escape(sign) if _hidden(sign) else sign) for sign in text)


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters; the last is … where something was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


def prompt_text(prompt: Prompt) -> str:
    """The prompt as a reader sees it; of a conversation, ``role: content`` a message."""
    if isinstance(prompt.content, str):
        return prompt.content
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt.content)


def _hidden(sign: str) -> bool:
    return unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode()
