"""Third-party Jinja templates: their text, their variables, and the exceptions that rendering them can raise."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateError, meta, nodes

from dqo.errors import ConfigError

TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError,
)  # fmt: skip
GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # a tag of transformers' own, around the model's words

QUESTIONS = ("defined", "undefined", "default", "d")  # tests and filters that find out whether a variable was given


def template_text(chat_template: str | None, named: Any = None) -> str | None:
    """The template's text. ``chat_template`` is that text, the name of one of the model's templates (``named``, if it
    has several), or a file's name. Raises ConfigError for a file that cannot be read."""
    names = named if isinstance(named, Mapping) else {}
    if not chat_template or "{" in chat_template:
        return chat_template
    if chat_template in names:
        return names[chat_template]
    file = Path(chat_template).expanduser()
    if not file.is_file():
        choice = f", model.chat_template={' | '.join(sorted(names))}" if names else ""
        raise ConfigError(
            f"model.chat_template={chat_template}: is neither a file nor a Jinja template; type "
            f"model.chat_template=FILE{choice}, or null for the model's own"
        )
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"model.chat_template={chat_template}: not UTF-8 ({error.reason}); convert the file"
        ) from error


@lru_cache
def template_variables(template: str) -> Mapping[str, bool]:
    """The variables that a template takes from outside; True: it has a default of its own for the variable. Raises
    TEMPLATE_ERRORS."""
    tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(GENERATION.sub("", template))
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    questions = (node for node in tree.find_all((nodes.Test, nodes.Filter)) if node.name in QUESTIONS)
    asked = {node.node.name for node in questions if isinstance(node.node, nodes.Name)}
    return {
        name: name in own for name in sorted(meta.find_undeclared_variables(tree)) if name in asked or name not in own
    }
