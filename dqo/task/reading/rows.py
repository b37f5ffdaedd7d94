"""What the tasks share: rows in, an endless seeded stream of rendered prompts out."""

import hashlib
import json
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.models.templates import TEMPLATE_ERRORS
from dqo.records import Prompt
from dqo.stages import Verdict

log = logging.getLogger(__name__)

Content = str | tuple[Mapping[str, Any], ...]  # text or chat messages


@dataclass(frozen=True, kw_only=True)
class Row:
    """One question of a task, not yet rendered. Example: content "Recommend a city …", source "phrasing 1"."""

    content: Content
    source: str  # where it stands, for errors: "my.jsonl, line 3"
    columns: Mapping[str, Any] = field(default_factory=dict)  # the prompt's columns: what rewards are told
    demonstrations: tuple[str, ...] = ()  # answers to learn from (dqo-sft)


class RowTask(ABC):
    """A task over training rows and held-out rows.

    A text is rendered as one user message where ``chat_template`` is set and the tokenizer has a template, else it is
    taken as it is; messages always need the template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        seed: int,
        max_completion_length: int,
        chat_template: bool,
        training: Sequence[Row],
        held_out: Sequence[Row],
        skip_long: bool | None = None,
    ):
        """``skip_long``: leave out (and count in a warning) the rows that are too long for the context, instead of
        refusing them; None: the task has no such key.

        Raises ConfigError for a held-out prompt that is trained on, a chat template that fails, a prompt without
        tokens, and a prompt that with its completion does not fit into ``context_length``.
        """
        self._tokenizer, self._context_length, self._seed = tokenizer, context_length, seed
        self._max_completion_length, self._chat_template = max_completion_length, chat_template
        _refuse_overlap(training, held_out)
        kinds = {_roles(row.content): row for row in reversed([*training, *held_out])}
        for row in kinds.values():  # templates refuse roles and their order, so one row of each kind will do
            self._tokens(row)
        self._training = self._fitting(training, skip_long)
        self._held_out = self._fitting(held_out, skip_long)
        if not self._training or not self._held_out:
            raise ConfigError("all prompts are too long; type model=NAME of a model with a longer context")

    def draw(self, cursor: int, count: int) -> tuple[Sequence[Prompt], int]:
        """Walks the rows in a new order each epoch; a prompt's position is its index in that endless stream."""
        end = cursor + count
        return [self._prompt(self._row(position), position) for position in range(cursor, end)], end

    def held_out(self) -> Sequence[Prompt]:
        return [self._prompt(row, position) for position, row in enumerate(self._held_out)]

    def demonstrations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """``count`` training prompts with an answer to learn from, for ``dqo-sft``; pure in (count, seed).

        Raises ConfigError where the rows carry none.
        """
        rows = [row for row in self._training if row.demonstrations]
        if not rows:
            raise ConfigError(
                "this task has no answers to learn from; type task=concepts, task=gsm8k, task=commongen, "
                "or task=jsonl task.completion_column=NAME"
            )
        chooser = random.Random(f"demonstrations {seed}")
        pairs = []
        for position in range(count):
            row = _walk(rows, f"demonstrations {seed}", position)
            pairs.append((self._prompt(row, position), chooser.choice(row.demonstrations)))
        return pairs

    @abstractmethod
    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict: ...

    def key(self, prompt: Prompt, text: str) -> str:
        """The text without case, extra white space and final punctuation."""
        return " ".join(text.casefold().split()).rstrip(".!?…,;: ")

    def _row(self, position: int) -> Row:
        return _walk(self._training, str(self._seed), position)

    def _prompt(self, row: Row, position: int) -> Prompt:
        return Prompt(position=position, tokens=self._tokens(row), content=row.content, columns=row.columns)

    def _tokens(self, row: Row) -> tuple[int, ...]:
        plain = isinstance(row.content, str) and not (self._chat_template and self._tokenizer.chat_template)
        tokens = self._plain(cast(str, row.content)) if plain else self._chat(row)
        if not tokens:
            raise ConfigError(f"{row.source}: the prompt is empty")
        return tuple(tokens)

    def _plain(self, text: str) -> list[int]:
        tokens = self._tokenizer(text)["input_ids"]
        while tokens and tokens[-1] == self._tokenizer.eos_token_id:  # of a tokenizer that closes each text
            tokens = tokens[:-1]
        return tokens

    def _chat(self, row: Row) -> list[int]:
        if not (self._chat_template and self._tokenizer.chat_template):
            fix = "model.path=NAME of an instruct model" if self._chat_template else "task.chat_template=true"
            raise ConfigError(f"{row.source}: messages need a chat template; type {fix}, or give the prompt as text")
        messages = [{"role": "user", "content": row.content}] if isinstance(row.content, str) else row.content
        try:
            tokens = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=True, return_dict=False
            )
        except TEMPLATE_ERRORS as error:
            raise ConfigError(
                f"{row.source}: the model's chat template refuses it ({error}); type model.path=NAME of another model, "
                "or task.chat_template=false for prompts of plain text"
            ) from error
        return cast(list[int], tokens)

    def _fitting(self, rows: Sequence[Row], skip_long: bool | None) -> list[Row]:
        """The rows that fit into the context. Only those that can be too long are tokenised, or 100,000 rows would
        take a minute: a token stands for at least one byte of text, and one letter shows what the template adds.
        """
        frame = len(self._tokens(Row(content="x", source="a prompt of one letter")))
        fitting = []
        for row in rows:
            texts = [row.content] if isinstance(row.content, str) else [message["content"] for message in row.content]
            most = sum(len(text.encode()) + frame for text in texts)
            if most + self._max_completion_length <= self._context_length or self._fits(row, skip_long):
                fitting.append(row)
        if len(fitting) < len(rows):
            log.warning("%d of %d prompts are too long and left out", len(rows) - len(fitting), len(rows))
        return fitting

    def _fits(self, row: Row, skip_long: bool | None) -> bool:
        length, room = len(self._tokens(row)), self._context_length - self._max_completion_length
        if length <= room or skip_long:
            return length <= room
        left = self._context_length - length
        advice = [f"max_completion_length={left}"] if left > 0 else []
        advice += ["task.skip_long=true to leave such prompts out"] if skip_long is False else []
        advice += ["model=NAME of a model with a longer context"]
        raise ConfigError(
            f"{row.source}: the prompt has {length} tokens, with max_completion_length={self._max_completion_length} "
            f"more than the model's context of {self._context_length}; type {', or '.join(advice)}"
        )


def _walk(rows: Sequence[Row], seed: str, position: int) -> Row:
    epoch, offset = divmod(position, len(rows))
    return rows[_order(seed, epoch, len(rows))[offset]]


@lru_cache(maxsize=4)
def _order(seed: str, epoch: int, count: int) -> list[int]:
    """The permutation of one epoch."""
    order = list(range(count))
    random.Random(f"{seed} {epoch}").shuffle(order)
    return order


def _roles(content: Content) -> tuple[str, ...]:
    return ("text",) if isinstance(content, str) else tuple(message["role"] for message in content)


def fingerprint(content: Content) -> bytes:
    """Equal prompts have the same; comparing 100,000 of them by it takes no second copy of their text."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()


def _refuse_overlap(training: Sequence[Row], held_out: Sequence[Row]) -> None:
    sources = {fingerprint(row.content): row.source for row in training}
    for row in held_out:
        if source := sources.get(fingerprint(row.content)):
            raise ConfigError(f"{row.source}: this held-out prompt is trained on too ({source}); remove one of the two")
