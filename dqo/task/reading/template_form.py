"""The form in which a chat template takes messages. Templates differ in details of OpenAI's format that users' files do
not differ in; what a template takes is found out by rendering small conversations."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from dqo.models.templates import TEMPLATE_ERRORS
from dqo.task.reading.messages import Message, calls_tools, json_of

Messages = list[dict[str, Any]]
TEXT, NAME, KEY = "probe of the text", "probe_name", "probe_key"


@dataclass(frozen=True, kw_only=True)
class TemplateForm:
    """What one chat template takes."""

    knows_developer: bool = False  # else the role is "system"
    wants_parts: bool = False  # content as [{"type": "text", "text": …}]; else as text
    keeps_null: bool = False  # content null beside tool calls; else ""
    wants_json: bool = False  # arguments of tool calls as JSON text; else as an object
    shows_calls: bool = False  # else tool calls are left out

    @classmethod
    def probed(cls, template: str, render: Callable[[Messages], str]) -> "TemplateForm":
        """The form that a template takes; ``render`` raises TEMPLATE_ERRORS."""
        forms = [cls(wants_parts=parts) for parts in (False, True)]
        parts = next((form.wants_parts for form in forms if TEXT in _rendered(form, render, USER)), False)
        developer = cls(wants_parts=parts, knows_developer=True)
        known = "developer" in template and TEXT in _rendered(developer, render, DEVELOPER, QUESTION)
        plain = cls(wants_parts=parts, knows_developer=known)
        for text, null in product((False, True), (True, False)):
            form = replace(plain, wants_json=text, keeps_null=null, shows_calls=True)
            made = _rendered(form, render, QUESTION, CALL, RESULT)
            if NAME in made and "None" not in made and f"'{KEY}'" not in made:  # the last two: Python's form of values
                return form
        return plain

    def of(self, messages: Sequence[Message]) -> Messages:
        """The messages as the template takes them, without fields that are null: OpenAI's client writes many."""
        return [self._message(message) for message in messages]

    def _message(self, message: Message) -> dict[str, Any]:
        made = {name: value for name, value in message.items() if value is not None and name != "function_call"}
        made.pop("tool_calls", None)  # an empty list: templates ask whether the field is there
        if made["role"] == "function" or (made["role"] == "developer" and not self.knows_developer):
            made["role"] = {"function": "tool", "developer": "system"}[made["role"]]
        content = made.get("content", None if self.keeps_null else "")
        made["content"] = [{"type": "text", "text": content}] if self.wants_parts and content is not None else content
        if calls_tools(message):
            former = {"type": "function", "function": message.get("function_call")}
            made["tool_calls"] = [self._call(call) for call in message.get("tool_calls") or [former]]
        return made

    def _call(self, call: Any) -> Any:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or "arguments" not in function:
            return call
        given = function["arguments"]
        if self.wants_json:
            arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        else:
            parsed = json_of(given) if given else {}
            arguments = parsed if isinstance(parsed, Mapping) else given
        return {**call, "function": {**function, "arguments": arguments}}


USER = {"role": "user", "content": TEXT}
QUESTION = {"role": "user", "content": "?"}
DEVELOPER = {"role": "developer", "content": TEXT}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": NAME, "arguments": {KEY: "value"}}}],
}  # Mistral's template wants ids of nine characters
RESULT = {"role": "tool", "name": NAME, "tool_call_id": "call00001", "content": "result"}


def _rendered(form: TemplateForm, render: Callable[[Messages], str], *messages: Message) -> str:
    """The text; empty where the template refuses the messages in this form."""
    try:
        return render(form.of(messages))
    except TEMPLATE_ERRORS:
        return ""
