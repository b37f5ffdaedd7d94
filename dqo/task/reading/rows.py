"""The base class of every task: rows in, an endless seeded stream of tokenised prompts out."""

import hashlib
import json
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.messages import system_text
from dqo.task.reading.rendering import Renderer
from dqo.task.reading.row import Content, Row
from dqo.task.reading.settings import Rendering
from dqo.task.reading.template_check import check_template

log = logging.getLogger(__name__)


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
        self._max_completion_length, self._skip_long = rendering.max_completion_length, skip_long
        self._renderer = Renderer(tokenizer, rendering)
        _refuse_overlap(training, held_out)
        check_template(self._renderer, tokenizer, [*training, *held_out])
        _log_prefills([*training, *held_out])
        self._training = self._rows_that_fit(training, skip_long)
        self._held_out = self._rows_that_fit(held_out, skip_long)

    def draw(self, cursor: int, count: int) -> tuple[Sequence[Prompt], int]:
        """``count`` training prompts and the next cursor; pure in (seed, cursor).

        Each epoch has all rows in a new order. A prompt's position is its index in this endless stream. Raises
        ConfigError if all prompts are held out.
        """
        if not self._training:
            raise ConfigError(
                f"{type(self).__name__} is for measuring and has no prompts to train on; type dqo-eval POLICY, or "
                "task=NAME of another task"
            )
        end = cursor + count
        return [self._prompt(self._row(position), position) for position in range(cursor, end)], end

    def held_out(self) -> Sequence[Prompt]:
        """All evaluation prompts; their positions count from 0. None of them is a training prompt."""
        return [self._prompt(row, position) for position, row in enumerate(self._held_out)]

    def prompt_of(self, text: str, *, position: int, source: str) -> Prompt:
        """See ``row_checks.TakesText``. Raises ConfigError, too, where the chat template refuses the prompt."""
        if not text.strip():
            raise ConfigError(f"{source}: the prompt is empty; type a text")
        content = self._content(text)
        rows = (row for row in (*self._held_out, *self._training) if row.content == content)
        row = replace(next(rows, Row(content=content, source=source)), source=source)
        self._fits(row, skip_long=None)
        return self._prompt(row, position)

    def demonstrations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """``count`` pairs of a training prompt and an example answer, for ``dqo-sft``; pure in (count, seed).

        Raises ConfigError if no row has an example answer.
        """
        if not (rows := self._answered):
            raise ConfigError(
                "this task has no answers to learn from; type task=concepts, task=countdown, task=gsm8k, "
                "task=commongen, or task=jsonl task.completion_column=NAME"
            )
        chooser = random.Random(f"demonstrations {seed}")
        pairs = []
        for position in range(count):
            row = _row_at(rows, f"demonstrations {seed}", position)
            pairs.append((self._prompt(row, position), chooser.choice(row.demonstrations) + self._renderer.end_of_turn))
        return pairs

    @cached_property
    def _answered(self) -> list[Row]:
        """The training rows with an example answer that fit into the context with it; found once, since it renders
        all."""
        rows = [row for row in self._training if row.demonstrations] or _last_messages_as_answers(self._training)
        fitting = [row for row in rows if self._answers_fit(row)]
        return _counted(fitting, rows, "prompts with an example answer") if rows else []

    def fingerprints(self) -> dict[str, str]:
        """What the rows contain, in their order, and the chat template: not where they come from, nor how a file was
        formatted."""
        template = self._tokenizer.chat_template if self._renderer.wants_template else None
        return {
            "training rows": _rows_fingerprint(self._training),
            "held-out rows": _rows_fingerprint(self._held_out),
            "chat template": _digest(template).hex(),
        }

    def rendering(self) -> dict[str, Any]:
        """See ``row_checks.Rendered``."""
        renderer, systems = self._renderer, {system_text(row.content) for row in (*self._training, *self._held_out)}
        template = renderer.template(with_tools=False) if renderer.is_chat else None
        return {
            "chat": renderer.is_chat,
            "template": None if template is None else _digest(template).hex(),
            "system": systems.pop() if len(systems) == 1 else "differs from row to row",
            "chat_template_kwargs": renderer.kwargs if renderer.is_chat else {},
        }

    def rows(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Where each row comes from and its columns: the training rows, then the held-out ones."""
        return [(row.source, row.columns) for row in (*self._training, *self._held_out)]

    def leave_out(self, rows: Collection[int]) -> None:
        """Drop the rows with these indices in ``rows()``, before the first prompt is drawn. Raises ConfigError if no
        training row or no held-out row is left."""
        dropped, count = set(rows), len(self._training)
        kept = [row for number, row in enumerate(self._training) if number not in dropped]
        held_out = [row for number, row in enumerate(self._held_out, count) if number not in dropped]
        if (self._training and not kept) or not held_out:
            kind = "training" if self._training and not kept else "held-out"
            raise ConfigError(
                f"none of the {kind} rows can be judged; mend the rows, or type reward=NAME of another reward"
            )
        self._training, self._held_out = kept, held_out

    def refuse_tokens(self, tokens: Mapping[str, int]) -> None:
        """Raises ConfigError, naming the row, for a prompt with one of ``tokens`` (name: number), for which the model
        has no row. Only rows whose text names one are tokenised."""
        names = [_folded(name) for name in tokens]
        for row in (*self._training, *self._held_out):
            text = _folded(self._renderer.text(row))
            if any(name in text for name in names):
                found = set(self._tokens(row))
                for name in (name for name, number in tokens.items() if number in found):
                    raise ConfigError(
                        f"{row.source}: the prompt has the token {name}, for which the model has no row; remove it "
                        "from the row or the chat template, or type model.path=FOLDER of a model that has one"
                    )

    @abstractmethod
    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """The task's verdict on one completion; ``finished`` is False if the completion was cut by length.

        Judge threads call this concurrently: it must be thread-safe. Raises ConfigError if the task has no check.
        """

    def key(self, prompt: Prompt, text: str) -> str:
        """The text in lower case, without extra white space and final punctuation; equal keys are the same answer."""
        return " ".join(text.casefold().split()).rstrip(".!?…,;: ")

    def _content(self, text: str) -> Content:
        """A typed text as the content of a row."""
        return text

    def _row(self, position: int) -> Row:
        return _row_at(self._training, str(self._seed), position)

    def _prompt(self, row: Row, position: int) -> Prompt:
        return Prompt(position=position, tokens=self._tokens(row), content=row.content, columns=row.columns)

    def _tokens(self, row: Row) -> tuple[int, ...]:
        return self._renderer.tokens(row)

    def _rows_that_fit(self, rows: Sequence[Row], skip_long: bool | None) -> list[Row]:
        """The rows that fit into the context; a warning says how many do not. Only rows that might be too long are
        tokenised: rendering 100,000 rows takes seconds, tokenising them a minute."""
        room = self._context_length - self._max_completion_length
        fitting = [row for row in rows if self._renderer.most_tokens(row) <= room or self._fits(row, skip_long)]
        return _counted(fitting, rows, "prompts")

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

    def _answers_fit(self, row: Row) -> bool:
        """Whether the prompt with its longest example answer and an end token fits into the context."""
        longest = max(row.demonstrations, key=lambda text: len(text.encode()))
        answer = self._renderer.most_tokens_of(longest + self._renderer.end_of_turn) + 1
        if self._renderer.most_tokens(row) + answer <= self._context_length:
            return True
        texts = [text + self._renderer.end_of_turn for text in row.demonstrations]
        answers = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        length = len(self._tokens(row)) + max(map(len, answers)) + 1
        if length <= self._context_length or self._skip_long:
            return length <= self._context_length
        skip = "task.skip_long=true to leave such rows out, or " if self._skip_long is False else ""
        raise ConfigError(
            f"{row.source}: the prompt and its example answer have {length} tokens, more than the model's context of "
            f"{self._context_length}; type {skip}model=NAME of a model with a longer context"
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


def _counted(fitting: list[Row], rows: Sequence[Row], what: str) -> list[Row]:
    """The rows that fit; logs how many do not. Raises ConfigError if none of some does."""
    if rows and not fitting:
        raise ConfigError(f"all {what} are too long; type model=NAME of a model with a longer context")
    if len(fitting) < len(rows):
        log.warning("%d of %d %s are too long and left out", len(rows) - len(fitting), len(rows), what)
    return fitting


def _folded(text: str) -> str:
    """The text as it may be compared with a token's name before any tokenizer's normaliser is known."""
    return "".join(text.split()).casefold()


def _ends_with_assistant(row: Row) -> bool:
    return not isinstance(row.content, str) and row.content[-1]["role"] == "assistant"


def _log_prefills(rows: Sequence[Row]) -> None:
    if count := sum(map(_ends_with_assistant, rows)):
        log.info(
            "%d of %d prompts end with words of the assistant: the model goes on with them; dqo-sft and a warm start "
            "learn them", count, len(rows),
        )  # fmt: skip


def _last_messages_as_answers(rows: Sequence[Row]) -> list[Row]:
    """Conversations that end with the assistant's words, those being the example answer."""
    split = [(row, row.content) for row in rows if not isinstance(row.content, str) and _ends_with_assistant(row)]
    return [
        replace(row, content=content[:-1], demonstrations=(content[-1]["content"],))
        for row, content in split
        if len(content) > 1
    ]


def fingerprint(row: Row) -> bytes:
    """A 16-byte hash of a prompt. Comparing 100,000 prompts by their hashes needs no second copy of their text."""
    return _digest([row.content, row.tools])


def _rows_fingerprint(rows: Sequence[Row]) -> str:
    """Their number and a hash of all. Example: "35 rows, 4f0c…"."""
    whole = hashlib.blake2b(digest_size=16)
    for row in rows:
        whole.update(_digest([row.content, row.columns, row.demonstrations, row.tools]))
    return f"{len(rows)} rows, {whole.hexdigest()}"


def _digest(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, skipkeys=True, default=_as_json)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _as_json(value: Any) -> Any:
    """A value that JSON has not: bytes as text, a mapping as an object; of others their class alone."""
    if isinstance(value, bytes):
        return value.hex()
    return dict(value) if isinstance(value, Mapping) else type(value).__qualname__


def _refuse_overlap(training: Sequence[Row], held_out: Sequence[Row]) -> None:
    sources = {fingerprint(row): row.source for row in training}
    for row in held_out:
        if source := sources.get(fingerprint(row)):
            raise ConfigError(f"{row.source}: this held-out prompt is trained on too ({source}); remove one of the two")
