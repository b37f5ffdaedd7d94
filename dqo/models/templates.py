"""Third-party Jinja templates: their text, and the exceptions that rendering them can raise."""

from pathlib import Path

from jinja2 import TemplateError

from dqo.errors import ConfigError

TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError,
)  # fmt: skip


def template_text(chat_template: str | None) -> str | None:
    """The template's text. ``chat_template`` is that text, or a file's name. Raises ConfigError for a file that cannot
    be read."""
    if not chat_template or "{" in chat_template:
        return chat_template
    file = Path(chat_template).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"model.chat_template={chat_template}: is neither a file nor a Jinja template; type "
            "model.chat_template=FILE, or null for the model's own"
        )
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"model.chat_template={chat_template}: not UTF-8 ({error.reason}); convert the file"
        ) from error
