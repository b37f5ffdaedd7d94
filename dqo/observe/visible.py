"""Safe display of untrusted text (from a model, a file, a user's function) in a terminal, a log and a model card."""

import logging
import unicodedata

_SYMBOLS = {"\n": "↵", "\t": "⇥"}


def visible(text: str) -> str:
    """The text on one line, with control characters, direction marks, zero-width characters and the like escaped.

    Example: ``visible("Paris\\x1b[2J\\n")`` gives ``"Paris\\\\x1b[2J↵"``.
    """
    if text.isprintable():  # the usual case, by far the fastest
        return text
    return "".join(_SYMBOLS.get(char) or (_escape(char) if _is_hidden(char) else char) for char in text)


def visible_lines(text: str) -> str:
    """The text with its line breaks, each line escaped like ``visible`` does."""
    return "\n".join(map(visible, text.split("\n")))


def shorten(text: str, width: int) -> str:
    """The first ``width`` characters of a text; the last one is … if the text is longer."""
    return text if len(text) <= width else text[: width - 1] + "…"


class VisibleFormatter(logging.Formatter):
    """Escapes log records, which may quote untrusted text: an exception's message, a field's name."""

    def format(self, record: logging.LogRecord) -> str:
        """The formatted record, escaped line by line."""
        return visible_lines(super().format(record))


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
