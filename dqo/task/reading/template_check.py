"""What a chat template leaves out of the user's prompts: found before any work, refused or warned of."""

import inspect
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.models.templates import TEMPLATE_ERRORS, template_variables
from dqo.task.reading.messages import Message, calls_tools
from dqo.task.reading.rendering import Renderer
from dqo.task.reading.row import Row

log = logging.getLogger(__name__)

SUPPLIED = {"messages", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}  # by transformers
OWN_KEYS = ("_token", "tools")  # ends of names that the tokenizer or task.tools_column stands for


def check_template(renderer: Renderer, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> None:
    """Warns of a variable without a value and of messages or tool calls that do not reach the prompt.

    Raises ConfigError for tools and variables that the chat template has no place for.
    """
    with_tools = next((row for row in rows if row.tools), None)
    if not renderer.is_chat:
        _refuse_without_template(renderer, with_tools)
        return
    _check_variables(renderer, with_tools, inspect.signature(tokenizer.apply_chat_template).parameters)
    texts = [row for row in rows if isinstance(row.content, str)]
    _warn_of_special_tokens(texts, tuple(tokenizer.all_special_tokens))
    kinds = {kind(row): row for row in reversed(rows) if not isinstance(row.content, str)}
    omissions: dict[str, str] = {}
    for row in kinds.values():  # one row of each kind: what a template leaves out depends on roles and their order
        omissions = {**_omissions(row, renderer), **omissions}
    for text in omissions.values():
        log.warning(text)


def _refuse_without_template(renderer: Renderer, with_tools: Row | None) -> None:
    fix = "model.chat_template=FILE" if renderer.wants_template else "task.chat_template=true"
    if with_tools:
        raise ConfigError(f"{with_tools.source}: tools need a chat template; type {fix}, or task.tools_column=null")
    if renderer.kwargs:
        raise ConfigError(
            f"task.chat_template_kwargs.{next(iter(renderer.kwargs))}: no chat template is used; type {fix}, or "
            "task.chat_template_kwargs=null"
        )


def _check_variables(renderer: Renderer, with_tools: Row | None, parameters: Mapping[str, Any]) -> None:
    known: dict[str, bool] = {}
    for template in {renderer.template(with_tools=False), renderer.template(with_tools=bool(with_tools))}:
        try:
            known |= template_variables(template)
        except TEMPLATE_ERRORS:
            return  # rendering says what is wrong with it
    if with_tools and "tools" not in known:
        raise ConfigError(
            f"{with_tools.source}: the model's chat template has no place for tools; type model.chat_template=FILE of "
            "one that has, or task.tools_column=null"
        )
    free = {
        name: has_default for name, has_default in known.items() if name not in SUPPLIED and not name.endswith(OWN_KEYS)
    }
    taken = (parameters.keys() | SUPPLIED) - {"documents"}
    if wrong := next((name for name in renderer.kwargs if name in taken or name not in known), None):
        there = f"it has {', '.join(free)}" if free else "it has none that can be set"
        raise ConfigError(f"task.chat_template_kwargs.{wrong}: the model's chat template has no such variable; {there}")
    if unset := [name for name, has_default in free.items() if not has_default and name not in renderer.kwargs]:
        log.warning(
            "the chat template asks for %s, which no key gives; type task.chat_template_kwargs.%s=VALUE to set it",
            ", ".join(unset), unset[0],
        )  # fmt: skip


def _warn_of_special_tokens(rows: Sequence[Row], specials: tuple[str, ...]) -> None:
    for row in rows:
        text = str(row.content).lstrip()
        if text.startswith(specials):
            special = max((special for special in specials if text.startswith(special)), key=len)
            log.warning(
                "%s: the text begins with %s, and the chat template is put around it; type task.chat_template=false if "
                "the text has been rendered already", row.source, special,
            )  # fmt: skip
            return


def kind(row: Row) -> tuple[Any, ...]:
    """What a chat template may treat in its own way: whether there are tools, and the roles of the messages."""
    messages = () if isinstance(row.content, str) else cast(Sequence[Message], row.content)
    return bool(row.tools), *((message["role"], calls_tools(message)) for message in messages)


def _omissions(row: Row, renderer: Renderer) -> dict[str, str]:
    """What to say, by what is missing from the rendered text."""
    text = renderer.text(row).casefold()
    missing = [_missing(message, text, renderer) for message in cast(Sequence[Message], row.content)]
    return {
        what: f"{row.source}: the model's chat template leaves out {what} (message {number}); type "
        "model.chat_template=FILE of a template that writes it"
        for number, what in enumerate(missing, 1)
        if what
    }


def _missing(message: Message, text: str, renderer: Renderer) -> str | None:
    words = re.findall(r"\w+", str(message.get("content") or "").casefold())
    if message["role"] != "assistant" and not all(word in text for word in words):  # thoughts are left out on purpose
        return f"the {message['role']}'s text"
    return "the tool calls" if calls_tools(message) and not renderer.form.shows_calls else None
