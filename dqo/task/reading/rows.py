"""The base class of every task: rows in, an endless seeded stream of tokenised prompts out."""

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.answered import Answered
from dqo.task.reading.collection import ListedRows, Rows
from dqo.task.reading.digests import digest, fingerprint, rows_fingerprint
from dqo.task.reading.lengths import Lengths
from dqo.task.reading.messages import ends_with_assistant, system_text
from dqo.task.reading.rendering import Renderer
from dqo.task.reading.row import Content, Row
from dqo.task.reading.settings import Rendering
from dqo.task.reading.streamed import StreamedRows
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
        self._tokenizer, self._seed = tokenizer, rendering.seed
        self._renderer = Renderer(tokenizer, rendering)
        longest = rendering.max_completion_length
        self._lengths = Lengths(self._renderer, tokenizer, context_length, longest, skip_long, self._tokens)
        given = training if isinstance(training, StreamedRows) else ListedRows(training)
        _refuse_overlap(given, held_out)
        check_template(self._renderer, tokenizer, [*given.examples(), *held_out])
        _log_prefills(given, held_out)
        # rows on the disk were compared with the context when they were indexed
        self._training = given if isinstance(given, StreamedRows) else ListedRows(self._rows_that_fit(given, skip_long))
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
        held_out = next((row for row in self._held_out if row.content == content), None)
        known = held_out or self._training.find(content) or Row(content=content, source=source)
        row = replace(known, source=source)
        self._lengths.prompt_fits(row, skip_long=None)
        return self._prompt(row, position)

    def demonstrations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """``count`` pairs of a training prompt and an example answer, for ``dqo-sft``; pure in (count, seed).

        Raises ConfigError if no row has an example answer.
        """
        name = f"demonstrations {seed}"
        rows, chooser = islice(self._answered.in_order(name), count), random.Random(name)
        return [
            (self._prompt(row, position), chooser.choice(row.demonstrations) + self._renderer.end_of_turn)
            for position, row in enumerate(rows)
        ]

    @cached_property
    def _answered(self) -> Answered:
        return Answered(self._training, self._lengths)

    def fingerprints(self) -> dict[str, str]:
        """What the rows contain, in their order, and the chat template: not where they come from, nor how a file was
        formatted."""
        template = self._tokenizer.chat_template if self._renderer.wants_template else None
        return {
            "training rows": self._training.fingerprint(),
            "held-out rows": rows_fingerprint(self._held_out),
            "chat template": digest(template).hex(),
        }

    def rendering(self) -> dict[str, Any]:
        """See ``row_checks.Rendered``."""
        renderer = self._renderer
        systems = self._training.systems() | {system_text(row.content) for row in self._held_out}
        template = renderer.template(with_tools=False) if renderer.is_chat else None
        return {
            "chat": renderer.is_chat,
            "template": None if template is None else digest(template).hex(),
            "system": systems.pop() if len(systems) == 1 else "differs from row to row",
            "chat_template_kwargs": renderer.kwargs if renderer.is_chat else {},
        }

    def rows(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Where each row comes from and its columns: the training rows, then the held-out ones."""
        return [(row.source, row.columns) for row in (*self._training.listed(), *self._held_out)]

    def leave_out(self, rows: Collection[int]) -> None:
        """Drop the rows with these indices in ``rows()``, before the first prompt is drawn. Raises ConfigError if no
        training row or no held-out row is left."""
        training = self._training.listed()
        dropped, count = set(rows), len(training)
        kept = [row for number, row in enumerate(training) if number not in dropped]
        held_out = [row for number, row in enumerate(self._held_out, count) if number not in dropped]
        if (training and not kept) or not held_out:
            kind = "training" if training and not kept else "held-out"
            raise ConfigError(
                f"none of the {kind} rows can be judged; mend the rows, or type reward=NAME of another reward"
            )
        self._held_out = held_out
        if training:
            self._training = ListedRows(kept)

    def refuse_tokens(self, tokens: Mapping[str, int]) -> None:
        """Raises ConfigError, naming the row, for a prompt with one of ``tokens`` (name: number), for which the model
        has no row. Only rows whose text names one are tokenised."""
        names = [_folded(name) for name in tokens]
        for row in chain(self._training, self._held_out):
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
        return self._training.at(str(self._seed), position)

    def _prompt(self, row: Row, position: int) -> Prompt:
        return Prompt(position=position, tokens=self._tokens(row), content=row.content, columns=row.columns)

    def _tokens(self, row: Row) -> tuple[int, ...]:
        return self._renderer.tokens(row)

    def _rows_that_fit(self, rows: Sequence[Row], skip_long: bool | None) -> list[Row]:
        return self._lengths.fitting(rows)


def _folded(text: str) -> str:
    """The text as it may be compared with a token's name before any tokenizer's normaliser is known."""
    return "".join(text.split()).casefold()


def _log_prefills(training: Rows, held_out: Sequence[Row]) -> None:
    if count := training.prefills() + sum(ends_with_assistant(row.content) for row in held_out):
        log.info(
            "%d of %d prompts end with words of the assistant: the model goes on with them; dqo-sft and a warm start "
            "learn them", count, len(training) + len(held_out),
        )  # fmt: skip


def _refuse_overlap(training: Rows, held_out: Sequence[Row]) -> None:
    sources = training.sources_of(held_out)
    for row in held_out:
        if source := sources.get(fingerprint(row)):
            raise ConfigError(f"{row.source}: this held-out prompt is trained on too ({source}); remove one of the two")
