"""From a row to the tokens of its prompt: chat template, tools, the date, one BOS."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.models.templates import TEMPLATE_ERRORS
from dqo.task.reading.digests import digest
from dqo.task.reading.messages import Message, merged
from dqo.task.reading.row import Row
from dqo.task.reading.settings import MessageRendering, Rendering
from dqo.task.reading.template_form import TemplateForm

log = logging.getLogger(__name__)

ANSWER = "probe of the end"
UNKNOWN = sys.maxsize  # tokens: no bound is known


class Renderer:
    """Renders rows in one way for training, evaluation, warm start and ``dqo-sft``.

    Methods are pure, but for one warning, and may be called from any thread.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rendering: Rendering):
        self._tokenizer, self._rendering = tokenizer, rendering
        self._merges = isinstance(rendering, MessageRendering) and rendering.merge_messages
        self.wants_template = rendering.chat_template
        self.is_chat = bool(rendering.chat_template and tokenizer.chat_template)
        self.kwargs = dict(rendering.chat_template_kwargs or {})  # the user's variables of the template
        self._now = _moment(rendering.date)
        self._has_warned = False

    def text(self, row: Row) -> str:
        """The text that is tokenised. Raises ConfigError where the chat template refuses the prompt."""
        if isinstance(row.content, str) and not self.is_chat:
            return row.content
        if not self.is_chat:
            fix = "model.path=NAME of an instruct model" if self.wants_template else "task.chat_template=true"
            raise ConfigError(f"{row.source}: messages need a chat template; type {fix}, or give the prompt as text")
        messages = self.messages(row)
        assert self.form  # probed here, since its ConfigError is none of the template's errors
        try:
            return self._rendered(messages, row.tools)
        except TEMPLATE_ERRORS as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"{row.source}: the model's chat template refuses this prompt ({why}); type {self._advice(row)}"
            ) from error

    def tokens(self, row: Row) -> tuple[int, ...]:
        """The prompt's tokens. Raises ConfigError for a prompt that the template refuses, and for an empty one."""
        tokens = self._tokenizer(self.text(row), add_special_tokens=not self.is_chat)["input_ids"]
        if not self.is_chat:
            while tokens and tokens[-1] == self._tokenizer.eos_token_id:  # some tokenizers add it to every text
                tokens = tokens[:-1]
        if not tokens:
            raise ConfigError(f"{row.source}: the prompt is empty")
        return self._with_one_bos(tokens, row)

    def most_tokens(self, row: Row) -> int:
        """An upper bound of the prompt's tokens that is quick to find (``most_tokens_of``)."""
        text = self.text(row)
        return self.most_tokens_of(text) if text.strip() else UNKNOWN

    def most_tokens_of(self, text: str) -> int:
        """An upper bound of a text's tokens: a token stands for at least one byte of what the tokenizer's normaliser
        makes of the text. UNKNOWN where the tokenizer is not one of the fast ones."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return UNKNOWN
        normal = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        return len(normal.encode()) + self._tokenizer.num_special_tokens_to_add() + 1  # 1: a space in front

    def depends_on(self) -> list[str]:
        """What the lengths of prompts depend on, as texts."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        model = backend.to_str() if backend is not None else json.dumps(self._tokenizer.get_vocab(), sort_keys=True)
        how = replace(self._rendering, seed=0, date=None)
        return [digest([model, self._tokenizer.chat_template]).hex(), repr(how)]

    def messages(self, row: Row) -> tuple[Message, ...]:
        """The row's conversation; a text is one message of the user."""
        content = row.content
        messages = ({"role": "user", "content": content},) if isinstance(content, str) else content
        if messages[-1]["role"] == "assistant" and not messages[-1].get("content"):
            raise ConfigError(
                f"{row.source}: the last message is the assistant's and has no text to go on with; end with a message "
                "of the user or of a tool"
            )
        return merged(messages) if self._merges else messages

    def template(self, *, with_tools: bool) -> str:
        """The text of the chat template. Raises ConfigError where the model has several and none is the default."""
        templates = self._tokenizer.chat_template
        if not isinstance(templates, Mapping):
            return cast(str, templates)
        if with_tools and "tool_use" in templates:
            return templates["tool_use"]
        if "default" not in templates:
            raise ConfigError(
                "the model has several chat templates and none is the default; type model.chat_template="
                f"{' | '.join(sorted(templates))}"
            )
        return templates["default"]

    @cached_property
    def end_of_turn(self) -> str:
        """What the chat template writes after the words of the assistant, up to the first special token: "<|im_end|>";
        empty where it writes nothing."""
        if not self.is_chat:
            return ""
        messages = ({"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER})
        try:
            after = self._apply(self.form.of(messages)).partition(ANSWER)[2].rstrip()
        except TEMPLATE_ERRORS:
            return ""
        specials = [token.content for token in self._tokenizer.added_tokens_decoder.values()]
        ends = [after.index(special) + len(special) for special in specials if special in after]
        return after[: min(ends)] if ends else after

    def _rendered(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        """The conversation, open for the model's next message, or for the rest of its last one. Raises
        TEMPLATE_ERRORS."""
        is_prefill = messages[-1]["role"] == "assistant"
        return self._apply(
            self.form.of(messages),
            tools=[dict(tool) for tool in tools] or None,
            chat_template=self.template(with_tools=bool(tools)),
            add_generation_prompt=not is_prefill,
            continue_final_message=is_prefill,
        )

    def _apply(self, messages: list[dict[str, Any]], **how: Any) -> str:
        """transformers' ``apply_chat_template`` with the user's variables, and a clock that stands still."""
        given: dict[str, Any] = {"chat_template": self.template(with_tools=False), **how}
        clock = {"strftime_now": self._now.strftime} if "strftime_now" in given["chat_template"] else {}
        given = {**given, **clock, **self.kwargs}
        return cast(str, self._tokenizer.apply_chat_template(messages, tokenize=False, **given))

    @cached_property
    def form(self) -> TemplateForm:
        return TemplateForm.probed(self.template(with_tools=False), self._apply)

    def _advice(self, row: Row) -> str:
        other = "model.chat_template=FILE of another template"
        if isinstance(row.content, str):
            return f"model.path=NAME of another model, {other}, or task.chat_template=false for the text as it is"
        try:
            self._rendered(merged(self.messages(row)), row.tools)
        except TEMPLATE_ERRORS:
            return f"{other}, or change the messages"
        return (
            "task.merge_messages=true, which puts a system text into the user's message and joins neighbours of one "
            f"role, or {other}"
        )

    def _with_one_bos(self, tokens: list[int], row: Row) -> tuple[int, ...]:
        count = next((place for place, token in enumerate(tokens) if token != tokens[0]), len(tokens))
        if count < 2 or tokens[0] not in self._first_tokens:
            return tuple(tokens)
        if not self._has_warned:
            self._has_warned = True
            name = self._tokenizer.convert_ids_to_tokens(tokens[0])
            log.warning("%s: the prompt begins with %s twice; one is kept, here and elsewhere", row.source, name)
        return tuple(tokens[count - 1 :])

    @cached_property
    def _first_tokens(self) -> set[int]:
        """BOS, and the token that the tokenizer puts before every text."""
        bare, full = (self._tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
        bos = cast("int | None", self._tokenizer.bos_token_id)
        return {*full[:1]} - {*bare[:1]} | ({bos} if bos is not None else set())


def _moment(date: str | None) -> datetime:
    try:
        return datetime.now() if date is None else datetime.fromisoformat(date)
    except ValueError as error:
        raise ConfigError(f"task.date={date}: no date ({error}); type task.date=2026-07-31") from error
