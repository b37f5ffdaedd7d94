"""The base class of every task: rows in, an endless seeded stream of tokenised prompts out."""

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
from dqo.task.reading.settings import Rendering

log = logging.getLogger(__name__)

Content = str | tuple[Mapping[str, Any], ...]  # text or chat messages


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a task's data, before rendering. Example: content "Recommend a city …", source "phrasing 1"."""

    content: Content
    source: str  # where the row comes from, for error messages: "my.jsonl, line 3"
    columns: Mapping[str, Any] = field(default_factory=dict)  # become Prompt.columns, which rewards read
    demonstrations: tuple[str, ...] = ()  # example answers, for supervised fine-tuning


class RowTask(ABC):
    """A task over training rows and held-out rows.

    A text becomes one user message if ``chat_template`` is set and the tokenizer has a chat template; otherwise it is
    tokenised as it is. Chat messages always need the chat template.

    Methods are pure and may be called from any thread; none is a collective.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        rendering: Rendering,
        *,
        training: Sequence[Row],
        held_out: Sequence[Row],
        skip_long: bool | None = None,
    ):
        """``skip_long``: True leaves out the rows that are too long for the context and logs how many, False refuses
        them; None refuses them too, for a task without such a key.

        Raises ConfigError if a held-out prompt is also a training prompt, the chat template fails, a prompt has no
        tokens, or a prompt plus ``max_completion_length`` tokens is longer than ``context_length`` tokens.
        """
        self._tokenizer, self._context_length, self._seed = tokenizer, context_length, rendering.seed
        self._max_completion_length, self._chat_template = rendering.max_completion_length, rendering.chat_template
        _refuse_overlap(training, held_out)
        kinds = {_roles(row.content): row for row in reversed([*training, *held_out])}
        for row in kinds.values():  # a template fails by the roles and their order: one row of each order is enough
            self._tokens(row)
        self._training = self._rows_that_fit(training, skip_long)
        self._held_out = self._rows_that_fit(held_out, skip_long)
        if not self._training or not self._held_out:
            raise ConfigError("all prompts are too long; type model=NAME of a model with a longer context")

    def draw(self, cursor: int, count: int) -> tuple[Sequence[Prompt], int]:
        """``count`` training prompts and the next cursor; pure in (seed, cursor).

        Each epoch has all rows in a new order. A prompt's position is its index in this endless stream.
        """
        end = cursor + count
        return [self._prompt(self._row(position), position) for position in range(cursor, end)], end

    def held_out(self) -> Sequence[Prompt]:
        """All evaluation prompts; their positions count from 0. None of them is a training prompt."""
        return [self._prompt(row, position) for position, row in enumerate(self._held_out)]

    def demonstrations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """``count`` pairs of a training prompt and an example answer, for ``dqo-sft``; pure in (count, seed).

        Raises ConfigError if no row has an example answer.
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
            row = _row_at(rows, f"demonstrations {seed}", position)
            pairs.append((self._prompt(row, position), chooser.choice(row.demonstrations)))
        return pairs

    @abstractmethod
    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """The task's verdict on one completion; ``finished`` is False if the completion was cut by length.

        Judge threads call this concurrently: it must be thread-safe. Raises ConfigError if the task has no check.
        """

    def key(self, prompt: Prompt, text: str) -> str:
        """The text in lower case, without extra white space and final punctuation; equal keys are the same answer."""
        return " ".join(text.casefold().split()).rstrip(".!?…,;: ")

    def _row(self, position: int) -> Row:
        return _row_at(self._training, str(self._seed), position)

    def _prompt(self, row: Row, position: int) -> Prompt:
        return Prompt(position=position, tokens=self._tokens(row), content=row.content, columns=row.columns)

    def _tokens(self, row: Row) -> tuple[int, ...]:
        plain = isinstance(row.content, str) and not (self._chat_template and self._tokenizer.chat_template)
        tokens = self._text_tokens(cast(str, row.content)) if plain else self._chat_tokens(row)
        if not tokens:
            raise ConfigError(f"{row.source}: the prompt is empty")
        return tuple(tokens)

    def _text_tokens(self, text: str) -> list[int]:
        tokens = self._tokenizer(text)["input_ids"]
        while tokens and tokens[-1] == self._tokenizer.eos_token_id:  # some tokenizers add the end token to every text
            tokens = tokens[:-1]
        return tokens

    def _chat_tokens(self, row: Row) -> list[int]:
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
                f"{row.source}: the model's chat template refuses this prompt ({error}); type model.path=NAME "
                "of another model, or task.chat_template=false for prompts of plain text"
            ) from error
        return cast(list[int], tokens)

    def _rows_that_fit(self, rows: Sequence[Row], skip_long: bool | None) -> list[Row]:
        """The rows that fit into the context; a warning says how many do not.

        Only rows that might be too long are tokenised, since tokenising 100,000 rows takes a minute. The upper bound:
        one token per byte of text, plus the tokens of a one-letter prompt for what the template adds to each message.
        """
        frame = len(self._tokens(Row(content="x", source="a prompt of one letter")))
        fitting = []
        for row in rows:
            texts = [row.content] if isinstance(row.content, str) else [message["content"] for message in row.content]
            upper_bound = sum(len(text.encode()) + frame for text in texts)
            if upper_bound + self._max_completion_length <= self._context_length or self._fits(row, skip_long):
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


def _row_at(rows: Sequence[Row], seed: str, position: int) -> Row:
    epoch, offset = divmod(position, len(rows))
    return rows[_order(seed, epoch, len(rows))[offset]]


@lru_cache(maxsize=4)
def _order(seed: str, epoch: int, count: int) -> list[int]:
    """The row numbers in the order of one epoch."""
    order = list(range(count))
    random.Random(f"{seed} {epoch}").shuffle(order)
    return order


def _roles(content: Content) -> tuple[str, ...]:
    return ("text",) if isinstance(content, str) else tuple(message["role"] for message in content)


def fingerprint(content: Content) -> bytes:
    """A 16-byte hash of a prompt. Comparing 100,000 prompts by their hashes needs no second copy of their text."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).digest()


def _refuse_overlap(training: Sequence[Row], held_out: Sequence[Row]) -> None:
    sources = {fingerprint(row.content): row.source for row in training}
    for row in held_out:
        if source := sources.get(fingerprint(row.content)):
            raise ConfigError(f"{row.source}: this held-out prompt is trained on too ({source}); remove one of the two")
