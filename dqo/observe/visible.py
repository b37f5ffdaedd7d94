"""Text of others - of a model, a file, a user's function - is untrusted: how a terminal, a log and a card show it."""

import logging
import unicodedata

_SHOWN = {"\n": "↵", "\t": "⇥"}


def visible(text: str) -> str:
    """One line without control characters, direction marks, zero-width signs and the like: those are spelled out.

    Example: ``visible("Paris\\x1b[2J\\n")`` gives ``"Paris\\\\x1b[2J↵"``.
    """
    return "".join(_SHOWN.get(sign) or (_escape(sign) if _hidden(sign) else sign) for sign in text)


def visible_lines(text: str) -> str:
    """The same, but lines stay lines."""
    return "\n".join(map(visible, text.split("\n")))


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters; the last is … where something was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


class VisibleFormatter(logging.Formatter):
    """What others wrote may stand in a log record: the message of an exception of the user's, a field's name."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def _hidden(sign: str) -> bool:
    return unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode()
